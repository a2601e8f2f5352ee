"""The matching network: query and visual features are projected to one width and multiplied, element by element.

Every part of a system that compares a sentence with features can be built on it: cells of a frame, frames, means of
windows. Inputs are standardised with the statistics of the training split. Dropout on both inputs is the
regularisation that features of real footage need.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Brings every number of a vector to mean 0 and spread 1; the statistics are taken once and saved as buffers.

    Args:
        size: length of the vectors.
    """

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
        """(..., size) to (..., size) float32, clamped to [-10, 10]."""
        return ((x - self.shift) * self.scale).clamp(-10, 10)


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
