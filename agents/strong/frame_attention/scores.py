"""Scores of the frame attention as part of the temporal level's observation (``frame_scores=True``).

They enter as means over the windows of f_o, and with ``score_observation="posterior"`` as what the posterior over
windows that they give (`agents.training.window_posterior`) says about the window and each move
(`agents.strong.frame_attention.posterior`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from strong_envs.agents.strong.frame_attention.attention import FrameAttention, FrameAttentionArgs, attend_together
from strong_envs.agents.strong.frame_attention.training import FrameAttentionTraining
from strong_envs.agents.training.loop import run
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.pooling import WindowMeans
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import TemporalConfig, TemporalTask

SUREST = 6.0
"""Bound of the log-odds in the observation: one frame must not outweigh all others of its window."""


class FrameScores:
    """Boxes and log-odds of a frame attention, or of several on average, in a bank, computed at first use.

    A frame attention that is trained further needs a new object.
    """

    def __init__(self, members: Sequence[FrameAttention], bank: FeatureBank) -> None:
        self.members, self.bank = members, bank

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        return attend_together(self.members, self.bank)

    @property
    def peaks(self) -> Tensor:
        """Attention boxes: corners, packed (R, 4)."""
        return self._both[0]

    @property
    def logits(self) -> Tensor:
        """Log-odds (R,) that a frame lies inside the moment."""
        return self._both[1]


class GivenScores(FrameScores):
    """Boxes (R, 4) and scores (R,) that are known already."""

    def __init__(self, bank: FeatureBank, peaks: Tensor, logits: Tensor) -> None:
        self.bank, self._both = bank, (peaks, logits)  # type: ignore[misc]


def clip_groups(bank: FeatureBank) -> Tensor:
    """A number for the footage that each sample is about: (S,) int64.

    In composed videos that is the group of its clip (clips cut from one source), elsewhere its video.
    """
    names = [str(q.extra.get("group", f"video {q.video}")) for q in bank.queries]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([number[name] for name in names], device=bank.device)


def footage_recurs(bank: FeatureBank) -> bool:
    """Whether footage that one sample is about is seen in several videos, as in composed ones."""
    pairs = torch.unique(torch.stack((clip_groups(bank), bank.video)), dim=1)
    return bool((torch.bincount(pairs[0]) > 1).any())


def cross_fitted(
    bank: FeatureBank,
    args: FrameAttentionArgs,
    seed: int,
    folds: int = 2,
    kept: nn.ModuleList | None = None,
    windows: Tensor | None = None,
) -> FrameScores:
    """What frame attentions say about samples whose footage they did not learn to find.

    A level that learns from another one's boxes on the very samples that those were trained on meets better boxes than
    it will ever meet again. Where footage recurs in several videos, holding out videos does not help: whole groups of
    clips are held out.

    Args:
        bank: the training split.
        args: of the frame attentions, one for each fold.
        seed: of the folds, the weights and the samples.
        folds: parts that the groups are dealt to; each is answered by what was trained on the others.
        kept: as many frame attentions, which receive the weights of those that are trained.
        windows: (S, K, 2) fractions, what counts as the moments; None: the true ones.
    """
    group = clip_groups(bank)
    deal = torch.randperm(int(group.max()) + 1, generator=torch.Generator().manual_seed(seed)) % folds
    fold = deal.to(bank.device)[group]
    lengths = bank.n_frames[bank.video]
    peaks = torch.empty(int(lengths.sum()), 4, device=bank.device)
    logits = torch.empty(len(peaks), device=bank.device)
    maps: Tensor | None = None
    for part in range(folds):
        frame_attention = FrameAttention(bank, args, seed + part).to(bank.device)
        generator = torch.Generator().manual_seed(seed + part)
        others = (fold != part).nonzero()[:, 0]
        stage = f"fold {part + 1}"
        training = FrameAttentionTraining(frame_attention, bank, generator, stage, others, maps, windows)
        run(training)
        maps = training.maps
        if kept is not None:
            kept[part].load_state_dict(frame_attention.state_dict())
        mine = fold == part
        rows = mine.repeat_interleave(lengths)
        peaks[rows], logits[rows] = frame_attention.attend(bank, mine)
    return GivenScores(bank, peaks, logits)


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
