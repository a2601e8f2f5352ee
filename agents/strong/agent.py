"""STRONG: the temporal and the spatial level, trained in turns (ACM MM 2020, section 3.4), and its simpler relatives.

The order of the paper: the temporal level is trained alone, f_o := f_s (section 4.1.4); then, in turns, the spatial
level learns to move boxes, rewarded by the temporal critic (Eq. 11), and the temporal level learns on these boxes.

``boxes`` selects what the temporal level observes, and with it the system: ``"tracked"`` is STRONG; ``"frame"`` TRL;
``"gaussian"`` TRL+gau; ``"initial"`` the box b0 in every frame; ``"attention"`` has no tracker and takes in every frame
the box around the peak of the frame attention, ``"static_attention"`` one box a sample, the median of these;
``"objects"`` and ``"cells"`` have no box (see `LocalFeatures`); ``"truth"`` and ``"static"`` are upper bounds.
``blind=True`` hides the visual parts of the observation. GT boxes are used in training by the upper bounds only.

``learns_from`` says what the training knows. By default both levels learn from their own rewards alone: the temporal
level is a double DQN with a matching network (`agents.strong.levels.dqn`), its attention over the cells of each frame
(`agents.strong.cell_attention`) learns from its temporal-difference error, and the spatial level, a double DQN too, is
paid for bringing its box to the peak of that attention.

Deviations of ``preset="default"`` from the paper:

- *Algorithm*: double DQN instead of DDPG, which ``strong (ddpg)`` has (`agents.strong.variants`).
- *Reward of the temporal level*: the change of the IoU instead of its sign, because moves have several sizes.
- *Attention* weighs the cells inside the box of each frame, where Eqs. 13 and 14 weigh frames.
- *Reward of the spatial level*: ``reward="attention_box"`` instead of Eq. 11 (``"q_value"``).
- *Observation of the spatial level*: the peak of the attention in its frame, relative to its box.
- *The first frame* has ``first_frame_actions`` moves, so that the box reaches the object before it follows it.
- *Whole frames* stand for the boxes of a share ``random_boxes`` of the queries while the temporal level trains on
  tracked boxes, so that its attention still learns where to look.
- The temporal level observes the context of its window, see `TemporalMomentEnv`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from strong_envs.agents.registry import Evaluate, Prediction, ProgressCallback
from strong_envs.agents.strong.args import BOUNDS, AnyLevelArgs, StrongArgs
from strong_envs.agents.strong.cell_attention.attention import CellAttention, CellAttentionArgs
from strong_envs.agents.strong.cell_attention.training import CellAttentionTraining
from strong_envs.agents.strong.coupled_levels import VISUAL, Scores, make_level, random_boxes
from strong_envs.agents.strong.frame_attention.attention import FrameAttention, FrameAttentionArgs
from strong_envs.agents.strong.frame_attention.posterior import CELLS, fit_posterior
from strong_envs.agents.strong.frame_attention.scores import FrameScores, footage_recurs
from strong_envs.agents.strong.frame_attention.training import train_frame_attention
from strong_envs.agents.strong.levels.ddpg import DDPG
from strong_envs.agents.strong.levels.level import Level
from strong_envs.agents.strong.levels.training import train
from strong_envs.agents.strong.presets import system_args
from strong_envs.agents.strong.stored import has_values
from strong_envs.agents.strong.stored_levels import StoredLevels
from strong_envs.agents.training.loop import run
from strong_envs.agents.training.sentences import KnownWords
from strong_envs.agents.training.session import Session
from strong_envs.agents.training.window_posterior import WindowPosterior
from strong_envs.core import spans
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.rollout import localise
from strong_envs.spatial.env import SpatialTrackVectorEnv
from strong_envs.spatial.task import SpatialConfig, SpatialTask
from strong_envs.temporal.env import TemporalMomentVectorEnv
from strong_envs.temporal.task import TemporalConfig

if TYPE_CHECKING:
    from typing_extensions import Self


class Strong(StoredLevels):
    """Both levels with their training.

    Args:
        bank: the training split.
        seed: of everything random.
        budget: factor on the training steps.
        preset: ``"default"`` or ``"paper"``, see `strong_args`.
        env: changes of the temporal environment, as ``temporal_env``.
        changes: fields of `StrongArgs`; a mapping changes parts of a level or an environment, as in
            ``temporal={"gamma": 0.4}``.

    Attributes:
        args: see `StrongArgs`. history: stages of the training with their scores. turn: turns of training done.
        temporal, spatial: the levels' agents; ``spatial`` is None without a tracker.
        frame_attention: see the module; None where the arguments ask for none.
        task: the temporal level's task with its training boxes.

    Raises:
        DataError: unknown or contradictory arguments, or a bank without the features that they need.
    """

    def __init__(
        self,
        bank: FeatureBank,
        seed: int = 0,
        budget: float = 1.0,
        preset: str = "default",
        env: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        self._make(bank, system_args(seed, budget, preset, env, **changes))

    def _make(self, bank: FeatureBank, args: StrongArgs) -> None:
        if args.attention == "cells" and not bank.has_grid:
            raise DataError(f"attention='cells' needs a spatial grid, which {bank.name!r} lacks; use attention='none'")
        if args.boxes not in ("frame", "objects") and not bank.has_grid:
            raise DataError(f"boxes={args.boxes!r} needs a spatial grid, which {bank.name!r} lacks; use boxes='frame'")
        if args.boxes in BOUNDS and not bank.has_boxes:
            raise DataError(f"boxes={args.boxes!r} needs a true box track for every query, which {bank.name!r} lacks")
        self.args, self.bank = args, bank
        self.words = KnownWords(bank.query)
        self.history = []
        self.lean = False
        self._crossed: tuple[int, FrameScores] | None = None
        self._recovered: dict[str | None, Tensor] = {}
        self.frame_attention: FrameAttention | None = None
        self.turn, self.seconds, self._began = 0, 0.0, time.perf_counter()
        self._tracking: tuple[SpatialTask, Scores | None] | None = None
        self.posterior: WindowPosterior | None = None
        if args.score_observation == "posterior":
            self.posterior = WindowPosterior(CELLS).to(bank.device)
        self.cell_attention: CellAttention | None = None
        if args.attention == "cells":
            self.cell_attention = CellAttention(bank, args.cells, args.seed).to(bank.device)
        self.task = self._temporal_task(bank, self.untracked(bank))
        hidden = VISUAL if args.blind else ()
        self.temporal = make_level(self.task, replace(args.temporal, seed=args.seed), hidden, self.cell_attention)
        self.spatial: Level | None = None
        if args.has_frame_attention:
            self.frame_attention = FrameAttention(bank, args.frame_attention, args.seed).to(bank.device)
        self.fold_attentions: torch.nn.ModuleList | None = None
        if self.frame_attention is not None and args.average_folds and footage_recurs(bank):
            self._make_folds()
        if args.boxes == "tracked":
            spatial_task = self._spatial_task(self.task, self._scores(bank))
            self.spatial = make_level(spatial_task, replace(args.spatial, seed=args.seed + 1))

    # The interface of systems ---------------------------------------------------------------------------------------

    @classmethod
    def arguments(cls) -> dict[str, type]:
        """Fields of `StrongArgs`, of both levels (those of all algorithms) and of the environments."""
        return {
            "preset": str,
            "": StrongArgs,
            "cells": CellAttentionArgs,
            "frame_attention": FrameAttentionArgs,
            "temporal": AnyLevelArgs,
            "spatial": AnyLevelArgs,
            "env": TemporalConfig,
            "spatial_env": SpatialConfig,
        }

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raise `DataError` for arguments that do not exist, lie outside their range, or contradict each other."""
        system_args(**arguments)

    @property
    def needs_cells(self) -> bool:
        """Whether f_o is pooled from the grid."""
        return self.args.boxes != "frame" or self.args.attention == "cells"

    @property
    def dynamics(self) -> TemporalConfig:
        """The temporal environment."""
        return self.args.temporal_env

    config = dynamics

    def fit(
        self,
        report: ProgressCallback | None = None,
        evaluate: Evaluate | None = None,
        checkpoint: Session | None = None,
    ) -> Self:
        """Train.

        Args:
            report: called with the progress.
            evaluate: called after each stage with this system and the stage's name; its scores enter the history.
            checkpoint: stores the training and resumes it, see `Session`.
        """
        args, session, self.seconds = self.args, checkpoint or Session(), 0.0
        session.begin(self)
        self._began = time.perf_counter() - self.seconds

        def note(stage: str) -> None:
            scores = evaluate(self, stage) if evaluate is not None else {}
            self.seconds = time.perf_counter() - self._began
            self.history.append({"stage": stage, "seconds": self.seconds, **scores})

        turns = args.takes_turns
        if turns and args.random_boxes:
            session.step(lambda: self._give_boxes(None))
        elif self.frame_attention is not None and not turns:
            session.step(partial(self._train_frame_attention, 1, report, session))
            session.step(self._take_scores)
        alone = "temporal alone" if turns else "temporal"
        session.step(lambda: self._train_temporal(alone, args.pretrain_steps, report, session))
        session.step(lambda: note("pre-training" if turns else "training"))
        for turn in range(1, args.rounds + 1) if turns else ():
            session.step(partial(self._train_frame_attention, turn, report, session))
            session.step(partial(self._train_spatial, turn, report, session))
            session.step(partial(self._take_turn, turn))
            stage = f"round {turn}, temporal"
            session.step(partial(self._train_temporal, stage, args.turn_steps(turn), report, session))
            session.step(partial(note, f"round {turn}"))
        return self

    def predict(self, bank: FeatureBank, use_tracker: bool | None = None) -> Prediction:
        """Localise every query of a bank by greedy episodes.

        Args:
            bank: features of one split.
            use_tracker: whether the temporal level observes the learnt boxes. By default it does from the first turn
                on, and observes whole frames before.
        """
        tracked = self.args.takes_turns and self.turn > 0 if use_tracker is None else use_tracker
        scores = self._scores(bank)
        boxes = self.boxes(bank, scores) if tracked else None
        task = self._temporal_task(bank, self.untracked(bank) if boxes is None else boxes, scores)
        value = self.temporal.q_values if self.args.select == "value" else None
        if value is not None and not has_values(self.args, self.lean):
            raise DataError("select='value' needs the critic, which this file was saved without (lean=True)")
        episodes = localise(task, self.temporal.act, value=value)
        # The mean over the whole video (f_g) reads every frame; hidden visual parts read none.
        share = 0.0 if self.args.blind else 1.0
        frames_seen = torch.full((len(bank),), share, dtype=torch.float64, device=bank.device)
        return Prediction(episodes.spans, episodes.length, episodes.path, boxes, frames_seen=frames_seen)

    @torch.no_grad()
    def confidence(self, bank: FeatureBank, prediction: Prediction) -> Tensor:
        """The policy's probability of stopping in the predicted windows, or that of its values: (S,) float32."""
        task = self._temporal_task(bank, self.untracked(bank) if prediction.boxes is None else prediction.boxes)
        samples = torch.arange(len(bank), device=bank.device)
        start, end = (prediction.spans / task.seconds[:, None]).unbind(-1)
        t = torch.zeros_like(samples) if prediction.length is None else prediction.length
        observation = task.observe(samples, start, end, t)
        if isinstance(self.temporal, DDPG) and self.temporal.args.greedy == "actor":
            return self.temporal.actor(self.temporal.inputs(observation))[:, spans.STOP]
        # A value-based agent has no policy of its own: the softmax of its values, in units of their spread.
        values = self.temporal.q_values(observation)
        return (values / values.std(-1, keepdim=True).clamp(min=1e-6)).softmax(-1)[:, spans.STOP]

    # Boxes of the training ------------------------------------------------------------------------------------------

    def _give_boxes(self, tracks: Tensor | None, scores: Scores | None = None) -> None:
        """Tracked boxes (the whole frame before there are any) with a share of random static ones mixed in.

        An attention over cells mixes in whole frames itself, in every update.
        """
        bank, args = self.bank, self.args
        if self.cell_attention is not None:
            self.task = self._temporal_task(bank, "frame" if tracks is None else tracks)
            return
        lengths = bank.n_frames[bank.video]
        generator = torch.Generator().manual_seed(args.seed + 1000 + len(self.history))
        if tracks is None:
            tracks = torch.tensor([0.0, 0.0, 1.0, 1.0], device=bank.device).expand(int(lengths.sum()), 4)
        static = random_boxes(len(bank), generator).to(bank.device)
        pick = (torch.rand(len(bank), generator=generator) < args.random_boxes).to(bank.device)
        mixed = torch.where(pick[:, None].repeat_interleave(lengths, 0), static.repeat_interleave(lengths, 0), tracks)
        self.task = self._temporal_task(bank, mixed, scores)

    # Stages of the training -----------------------------------------------------------------------------------------

    def _train_temporal(self, stage: str, steps: int, report: ProgressCallback | None, session: Session) -> None:
        task = copy(self.task)
        task.config = replace(task.config, start="random" if self.args.exploring_starts else "initial")
        staged = _staged(report, stage, steps)
        # The policy of the turn before explores little.
        epsilon = self.args.temporal.epsilon_end if self.turn else None
        if self.temporal.attention is not None:
            boxes = task.local.boxes
            whole = self.args.random_boxes
            training = CellAttentionTraining(self.temporal, task, steps, stage, boxes, whole, epsilon)
            run(training, staged, 1, session)
            # The attention has changed, and with it f_o.
            self.task = self._attended_task(self.bank, boxes)
            return
        env = TemporalMomentVectorEnv.of(task, self.args.temporal.num_envs)
        train(self.temporal, env, steps=steps, report=staged, stage=stage, session=session, epsilon_start=epsilon)

    def _train_frame_attention(self, turn: int, report: ProgressCallback | None, session: Session) -> None:
        if self.frame_attention is None:
            return
        generator = torch.Generator().manual_seed(self.args.seed + 100 * turn)
        stage = f"round {turn}, frame attention" if self.args.takes_turns else "frame attention"
        staged = _staged(report, stage, self.args.frame_attention.steps)
        windows = self._windows(self.bank)
        train_frame_attention(self.frame_attention, self.bank, generator, staged, stage, session, windows)

    def _train_spatial(self, turn: int, report: ProgressCallback | None, session: Session) -> None:
        if self.spatial is None:
            return
        stage, steps = f"round {turn}, spatial", self.args.spatial_steps
        scores = self._training_scores(turn)
        self._tracking = self._spatial_task(self.task, scores), scores
        env = self._spatial_env(self._tracking[0])
        staged, epsilon = _staged(report, stage, steps), self.args.spatial.epsilon_end if self.turn else None
        train(self.spatial, env, steps=steps, report=staged, stage=stage, session=session, epsilon_start=epsilon)

    def _spatial_env(self, task: SpatialTask) -> SpatialTrackVectorEnv:
        """The environment in which the spatial level learns, with the windows that the arguments ask for."""
        env = SpatialTrackVectorEnv.of(task, self.args.spatial.num_envs)
        if self.args.tracked_window == "localised":
            start, end = self._localised(self.task)
            env.choose_window = lambda samples, _: (start[samples], end[samples])
        return env

    def _fitted_scores(self, turn: int) -> Scores | None:
        """The scores that the levels train on, with the posterior fitted to them."""
        scores = self._training_scores(turn)
        if self.posterior is not None and isinstance(scores, FrameScores):
            fit_posterior(self.posterior, self.bank, self._members(), scores, self._windows)
        return scores

    def _take_scores(self) -> None:
        """Give the scores of frames to a temporal level without boxes."""
        self.task = self._temporal_task(self.bank, self.untracked(self.bank), self._fitted_scores(1))

    def _take_turn(self, turn: int) -> None:
        """Give the boxes of the spatial level to the temporal level."""
        self.turn = turn
        scores = self._fitted_scores(turn)
        if self.spatial is None:
            self._give_boxes(self.boxes(self.bank, scores), scores)
            return
        # The training that has just ended computed the frame scores; a resumed process has to compute them.
        (task, scores), self._tracking = self._tracking or (self._spatial_task(self.task, scores), scores), None
        self._give_boxes(self._tracked(self.task, scores, task), scores)


def _staged(report: ProgressCallback | None, stage: str, total: int) -> Callable[[int, dict[str, float]], None] | None:
    return None if report is None else lambda step, scalars: report(stage, step, total, scalars)
