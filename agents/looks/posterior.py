"""From what was seen to the window that answers: a posterior over windows, and the one of highest expected IoU.

A window of ``length`` rows that begins at row a has, given looks at rows i with log-odds z_i,

    log P(a, length) = weight * sum of z_i over the looks inside it + log prior(length) + const

where z is clipped: looks are not independent, and one mistaken look must not rule a window out. Rows that were not
looked at add nothing. Weight and clip are chosen on validation; the prior is that of lengths in the training part, and
a window may begin anywhere. It is `agents.training.window_posterior` for evidence with gaps: windows have the lengths
that moments have, so that videos of 6,000 rows can be searched, and there is no term for edges, whose neighbours are
seldom seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strong_envs.core import spans
from strong_envs.features.bank.bank import FeatureBank

MOST_LENGTHS = 24
"""Most different lengths of windows; more are thinned out to quantiles."""
WEIGHTS = (0.3, 0.5, 0.7, 1.0)
CLIPS = (3.0, 5.0, 8.0)
AT_ONCE = 1 << 24
"""Numbers of a posterior that are held at a time."""


class LookPosterior:
    """Posterior over windows given looks.

    Args:
        bank: the training part, whose moments give the lengths.

    Attributes:
        lengths: (L,) int64 rows, ascending. prior: (L,) logarithms. weight, clip: see the module.
    """

    def __init__(self, bank: FeatureBank) -> None:
        rows = (bank.truth[..., 1] - bank.truth[..., 0]) * bank.n_frames[bank.video][:, None]
        found = rows.flatten().round().clamp(min=1).to(torch.int64)
        lengths, counts = found.unique(return_counts=True)
        if len(lengths) > MOST_LENGTHS:
            at = (torch.arange(MOST_LENGTHS) + 0.5) / MOST_LENGTHS
            lengths, counts = (
                found.to(torch.float64).quantile(at.double()).round().to(torch.int64).unique(return_counts=True)
            )
        prior = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts))).log().to(torch.float32)
        self._set(lengths, prior, 1.0, 8.0)

    @classmethod
    def of(cls, lengths: Tensor, prior: Tensor, weight: float, clip: float) -> LookPosterior:
        """A posterior of known lengths (L,) int64, their logarithms of probabilities (L,), weight and clip."""
        made = cls.__new__(cls)
        made._set(lengths, prior, weight, clip)
        return made

    def _set(self, lengths: Tensor, prior: Tensor, weight: float, clip: float) -> None:
        self.lengths, self.prior, self.weight, self.clip = lengths, prior, weight, clip
        self._reach = int(lengths.max())
        self._shared = self._overlaps()

    def log_joint(self, seen: Tensor, n_frames: Tensor) -> Tensor:
        """Unnormalised logarithms of windows: (B, L, N), -inf for those that leave their video.

        Args:
            seen: (B, N) log-odds of rows, 0 where there was no look.
            n_frames: (B,) rows of the videos.
        """
        total = torch.nn.functional.pad((seen.clamp(-self.clip, self.clip) * self.weight).cumsum(1), (1, 0))
        out = seen.new_full((len(seen), len(self.lengths), seen.shape[1]), float("-inf"))
        start = torch.arange(seen.shape[1], device=seen.device)
        for k, length in enumerate(self.lengths.tolist()):
            count = seen.shape[1] - length + 1
            if count > 0:
                out[:, k, :count] = total[:, length:] - total[:, :count] + self.prior[k]
                out[:, k].masked_fill_(start + length > n_frames[:, None], float("-inf"))
        # A video shorter than every moment of the training part: all of it is the answer.
        short = n_frames < self.lengths[0]
        out[short, 0, 0] = 0.0
        return out

    def windows(self, seen: Tensor, n_frames: Tensor) -> Tensor:
        """Probabilities of windows by length and first row: (B, L, N)."""
        return self.log_joint(seen, n_frames).flatten(1).softmax(1).view(len(seen), len(self.lengths), -1)

    def inside(self, seen: Tensor, n_frames: Tensor) -> Tensor:
        """Probability that each row lies in the moment: (B, N)."""
        windows = self.windows(seen, n_frames)
        begun, ended = windows.sum(1), torch.zeros_like(seen)
        for k, length in enumerate(self.lengths.tolist()):
            if length < seen.shape[1]:
                ended[:, length:] += windows[:, k, :-length]
        return (begun.cumsum(1) - ended.cumsum(1)).clamp(0, 1)

    def answer(self, seen: Tensor, n_frames: Tensor) -> Tensor:
        """The windows of highest expected IoU: (B, 2) float64, fractions of the videos."""
        step = max(AT_ONCE // (len(self.lengths) * seen.shape[1]), 1)
        parts = zip(seen.split(step), n_frames.split(step), strict=True)
        return torch.cat([self._answer(*part) for part in parts])

    def _answer(self, seen: Tensor, n_frames: Tensor) -> Tensor:
        windows = self.windows(seen, n_frames)
        expected = torch.nn.functional.conv1d(windows, self._shared, padding=self._reach)
        start = torch.arange(seen.shape[1], device=seen.device)
        for k, length in enumerate(self.lengths.tolist()):
            expected[:, k].masked_fill_((start + length > n_frames[:, None]) & (start + k > 0), -1.0)
        best = expected.flatten(1).argmax(1)
        first = (best % seen.shape[1]).to(torch.float64)
        last = torch.minimum(first + self.lengths[best // seen.shape[1]], n_frames)
        return torch.stack((first, last), 1) / n_frames[:, None]

    def _overlaps(self) -> Tensor:
        """IoU of windows of every length with windows of every length at every distance: (L, L, 2 reach + 1)."""
        distance = torch.arange(-self._reach, self._reach + 1, dtype=torch.float64)
        own, other = self.lengths[:, None, None].double(), self.lengths[None, :, None].double()
        shape = torch.zeros((len(self.lengths), len(self.lengths), len(distance)), dtype=torch.float64)
        return spans.overlap(shape, shape + own, shape + distance, shape + distance + other, spans.CLAMPED).float()


def seen_of(table: Tensor, samples: Tensor, rows: Tensor) -> Tensor:
    """Log-odds of the rows looked at, 0 elsewhere: a table (S, N), samples (B,) and rows (B, looks) to (B, N).

    Empty slots of ``rows`` are -1.
    """
    seen = table.new_zeros((len(samples), table.shape[1] + 1))
    values = table[samples[:, None], rows.clamp(min=0)]
    # Empty slots go to a column of their own.
    seen.scatter_(1, torch.where(rows < 0, table.shape[1], rows), values)
    return seen[:, :-1]
