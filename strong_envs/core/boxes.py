"""Pure functions on tracking boxes. A box is centre and size (x, y, w, h), normalised (paper, section 3.3)."""

from __future__ import annotations

import numpy as np
import torch

from strong_envs.core.elementwise import Array, maximum, minimum, namespace

STOP = 8
MOVE_NAMES = ("left", "right", "up", "down", "bigger", "smaller", "taller", "fatter", "stop")
SYMMETRIC_NAMES = (*MOVE_NAMES, "shorter", "thinner")
BOX_MOVES = ("paper", "symmetric")
INITIAL_BOX = (0.5, 0.5, 0.5, 0.5)
"""The paper's b0 = [.25h, .25w, .75h, .75w] read as corners."""

MIN_SIZE = 0.05


def move_table(z_s: float = 10.0, box_moves: str = "paper") -> np.ndarray:
    """What each action adds to the edges (x1, y1, x2, y2): (A, 4) float64, in fractions of the frame.

    A move shifts by 1 / (2 z_s) of the frame; a change of size moves both of its edges by half of that, so the centre
    stays. ``paper`` has the nine actions of the paper, ``symmetric`` adds "shorter" and "thinner".
    """
    if box_moves not in BOX_MOVES:
        raise ValueError(f"box_moves must be one of {BOX_MOVES}, got {box_moves!r}")
    half = 0.5
    rows = {
        "left": (-1, 0, -1, 0),
        "right": (1, 0, 1, 0),
        "up": (0, -1, 0, -1),
        "down": (0, 1, 0, 1),
        "bigger": (-half, -half, half, half),
        "smaller": (half, half, -half, -half),
        "taller": (0, -half, 0, half),
        "fatter": (-half, 0, half, 0),
        "stop": (0, 0, 0, 0),
        "shorter": (0, half, 0, -half),
        "thinner": (half, 0, -half, 0),
    }
    names = MOVE_NAMES if box_moves == "paper" else SYMMETRIC_NAMES
    return np.array([rows[name] for name in names], np.float64) / (2 * z_s)


def corners(box: Array) -> Array:
    """(..., 4) centre and size to (..., 4) corners x1, y1, x2, y2."""
    xp = namespace(box)
    half = box[..., 2:] / 2
    parts = (box[..., :2] - half, box[..., :2] + half)
    return torch.cat(parts, -1) if xp is torch else np.concatenate(parts, -1)


def from_corners(edges: Array) -> Array:
    """(..., 4) corners to (..., 4) centre and size."""
    xp = namespace(edges)
    parts = ((edges[..., :2] + edges[..., 2:]) / 2, edges[..., 2:] - edges[..., :2])
    return torch.cat(parts, -1) if xp is torch else np.concatenate(parts, -1)


def move(box: Array, action: Array, table: Array, min_size: float = MIN_SIZE) -> tuple[Array, Array]:
    """Apply one move to each box (Eq. 12): (B, 4) and (B,) to the new boxes (B, 4) and valid (B,) bool.

    An edge that would leave the frame is clipped to it; refusing such moves would trap large boxes at the border. A
    shift keeps the size instead: it goes as far as the frame allows. A move is invalid when nothing changes or a side
    would fall below ``min_size``.
    """
    xp = namespace(box)
    edges, change = corners(box), table[action]
    low, high = edges[:, :2], edges[:, 2:]
    delta_low, delta_high = change[:, :2], change[:, 2:]
    shift = delta_low == delta_high
    room = minimum(maximum(delta_low, -low), 1 - high)
    new_low = xp.where(shift, low + room, maximum(low + delta_low, 0.0))
    new_high = xp.where(shift, high + room, minimum(high + delta_high, 1.0))
    size = new_high - new_low
    shrinks = delta_high < delta_low
    too_small = ((size < min_size - 1e-9) & shrinks).any(-1)
    moved = from_corners(torch.cat((new_low, new_high), -1) if xp is torch else np.concatenate((new_low, new_high), -1))
    changed = (abs(moved - box) > 1e-9).any(-1)
    valid = changed & ~too_small
    return xp.where(valid[:, None], moved, box), valid


def areas(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Areas of the intersection, of ``a`` and of ``b``, corners (..., 4): three (...,), NaN for NaN boxes."""
    side = maximum(minimum(a[..., 2:], b[..., 2:]) - maximum(a[..., :2], b[..., :2]), 0.0)
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    return side[..., 0] * side[..., 1], size_a[..., 0] * size_a[..., 1], size_b[..., 0] * size_b[..., 1]


def box_iou(a: Array, b: Array) -> Array:
    """IoU of two sets of boxes given as corners, (..., 4) and (..., 4) to (...,). NaN boxes give 0."""
    inter, area_a, area_b = areas(a, b)
    iou = inter / maximum(area_a + area_b - inter, 1e-12)
    return namespace(iou).where(iou == iou, iou, 0.0)


def coverage(box: Array, truth: Array) -> Array:
    """Share of the true box that lies inside ``box``, both as corners: (..., 4), (..., 4) to (...,). NaN gives 0."""
    inter, _, area = areas(box, truth)
    share = inter / maximum(area, 1e-12)
    return namespace(share).where(share == share, share, 0.0)


def distance_iou(a: Array, b: Array) -> Array:
    """IoU minus the squared distance of the centres over the squared diagonal of the hull (Zheng et al. 2020).

    Corners (..., 4) and (..., 4) to (...,) in [-1, 1]. Unlike the IoU it says which of two disjoint boxes is nearer.
    """
    gap = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2) ** 2
    hull = (maximum(a[..., 2:], b[..., 2:]) - minimum(a[..., :2], b[..., :2])) ** 2
    return box_iou(a, b) - gap.sum(-1) / maximum(hull.sum(-1), 1e-12)
