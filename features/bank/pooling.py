"""Pooling of windows and boxes in constant time, on any device.

The mean of a window of frames is the difference of two rows of prefix sums; the mean of a box over a window is the
same on prefix sums of the spatial map, weighted by how much of each cell the box covers. Sums run over features from
which the video's mean was taken away: over thousands of frames that keeps float32 exact to about 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from strong_envs.features.bank import pooling_numba
from strong_envs.features.bank.mapped import MappedRows

CHUNK = 1 << 23
"""Elements that a sum over packed rows holds in float64 at a time (64 MiB)."""


def starts_of(lengths: Tensor) -> Tensor:
    """Where sequences of lengths (S,) begin when they are packed one after the other, and their sum: (S + 1,) int64."""
    return torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))


def ragged_prefix_sums(rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Prefix sums of packed sequences, each starting from a row of zeros.

    Args:
        rows: (N, ...) packed rows, float16 or float32.
        offsets: (V + 1,) int64; sequence v holds rows ``offsets[v]:offsets[v + 1]``.

    Returns:
        ``prefix`` (N + V, ...) float32, sequence v starting at row ``offsets[v] + v``, of rows minus their sequence's
        mean; and ``mean`` (V, ...) float32.
    """
    count, shape = len(offsets) - 1, rows.shape[1:]
    prefix = torch.empty((len(rows) + count, *shape), dtype=torch.float32, device=rows.device)
    mean = torch.empty((count, *shape), dtype=torch.float32, device=rows.device)
    for v, last in _chunks(offsets.tolist(), CHUNK // max(1, math.prod(shape))):
        bounds = offsets[v : last + 1] - offsets[v]
        lengths = bounds.diff()
        part = rows[offsets[v] : offsets[last]].to(torch.float64).flatten(1)
        owner = torch.repeat_interleave(torch.arange(last - v, device=rows.device), lengths)
        centre = torch.zeros((last - v, part.shape[1]), dtype=torch.float64, device=rows.device)
        centre = centre.index_add_(0, owner, part) / lengths[:, None]
        total = torch.zeros((len(part) + 1, part.shape[1]), dtype=torch.float64, device=rows.device)
        torch.cumsum(part - centre[owner], 0, out=total[1:])
        steps = torch.arange(len(part) + last - v, device=rows.device)
        rank = torch.repeat_interleave(torch.arange(last - v, device=rows.device), lengths + 1)
        first = int(offsets[v]) + v
        out = total[steps - rank] - total[bounds[:-1]][rank]
        prefix[first : first + len(out)] = out.to(torch.float32).unflatten(1, shape)
        mean[v:last] = centre.to(torch.float32).unflatten(1, shape)
    return prefix, mean


def _chunks(bounds: list[int], rows: int) -> Iterator[tuple[int, int]]:
    """Runs of whole sequences with at most ``rows`` rows each (a single longer sequence is a run of its own)."""
    start = 0
    for v in range(1, len(bounds)):
        if v == len(bounds) - 1 or bounds[v + 1] - bounds[start] > rows:
            yield start, v
            start = v


@dataclass(frozen=True)
class WindowMeans:
    """Means of any window of any sequence in O(1): ``prefix`` and ``mean`` of `ragged_prefix_sums`, plus an index.

    ``base`` (S,) int64 is the prefix row of the first frame of sample s and ``group`` (S,) int64 its row of ``mean``.
    """

    prefix: Tensor
    mean: Tensor
    base: Tensor
    group: Tensor

    @classmethod
    def of(cls, rows: Tensor, offsets: Tensor, group: Tensor) -> WindowMeans:
        """Means over packed sequences, see `ragged_prefix_sums`; ``group`` (S,) is the sequence of each sample."""
        prefix, mean = ragged_prefix_sums(rows, offsets)
        return cls(prefix, mean, offsets[group] + group, group)

    @property
    def dim(self) -> int:
        """D, the length of a mean."""
        return self.prefix.shape[-1]

    def __call__(self, samples: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Mean over frames ``[first, last)`` of each sample: (B, D) for (B,) bounds, (B, P, D) for (B, P) bounds.

        An empty window gives zeros, so that "nothing before the moment" looks the same in every video.
        """
        base, group = self.base[samples], self.group[samples]
        if first.ndim == 2:
            base = base[:, None]
        total = self.prefix[base + last] - self.prefix[base + first]
        length = (last - first).unsqueeze(-1)
        centre = self.mean[group]
        if first.ndim == 2:
            centre = centre[:, None]
        return torch.where(length > 0, total / length.clamp(min=1) + centre, 0.0)


Score = Callable[[Tensor, Tensor], Tensor]
"""Samples (B,) and rows of the table (B, n) to the scores of those rows (B, n) float32."""


@dataclass(frozen=True)
class AdditiveScore:
    """Scores v . tanh(key + query) of attention (Eqs. 2 and 13) whose projections were made beforehand.

    They hold for one version of the weights: `of` makes them anew.

    Attributes:
        keys: (N, H) projected rows, the bias included. queries: (S, H) projected sentences. v: (H,).
    """

    keys: Tensor
    queries: Tensor
    v: Tensor

    @classmethod
    def of(
        cls, table: Tensor | MappedRows, query: Tensor, w_row: Tensor, w_query: Tensor, bias: Tensor, v: Tensor
    ) -> AdditiveScore:
        """Project a table (N, D) by (D, H) and sentence vectors (S, Dq) by (Dq, H)."""
        step = max(1, CHUNK // table.shape[1])
        keys = torch.cat([part.to(w_row.dtype) @ w_row + bias for part in table.split(step)])
        return cls(keys, query @ w_query, v)

    def __call__(self, samples: Tensor, rows: Tensor) -> Tensor:
        """Scores (B, n) of rows (B, n) for samples (B,)."""
        return torch.tanh(self.keys[rows] + self.queries[samples][:, None]) @ self.v


@dataclass(frozen=True)
class WindowAttention:
    """Attention over any window of frames with scores that are computed once an episode (Eqs. 2-3 and 13-14).

    A score depends on the sentence and the frame, not on the window: `scores` is called when an episode begins, and a
    step takes the softmax over the window's scores and sums its rows. The window's largest score is subtracted first,
    so that no spread of scores overflows, and no prefix sums are used, which lose everything from a spread of 20 on.

    Attributes:
        table: (N, D) packed rows, a tensor or `MappedRows`.
        base: (S,) int64, the row of each sample's first frame. length: (S,) int64, its frames.
        score: see `Score`; differentiable scores give differentiable means.
    """

    table: Tensor | MappedRows
    base: Tensor
    length: Tensor
    score: Score

    @property
    def dim(self) -> int:
        """D, the length of a weighted mean."""
        return self.table.shape[1]

    @cached_property
    def longest(self) -> int:
        """The most frames of any sample."""
        return int(self.length.max())

    def scores(self, samples: Tensor) -> Tensor:
        """Scores of all frames of samples (B,): (B, n) with n the most frames of any, -inf past a sample's last."""
        at = torch.arange(self.longest, device=samples.device)
        inside = at < self.length[samples][:, None]
        rows = self.base[samples][:, None] + torch.where(inside, at, 0)
        return self.score(samples, rows).masked_fill(~inside, float("-inf"))

    def __call__(self, samples: Tensor, first: Tensor, last: Tensor, scores: Tensor) -> Tensor:
        """Attended means over frames ``[first, last)``: (B, D) for (B,) bounds, (B, P, D) for (B, P) bounds.

        ``scores`` (B, n) are those of `scores` for the same samples. An empty window gives zeros.
        """
        owner = torch.arange(len(samples), device=samples.device)
        if first.ndim == 2:
            owner = owner[:, None].expand_as(first).flatten()
        low, high, base = first.flatten(), last.flatten(), self.base[samples][owner]
        if not isinstance(self.table, MappedRows) and pooling_numba.fits(self.table, scores):
            out = pooling_numba.attention(self.table, base, low, high, owner, scores)
        else:
            out = self._gathered(owner, low, high, base, scores)
        return out.view(*first.shape, self.dim)

    def _gathered(self, owner: Tensor, first: Tensor, last: Tensor, base: Tensor, scores: Tensor) -> Tensor:
        """Windows padded to n frames: one shape for all steps, so that nothing is waited for on a device."""
        at = torch.arange(scores.shape[1], device=scores.device)
        inside = (at >= first[:, None]) & (at < last[:, None])
        weights = attention_weights(scores[owner], inside)
        if isinstance(self.table, MappedRows) or self.table.dtype != weights.dtype:
            # Few rows lie in a window: only those are read or widened.
            picked, place = (base[:, None] + at)[inside], inside.nonzero()[:, 0]
            rows = self.table[picked].to(weights.dtype) * weights[inside][:, None]
            return torch.zeros((len(base), self.dim), device=scores.device).index_add_(0, place, rows)
        if scores.device.type == "cpu":
            begin = torch.cat([last.new_zeros(1), (last - first).clamp(min=0).cumsum(0)[:-1]])
            return embedding_bag(
                (base[:, None] + at)[inside], self.table, begin, mode="sum", per_sample_weights=weights[inside]
            )
        rows = torch.where(inside, base[:, None] + at, base[:, None])
        return embedding_bag(rows, self.table, mode="sum", per_sample_weights=weights)


def axis_overlap(low: Tensor, high: Tensor, bins: int, cells: int) -> Tensor:
    """Share of each of ``bins`` equal parts of [low, high] that lies in each of ``cells`` equal parts of [0, 1].

    Shapes: (...,) and (...,) to (..., bins, cells); rows sum to 1 when 0 <= low < high <= 1.
    """
    edges = torch.linspace(0, 1, bins + 1, device=low.device, dtype=low.dtype)
    cuts = low[..., None] + (high - low)[..., None] * edges
    grid = torch.arange(cells, device=low.device, dtype=low.dtype) / cells
    lower = torch.maximum(cuts[..., :-1, None], grid)
    upper = torch.minimum(cuts[..., 1:, None], grid + 1 / cells)
    return (upper - lower).clamp(min=0) / (cuts[..., 1:, None] - cuts[..., :-1, None]).clamp(min=1e-9)


def box_weights(corners: Tensor, height: int, width: int) -> Tensor:
    """Weights of the cells of a (height, width) map that give the area mean of a box: (..., 4) to (..., height*width).

    ``corners`` are normalised x1, y1, x2, y2.
    """
    across = axis_overlap(corners[..., 0], corners[..., 2], 1, width).squeeze(-2)
    down = axis_overlap(corners[..., 1], corners[..., 3], 1, height).squeeze(-2)
    return (down[..., :, None] * across[..., None, :]).flatten(-2)


def spatial_pyramid(
    maps: Tensor | MappedRows, corners: Tensor, levels: Sequence[int] = (1, 2, 4), rows: Tensor | None = None
) -> Tensor:
    """Spatial pyramid pooling of a box: means of 1, 2x2 and 4x4 equal bins (paper, section 3.3, [1, 4, 16] bins).

    Args:
        maps: (B, h, w, C) spatial features; with ``rows`` a whole grid (N, h, w, C).
        corners: (B, 4) normalised x1, y1, x2, y2.
        levels: bins per side of each level.
        rows: (B,) int64, the map of each box; None takes them in order.

    Returns:
        (B, sum of levels squared, C), level by level as given, each row by row.
    """
    if isinstance(maps, MappedRows):
        return torch_pyramid(maps[slice(None) if rows is None else rows], corners, levels)
    if pooling_numba.fits(maps, corners):
        index = torch.arange(len(maps)) if rows is None else rows
        return pooling_numba.pyramid(maps, index, corners, levels)
    return torch_pyramid(maps if rows is None else maps[rows], corners, levels)


def torch_pyramid(maps: Tensor, corners: Tensor, levels: Sequence[int] = (1, 2, 4)) -> Tensor:
    """`spatial_pyramid` in torch operations alone, for every device and type, with gradients."""
    count, height, width, _ = maps.shape
    weights = []
    for level in levels:
        across = axis_overlap(corners[:, 0], corners[:, 2], level, width)
        down = axis_overlap(corners[:, 1], corners[:, 3], level, height)
        weights.append((down[:, :, None, :, None] * across[:, None, :, None, :]).reshape(count, level**2, -1))
    # One product with the weights of all bins: several times faster than bin by bin, or axis by axis.
    every = torch.cat(weights, 1)
    return torch.bmm(every, maps.flatten(1, 2).to(every.dtype))


def integral_maps(maps: Tensor) -> Tensor:
    """Integral maps, channels last: (N, h, w, C) to (N, h + 1, w + 1, C) float32."""
    count, height, width, channels = maps.shape
    out = torch.zeros((count, height + 1, width + 1, channels), dtype=torch.float32, device=maps.device)
    out[:, 1:, 1:] = maps.to(torch.float32).cumsum(1).cumsum(2)
    return out


def integral_box_means(integral: Tensor, rows: Tensor, corners: Tensor) -> Tensor:
    """Area mean of one box in each of ``rows`` (B,) of ``integral``: four corners, each interpolated: (B, C)."""
    height, width = integral.shape[1] - 1, integral.shape[2] - 1

    def at(x: Tensor, y: Tensor) -> Tensor:
        x, y = x * width, y * height
        x0, y0 = x.floor().clamp(0, width - 1), y.floor().clamp(0, height - 1)
        fx, fy = (x - x0)[:, None], (y - y0)[:, None]
        i, j = y0.long(), x0.long()
        top = integral[rows, i, j] * (1 - fx) + integral[rows, i, j + 1] * fx
        return top * (1 - fy) + (integral[rows, i + 1, j] * (1 - fx) + integral[rows, i + 1, j + 1] * fx) * fy

    x1, y1, x2, y2 = corners.unbind(-1)
    area = ((x2 - x1) * width * (y2 - y1) * height).clamp(min=1e-9)[:, None]
    return (at(x2, y2) - at(x1, y2) - at(x2, y1) + at(x1, y1)) / area


def attention_weights(scores: Tensor, inside: Tensor) -> Tensor:
    """Softmax over the frames that are ``inside`` (Eqs. 2 and 13), safe at any spread of scores.

    (..., n) scores and a bool mask to (..., n) weights that sum to 1; a row with no frame inside gives zeros.
    """
    scores = scores.masked_fill(~inside, float("-inf"))
    peak = scores.amax(-1, keepdim=True)
    weights = torch.exp(scores - torch.where(peak.isfinite(), peak, 0.0)).masked_fill(~inside, 0.0)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
