"""Pure functions on temporal spans. NumPy arrays and torch tensors alike; the same arithmetic gives the same bits.

A span is measured in *steps*: a video is ``2 * z_e`` steps long (20 by default), whatever its number of frames, and a
move shifts an end by one step, n / (2 z_e) frames (paper, section 3.2). Positions are float64 and, for the default
moves, whole numbers, so a comparison of two IoUs never hangs on a rounding error and every implementation agrees.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch

Array = Any
"""A NumPy array or a torch tensor; every function returns the kind that it was given."""

STOP = 6
MOVE_NAMES = (
    "start forward",
    "start backward",
    "end forward",
    "end backward",
    "shift forward",
    "shift backward",
    "stop",
)
_MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (0, 0))
FINER = (0.25, 0.0625)
"""Sizes of the additional moves of ``multi_scale``, in steps: powers of two, exact in binary."""

TREE_SCALES = (1.2, 1.5, 1 / 1.2, 1 / 1.5)
"""Factors by which TSP-PRL scales a window about its middle."""

IOU_KINDS = ("signed", "clamped", "legacy")


def _xp(array: Array) -> ModuleType:
    return torch if isinstance(array, torch.Tensor) else np


def move_table(step_scale: float = 1.0, multi_scale: bool = False) -> np.ndarray:
    """What each action adds to (start, end), in steps: (A, 2) float64.

    Actions 0 to 6 are the paper's, in the order of `MOVE_NAMES`; ``multi_scale`` appends the six moves at a quarter
    and at a sixteenth of a step (A = 19), which long videos with short moments need.
    """
    base = np.array(_MOVES, np.float64)
    rows = [base, *(base[:STOP] * size for size in FINER)] if multi_scale else [base]
    return np.concatenate(rows) * step_scale


def tree_table(step_scale: float = 2.0) -> np.ndarray:
    """The moves of TSP-PRL's tree (Wu et al., AAAI 2020), a table for `move`: (17, 3) float64.

    Actions 0 to 5 move or shift by ``step_scale`` steps, 6 is stop, 7 to 12 repeat 0 to 5 with a quarter of that, and
    13 to 16 scale the window about its middle by the factors of `TREE_SCALES`. The third column is what each end moves
    outward, as a share of the window's length.
    """
    base = np.array(_MOVES, np.float64) * step_scale
    moves = np.concatenate([base, base[:STOP] * FINER[0]])
    grow = [((factor - 1) / 2,) for factor in TREE_SCALES]
    return np.block([[moves, np.zeros((len(moves), 1))], [np.zeros((len(grow), 2)), np.array(grow)]])


def move_names(multi_scale: bool = False) -> list[str]:
    """Names of the actions, in the order of `move_table`."""
    fine = [f"{name} (1/{int(1 / size)})" for size in FINER for name in MOVE_NAMES[:STOP]] if multi_scale else []
    return [*MOVE_NAMES, *fine]


def move(start: Array, end: Array, action: Array, table: Array, total: float) -> tuple[Array, Array, Array]:
    """Apply one move to each span; a move that leaves the video or crosses the ends leaves the span as it is.

    Args:
        start, end: (B,) float64 in steps. action: (B,) integers. total: steps in a video.
        table: `move_table`; a third column, as in `tree_table`, moves both ends outward by that share of the length.

    Returns:
        start (B,), end (B,), valid (B,) bool.
    """
    new_start, new_end = start + table[action, 0], end + table[action, 1]
    if table.shape[1] == 3:
        outward = table[action, 2] * (end - start)
        new_start, new_end = new_start - outward, new_end + outward
    valid = (new_start >= 0) & (new_end <= total) & (new_start < new_end)
    where = _xp(start).where
    return where(valid, new_start, start), where(valid, new_end, end), valid


def span_iou(start: Array, end: Array, truth: Array, kind: str = "signed") -> Array:
    """IoU of spans (B,) with the best of their true windows (B, K, 2), all in the same unit: (B,) float64.

    ``signed`` is Eq. 4 to the letter (min of the ends minus max of the starts over the hull, negative when disjoint);
    ``clamped`` is the metric of the field; ``legacy`` divides absolute values, which pays disjoint windows, and exists
    only to reproduce published logs.
    """
    xp = _xp(start)
    start, end = start[:, None], end[:, None]
    inter = xp.minimum(end, truth[..., 1]) - xp.maximum(start, truth[..., 0])
    hull = xp.maximum(end, truth[..., 1]) - xp.minimum(start, truth[..., 0])
    if kind == "signed":
        iou = inter / hull
    elif kind == "clamped":
        iou = xp.where(inter > 0, inter, 0.0) / hull
    elif kind == "legacy":
        iou = abs(inter) / hull
    else:
        raise ValueError(f"iou must be one of {IOU_KINDS}, got {kind!r}")
    return xp.amax(iou, -1)


def frame_window(start: Array, end: Array, total: float, n_frames: Array) -> tuple[Array, Array]:
    """The frames that a span touches: (B,) int64 first (inclusive) and last (exclusive), at least one frame."""
    xp = _xp(start)
    first, last = xp.floor(start * n_frames / total), xp.ceil(end * n_frames / total)
    first = xp.minimum(first, n_frames - 1.0)
    last = xp.minimum(xp.maximum(last, first + 1), n_frames + 0.0)
    if xp is torch:
        return first.to(torch.int64), last.to(torch.int64)
    return first.astype(np.int64), last.astype(np.int64)
