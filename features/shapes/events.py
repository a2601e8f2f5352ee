"""The seven events of the shapes world and what each does to an object, frame by frame.

An event with frames [start, end) covers the seconds [start / FPS, end / FPS). Its first change shows in frame ``start``
(against the frame before) and its last one in frame ``end - 1``, so differences of frames are non-zero exactly inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAMES = 60
FPS = 10.0
DURATION = FRAMES / FPS

# Image coordinates: x to the right, y downwards.
DIRECTIONS = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}
EVENTS = (*DIRECTIONS, "grows", "shrinks", "blinks")
MIN_FRAMES, MAX_FRAMES = 9, 27


@dataclass(frozen=True)
class Act:
    """One event of one object in the frames [start, end)."""

    event: str
    start: int
    end: int

    @property
    def window(self) -> tuple[float, float]:
        """The moment in seconds."""
        return self.start / FPS, self.end / FPS


def progress(act: Act) -> np.ndarray:
    """(FRAMES,) float: 0 before the event, a linear rise to 1 inside, 1 afterwards."""
    return np.clip((np.arange(FRAMES) - act.start + 1) / (act.end - act.start), 0.0, 1.0)


def scale(acts: tuple[Act, ...], ratio: float) -> np.ndarray:
    """(FRAMES,) float: size relative to the first frame's; ``ratio`` > 1 is the factor of one growth or shrinkage."""
    size = np.ones(FRAMES)
    for act in acts:
        if act.event in ("grows", "shrinks"):
            sign = 1 if act.event == "grows" else -1
            size *= ratio ** (sign * progress(act))
    # Powers differ in their last bit between processors, and the world must not.
    return np.round(size, 6)


def visible(acts: tuple[Act, ...]) -> np.ndarray:
    """(FRAMES,) bool: False in every second frame of a blink, from its first; a blink has an even number of frames."""
    lit = np.ones(FRAMES, bool)
    for act in acts:
        if act.event == "blinks":
            lit[act.start : act.end : 2] = False
    return lit
