"""Pixels of a stored video, one frame per feature row: the frame shown at the centre of the row's stretch of time.

Frames are found by their time stamps, so files with an uneven or odd frame rate are read correctly.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from strong_envs.features.composing.recipe import Recipe
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.store.store import StoredVideo

# Longer jumps are a seek; shorter ones are decoded through, which is exact and fast.
SEEK_SECONDS = 5.0


def row_centres(duration: float, n_rows: int) -> np.ndarray:
    """Times in seconds, (n_rows,) float64: row i covers [i*T/n, (i+1)*T/n), its centre is (i + 0.5)*T/n."""
    return (np.arange(n_rows) + 0.5) * (duration / n_rows)


class Decoder:
    """A video file kept open; times in any order, of which ascending order is the fastest.

    The frame of time t is the last one whose time stamp is not later than t, however unevenly the stamps are spread.
    Stamps count from the first frame; a file without stamps has one frame every 1 / fps seconds. The last frame is
    shown until the end that the container states, unless the file is cut short.

    Attributes: ``fps`` (mean source frames per second), ``width`` and ``height`` (pixels), ``time`` (stamp of the
    frame last returned), ``listed_seconds`` (length that the container states; NaN where it states none), ``uneven``
    (whether a frame was met that is shown for another time than the mean rate says).

    Args:
        path: the file.
        seek_seconds: a longer jump seeks, a shorter one is decoded through.

    Raises:
        DataError: no such file, not a video, or without a single frame.
    """

    def __init__(self, path: str | os.PathLike, *, seek_seconds: float = math.inf) -> None:
        import cv2

        self._cv2 = cv2
        self.path = os.fspath(path)
        self.seek_seconds = seek_seconds
        with os_errors(f"read {shown(path)}"):
            if not Path(path).is_file():
                raise DataError(f"no video file at {shown(path)}")
        self._every, self.uneven = False, False
        self._stated: float | None = None
        self.fps, self._frames, self.listed_seconds = 25.0, math.nan, math.nan
        self._open()
        if not math.isfinite(self._ahead):
            raise DataError(f"{shown(path)} cannot be decoded as a video: it yields no frame")
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        if not (math.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise DataError(f"{shown(path)} states a rate of {self.fps:g} frames per second; valid are 0 to 1000")
        self._frames = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.listed_seconds = self._frames / self.fps if self._frames > 0 else math.nan
        self._step(0.0)
        self.height, self.width = self._shown().shape[:2]

    @property
    def seconds(self) -> float:
        """End of the video where its last frame was reached, else of the frame last returned, in seconds."""
        return self.time + 1.0 / self.fps if self._stated is None else self._stated

    def at(self, time: float) -> np.ndarray | None:
        """The frame of a time in seconds, (height, width, 3) uint8 RGB; None past the end of the file."""
        wanted = time + 1e-6
        if wanted < self.time or self.seek_seconds < wanted - self._ahead < math.inf:
            self._seek(wanted)
        while self._ahead <= wanted:
            self._step(wanted)
        if self._ahead == math.inf and wanted > self.seconds:
            return None
        return self._shown()

    def last(self) -> np.ndarray:
        """The last frame of the file, as `at` gives it."""
        while self._ahead < math.inf:
            self._step(self._ahead)
        return self._shown()

    @property
    def frame(self) -> int | None:
        """Number of the frame last returned, from 0; None after a seek."""
        return None if self._index is None else self._index - 1

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def _open(self) -> None:
        """Start from the first frame, which is grabbed and not yet shown."""
        self._capture = self._cv2.VideoCapture(self.path)
        self._first: float | None = None
        self._begin(0)
        self._grab()

    def _begin(self, index: int | None) -> None:
        """Forget what is shown; ``index`` is the number of the next frame, None where it is not known."""
        self.time = -math.inf
        self._image: np.ndarray | None = None
        self._rgb: np.ndarray | None = None
        self._index, self._ahead, self._stamp, self._stamped = index, -math.inf, -math.inf, False

    def _step(self, wanted: float) -> None:
        """Show the grabbed frame and grab the next one, which tells how long it is shown."""
        self.time, self._rgb, self._image = self._ahead, None, None
        # Converting a picture costs about as much as decoding it: done for those that may be returned. With uneven
        # stamps any frame may be.
        if self._every or wanted - self.time < 1.05 / self.fps:
            self._image = self._retrieve()
        self._index = None if self._index is None else self._index + 1
        self._grab()

    def _grab(self) -> None:
        if not self._capture.grab():
            self._stated, self._ahead = self._end(), math.inf
            return
        stamp = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000.0
        before = self._ahead
        if self._first is None:
            self._first = stamp if math.isfinite(stamp) else 0.0
        if before == -math.inf:
            self._stamp, self._ahead = stamp, stamp - self._first if math.isfinite(stamp) else 0.0
        elif math.isfinite(stamp) and stamp > self._stamp:
            self._stamp, self._stamped = stamp, True
            self._ahead = max(stamp - self._first, before)
            self.uneven = self.uneven or abs((self._ahead - before) * self.fps - 1.0) > 0.5
        else:
            # A repeated stamp is the same time. Stamps that never differ are ignored in favour of the rate.
            self._ahead = before if self._stamped else before + 1.0 / self.fps

    def _end(self) -> float:
        """End of the video in seconds, after its last frame."""
        whole, counted = is_whole(self.path)
        missing = counted and self._index is not None and self._index < 0.98 * self._frames
        if whole and not missing and self.listed_seconds > self.time:
            return self.listed_seconds
        return max(self.time, 0.0) + 1.0 / self.fps

    def _retrieve(self) -> np.ndarray | None:
        ok, image = self._capture.retrieve()
        return image if ok and image is not None and image.ndim == 3 else None

    def _shown(self) -> np.ndarray:
        if self._image is None and self._rgb is None:
            self._again()
        if self._rgb is None:
            if self._image is None:
                raise DataError(f"{shown(self.path)} has a frame at {self.time:.2f} s that cannot be decoded")
            self._rgb, self._image = self._cv2.cvtColor(self._image, self._cv2.COLOR_BGR2RGB), None
        return self._rgb

    def _again(self) -> None:
        """Return to the shown frame, whose picture was not kept, and keep the pictures of all that follow."""
        self._every = True
        time, index = self.time, self._index
        self._capture.release()
        self._open()
        while self._ahead < math.inf and (self._index != index if index is not None else self._ahead <= time):
            self._step(self._ahead if index is None or self._index == index - 1 else math.inf)

    def _seek(self, wanted: float) -> None:
        """Go to a frame before ``wanted``, near it if the file allows it, else to the first."""
        first, target = self._first or 0.0, max(wanted - 1.0, 0.0)
        if math.isfinite(self.seek_seconds) and target > 0.0:
            self._capture.set(self._cv2.CAP_PROP_POS_MSEC, 1000.0 * (target + first))
            self._begin(None)
            self._grab()
            if 0.0 < self._ahead <= wanted:
                self._stamped = True
                return
        self._capture.release()
        self._open()


def is_whole(path: str | os.PathLike) -> tuple[bool, bool]:
    """Whether the parts of a video file add up to its size, and whether its container counts its frames.

    Known are MP4 and MOV, Matroska and WebM, AVI; any other container counts as not whole. No frame is read.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(64)
            if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
                return _boxes_end(file, size), True
            if head[:4] == b"RIFF":
                return _riff_end(file, size), True
            if head[:4] == b"\x1a\x45\xdf\xa3":
                return _matroska_end(file, size), False
    except OSError:
        pass
    return False, False


def _boxes_end(file: IO[bytes], size: int) -> bool:
    """Whether top-level boxes of an MP4 end with the file."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:
            return True
        if length < 8:
            return False
        place += length
    return place == size


def _riff_end(file: IO[bytes], size: int) -> bool:
    """Whether the RIFF chunks of an AVI end with the file."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        if head[:4] != b"RIFF":
            return place > 0
        length = int.from_bytes(head[4:8], "little")
        place += 8 + length + length % 2
    return size <= place + 1 and place <= size + 1


def _matroska_end(file: IO[bytes], size: int) -> bool:
    """Whether the segment of a Matroska file ends with the file; a live recording states no size."""
    place = 0
    for _ in range(2):
        file.seek(place)
        head = file.read(12)
        if len(head) < 12:
            return False
        begin = 4  # both elements have ids of four bytes
        width = 9 - head[begin].bit_length()
        length = int.from_bytes(head[begin : begin + width], "big") & ((1 << (7 * width)) - 1)
        if place and length == (1 << (7 * width)) - 1:
            return False
        place += begin + width + length
    return place <= size


def open_frames(video: StoredVideo) -> Callable[[int], np.ndarray | None]:
    """A function from feature row to pixels, (H, W, 3) uint8 RGB, or None where the pixels cannot be had.

    Pixels come from the file at ``video.path``, or are drawn when ``video.extra`` holds the seed and the level of a
    video of the default world. Those of a composed video come from its clips, tile by tile: a tile whose clip has no
    file is grey, and None is returned where no clip of the video has one. Files stay open between calls; rows in
    ascending order are fast.

    Raises:
        DataError: from the returned function, for a row outside [0, n_frames).
    """
    recipe = Recipe.of(video)
    plain = _drawn if "seed" in video.extra else _decoded
    rows = plain(video) if recipe is None else _composed(recipe)

    def frame(row: int) -> np.ndarray | None:
        if not 0 <= row < video.n_frames:
            raise DataError(f"video {video.id!r} has rows 0 to {video.n_frames - 1}, not {row}")
        return rows(int(row))

    return frame


def _decoded(video: StoredVideo) -> Callable[[int], np.ndarray | None]:
    if video.path is None:
        return lambda row: None
    try:
        decoder = Decoder(video.path, seek_seconds=SEEK_SECONDS)
    except DataError:
        return lambda row: None
    centres = row_centres(video.duration, video.n_frames)

    def frame(row: int) -> np.ndarray | None:
        image = decoder.at(float(centres[row]))
        # Where the annotated duration runs past the file, its last frame is repeated, as in the features.
        return decoder.last() if image is None else image

    return frame


def _drawn(video: StoredVideo) -> Callable[[int], np.ndarray | None]:
    from strong_envs.features import shapes

    frames: list = []

    def frame(row: int) -> np.ndarray | None:
        if not frames:
            frames.append(shapes.render(video.extra["seed"], video.extra["level"]))
        return np.asarray(frames[0][row], dtype=np.uint8)

    return frame


OPEN_CLIPS = 12
"""Clips of a composed video that are kept open at a time."""
MISSING = 96
"""Grey level of a tile whose clip has no file."""


def _composed(recipe: Recipe) -> Callable[[int], np.ndarray | None]:
    import cv2

    height, width = recipe.size
    columns = recipe.tiles[1]
    opened: OrderedDict[int, Callable[[int], np.ndarray | None]] = OrderedDict()
    absent = {i for i, source in enumerate(recipe.sources) if not source.has_pixels()}

    def picture(source: int, row: int) -> np.ndarray | None:
        if source in absent:
            return None
        if source not in opened:
            opened[source] = open_frames(recipe.sources[source].video())
            while len(opened) > OPEN_CLIPS:
                opened.popitem(last=False)
        opened.move_to_end(source)
        return opened[source](row)

    def frame(row: int) -> np.ndarray | None:
        if len(absent) == len(recipe.sources):
            return None
        canvas = np.zeros((recipe.tiles[0] * height, columns * width, 3), np.uint8)
        for piece in recipe.at(row):
            y, x = divmod(piece.tile, columns)
            image = picture(piece.source, piece.first + row - piece.at)
            place = canvas[y * height : (y + 1) * height, x * width : (x + 1) * width]
            if image is None:
                place[:] = MISSING
            elif image.shape[:2] == (height, width):
                place[:] = image
            else:
                # Squeezed without cropping, as backbones see a frame.
                shrinks = image.shape[0] * image.shape[1] > height * width
                how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
                place[:] = cv2.resize(image, (width, height), interpolation=how)
        return canvas

    return frame


def missing_clips(video: StoredVideo) -> tuple[int, int]:
    """Of a composed video: how many of its clips have no pixels, and how many clips it has; (0, 0) of any other."""
    recipe = Recipe.of(video)
    if recipe is None:
        return 0, 0
    used = list(recipe.used_sources())
    return sum(not source.has_pixels() for source in used), len(used)
