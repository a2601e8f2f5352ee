"""The posterior of `agents.looks.posterior`, kept up to date look by look: what one look changes, and nothing else.

A look changes the windows that contain it. They begin less than the longest moment before it, so that a look costs the
number of lengths times the longest moment, whatever the length of the video. Arrays of numpy: at one video, what counts
is the number of calls.
"""

from __future__ import annotations

import numpy as np

from strong_envs.agents.looks.posterior import LookPosterior

SMALLEST, LARGEST = 1e-6, 1e100
"""Factors by which the sum of all windows may change before it is computed anew, so that rounding cannot add up."""
STEEPEST = 200.0
"""Bound of what one look adds to the logarithm of a window."""
LOOKED = 9.0
"""Stands for the doubt about a row that is no choice; more than any other."""


class RunningPosterior:
    """Posteriors over the windows of several videos, one look at a time.

    Args:
        posterior: lengths, prior, weight and clip.
        n_frames: (B,) int rows of the videos.
        rows: (B, K) looks made so far, -1 in empty slots; scores: (B, K) their log-odds.
    """

    def __init__(self, posterior: LookPosterior, n_frames: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
        self.weight, self.clip, self.lengths = posterior.weight, posterior.clip, posterior.lengths.numpy()
        many, most, self.reach = len(n_frames), int(n_frames.max()), int(self.lengths.max())
        self.videos, self.width = np.arange(many), most + 2 * self.reach
        # Empty columns before and after the video: a look needs no bounds.
        evidence = np.zeros((many, self.width))
        there = rows >= 0
        evidence[np.nonzero(there)[0], rows[there] + self.reach] = self._evidence(scores[there])
        total = np.zeros((many, self.width + 1))
        evidence.cumsum(1, out=total[:, 1:])
        start = np.arange(most)
        self.looked = np.pad(start >= n_frames[:, None], ((0, 0), (self.reach, self.reach)), constant_values=True)
        self.looked[np.nonzero(there)[0], rows[there] + self.reach] = True
        joint = np.full((many, len(self.lengths), most), -np.inf)
        first = slice(self.reach, self.reach + most)
        for k, length in enumerate(self.lengths.tolist()):
            joint[:, k] = total[:, self.reach + length : self.reach + length + most] - total[:, first]
        joint += posterior.prior.numpy()[:, None]
        joint[start + self.lengths[:, None] > n_frames[:, None, None]] = -np.inf
        # A video shorter than every moment of the training part: all of it is the answer.
        joint[n_frames < self.lengths[0], 0, 0] = 0.0
        self.windows = np.zeros((many, len(self.lengths), self.width))
        np.exp(joint - joint.max((1, 2), keepdims=True), out=self.windows[:, :, first])
        near = np.arange(self.reach)
        # Starts of the windows that contain a row, counted from ``reach - 1`` rows before it.
        self.contain = (near >= self.reach - self.lengths[:, None]).astype(np.float64)
        self.block = np.arange(len(self.lengths))[:, None] * self.width + near + 1
        self.ends = (self.videos[:, None] * (2 * self.reach) + (near + self.lengths[:, None]).ravel()).ravel()
        self._renew()

    def _evidence(self, scores: np.ndarray) -> np.ndarray:
        return np.minimum(
            np.maximum(np.minimum(np.maximum(scores, -self.clip), self.clip) * self.weight, -STEEPEST), STEEPEST
        )

    def _renew(self) -> None:
        begun, ended = self.windows.sum(1), np.zeros((len(self.videos), self.width))
        for k, length in enumerate(self.lengths.tolist()):
            ended[:, length:] += self.windows[:, k, :-length]
        self.sums = (begun - ended).cumsum(1)
        self.total = begun.sum(1)
        self.lowest, self.highest = self.total * SMALLEST, self.total * LARGEST

    def look(self, row: np.ndarray, score: np.ndarray) -> None:
        """Add looks at rows (B,) with log-odds (B,), one a video; -1 is no look."""
        there = row >= 0
        factor = np.expm1(self._evidence(score)) * there
        at = np.where(there, row, 0)
        # Column ``at + 1`` of the padded array begins ``reach - 1`` rows before the look.
        index = self.block + (self.videos * self.windows[0].size + at)[:, None, None]
        flat = self.windows.reshape(-1)
        held = flat[index]
        change = held * self.contain * factor[:, None, None]
        flat[index] = held + change
        begun = change.sum(1)
        many = len(row)
        delta = -np.bincount(self.ends, change.ravel(), many * 2 * self.reach).reshape(many, -1)
        delta[:, : self.reach] += begun
        span = (self.videos * self.width + at)[:, None] + np.arange(1, 2 * self.reach + 1)
        self.sums.reshape(-1)[span] += delta.cumsum(1)
        self.total = self.total + begun.sum(1)
        place = self.videos * self.width + at + self.reach
        self.looked.reshape(-1)[place] |= there
        if not ((self.total > self.lowest) & (self.total < self.highest)).all():
            self.windows /= self.windows.sum((1, 2), keepdims=True)
            self._renew()

    def inside(self) -> np.ndarray:
        """Probability that each row lies in the moment: (B, N)."""
        found = self.sums[:, self.reach : self.width - self.reach] / self.total[:, None]
        return np.clip(found, 0, 1)

    def least_sure(self) -> np.ndarray:
        """The row whose chance to lie in the moment is nearest to one half, among those not looked at: (B,), or -1."""
        doubt = np.abs(self.sums / self.total[:, None] - 0.5)
        doubt[self.looked] = LOOKED
        column = doubt.argmin(1)
        return np.where(doubt[self.videos, column] == LOOKED, -1, column - self.reach)
