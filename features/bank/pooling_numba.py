"""Pooling on a CPU by compiled loops: attention over windows, and spatial pyramids of boxes.

With numba (extra ``fast``) `strong_envs.features.bank.pooling` uses these for float32 tensors in memory that need no
gradient; results equal torch's to rounding. Without numba, or with ``STRONG_ENVS_COMPILED=0``, torch is used.

Both read every number they need once, straight from where it lies: torch has to gather the rows of a window, or the
maps under the boxes, into a tensor of their own first.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor


def available() -> bool:
    """Whether numba can be imported and ``STRONG_ENVS_COMPILED`` is not 0."""
    return os.environ.get("STRONG_ENVS_COMPILED", "1") != "0" and _installed()


@cache
def _installed() -> bool:
    # Asked before every call, and a search through the path takes longer than a small pyramid.
    return importlib.util.find_spec("numba") is not None


def fits(*tensors: Tensor) -> bool:
    """Whether these can go through compiled code: float32 in the CPU's memory, contiguous, without gradient."""
    plain = all(
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous()
        and not (x.requires_grad and torch.is_grad_enabled())
        for x in tensors
    )
    return plain and available()


def attend_all(
    table: np.ndarray,
    base: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    owner: np.ndarray,
    scores: np.ndarray,
    out: np.ndarray,
) -> None:
    """Softmax of scores over frames [first, last) of each window and the sum of their rows, weighted by it.

    ``table`` (N, D), ``base`` (W,) the row of frame 0, ``owner`` (W,) the row of ``scores`` (B, n); ``out`` (W, D).
    """
    for i in range(len(base)):
        row, mine = out[i], scores[owner[i]]
        row[:] = 0.0
        peak = -np.inf
        for j in range(first[i], last[i]):
            peak = max(peak, mine[j])
        total = 0.0
        for j in range(first[i], last[i]):
            weight = np.float32(np.exp(np.float64(mine[j]) - peak))
            total += float(weight)
            add_into(row, weight, table[base[i] + j])
        if last[i] > first[i]:
            scale = np.float32(1.0 / total)
            for c in range(len(row)):
                row[c] *= scale


def add_into(row: np.ndarray, weight: np.floating, source: np.ndarray) -> None:
    """``row += weight * source``: the loop that all the time goes into."""
    for c in range(len(row)):
        row[c] += weight * source[c]


def pyramid_all(
    maps: np.ndarray,
    rows: np.ndarray,
    corners: np.ndarray,
    levels: np.ndarray,
    begins: np.ndarray,
    across: np.ndarray,
    down: np.ndarray,
    strip: np.ndarray,
    out: np.ndarray,
) -> None:
    """Means of ``level`` x ``level`` equal bins of each box; ``levels`` descend in bins per side.

    ``maps`` (N, h, w, C), ``rows`` (B,), ``corners`` (B, 4); ``out`` (B, bins, C) takes each level from ``begins`` on.
    ``across`` (m, w), ``down`` (m, h) and ``strip`` (m, C) are room to work in, with m the finest level. A level whose
    bins are made of whole bins of the finest is averaged from those.
    """
    height, width, _ = maps.shape[1:]
    finest = levels[0]
    for b in range(len(rows)):
        grid, box, result = maps[rows[b]], corners[b], out[b]
        for k in range(len(levels)):
            level, begin = levels[k], begins[k]
            result[begin : begin + level * level] = 0.0
            if k and finest % level == 0:
                ratio = finest // level
                scale = np.float32(1.0 / (ratio * ratio))
                for y in range(finest):
                    for x in range(finest):
                        source = result[begins[0] + y * finest + x]
                        add_into(result[begin + (y // ratio) * level + x // ratio], scale, source)
                continue
            overlap(box[0], box[2], level, width, across)
            overlap(box[1], box[3], level, height, down)
            for y in range(height):
                touched = False
                for i in range(level):
                    touched = touched or down[i, y] > 0.0
                if not touched:
                    continue
                strip[:level] = 0.0
                for x in range(level):
                    for cell in range(width):
                        if across[x, cell] > 0.0:
                            add_into(strip[x], across[x, cell], grid[y, cell])
                for i in range(level):
                    if down[i, y] > 0.0:
                        for x in range(level):
                            add_into(result[begin + i * level + x], down[i, y], strip[x])


def overlap(low: float, high: float, bins: int, cells: int, out: np.ndarray) -> None:
    """Share of each of ``bins`` of one box in each of ``cells``, into ``out``: `pooling.axis_overlap` of one box."""
    step = np.float64(high - low) / bins
    for i in range(bins):
        left, right = low + i * step, low + (i + 1) * step
        length = max(right - left, 1e-9)
        for j in range(cells):
            common = min(right, (j + 1.0) / cells) - max(left, j / cells)
            out[i, j] = np.float32(max(common, 0.0) / length)


@cache
def kernels() -> SimpleNamespace:
    """The loops above as numba compiles them, on the first call of each; machine code is kept on disk."""
    from types import FunctionType

    from numba import njit

    options: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
    scope = dict(globals())
    # The functions of the module stay plain Python; the compiled ones see each other.
    for name in ("add_into", "overlap", "attend_all", "pyramid_all"):
        copy = FunctionType(globals()[name].__code__, scope, name)
        copy.__module__ = __name__
        scope[name] = njit(cache=name.endswith("_all"), **options)(copy)
    return SimpleNamespace(attend_all=scope["attend_all"], pyramid_all=scope["pyramid_all"])


def attention(table: Tensor, base: Tensor, first: Tensor, last: Tensor, owner: Tensor, scores: Tensor) -> Tensor:
    """`attend_all` on tensors: (W, D) float32 for (W,) int64 windows; those out of bounds raise IndexError."""
    if len(base):
        # Compiled code does not check bounds.
        filled = last > first
        low, high = torch.where(filled, base + first, 0), torch.where(filled, base + last, 0)
        beyond = bool((filled & ((first < 0) | (last > scores.shape[1]))).any()) or int(owner.max()) >= len(scores)
        if beyond or int(low.min()) < 0 or int(high.max()) > len(table) or int(owner.min()) < 0:
            raise IndexError(f"windows reach out of {len(table)} rows, or of {tuple(scores.shape)} scores")
    out = torch.empty((len(base), table.shape[1]))
    arrays = (x.contiguous().numpy() for x in (table, base, first, last, owner, scores))
    kernels().attend_all(*arrays, out.numpy())
    return out


def pyramid(maps: Tensor, rows: Tensor, corners: Tensor, levels: Sequence[int]) -> Tensor:
    """`pyramid_all` on tensors: (B, bins, C) float32, levels in the order given; unknown rows raise IndexError."""
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(maps):
        raise IndexError(f"rows lie in [0, {len(maps)}), got {int(rows.min())} to {int(rows.max())}")
    if corners.shape != (len(rows), 4):
        raise IndexError(f"{len(rows)} rows need as many boxes (B, 4), got {tuple(corners.shape)}")
    places = np.cumsum([0, *(level**2 for level in levels)])
    order = sorted(range(len(levels)), key=lambda i: -levels[i])
    _, height, width, channels = maps.shape
    out = torch.empty((len(rows), int(places[-1]), channels))
    work = (np.empty((max(levels), n), np.float32) for n in (width, height, channels))
    arrays = (x.contiguous().numpy() for x in (maps, rows, corners))
    kernels().pyramid_all(*arrays, np.array(levels)[order], places[:-1][order], *work, out.numpy())
    return out
