"""Boxes and tasks of STRONG: what each level observes, given the boxes that the other has found.

`CoupledLevels` is `agents.strong.agent.Strong` without its training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from strong_envs.agents.registry import BaseSystem
from strong_envs.agents.strong.args import StrongArgs
from strong_envs.agents.strong.attention import AttentionTask
from strong_envs.agents.strong.cell_attention.attention import (
    AttendedFeatures,
    AttendedTask,
    CellAttention,
)
from strong_envs.agents.strong.frame_attention.attention import FrameAttention, static_boxes_of
from strong_envs.agents.strong.frame_attention.posterior import PosteriorScoresTask
from strong_envs.agents.strong.frame_attention.scores import FrameScores, FrameScoresTask, cross_fitted, footage_recurs
from strong_envs.agents.strong.frame_attention.windows_from_rewards import windows_from_rewards
from strong_envs.agents.strong.levels.ddpg import DDPG, DDPGArgs
from strong_envs.agents.strong.levels.dqn import DQN, DQNArgs
from strong_envs.agents.strong.levels.full_feedback import FullFeedback, FullFeedbackArgs
from strong_envs.agents.strong.levels.level import Level, LevelArgs
from strong_envs.agents.training.sentences import KnownWords
from strong_envs.agents.training.window_posterior import WindowPosterior
from strong_envs.core import boxes as box_ops
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures, bins_of
from strong_envs.rollout import localise, track
from strong_envs.spatial.task import SpatialTask
from strong_envs.temporal.task import TemporalTask

Scores = FrameScores | AttendedFeatures
"""Their ``peaks`` are what learnt boxes follow."""
VISUAL = ("local", "global", "context", "frame_scores", "posterior")
"""Parts of the observation that ``blind`` hides."""


class CoupledLevels(BaseSystem):
    """Both levels and what couples them.

    Attributes:
        args: see `StrongArgs`. bank: the training split. turn: turns of training done.
        temporal, spatial: the levels' agents; ``spatial`` is None without a tracker.
        cell_attention, frame_attention, posterior: see the modules; None where the arguments ask for none.
        fold_attentions: frame attentions that predictions average with it, where the arguments ask for that.
        task: the temporal level's task with its training boxes.
        words: brings sentences in other words than those of the training into these, where there are few
            (`agents.training.sentences`).
    """

    args: StrongArgs
    words: KnownWords
    bank: FeatureBank
    turn: int
    temporal: Level
    spatial: Level | None
    cell_attention: CellAttention | None
    frame_attention: FrameAttention | None
    fold_attentions: nn.ModuleList | None
    posterior: WindowPosterior | None
    task: TemporalTask
    _crossed: tuple[int, FrameScores] | None
    _recovered: dict[str | None, Tensor]

    @property
    def values_boxes(self) -> bool:
        """Whether the critic looks into boxes: see `values`."""
        return self.args.takes_turns

    def values(self, bank: FeatureBank, boxes: Tensor, samples: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Q-values of windows, f_o being what lies inside given boxes: what Eq. 11 compares.

        Args:
            bank: features of one split.
            boxes: corners (R, 4), one for every frame of each sample, packed.
            samples: (B,) int64.
            start: (B,) float64, in steps.
            end: (B,) float64, in steps.

        Returns:
            (B, A) float32.
        """
        task = self._temporal_task(bank, boxes)
        parts = zip(*(part.split(4096) for part in (samples, start, end)), strict=True)
        return torch.cat([self.temporal.q_values(task.observe(a, b, c, torch.zeros_like(a))) for a, b, c in parts])

    def boxes(self, bank: FeatureBank, scores: Scores | None = None) -> Tensor:
        """Learnt boxes in every frame of each sample: corners, packed (R, 4) float32."""
        scores = scores or self._scores(bank)
        if self.spatial is not None:
            found = self.untracked(bank)
            for _ in range(max(self.turn, 1) if self.args.tracked_window == "localised" else 1):
                found = self._tracked(self._temporal_task(bank, found, scores), scores)
            assert isinstance(found, Tensor)
            return found
        if scores is None:
            raise DataError(f"a system with boxes={self.args.boxes!r} learns no boxes")
        boxes = scores.peaks
        return static_boxes_of(boxes, bank.n_frames[bank.video]) if self.args.boxes == "static_attention" else boxes

    def untracked(self, bank: FeatureBank) -> str | Tensor:
        """What the temporal level observes while no box has been learnt: whole frames, f_o := f_s (section 4.1.4).

        Where a frame's vector is not as long as what is pooled from a box, a box around all cells: boxes that come
        later must not change the size of an observation.
        """
        if not self.args.takes_turns:
            return self.args.boxes
        length = bank.grid_shape[2] * bins_of(self.args.spp_levels, self.args.spp_reduce)
        if self.cell_attention is not None or bank.frame_dim == length:
            return "frame"
        return torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=bank.device).expand(len(bank), 4)

    def _scores(self, bank: FeatureBank) -> Scores | None:
        """What learnt boxes follow: the attention inside the temporal critic, or that of frame labels."""
        if self.frame_attention is not None:
            return FrameScores(self._members(), bank)
        # A frame attention reads unknown words itself.
        return None if self.cell_attention is None else AttendedFeatures(self.words.bank(bank), self.cell_attention)

    def _members(self) -> list[FrameAttention]:
        """The frame attentions that predictions average."""
        both = (self.frame_attention, *(self.fold_attentions or ()))
        return [member for member in both if isinstance(member, FrameAttention)]

    def _training_scores(self, turn: int) -> Scores | None:
        """What learnt boxes follow in training: where clips recur in several videos, a cross-fitted frame attention."""
        if isinstance(self.task.local, AttendedFeatures) and self.frame_attention is None:
            return self.task.local
        if self.frame_attention is None or not footage_recurs(self.bank):
            return self._scores(self.bank)
        if self._crossed is None or self._crossed[0] != turn:
            # A resumed process computes the same again.
            seed = self.args.seed + 100 * turn
            args = self.args
            windows = self._windows(self.bank)
            made = cross_fitted(self.bank, args.frame_attention, seed, args.folds, self.fold_attentions, windows)
            self._crossed = turn, made
        return self._crossed[1]

    def _windows(self, bank: FeatureBank) -> Tensor:
        """What the frame attention takes for moments, (S, K, 2) fractions: the true windows, or recovered ones.

        They are recovered once for each part of the store.
        """
        if self.args.learns_from != "own rewards":
            return bank.truth
        if bank.split not in self._recovered:
            task = TemporalTask(bank, LocalFeatures(bank, "frame"), self.args.temporal_env)
            self._recovered[bank.split] = windows_from_rewards(task, self.args.window_episodes, self.args.seed)
        return self._recovered[bank.split]

    def _temporal_task(
        self,
        bank: FeatureBank,
        boxes: str | Tensor,
        scores: Scores | None = None,
        frame_logits: Tensor | None = None,
    ) -> TemporalTask:
        """The temporal level over boxes; ``frame_logits`` where they are known. Before the first turn they are 0."""
        config = self.args.temporal_env
        if self.cell_attention is not None:
            if isinstance(boxes, str) and boxes != "frame":
                boxes = packed_boxes(LocalFeatures(bank, boxes))
            if isinstance(boxes, str):
                return self._attended_task(bank, None, scores)
            around = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=boxes.device) * self.args.box_margin
            return self._attended_task(bank, (boxes + around).clamp(0, 1), scores)
        given, bank = bank, self.words.bank(bank)
        margin = 0.0 if isinstance(boxes, str) and boxes in ("frame", "gaussian") else self.args.box_margin
        local = LocalFeatures(bank, boxes, self.args.spp_levels, self.args.spp_reduce, margin)
        if self.args.frame_scores:
            if frame_logits is None:
                known = scores if isinstance(scores, FrameScores) else None
                trained = self.turn or not self.args.takes_turns
                if known is None and trained and self.frame_attention is not None:
                    known = FrameScores(self._members(), given)
                frame_logits = torch.zeros(int(local.rows[-1])) if known is None else known.logits
            frame_logits = frame_logits.to(bank.device)
            if self.posterior is not None:
                return PosteriorScoresTask(bank, local, config, frame_logits, self.posterior)
            return FrameScoresTask(bank, local, config, frame_logits)
        # Frames are a visual part, which a blind agent does not observe.
        if self.args.attention == "frames" and not self.args.blind:
            return AttentionTask(bank, local, config, self.args.attention_stretches, self.args.temporal.attention_timed)
        return TemporalTask(bank, local, config)

    def _attended_task(self, bank: FeatureBank, limits: Tensor | None, scores: Scores | None = None) -> TemporalTask:
        """The temporal level under the cell attention; ``limits`` are boxes (R, 4) with their margin."""
        assert self.cell_attention is not None
        known = scores if isinstance(scores, AttendedFeatures) else None
        bank = self.words.bank(bank) if known is None else known.bank
        seen = AttendedFeatures(bank, self.cell_attention, limits, self.args.box_margin, known)
        return AttendedTask(bank, seen, self.args.temporal_env)

    def _spatial_task(self, task: TemporalTask, scores: Scores | None) -> SpatialTask:
        if scores is None or not self.args.needs_attention_boxes:
            return SpatialTask(task, self.args.spatial_env, self.temporal.q_values, None)
        rows = task.local.rows

        def attention_boxes(samples: Tensor, frames: Tensor) -> Tensor:
            return scores.peaks[rows[samples] + frames]

        return SpatialTask(task, self.args.spatial_env, self.temporal.q_values, attention_boxes)

    def _localised(self, task: TemporalTask) -> tuple[Tensor, Tensor]:
        """Start and end (S,) in steps of the windows that greedy episodes end in."""
        value = self.temporal.q_values if self.args.select == "value" else None
        steps = localise(task, self.temporal.act, value=value).spans / task.seconds[:, None]
        # Seconds round; a window of whole steps must be one, or its first frame is that of the step before.
        whole = steps.round()
        start, end = torch.where((steps - whole).abs() < 1e-6, whole, steps).unbind(-1)
        return start, end.clamp(max=task.config.total)

    def _tracked(self, task: TemporalTask, scores: Scores | None, spatial_task: SpatialTask | None = None) -> Tensor:
        """Boxes of the spatial level, where the arguments let it walk: corners, packed (R, 4) float32."""
        assert self.spatial is not None
        windows = self._localised(task) if self.args.tracked_window == "localised" else None
        spatial_task = spatial_task or self._spatial_task(task, scores)
        return track(spatial_task, self.spatial.act, windows=windows, outside=self.args.outside_boxes)


def make_level(
    task: TemporalTask | SpatialTask,
    args: LevelArgs,
    hidden: tuple[str, ...] = (),
    attention: CellAttention | None = None,
) -> Level:
    """The agent of a level; the class of its arguments selects the algorithm."""
    if isinstance(args, DQNArgs):
        agent: Level = DQN(task.dims(), task.n_actions, args, hidden, attention)
    elif isinstance(args, FullFeedbackArgs):
        agent = FullFeedback(task.dims(), task.n_actions, args, hidden)
    else:
        assert isinstance(args, DDPGArgs)
        agent = DDPG(task.dims(), task.n_actions, args, hidden, attention)
    return agent.to(task.bank.device)


def packed_boxes(local: LocalFeatures) -> Tensor:
    """Corners (R, 4) in every frame of each sample of a source that has boxes; the whole frame where there is none."""
    if local.boxes is None:
        raise DataError(
            f"attention='cells' looks inside boxes, and boxes={local.source!r} has none; use attention='none'"
        )
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=local.boxes.device)
    return torch.where(local.boxes.isnan().any(-1, keepdim=True), whole, local.boxes)


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Corners of random boxes, sides .2 to .7 of the frame: (count, 4) float32."""
    size = 0.2 + 0.5 * torch.rand(count, 2, generator=generator)
    centre = size / 2 + (1 - size) * torch.rand(count, 2, generator=generator)
    return box_ops.corners(torch.cat((centre, size), -1))
