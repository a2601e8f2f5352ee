"""Pure functions on temporal spans, written once for Python numbers, NumPy arrays and torch tensors.

A span is measured in *steps*: a video is ``2 * z_e`` steps long (20 by default), whatever its number of frames, and a
move shifts an end by one step, n / (2 z_e) frames (paper, section 3.2). Positions are float64 and, for the default
moves, whole numbers, so a comparison of two IoUs never hangs on a rounding error and every implementation agrees.
"""

from __future__ import annotations

import numpy as np
import torch

from strong_envs.core.elementwise import Array, ceil, floor, maximum, minimum, namespace
from strong_envs.features.errors import DataError

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
SIGNED, CLAMPED, LEGACY = range(len(IOU_KINDS))
TIE = 1e-9
"""Two IoUs nearer than this are equal. IoUs of windows on an action grid that differ, differ by 1e-8 or more; rounding
in float64 moves them by less than 1e-12."""


BEYOND = 1e9
"""Steps beyond the edge of a video that no move reaches, see `shifted`."""


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


def shifted(
    start: Array, end: Array, shift_start: Array, shift_end: Array, total: float, beyond: float = BEYOND
) -> tuple[Array, Array, Array]:
    """Shift both ends, elementwise: start, end, valid. A span that would leave [0, total] or invert stays as it is.

    ``beyond`` is how far a move may lead over the edge and be refused as a whole; with 0 it is cut off at the edge, and
    refused where nothing of it is left.
    """
    by_start, by_end = maximum(shift_start, -start - beyond), minimum(shift_end, total - end + beyond)
    new_start, new_end = start + by_start, end + by_end
    stays = (by_start == 0.0) & (by_end == 0.0) & ((shift_start != 0.0) | (shift_end != 0.0))
    valid = (new_start >= 0.0) & (new_end <= total) & (new_start < new_end) & (stays ^ True)
    return start + by_start * valid, end + by_end * valid, valid


def move(
    start: Array, end: Array, action: Array, table: Array, total: float, beyond: float = BEYOND
) -> tuple[Array, Array, Array]:
    """Apply one move to each span; a move that leaves the video or crosses the ends leaves the span as it is.

    Args:
        start: (B,) float64 in steps.
        end: (B,) float64 in steps.
        action: (B,) integers, rows of ``table``.
        table: `move_table`; a third column, as in `tree_table`, moves both ends outward by that share of the length.
        total: steps in a video.
        beyond: see `shifted`; 0 cuts a move off at the edge of the video.

    Returns:
        start (B,), end (B,), valid (B,) bool.
    """
    shift_start, shift_end = table[action, 0], table[action, 1]
    if table.shape[1] == 3:
        outward = table[action, 2] * (end - start)
        shift_start, shift_end = shift_start - outward, shift_end + outward
    return shifted(start, end, shift_start, shift_end, total, beyond)


def intersection(start: Array, end: Array, low: Array, high: Array) -> Array:
    """Length that two windows share, elementwise; negative, minus the gap between them, where they are disjoint."""
    return minimum(end, high) - maximum(start, low)


def overlap(start: Array, end: Array, low: Array, high: Array, kind: int) -> Array:
    """IoU of the window (start, end) with the window (low, high), elementwise, float64.

    Args:
        start: of the window, in any unit.
        end: of the window.
        low: start of the other window, in the same unit.
        high: end of the other window.
        kind: `SIGNED`, `CLAMPED` or `LEGACY`, see `span_iou`.
    """
    inter, hull = intersection(start, end, low, high), maximum(end, high) - minimum(start, low)
    # Where two windows meet, the hull is their union; where they do not, only the sign of the numerator matters.
    if kind == CLAMPED:
        inter = maximum(inter, 0.0)
    elif kind == LEGACY:
        inter = abs(inter)
    return inter / hull


def kind_index(kind: str) -> int:
    """The position of a kind of IoU in `IOU_KINDS`; an unknown name is refused."""
    if kind not in IOU_KINDS:
        raise DataError(f"iou must be one of {IOU_KINDS}, got {kind!r}")
    return IOU_KINDS.index(kind)


def span_iou(start: Array, end: Array, truth: Array, kind: str = "signed") -> Array:
    """IoU of spans (B,) with the best of their true windows (B, K, 2), all in the same unit: (B,) float64.

    ``signed`` is Eq. 4 to the letter (min of the ends minus max of the starts over the hull, negative when disjoint);
    ``clamped`` is the metric of the field; ``legacy`` divides absolute values, which pays disjoint windows, and exists
    only to reproduce published logs.
    """
    iou = overlap(start[:, None], end[:, None], truth[..., 0], truth[..., 1], kind_index(kind))
    return namespace(iou).amax(iou, -1)


def nearest_window(start: Array, end: Array, truth: Array) -> Array:
    """Which true window each span lies nearest to: (B,) and (B, K, 2) to (B,) int64, the first of equals.

    The one with the highest IoU; where none overlaps, the one with the highest signed IoU (Eq. 4).
    """
    return overlap(start[:, None], end[:, None], truth[..., 0], truth[..., 1], SIGNED).argmax(-1)


def iou_with_each(windows: Array, truth: Array, kind: str = "clamped") -> Array:
    """IoU of every window with every true window.

    Args:
        windows: (..., N, 2).
        truth: (..., K, 2), in the same unit; leading axes broadcast.
        kind: see `span_iou`.

    Returns:
        (..., N, K), NaN where either window is NaN (absent).
    """
    start, end = windows[..., :, None, 0], windows[..., :, None, 1]
    return overlap(start, end, truth[..., None, :, 0], truth[..., None, :, 1], kind_index(kind))


def nms(windows: Array, scores: Array, threshold: float, limit: int) -> Array:
    """Greedy non-maximum suppression in time, for all samples at once, in NumPy or torch.

    The window with the highest score is kept, all that overlap it with a clamped IoU above ``threshold`` are dropped,
    and so on; of equal scores the earlier row wins. An IoU within `TIE` of the threshold equals it.

    Args:
        windows: (..., N, 2).
        scores: (..., N), NaN or -inf for absent windows.
        threshold: an IoU in [0, 1].
        limit: the most windows to keep, 1 or more.

    Returns:
        (..., limit) int64, rows of ``windows``, best first; -1 where no window is left.

    Raises:
        DataError: a threshold outside [0, 1] or a limit below 1.
    """
    if not 0 <= threshold <= 1:
        raise DataError(f"the threshold of NMS must be an IoU in [0, 1], got {threshold}")
    if limit < 1:
        raise DataError(f"NMS must keep 1 or more windows, got a limit of {limit}")
    xp, lowest = namespace(scores), float("-inf")
    left = xp.where(scores == scores, scores, lowest)
    count = left.shape[-1]
    rows = torch.arange(count, device=left.device) if isinstance(left, torch.Tensor) else np.arange(count)
    kept = []
    for _ in range(limit):
        best = left.argmax(-1)[..., None]
        kept.append(xp.where(_along(left, best) > lowest, best, -1))
        start, end = (_along(windows[..., side], best) for side in range(2))
        iou = overlap(windows[..., 0], windows[..., 1], start, end, CLAMPED)
        left = xp.where((iou > threshold + TIE) | (rows == best), lowest, left)
    return xp.concatenate(kept, -1)


def _along(array: Array, index: Array) -> Array:
    """``array`` (..., N) at ``index`` (..., 1): (..., 1)."""
    return array.gather(-1, index) if isinstance(array, torch.Tensor) else np.take_along_axis(array, index, -1)


def frame_window(start: Array, end: Array, total: float, n_frames: Array) -> tuple[Array, Array]:
    """The frames that a span touches, elementwise: first (inclusive) and last (exclusive) int64, at least one frame."""
    first = maximum(minimum(floor(start * n_frames / total), n_frames - 1), 0)
    return first, minimum(maximum(ceil(end * n_frames / total), first + 1), n_frames)


def context_windows(first: Array, last: Array, reach: Array, n_frames: Array) -> tuple[tuple[Array, Array], ...]:
    """Frames of a span and of its surroundings, elementwise: five pairs of first (inclusive) and last (exclusive).

    The span itself, its first third, its last third, ``reach`` frames before it and ``reach`` frames after it, cut at
    the ends of the video; a pair with last <= first is empty.
    """
    third = (last - first + 2) // 3
    return (
        (first, last),
        (first, first + third),
        (last - third, last),
        (maximum(first - reach, 0), first),
        (last, minimum(last + reach, n_frames)),
    )
