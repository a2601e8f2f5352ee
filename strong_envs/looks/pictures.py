"""What a picture of a search shows: the last frames looked at, and which stretches of the video have been seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from strong_envs.looks.task import LookTask

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot

FRAMES = 3
"""Frames in a picture: the last ones looked at."""


def look_shot(
    task: LookTask,
    sample: int,
    rows: Sequence[int],
    view: tuple[float, float],
    answer: tuple[float, float] | None,
    frames: int,
    reward: float,
) -> Shot:
    """The last frames looked at over the time bars: the true window, what was seen, the answer.

    Args:
        task: of the environment.
        sample: index into the split.
        rows: looked at so far, in their order.
        view: the range that positions divide, fractions of the video.
        answer: the window that was named, fractions, or None before the answer.
        frames: read so far.
        reward: of the last step.
    """
    from strong_envs.rendering.viewer import Shot

    duration, count = float(task.bank.duration[task.bank.video[sample]]), int(task.n_frames[sample])
    second = duration / count
    last = list(rows)[-FRAMES:]
    footer = f"{len(rows)} looks, {frames} of {count} frames read   reward {reward:+.2f}"
    return Shot(
        sample,
        last,
        None if answer is None else (answer[0] * duration, answer[1] * duration),
        captions=[f"look {len(rows) - len(last) + i + 1}: {(row + 0.5) * second:.1f} s" for i, row in enumerate(last)],
        footer=footer,
        seen=[(row * second, (row + 1) * second) for row in rows],
        view=(view[0] * duration, view[1] * duration),
    )
