"""What both attentions over cells do with a grid: average it over neighbouring cells, and over neighbouring frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def with_neighbours(cells: Tensor) -> Tensor:
    """Each cell's mean with the cells around it: (..., h, w, C) to (..., h * w, C)."""
    x = cells.flatten(0, -4).permute(0, 3, 1, 2)
    x = nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return x.flatten(2).transpose(1, 2).reshape(*cells.shape[:-3], -1, cells.shape[-1])


def lattice(height: int, width: int, every: int, generator: torch.Generator) -> Tensor:
    """Numbers (K,) int64 of the cells in every so many rows and columns, from a random one on; as many each time.

    A cell that is the mean with its neighbours stands for them, so that every second one still covers the frame.
    """
    row, column = torch.randint(every, (2,), generator=generator).tolist() if every > 1 else (0, 0)
    # A row beyond the last is one of the first: the number of cells is the same each time.
    rows = (row + torch.arange(0, height, every)) % height
    columns = (column + torch.arange(0, width, every)) % width
    return (rows[:, None] * width + columns).flatten()


def smoothed(x: Tensor, width: float) -> Tensor:
    """Each frame's mean with its neighbours, ``width`` frames in all: (n, ...) to (n, ...)."""
    reach = int(width / 2)
    if not reach:
        return x
    rows = x.flatten(1).t()[None]
    pooled = nn.functional.avg_pool1d(rows, 2 * reach + 1, 1, reach, count_include_pad=False)
    return pooled[0].t().reshape(x.shape)
