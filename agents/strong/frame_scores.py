"""Scores of the frame attention as part of the temporal level's observation (``frame_scores=True``)."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from strong_envs.agents.strong.frame_attention import FrameAttention
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.pooling import WindowMeans
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import TemporalConfig, TemporalTask

SUREST = 6.0
"""Bound of the log-odds in the observation: one frame must not outweigh all others of its window."""


class FrameScores:
    """Boxes and log-odds of a frame attention in a bank, computed at first use.

    A frame attention that is trained further needs a new object.
    """

    def __init__(self, frame_attention: FrameAttention, bank: FeatureBank) -> None:
        self.frame_attention, self.bank = frame_attention, bank

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        return self.frame_attention.attend(self.bank)

    @property
    def peaks(self) -> Tensor:
        """Attention boxes: corners, packed (R, 4)."""
        return self._both[0]

    @property
    def logits(self) -> Tensor:
        """Log-odds (R,) that a frame lies inside the moment."""
        return self._both[1]


class FrameScoresTask(TemporalTask):
    """A `TemporalTask` whose observations also have ``frame_scores`` (B, P), means of the frame attention's log-odds.

    The means are over the windows of f_o: the span and, with ``context``, its first and last third and surroundings.

    Args:
        bank, local, config: as for `TemporalTask`.
        frame_logits: log-odds of every frame of each sample, packed sample after sample (R,).
    """

    def __init__(self, bank: FeatureBank, local: LocalFeatures, config: TemporalConfig, frame_logits: Tensor) -> None:
        super().__init__(bank, local, config)
        self.frame_logits = frame_logits
        # A frame that is sure beyond doubt must not outweigh all others of its window.
        samples = torch.arange(len(bank), device=bank.device)
        self.means = WindowMeans.of(frame_logits[:, None].clamp(-SUREST, SUREST), local.rows, samples)

    def observe(
        self, samples: Tensor, start: Tensor, end: Tensor, t: Tensor, local: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The observation of `TemporalTask` and ``frame_scores``."""
        first, last = self.windows(samples, start, end)
        frame_logits = self.means(samples, first, last).squeeze(-1)
        return super().observe(samples, start, end, t, local) | {"frame_scores": frame_logits}

    def dims(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parts of an observation, in order."""
        return super().dims() | {"frame_scores": (5 if self.config.context else 1,)}
