"""What the temporal level observes with ``score_observation="posterior"``: the scores of all frames, as a posterior.

Means of scores inside and around the window (`FrameScoresTask`) say nothing about the rest of the video, and a level
that sees only them climbs to the nearest hill. The posterior over windows (`agents.training.window_posterior`) sums the
scores of all frames up. Of it the level observes

- where the moment probably begins and ends: the probability that the true start (end) lies before the window's start
  (end) plus each of `REACH` steps,
- the expected IoU of the window, and by how much each move changes it.

The agent still learns from its own episodes and rewards. The frame classifier computes its answer from the same
posterior, so an agent with this observation should be compared with that system.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

import torch
from torch import Tensor

from strong_envs.agents.strong.frame_attention.attention import FrameAttention, attend_together
from strong_envs.agents.strong.frame_attention.scores import FrameScores, FrameScoresTask
from strong_envs.agents.training.early_stopping import validation_part
from strong_envs.agents.training.window_posterior import WindowPosterior
from strong_envs.core.sampling import spread
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.pooling import starts_of
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import TemporalConfig

CELLS = 60
"""Stretches of a video between which the windows of the posterior begin and end."""
REACH = (-8.0, -4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Steps from an end of the window at which the probability of the true end is read."""
JUDGED = 400
"""Most validation samples that the posterior is fitted to."""


class PosteriorScoresTask(FrameScoresTask):
    """A `FrameScoresTask` whose observations also have ``posterior`` (B, 2 * 11 + 1 + A), see the module.

    Args:
        bank, local, config, frame_logits: as for `FrameScoresTask`. Where all scores are 0, as before the frame
            attention is trained, all windows of a length are as likely as each other.
        posterior: fitted to scores of the same frame attention.
    """

    def __init__(
        self,
        bank: FeatureBank,
        local: LocalFeatures,
        config: TemporalConfig,
        frame_logits: Tensor,
        posterior: WindowPosterior,
    ) -> None:
        super().__init__(bank, local, config, frame_logits)
        self.posterior, cells = posterior, posterior.cells
        self.reach = torch.tensor(REACH, dtype=torch.float64, device=bank.device)
        self.known = bool(frame_logits.any())
        scores = stretch_scores(frame_logits, self.n_frames, cells)
        if not self.known:
            scores = torch.zeros(1, cells, device=bank.device)
        count, windows = len(scores), len(posterior.start)
        self.expected = torch.empty(count, windows, dtype=torch.float16, device=bank.device)
        self.before = torch.zeros(2, count, cells + 1, device=bank.device)
        for rows in torch.arange(count, device=bank.device).split(500):
            shares = posterior(scores[rows]).exp()
            self.expected[rows] = posterior.expected_iou(scores[rows]).to(torch.float16)
            for end, at in enumerate((posterior.start, posterior.end)):
                mass = shares.new_zeros(len(rows), cells + 1).index_add_(1, at, shares)
                self.before[end, rows] = mass.cumsum(1)

    def observe(
        self, samples: Tensor, start: Tensor, end: Tensor, t: Tensor, local: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The observation of `FrameScoresTask` and ``posterior``."""
        row = (samples if self.known else torch.zeros_like(samples))[:, None]
        ends = [self._before(which, row, at) for which, at in enumerate((start, end))]
        now = self._expected(row, start[:, None], end[:, None])
        after = self._expected(row, start[:, None] + self.table[:, 0], end[:, None] + self.table[:, 1])
        observed = torch.cat((*ends, now, after - now), 1)
        return super().observe(samples, start, end, t, local) | {"posterior": observed}

    def dims(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parts of an observation, in order."""
        return super().dims() | {"posterior": (2 * len(REACH) + 1 + self.n_actions,)}

    def _before(self, which: int, row: Tensor, at: Tensor) -> Tensor:
        """Probability that a true end lies at most each of `REACH` steps after ``at`` (B,): (B, 11)."""
        cells = self.posterior.cells
        edge = ((at[:, None] + self.reach) * (cells / self.config.total)).floor().to(torch.int64)
        return torch.where(edge < 0, 0.0, self.before[which][row, edge.clamp(0, cells)])

    def _expected(self, row: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Expected IoU of windows (B, n), in steps, at the nearest edges of stretches: (B, n)."""
        cells = self.posterior.cells
        low, high = ((x * (cells / self.config.total)).round().to(torch.int64) for x in (start, end))
        low = low.clamp(0, cells - 1)
        high = torch.maximum(high.clamp(max=cells), low + 1)
        # Windows are in the order of `torch.triu_indices`: by their start, then by their end.
        place = low * cells - low * (low - 1) // 2 + high - low - 1
        return self.expected[row, place].to(torch.float32)


def stretch_scores(frame_logits: Tensor, lengths: Tensor, cells: int) -> Tensor:
    """Scores of equal stretches, those of the frames in their middle: packed (R,), lengths (S,), to (S, cells)."""
    middle = (torch.arange(cells, device=lengths.device) + 0.5) / cells
    frame = (middle * lengths[:, None]).to(torch.int64)
    return frame_logits[starts_of(lengths)[:-1, None] + frame]


def fit_posterior(
    posterior: WindowPosterior,
    bank: FeatureBank,
    members: Sequence[FrameAttention],
    training: FrameScores,
    windows_of: Callable[[FeatureBank], Tensor] = attrgetter("truth"),
) -> None:
    """Fit a posterior to the scores of frame attentions in the validation part.

    Args:
        posterior: fitted in place.
        bank: the training split, which gives the lengths of windows.
        members: the frame attentions that predictions average.
        training: scores in the training split, which stand in where the store has no validation part.
        windows_of: (S, K, 2) what counts as the moments of a bank.
    """
    posterior.fit_lengths(windows_of(bank))
    judged = validation_part(bank)
    if judged is None:
        judged = bank
        samples = spread(len(judged), JUDGED, judged.device)
        scores = stretch_scores(training.logits, bank.n_frames[bank.video], posterior.cells)[samples]
    else:
        samples = spread(len(judged), JUDGED, judged.device)
        wanted = torch.zeros(len(judged), dtype=torch.bool, device=judged.device)
        wanted[samples] = True
        samples = wanted.nonzero()[:, 0]
        logits = attend_together(members, judged, wanted)[1]
        scores = stretch_scores(logits, judged.n_frames[judged.video[samples]], posterior.cells)
    posterior.fit(scores, windows_of(judged)[samples])
