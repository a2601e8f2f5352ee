"""Pure functions of the look task: which row a position is, how a range is zoomed, which frames a look reads.

A range is two fractions of the video, ``0 <= low < high <= 1``. Zooming halves or doubles it, so all ends are binary
fractions and every implementation agrees on them exactly. All functions take tensors of any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

ZOOMS = ("zoom to the left half", "zoom to the middle half", "zoom to the right half", "zoom out")
OUT = 3
NO_ROW = -1
"""Stands in a slot that no look has filled."""


def rows_of(low: Tensor, high: Tensor, part: Tensor, parts: int, n_frames: Tensor) -> Tensor:
    """The feature row in the middle of a part of a range, elementwise: int64 in [0, n_frames).

    Args:
        low: start of the range, float64 fraction of the video.
        high: end of the range.
        part: which of ``parts`` equal parts, 0 is the first.
        parts: how many there are.
        n_frames: int64 rows of the video.
    """
    at = low + (high - low) * (part + 0.5) / parts
    return row_at(at, n_frames)


def row_at(at: Tensor, n_frames: Tensor) -> Tensor:
    """The feature row at a fraction of the video, elementwise: int64 in [0, n_frames)."""
    return torch.minimum(torch.floor(at * n_frames).to(torch.int64).clamp(min=0), n_frames - 1)


def zoomed(low: Tensor, high: Tensor, kind: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zoom each range: low, high, valid. ``kind`` is an index into `ZOOMS`.

    Halves are half as long; zooming out doubles the range about its middle and shifts it into the video. A range that
    would be shorter than a row, or longer than the video, stays as it is.
    """
    length = high - low
    left = low + length * (kind.clamp(max=2) * 0.25)
    wide = (2 * length).clamp(max=1.0)
    begin = torch.minimum((low - length / 2).clamp(min=0.0), 1.0 - wide)
    out = kind == OUT
    valid = torch.where(out, length < 1.0, length * n_frames >= 2.0)
    new_low = torch.where(out, begin, left)
    new_high = torch.where(out, begin + wide, left + length / 2)
    return torch.where(valid, new_low, low), torch.where(valid, new_high, high), valid


def frames_read(rows: Tensor, neighbours: int) -> Tensor:
    """How many different frames some looks read: rows (B, slots) with `NO_ROW` in empty slots to (B,) int64.

    A row is made of its own frame and of the ``neighbours`` frames before it, as far as the video has them. A frame
    that several looks need is read once.
    """
    ordered = rows.sort(-1).values
    before = torch.cat([torch.full_like(ordered[:, :1], NO_ROW), ordered[:, :-1]], -1)
    # The gap to the row before it, or to the start of the video, bounds the frames that are new.
    new = (ordered - before.clamp(min=NO_ROW)).clamp(max=neighbours + 1)
    return torch.where(ordered == NO_ROW, 0, new).sum(-1)


def answers(parts: int, device: torch.device) -> Tensor:
    """All windows with both ends between two of ``parts`` equal parts of a range, as shares of it: (A, 2) float64.

    Ordered by start, then by end; A is parts (parts + 1) / 2.
    """
    start, end = torch.triu_indices(parts + 1, parts + 1, 1, device=device)
    return torch.stack((start, end), -1).to(torch.float64) / parts
