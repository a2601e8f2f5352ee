"""Pictures of episodes, drawn with OpenCV: frames with boxes, the query, a time bar with both windows."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import replaced_file
from strong_envs.features.files.errors import shown

WIDTH, HEIGHT = 480, 360
TRUE_COLOUR, CHOSEN_COLOUR, SEEN_COLOUR = (60, 180, 75), (245, 150, 40), (120, 200, 255)
INK, FAINT, PAPER = (235, 235, 235), (165, 165, 175), (24, 24, 28)
_BAR_LEFT, _BAR_RIGHT = 56, WIDTH - 16


@dataclass
class Shot:
    """What one picture shows: rows of the sample's video with boxes (corners), windows in seconds, a line of text."""

    sample: int
    rows: Sequence[int]
    chosen: tuple[float, float] | None
    boxes: Sequence[Sequence[float] | None] = ()
    captions: Sequence[str] = ()
    cursor: float | None = None
    footer: str = ""
    true_boxes: bool = True
    true_windows: bool = True
    seen: Sequence[tuple[float, float]] | None = None
    """Stretches of the video, in seconds, that light up on a time bar of their own."""
    view: tuple[float, float] | None = None
    """The part of that bar that is looked into, in seconds."""
    extra: dict = field(default_factory=dict)


class Viewer:
    """Draws shots of one bank; keeps the pixels of the last video at hand."""

    def __init__(self, bank: FeatureBank) -> None:
        self.bank = bank
        self._open: tuple[int, Any] | None = None
        self._window: str | None = None

    def frame(self, video: int, row: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the true pixels, or a heat map of the features where the store leads to none."""
        from strong_envs.features.video_io import open_frames

        if self._open is None or self._open[0] != video:
            try:
                self._open = (video, open_frames(self.bank.videos[video]))
            except DataError:
                self._open = (video, None)
        picture = self._open[1](row) if self._open[1] is not None else None
        return self._heat_map(video, row) if picture is None else picture

    def _heat_map(self, video: int, row: int) -> np.ndarray:
        import cv2

        index = int(self.bank.offsets[video]) + row
        if self.bank.has_grid:
            strength = self.bank.grid[index].to(torch.float32).norm(dim=-1).cpu().numpy()
        else:
            strength = self.bank.frames[index].to(torch.float32).abs().cpu().numpy()[None, :]
            # A bar as high as half its width, so that it is seen beside others.
            strength = cv2.resize(strength, (16, 1), interpolation=cv2.INTER_AREA).repeat(8, axis=0)
        spread = max(float(strength.max() - strength.min()), 1e-9)
        grey = ((strength - strength.min()) / spread * 255).astype(np.uint8)
        return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)

    def draw(self, shot: Shot) -> np.ndarray:
        """One picture, (360, 480, 3) uint8 RGB."""
        canvas = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
        bank, sample = self.bank, shot.sample
        video = int(bank.video[sample])
        for i, line in enumerate(wrap(bank.texts[sample], 56)[:2]):
            put(canvas, line, (12, 22 + 20 * i), 0.5, INK)
        self._frames(canvas, shot, video, top=48, height=206)
        duration = float(bank.duration[video])
        if shot.true_windows:
            above = 274 if shot.seen is None else 256
            self._bar(canvas, above, "true", bank.queries[sample].windows, duration, TRUE_COLOUR, shot.cursor)
        if shot.seen is not None:
            self._bar(canvas, 275, "seen", shot.seen, duration, SEEN_COLOUR, shot.cursor, shot.view)
        chosen = [] if shot.chosen is None else [shot.chosen]
        self._bar(canvas, 294, "now", chosen, duration, CHOSEN_COLOUR, shot.cursor)
        put(canvas, "0", (_BAR_LEFT, 326), 0.4, FAINT)
        label = f"{duration:.1f} s"
        put(canvas, label, (_BAR_RIGHT - text_width(label, 0.4), 326), 0.4, FAINT)
        put(canvas, shot.footer, (12, 350), 0.45, INK)
        return canvas

    def _frames(self, canvas: np.ndarray, shot: Shot, video: int, top: int, height: int) -> None:
        import cv2

        count = len(shot.rows)
        if not count:
            return
        room = (WIDTH - 12 * (count + 1)) // count
        space = height - (16 if shot.captions else 0)
        for i, row in enumerate(shot.rows):
            picture = self.frame(video, int(row))
            scale = min(room / picture.shape[1], space / picture.shape[0])
            size = (max(int(picture.shape[1] * scale), 1), max(int(picture.shape[0] * scale), 1))
            shrink = scale < 1
            view = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_NEAREST)
            x = 12 + i * (room + 12) + (room - size[0]) // 2
            y = top + (space - size[1]) // 2
            if shot.true_boxes and self.bank.has_boxes:
                at = (torch.tensor([number], device=self.bank.device) for number in (shot.sample, int(row)))
                true = self.bank.true_box(*at)[0].cpu().numpy()
                rectangle(view, true, TRUE_COLOUR)
            if i < len(shot.boxes) and shot.boxes[i] is not None:
                rectangle(view, np.asarray(shot.boxes[i]), CHOSEN_COLOUR)
            canvas[y : y + size[1], x : x + size[0]] = view
            if i < len(shot.captions):
                put(canvas, shot.captions[i], (x, y + size[1] + 14), 0.4, FAINT)

    def _bar(
        self,
        canvas: np.ndarray,
        y: int,
        label: str,
        spans: Sequence[tuple[float, float]],
        duration: float,
        colour: tuple[int, int, int],
        cursor: float | None,
        view: tuple[float, float] | None = None,
    ) -> None:
        import cv2

        def at(second: float) -> int:
            return round(_BAR_LEFT + (_BAR_RIGHT - _BAR_LEFT) * min(max(second / duration, 0.0), 1.0))

        put(canvas, label, (12, y + 12), 0.42, colour)
        cv2.rectangle(canvas, (_BAR_LEFT, y), (_BAR_RIGHT, y + 13), (52, 52, 60), -1)
        if view is not None:
            cv2.rectangle(canvas, (at(view[0]), y), (at(view[1]), y + 13), (84, 84, 96), -1)
        for start, end in spans:
            cv2.rectangle(canvas, (at(start), y), (max(at(end), at(start) + 1), y + 13), colour, -1)
        if cursor is not None:
            cv2.line(canvas, (at(cursor), y - 3), (at(cursor), y + 16), INK, 1, cv2.LINE_AA)

    def show(self, picture: np.ndarray, fps: float) -> None:
        """Show a picture in a window; a machine without a display gets one clear error."""
        import cv2

        problem = display_problem()
        if problem is not None:
            raise DataError(f"render_mode='human' needs a display: {problem}; use render_mode='rgb_array'")
        self._window = "strong-envs"
        cv2.imshow(self._window, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        cv2.waitKey(max(int(1000 / fps), 1))

    def close(self) -> None:
        """Close the window."""
        import cv2

        if self._window is not None:
            with contextlib.suppress(cv2.error):  # its user may have closed it already
                cv2.destroyWindow(self._window)
            self._window = None


@lru_cache(maxsize=1)
def display_problem() -> str | None:
    """Why no window can be opened here, or None. Found out in a process of its own: OpenCV's Qt aborts on failure."""
    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"} & set(os.environ):
        return "neither DISPLAY nor WAYLAND_DISPLAY is set"
    probe = "import cv2; cv2.namedWindow('strong-envs'); cv2.waitKey(1); cv2.destroyAllWindows()"
    try:
        tried = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a test window could not be opened ({error})"
    if tried.returncode:
        said = [line for line in tried.stderr.splitlines() if line.strip()]
        return f"OpenCV cannot open a window ({said[0] if said else f'exit status {tried.returncode}'})"
    return None


def tiled(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size, (H, W, 3), side by side in a grid as wide as it is high; the rest is black."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    blank = [np.zeros_like(pictures[0])] * (rows * columns - len(pictures))
    cells = [*pictures, *blank]
    return np.concatenate([np.concatenate(cells[i * columns : (i + 1) * columns], 1) for i in range(rows)], 0)


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters, cut with an ellipsis after the second."""
    import textwrap

    return textwrap.wrap(ascii_only(text), width, max_lines=2, placeholder=" ...") or [""]


def ascii_only(text: str) -> str:
    """OpenCV's fonts have ASCII only; anything else becomes a question mark."""
    return text.encode("ascii", "replace").decode()


def put(canvas: np.ndarray, text: str, at: tuple[int, int], scale: float, colour: tuple[int, int, int]) -> None:
    """Write one line of text; ``at`` is its lower left corner in pixels."""
    import cv2

    cv2.putText(canvas, ascii_only(text), at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def text_width(text: str, scale: float) -> int:
    """Pixels that `put` needs for one line."""
    import cv2

    return cv2.getTextSize(ascii_only(text), cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]


def rectangle(view: np.ndarray, corners: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Draw a box given as normalised corners; NaN draws nothing."""
    import cv2

    if np.isnan(corners).any():
        return
    height, width = view.shape[:2]
    scale = np.array([width - 1, height - 1, width - 1, height - 1])
    x1, y1, x2, y2 = (round(v) for v in np.clip(corners, 0, 1) * scale)
    cv2.rectangle(view, (x1, y1), (x2, y2), colour, 2 if min(height, width) >= 100 else 1)


def write_video(path: str | os.PathLike, pictures: Sequence[np.ndarray], fps: float = 4.0) -> Path:
    """Write RGB pictures of one size as an mp4 with OpenCV; the file appears whole or not at all.

    Raises:
        DataError: no pictures, or of several sizes; a place that cannot be written, or that has no room for the file.
    """
    import cv2

    target = Path(path)
    if not len(pictures):
        raise DataError(f"no pictures to write to {str(target)!r}")
    height, width = pictures[0].shape[:2]
    sizes = {picture.shape for picture in pictures}
    if sizes != {(height, width, 3)}:
        raise DataError(f"a video takes pictures of one size, (height, width, 3); got {sorted(sizes)}")
    with replaced_file(target) as staging:
        writer = cv2.VideoWriter(str(staging), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
        if not writer.isOpened():
            raise DataError(f"OpenCV cannot write {shown(target)}; choose a path that ends in .mp4")
        for picture in pictures:
            writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        writer.release()
        # OpenCV reports no error when the disk is full.
        reader = cv2.VideoCapture(str(staging))
        written = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        if written != len(pictures):
            raise DataError(f"cannot write {shown(target)}: {written} of {len(pictures)} pictures were stored")
    return target
