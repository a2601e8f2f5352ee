"""What a picture of the temporal level shows, for the viewer to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from strong_envs.core.boxes import INITIAL_BOX, corners
from strong_envs.core.spans import frame_window
from strong_envs.temporal.task import TemporalTask

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot


def temporal_shot(task: TemporalTask, sample: int, start: float, end: float, t: int, reward: float) -> Shot:
    """First, middle and last frame of a window (in steps) over the time bar, with step, reward and tIoU."""
    from strong_envs.rendering.viewer import Shot

    n_frames = int(task.n_frames[sample])
    first, last = frame_window(start, end, task.config.total, n_frames)
    rows = [first, (first + last - 1) // 2, last - 1]
    boxes: list[Any] = []
    if task.local.boxes is not None:
        base = int(task.local.rows[sample])
        boxes = [task.local.boxes[base + row].tolist() for row in rows]
    elif task.local.source == "initial":
        boxes = [corners(np.array(INITIAL_BOX)).tolist()] * len(rows)
    second, step = float(task.bank.duration[task.bank.video[sample]]) / n_frames, float(task.seconds[sample])
    names = zip(("first", "middle", "last"), rows, strict=True)
    return Shot(
        sample,
        rows,
        (start * step, end * step),
        boxes,
        [f"{name} {(row + 0.5) * second:.1f} s" for name, row in names],
        footer=f"step {t}   reward {reward:+.2f}   tIoU {task.iou_of(sample, start, end):.2f}",
    )


def one_shot_shot(task: TemporalTask, sample: int, span: tuple[float, float] | None, reward: float) -> Shot:
    """Frames of the window named, in seconds, or of the whole video before the action."""
    from strong_envs.rendering.viewer import Shot

    count = int(task.n_frames[sample])
    seconds = float(task.bank.duration[task.bank.video[sample]]) / count
    start, end = span or (0.0, count * seconds)
    rows = [min(max(int(at / seconds), 0), count - 1) for at in (start, (start + end) / 2, end - seconds / 2)]
    captions = [f"{(row + 0.5) * seconds:.1f} s" for row in rows]
    footer = "before the answer" if span is None else f"reward {reward:.2f}"
    return Shot(sample, rows, span, captions=captions, footer=footer)
