"""Pixels of a stored video, one frame per feature row: the frame shown at the centre of the row's stretch of time.

Frames are found by their time stamps, so files with an uneven or odd frame rate come out right.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from strong_envs.features.composing.recipe import Recipe
from strong_envs.features.errors import DataError
from strong_envs.features.store.store import StoredVideo

# Longer jumps are a seek; shorter ones are decoded through, which is exact and fast.
SEEK_SECONDS = 5.0


def row_centres(duration: float, n_rows: int) -> np.ndarray:
    """Times in seconds, (n_rows,) float64: row i covers [i*T/n, (i+1)*T/n), its centre is (i + 0.5)*T/n."""
    return (np.arange(n_rows) + 0.5) * (duration / n_rows)


class Decoder:
    """A video file kept open; times in any order, of which ascending order is the fastest.

    The frame of time t is the one on the screen at t: frame number floor(t * fps) in a file with a steady rate, else
    the first whose time stamp is later than t minus 1/fps. Time stamps count from the first frame.

    Attributes: ``fps`` (nominal source frames per second), ``width`` and ``height`` (pixels), ``time`` (seconds of the
    frame last decoded), ``listed_seconds`` (length that the container claims; NaN where it states none).

    Raises:
        DataError: no such file, not a video, or without a single frame.
    """

    def __init__(self, path: str | Path, *, seek_seconds: float = math.inf) -> None:
        import cv2

        self._cv2 = cv2
        self.path = str(path)
        self.seek_seconds = seek_seconds
        if not Path(path).is_file():
            raise DataError(f"no video file at {self.path!r}")
        self._open()
        if not self._grab():
            raise DataError(f"{self.path!r} cannot be decoded as a video: it yields no frame")
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        if not (math.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise DataError(f"{self.path!r} states a rate of {self.fps:g} frames per second; valid are 0 to 1000")
        frames = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.listed_seconds = frames / self.fps if frames > 0 else math.nan
        self.height, self.width = self._retrieve().shape[:2]

    @property
    def seconds(self) -> float:
        """End of the frame last decoded, in seconds from the first frame."""
        return self.time + 1.0 / self.fps

    def at(self, time: float) -> np.ndarray | None:
        """The frame of a time in seconds, (height, width, 3) uint8 RGB; None past the end of the file."""
        wanted = time - 1.0 / self.fps + 1e-6
        if wanted <= self._previous or wanted - self.time > self.seek_seconds:
            self._seek(wanted)
        while self.time < wanted:
            if not self._grab():
                return None
        return self._retrieve()

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def _open(self) -> None:
        self._capture = self._cv2.VideoCapture(self.path)
        self._first: float | None = None
        self._previous, self.time = -math.inf, -math.inf
        self._image: np.ndarray | None = None

    def _grab(self) -> bool:
        if not self._capture.grab():
            return False
        stamp = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000.0
        if self._first is None:
            self._first = stamp if math.isfinite(stamp) else 0.0
            now = 0.0
        else:
            now = stamp - self._first
            # Some containers carry no stamps, or repeat one: then the nominal rate counts.
            if not math.isfinite(now) or now <= self.time:
                now = max(self.time, 0.0) + 1.0 / self.fps
        self._previous, self.time, self._image = self.time, now, None
        return True

    def _retrieve(self) -> np.ndarray:
        if self._image is None:
            ok, image = self._capture.retrieve()
            if not ok or image is None or image.ndim != 3:
                raise DataError(f"{self.path!r} has a frame at {self.time:.2f} s that cannot be decoded")
            self._image = self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB)
        return self._image

    def _seek(self, wanted: float) -> None:
        """Stand before ``wanted``, near it if the file lets us, else at the start."""
        first, target = self._first or 0.0, max(wanted - 1.0, 0.0)
        self._previous, self.time, self._image = -math.inf, -math.inf, None
        if math.isfinite(self.seek_seconds) and target > 0.0:
            self._capture.set(self._cv2.CAP_PROP_POS_MSEC, 1000.0 * (target + first))
            if self._grab() and 0.0 < self.time < wanted:
                return
        self._capture.release()
        self._open()
        self._grab()


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
    last: list[np.ndarray] = []

    def frame(row: int) -> np.ndarray | None:
        image = decoder.at(float(centres[row]))
        if image is None:  # The annotated duration runs past the file: its last frame stands, as in the features.
            return last[-1] if last else None
        last[:] = [image]
        return image

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
