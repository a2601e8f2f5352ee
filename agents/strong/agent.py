"""STRONG: the temporal and the spatial level, trained in turns (ACM MM 2020, section 3.4), and its simpler relatives.

The order of the paper: the temporal level is trained alone, f_o := f_s (section 4.1.4); then, in turns, the spatial
level learns to move boxes, paid by the temporal critic (Eq. 11), and the temporal level learns on the boxes it gets.

``boxes`` decides what the temporal level sees, and with it which system this is: ``"tracked"`` is STRONG; ``"frame"``
TRL; ``"gaussian"`` TRL+gau; ``"initial"`` the box b0 for all; ``"attention"`` leaves the tracker out and takes in every
frame the box at which the frame attention rests, ``"static_attention"`` one box a sample, in the middle of these;
``"objects"`` and
``"cells"`` know no box (see `LocalFeatures`); ``"truth"`` and ``"static"`` are upper bounds. ``blind=True`` hides what
is visual: what language and position alone can do. True boxes are never used in training but by the bounds.

Deviations of ``preset="default"`` from the paper:

- *What pays the spatial level*: ``reward="attention_box"`` instead of Eq. 11. Max Q is optimism: it is high where a
box suggests
  that some move will pay, which a distractor doing the right event does as well. Instead attention over the cells of
  each frame (`agents.strong.frame_attention`) learns from the truth in time which frames lie inside the moment, and
  the spatial level is
  paid for bringing its box to where that attention rests. ``reward="signed_q"`` compares values at moves whose reward
  is known, Eq. 11's nearest relative.
- *What the critic has seen*, under the rewards that compare Q: a share ``random_boxes`` of the samples keeps a random
  box while the temporal level trains, for a critic that never saw a cropped frame cannot compare crops.
- *What the spatial level sees*: the frame attention of its frame, relative to its box.
- *The first frame* has room for ``first_frame_actions`` moves, so that the box reaches the object before it follows.
- *Attention* over frames is off: beside the context of the window it adds .010 [.007, .014] in the medium default world
  (five seeds) and takes a quarter more time.
- Both levels learn from the rewards of all actions in a state (``feedback="all"``), see `DDPGArgs`; the temporal level
  has the context of its window, see `TemporalMomentEnv`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from strong_envs.agents.strong import agent as strong_state
from strong_envs.agents.strong.args import StrongArgs
from strong_envs.agents.strong.attention import AttentionTask
from strong_envs.agents.strong.ddpg import DDPG, DDPGArgs, train
from strong_envs.agents.strong.frame_attention import (
    FrameAttention,
    FrameAttentionArgs,
    FrameScores,
    FrameScoresTask,
    static_boxes_of,
    train_frame_attention,
)
from strong_envs.agents.training.checkpoint import inputs_of, load_weights, save_weights
from strong_envs.agents.training.loop import split
from strong_envs.agents.training.session import Session
from strong_envs.core import boxes as box_ops
from strong_envs.core.validation import check_number
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError, nearest
from strong_envs.local_features import SOURCES, LocalFeatures
from strong_envs.rollout import localise, track
from strong_envs.spatial.env import SpatialTrackVectorEnv
from strong_envs.spatial.task import SpatialConfig, SpatialTask
from strong_envs.temporal.env import TemporalMomentVectorEnv
from strong_envs.temporal.task import TemporalConfig, TemporalTask

VISUAL = ("local", "global", "context", "frame_scores")
LEARNT = ("tracked", "attention", "static_attention")
"""Boxes that a system learns to give."""
BOXES = (*SOURCES, *LEARNT)
BOUNDS = ("truth", "static")
SELECT = ("last", "value")

ProgressCallback = Callable[[str, int, int, dict[str, float]], None]
"""Called with the stage, environment steps done and in all, and scalars."""


class Strong:
    """Both levels with their training. After `fit`, `predict` localises every query of a bank.

    Args:
        bank: the training split. args: see `StrongArgs`.
    """

    def __init__(self, bank: FeatureBank, args: StrongArgs) -> None:
        if args.boxes not in BOXES:
            raise DataError(f"boxes must be one of {BOXES}, got {args.boxes!r}")
        if args.select not in SELECT:
            raise DataError(f"select must be one of {SELECT}, got {args.select!r}{nearest(args.select, SELECT)}")
        check_number(args.ramp, "ramp", above=True)
        if args.boxes not in ("frame", "objects") and not bank.has_grid:
            raise DataError(f"boxes={args.boxes!r} needs a spatial grid, which {bank.name!r} lacks; use boxes='frame'")
        if args.boxes in BOUNDS and not bank.has_boxes:
            raise DataError(f"boxes={args.boxes!r} needs a true box track for every query, which {bank.name!r} lacks")
        looks = args.boxes in ("attention", "static_attention") or (
            args.boxes == "tracked" and args.spatial_env.reward == "attention_box"
        )
        if args.frame_scores and (args.attention or not looks):
            reward = args.spatial_env.reward
            raise DataError(
                "frame_scores=True requires frame attention: boxes must be 'attention', 'static_attention', or "
                "'tracked' with reward='attention_box', "
                f"and attention off; got boxes={args.boxes!r}, reward={reward!r}, attention={args.attention}"
            )
        self.args, self.bank = args, bank
        self.history: list[dict[str, Any]] = []
        self.lean = False
        self.turn, self.seconds, self._began = 0, 0.0, time.perf_counter()
        self._tracking: tuple[SpatialTask, FrameScores | None] | None = None
        self.task = self._temporal_task(bank, self.untracked(bank))
        hidden = VISUAL if args.blind else ()
        seeded = replace(args.temporal, seed=args.seed)
        self.temporal = DDPG(self.task.dims(), self.task.n_actions, seeded, hidden).to(bank.device)
        self.spatial: DDPG | None = None
        self.frame_attention: FrameAttention | None = None
        if looks:
            self.frame_attention = FrameAttention(bank, args.frame_attention, args.seed).to(bank.device)
        if args.boxes == "tracked":
            spatial_task = self._spatial_task(self.task, self._frame_scores(bank))
            seeded = replace(args.spatial, seed=args.seed + 1)
            self.spatial = DDPG(spatial_task.dims(), spatial_task.n_actions, seeded).to(bank.device)

    @property
    def takes_turns(self) -> bool:
        """Whether boxes are learnt, so that training goes in rounds."""
        return self.args.boxes in LEARNT

    def fit(
        self,
        report: ProgressCallback | None = None,
        evaluate: Callable[[Strong, str], dict] | None = None,
        checkpoint: Session | None = None,
    ) -> Strong:
        """Train. ``evaluate`` is called after each stage with this system and the stage's name, for the history.

        ``checkpoint`` stores the training at any moment and goes on from there, see `Session`.
        """
        args, session, self.seconds = self.args, checkpoint or Session(), 0.0
        session.begin(self)
        self._began = time.perf_counter() - self.seconds

        def note(stage: str) -> None:
            scores = evaluate(self, stage) if evaluate is not None else {}
            self.seconds = time.perf_counter() - self._began
            self.history.append({"stage": stage, "seconds": self.seconds, **scores})

        turns = self.takes_turns
        if turns and args.random_boxes:
            session.step(lambda: self._give_boxes(None))
        alone = "temporal alone" if turns else "temporal"
        session.step(lambda: self._train_temporal(alone, args.pretrain_steps, report, session))
        session.step(lambda: note("pre-training" if turns else "training"))
        for turn in range(1, args.rounds + 1) if turns else ():
            session.step(partial(self._train_gaze, turn, report, session))
            session.step(partial(self._train_spatial, turn, report, session))
            session.step(partial(self._take_turn, turn))
            stage = f"round {turn}, temporal"
            session.step(partial(self._train_temporal, stage, args.turn_steps(turn), report, session))
            session.step(partial(note, f"round {turn}"))
        return self

    def predict(self, bank: FeatureBank, use_tracker: bool | None = None) -> dict[str, Tensor]:
        """Localise every query of a bank, greedily.

        Returns ``spans`` (S, 2) seconds, ``length`` (S,) moves, ``path`` (S, T + 1, 2) seconds, and for a tracked
        system ``boxes``, corners of every frame of each sample, packed (R, 4).
        """
        turned = self.takes_turns if use_tracker is None else use_tracker
        scores = self._frame_scores(bank)
        out: dict[str, Tensor] = {"boxes": self.boxes(bank, scores)} if turned else {}
        task = self._temporal_task(bank, out.get("boxes", self.untracked(bank)), scores)
        value = self.temporal.q_values if self.args.select == "value" else None
        if value is not None and self.lean:
            raise DataError("select='value' asks the critic, which this file was saved without (lean=True)")
        episodes = localise(task, self.temporal.act, value=value)
        return out | {"spans": episodes.spans, "length": episodes.length, "path": episodes.path}

    def boxes(self, bank: FeatureBank, scores: FrameScores | None = None) -> Tensor:
        """Boxes that the system has learnt to give, in every frame of each sample: corners, packed (R, 4)."""
        scores = scores or self._frame_scores(bank)
        if self.spatial is None:
            boxes = scores.both[0]
            return static_boxes_of(boxes, bank.n_frames[bank.video]) if self.args.boxes == "static_attention" else boxes
        return track(
            self._spatial_task(self._temporal_task(bank, self.untracked(bank), scores), scores), self.spatial.act
        )

    def _frame_scores(self, bank: FeatureBank) -> FrameScores | None:
        return None if self.frame_attention is None else FrameScores(self.frame_attention, bank)

    def save(self, path: str, lean: bool = False) -> None:
        """Write weights and arguments as one safetensors file; ``lean`` leaves out what predictions do without."""
        tensors = {f"temporal.{k}": v for k, v in self.temporal.state_dict().items()}
        for name, part in (("spatial", self.spatial), ("frame_attention", self.frame_attention)):
            if part is not None:
                tensors |= {f"{name}.{k}": v for k, v in part.state_dict().items()}
        if lean:
            unused = strong_state.unused(self.args)
            tensors = {k: v for k, v in tensors.items() if not k.partition(".")[2].startswith(unused)}
        about = {"args": asdict(self.args), "history": self.history, "turn": self.turn, "lean": lean}
        save_weights(path, tensors, about | {"inputs": inputs_of(self.bank)})

    @classmethod
    def load(cls, path: str, bank: FeatureBank) -> Strong:
        """Read what `save` wrote; ``bank`` gives the device and must have the features it was trained on."""
        tensors, about = load_weights(path, bank.device)
        if "turn" not in about:
            raise DataError(f"{path!r} is not a saved system of STRONG")
        raw = about["args"]
        nested = (
            ("temporal", DDPGArgs),
            ("spatial", DDPGArgs),
            ("temporal_env", TemporalConfig),
            ("spatial_env", SpatialConfig),
            ("frame_attention", FrameAttentionArgs),
        )
        for name, _ in nested:
            raw[name] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw[name].items()}
        try:
            args = StrongArgs(**{**raw, **{name: kind(**raw[name]) for name, kind in nested}})
        except TypeError as error:
            raise DataError(f"{path!r} was saved by another release: {error}") from None
        system = cls(bank, args)
        system.history, system.turn, system.lean = about["history"], about["turn"], bool(about.get("lean"))
        for name, level in (
            ("temporal.", system.temporal),
            ("spatial.", system.spatial),
            ("frame_attention.", system.frame_attention),
        ):
            if level is not None:
                part = {k[len(name) :]: v for k, v in tensors.items() if k.startswith(name)}
                if system.lean:
                    # What was left out stays as it was made: a prediction does not look at it.
                    rest = {k: v for k, v in level.state_dict().items() if k.startswith(strong_state.unused(args))}
                    part = rest | part
                try:
                    level.load_state_dict(part)
                except RuntimeError as error:
                    raise DataError(f"{path!r} was trained on other features than {bank.name!r}: {error}") from None
        return system

    def untracked(self, bank: FeatureBank) -> str | Tensor:
        """What the temporal level sees while no box has been learnt: whole frames, f_o := f_s (section 4.1.4).

        Where a frame's vector is not as long as a cell of its grid, a box around all cells: boxes that come later must
        not change the size of an observation.
        """
        if not self.takes_turns:
            return self.args.boxes
        if bank.frame_dim == bank.grid_shape[2]:
            return "frame"
        return torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=bank.device).expand(len(bank), 4)

    # Stages -----------------------------------------------------------------------------------------------------

    def _temporal_task(
        self,
        bank: FeatureBank,
        boxes: str | Tensor,
        scores: FrameScores | None = None,
        frame_logits: Tensor | None = None,
    ) -> TemporalTask:
        """``told`` is the evidence where it is known already; before the first turn nothing is said."""
        margin = 0.0 if isinstance(boxes, str) and boxes in ("frame", "gaussian") else self.args.box_margin
        local = LocalFeatures(bank, boxes, margin=margin)
        if self.args.frame_scores:
            if frame_logits is None:
                frame_logits = (
                    (scores or self._frame_scores(bank)).both[1] if self.turn else torch.zeros(int(local.rows[-1]))
                )
            return FrameScoresTask(bank, local, self.args.temporal_env, frame_logits.to(bank.device))
        # Frames are a visual part: a blind agent has no use for them.
        kind = AttentionTask if self.args.attention and not self.args.blind else TemporalTask
        return kind(bank, local, self.args.temporal_env)

    def _spatial_task(self, task: TemporalTask, scores: FrameScores | None) -> SpatialTask:
        rows = task.local.rows

        def frame_attention(samples: Tensor, frames: Tensor) -> Tensor:
            return scores.both[0][rows[samples] + frames]

        return SpatialTask(task, self.args.spatial_env, self.temporal.q_values, frame_attention if scores else None)

    def _train_temporal(self, stage: str, steps: int, report: ProgressCallback | None, session: Session) -> None:
        task = copy(self.task)
        task.config = replace(task.config, start="random" if self.args.exploring_starts else "initial")
        env = TemporalMomentVectorEnv.of(task, self.args.temporal.num_envs)
        train(self.temporal, env, steps=steps, report=_staged(report, stage, steps), stage=stage, session=session)

    def _train_gaze(self, turn: int, report: ProgressCallback | None, session: Session) -> None:
        if self.frame_attention is not None:
            generator, stage = (
                torch.Generator().manual_seed(self.args.seed + 100 * turn),
                f"round {turn}, frame attention",
            )
            frame_logits = _staged(report, stage, self.args.frame_attention.steps)
            train_frame_attention(self.frame_attention, self.bank, generator, frame_logits, stage, session)

    def _train_spatial(self, turn: int, report: ProgressCallback | None, session: Session) -> None:
        if self.spatial is None:
            return
        stage, steps = f"round {turn}, spatial", self.args.spatial_steps
        scores = self._frame_scores(self.bank)
        self._tracking = self._spatial_task(self.task, scores), scores
        env = SpatialTrackVectorEnv.of(self._tracking[0], self.args.spatial.num_envs)
        train(self.spatial, env, steps=steps, report=_staged(report, stage, steps), stage=stage, session=session)

    def _take_turn(self, turn: int) -> None:
        """The boxes that the spatial level has learnt to give go to the temporal level."""
        self.turn = turn
        scores = self._frame_scores(self.bank)
        if self.spatial is None:
            self._give_boxes(self.boxes(self.bank, scores), scores)
            return
        # The training just done has looked at all frames already; a process that went on here has not.
        (task, scores), self._tracking = self._tracking or (self._spatial_task(self.task, scores), scores), None
        self._give_boxes(track(task, self.spatial.act), scores)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with: arguments and data, JSON-ready."""
        return {"args": asdict(self.args), "data": self.bank.store.content_hash, "split": self.bank.split}

    def training_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything but the training in progress: both levels, the frame attention, the boxes of the turn, the
        history.
        """
        return strong_state.collect(self)

    def load_training_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on where `training_state` was taken."""
        strong_state.restore(self, tensors, values)

    def _give_boxes(self, tracks: Tensor | None, scores: FrameScores | None = None) -> None:
        """Tracked boxes (the whole frame before there are any) with a share of random static ones mixed in."""
        bank, args = self.bank, self.args
        lengths = bank.n_frames[bank.video]
        generator = torch.Generator().manual_seed(args.seed + 1000 + len(self.history))
        if tracks is None:
            tracks = torch.tensor([0.0, 0.0, 1.0, 1.0], device=bank.device).expand(int(lengths.sum()), 4)
        still = random_boxes(len(bank), generator).to(bank.device)
        pick = (torch.rand(len(bank), generator=generator) < args.random_boxes).to(bank.device)
        mixed = torch.where(pick[:, None].repeat_interleave(lengths, 0), still.repeat_interleave(lengths, 0), tracks)
        self.task = self._temporal_task(bank, mixed, scores)


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Corners of random boxes, sides .2 to .7 of the frame: (count, 4) float32."""
    size = 0.2 + 0.5 * torch.rand(count, 2, generator=generator)
    centre = size / 2 + (1 - size) * torch.rand(count, 2, generator=generator)
    return box_ops.corners(torch.cat((centre, size), -1))


def _staged(report: ProgressCallback | None, stage: str, total: int) -> Callable[[int, dict], None] | None:
    return None if report is None else lambda step, scalars: report(stage, step, total, scalars)


if TYPE_CHECKING:
    pass
    from strong_envs.agents.strong.args import StrongArgs


def unused(args: StrongArgs) -> tuple[str, ...]:
    """How the names of weights begin that learn and that a prediction does without."""
    return ("target_actor.", "target_critic.", "critic.", *(() if args.frame_scores else ("inside.",)))


def collect(strong: Strong) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON-ready values of both levels, the frame attention, the boxes of the turn, and the history."""
    values: dict[str, Any] = {"history": strong.history, "turn": strong.turn}
    values["seconds"] = time.perf_counter() - strong._began
    tensors: dict[str, Tensor] = {}
    for name in ("temporal", "spatial"):
        level = getattr(strong, name)
        if level is not None:
            held, values[name] = level.training_state()
            tensors |= {f"{name}.{key}": value for key, value in held.items()}
    if strong.frame_attention is not None:
        tensors |= {f"frame_attention.{key}": value for key, value in strong.frame_attention.state_dict().items()}
    if strong.task.local.source == "given":
        tensors["boxes"] = strong.task.local.boxes.clone()
    if strong.args.frame_scores:
        tensors["frame_logits"] = strong.task.frame_logits.clone()
    return tensors, values


def restore(strong: Strong, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Bring a system of the same arguments to where `collect` was called."""
    strong.history[:], strong.turn, strong.seconds = values["history"], values["turn"], values["seconds"]
    for name in ("temporal", "spatial"):
        level = getattr(strong, name)
        if level is not None:
            level.load_training_state(split(tensors, f"{name}."), values[name])
    if strong.frame_attention is not None:
        strong.frame_attention.load_state_dict(split(tensors, "frame_attention."))
    if "boxes" in tensors:
        boxes = tensors["boxes"].to(strong.bank.device)
        strong.task = strong._temporal_task(strong.bank, boxes, frame_logits=tensors.get("frame_logits"))
