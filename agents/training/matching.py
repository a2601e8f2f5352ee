"""The matching network: query and visual features are projected to one width and multiplied, element by element.

Every part of a system that compares a sentence with features can be built on it: cells of a frame, frames, means of
windows. Inputs are standardised with the statistics of the training split. Dropout on both inputs is the
regularisation that features of real footage need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from strong_envs.features.errors import DataError

REDUNDANT = 64
"""Features with as many numbers or more are those of a pretrained network: many of them say the same."""
DROPOUT = 0.5
"""Dropout where features are redundant. The 20 numbers of a cell of the default data set each say something else. On
composed footage, validation, .5 instead of .3 is worth 3.5 points of mIoU to ``trl``, 1.4 to MCN and -.3 to CTRL."""


def dropout_for(channels: int, dropout: float | None) -> float:
    """The share that is dropped from features of ``channels`` numbers; None decides by their number."""
    if dropout is not None:
        return dropout
    return DROPOUT if channels >= REDUNDANT else 0.0


class Scale(nn.Module):
    """Brings every number of a vector to mean 0 and spread 1; the statistics are taken once and saved as buffers.

    Args:
        size: length of the vectors.

    Attributes:
        limit: of the result; infinite where it is left as it is.
    """

    limit: float = 10.0
    shift: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Take the statistics from vectors (..., size) of the training split."""
        rows = vectors.reshape(-1, vectors.shape[-1]).to(torch.float32)
        spread = rows.std(0)
        self.shift.copy_(rows.mean(0))
        # A constant number carries no information; dividing by its spread would only amplify noise.
        self.scale.copy_(torch.where(spread > 1e-4, 1 / spread.clamp(min=1e-4), 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to (..., size) float32, clamped to [-limit, limit]."""
        return ((x - self.shift) * self.scale).clamp(-self.limit, self.limit)


class Matching(nn.Module):
    """(W x) * (A q): standardised features and a query, each projected to ``width``, multiplied element by element.

    Args:
        channels, query: lengths of the features and of the query.
        width: of the product.
        dropout: share of both inputs that is dropped in training.
    """

    def __init__(self, channels: int, query: int, width: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.feature = nn.Linear(channels, width)
        self.query = nn.Linear(query, width)
        self.drop = nn.Dropout(dropout)
        self.factor = 2 / width**0.5

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        """Features (B, ..., C) and one query (B, Dq) for each row: (B, ..., width)."""
        said = self.query(self.drop(query))
        return self.feature(self.drop(x)) * said.view(len(said), *[1] * (x.dim() - 2), -1) * self.factor


class GatedScore(nn.Module):
    """One number for features x, given a query q: v . relu((W x) * (A q) + B q).

    Args:
        channels, query: lengths of the features and of the query.
        width: of the hidden layer.
        dropout: share of both inputs that is dropped in training.
    """

    def __init__(self, channels: int, query: int, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.feature = nn.Linear(channels, width)
        self.gate = nn.Linear(query, width)
        self.shift = nn.Linear(query, width)
        self.out = nn.Linear(width, 1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        """Features (B, ..., C) and one query (B, Dq) for each row: (B, ...)."""
        x, query = self.drop(x), self.drop(query)
        gate = self.gate(query)
        # The gate goes into the weights, query by query: one product instead of a product and two passes over it.
        weight = self.feature.weight * gate[..., None]
        shift = self.feature.bias * gate + self.shift(query)
        weight = torch.cat((weight, shift[..., None]), -1).transpose(1, 2)
        one = x.new_ones(1).expand(*x.shape[:-1], 1)
        scores = _ReluScore.apply(torch.cat((x, one), -1).flatten(1, -2), weight, self.out.weight[0])
        return (scores + self.out.bias).view(x.shape[:-1])


class _ReluScore(torch.autograd.Function):
    """relu(x W) v, with a backward pass that makes one array as large as the hidden layer instead of three.

    That layer is the largest array of a training by far. Everything but its sign goes into the small factors: the
    gradient of W is (x g)^T [x W > 0] v.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        """(B, N, C), (B, C, H) and (H,) to (B, N)."""
        hidden = torch.bmm(x, weight).relu_()
        ctx.save_for_backward(x, weight, out, hidden)
        return hidden @ out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradients of the three inputs."""
        x, weight, out, hidden = ctx.saved_tensors
        by_out = torch.mv(hidden.flatten(0, 1).t(), grad.flatten())
        # sign() is not vectorised, and takes three times as long.
        on = torch.gt(hidden, 0, out=torch.empty_like(hidden))
        by_weight = torch.bmm((x * grad[..., None]).transpose(1, 2), on) * out
        by_x = grad[..., None] * torch.bmm(on, (weight * out).transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return by_x, by_weight, by_out


class MatchingInputs(nn.Module):
    """What the networks of a level see: the query matched with the window of f_o and with the windows around it.

    The visual parts of the observation are vectors of windows: ``local``, ``global``, the four of ``context`` and
    what an attention makes of frames (``attended``), or of the spatial level ``scene``, ``inside`` and the five of
    ``around``. Each is matched with the query (`Matching`). The first, what lies inside, stays as it is, and the others
    follow as differences from it, because a move is worth what changes. All other parts of the observation are
    standardised and appended.

    Args:
        shapes: named parts of the observation, as from `TemporalTask.dims` or `SpatialTask.dims`.
        hidden: parts that are replaced by zeros.
        width: of a match.
        dropout: share of the features and of the query that is dropped in training.
        scaled: whether the visual parts are standardised here; False where they come standardised.
    """

    WINDOWS = ("local", "inside", "global", "attended", "context", "scene", "around")
    """Visual parts by name; the first two are what lies inside."""

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        hidden: Sequence[str] = (),
        width: int = 64,
        dropout: float = 0.0,
        scaled: bool = True,
    ) -> None:
        super().__init__()
        inside = "local" if "local" in shapes else "inside"
        if "query" not in shapes or inside not in shapes:
            raise DataError(
                "a matching network needs the parts 'query' and 'local' or 'inside' of an observation, "
                f"got {sorted(shapes)}; use network='plain'"
            )
        self.scaled, self.dim = scaled, shapes[inside][0]
        self.windows = [name for name in self.WINDOWS if name in shapes]
        self.other = [name for name in shapes if name not in self.windows and name != "query"]
        self.hidden = tuple(hidden)
        query = shapes["query"][0]
        self.query = Scale(query)
        self.match = Matching(self.dim, query, width, dropout)
        self.scale = Scale(self.dim)
        # A whole frame may be a vector of another length than a cell of its grid.
        self.apart = [name for name in self.windows if shapes[name][0] % self.dim]
        self.apart_scale = nn.ModuleDict({name: Scale(shapes[name][0]) for name in self.apart})
        self.apart_match = nn.ModuleDict(
            {name: Matching(shapes[name][0], query, width, dropout) for name in self.apart}
        )
        self.rest = nn.ModuleDict({name: Scale(torch.Size(shapes[name]).numel()) for name in self.other})
        count = sum(1 if name in self.apart else shapes[name][0] // self.dim for name in self.windows)
        self.size = count * width + sum(torch.Size(shapes[name]).numel() for name in self.other)

    @torch.no_grad()
    def fit(self, observation: dict[str, Tensor]) -> None:
        """Take the scale of every number from a batch of observations."""
        self.query.fit(observation["query"])
        for name in self.other:
            cast(Scale, self.rest[name]).fit(observation[name].flatten(1))
        if self.scaled:
            self.scale.fit(self._same_length(observation).flatten(0, 1))
            for name in self.apart:
                cast(Scale, self.apart_scale[name]).fit(observation[name])

    def _same_length(self, observation: dict[str, Tensor]) -> Tensor:
        """The windows whose vectors are as long as that of the inside, which comes first: (B, P, D)."""
        parts = [observation[name].unflatten(-1, (-1, self.dim)) for name in self.windows if name not in self.apart]
        return torch.cat(parts, 1)

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """Named (B, ...) parts to (B, size)."""
        query = self.query(observation["query"])
        matched = [self.match(self.scale(self._same_length(observation)), query)]
        for name in self.apart:
            matched.append(self.apart_match[name](self.apart_scale[name](observation[name]), query)[:, None])
        seen = torch.cat(matched, 1)
        seen = torch.cat((seen[:, :1], seen[:, 1:] - seen[:, :1]), 1)
        rest = [
            torch.zeros_like(observation[name])
            if name in self.hidden
            else self.rest[name](observation[name].flatten(1))
            for name in self.other
        ]
        if "local" in self.hidden or "inside" in self.hidden:
            # A blind agent still reads the sentence.
            seen = self.match.query(query)[:, None].expand_as(seen)
        return torch.cat((seen.flatten(1), *rest), 1)
