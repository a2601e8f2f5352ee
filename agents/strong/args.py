"""Arguments of STRONG, their presets, and how constructor arguments and saved files become arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from strong_envs.agents.ranges import check_fields, check_value, hints_of
from strong_envs.agents.strong.ddpg import DDPGArgs
from strong_envs.agents.strong.frame_attention import FrameAttentionArgs
from strong_envs.agents.strong.full_feedback import FullFeedbackArgs
from strong_envs.core import boxes as box_ops
from strong_envs.core.rewards import critic_rewards
from strong_envs.features.errors import DataError, nearest
from strong_envs.local_features import SOURCES
from strong_envs.spatial.task import SpatialConfig
from strong_envs.temporal.task import TemporalConfig

LEARNT = ("tracked", "attention", "static_attention")
"""Boxes that are learnt, so that training goes in turns."""
BOXES = (*SOURCES, *LEARNT)
BOUNDS = ("truth", "static")
"""Boxes that use the truth: upper bounds."""
SELECT = ("last", "value")
ALGORITHMS: dict[str, type[DDPGArgs]] = {"taken": DDPGArgs, "all": FullFeedbackArgs}
"""Arguments of a level by their ``feedback``."""
PAPER: dict[str, Any] = {
    "num_envs": 128,
    "batch": 128,
    "updates": 1,
    "lr_actor": 0.01,
    "lr_critic": 0.01,
    "weight_decay": 0.0,
    "decay": False,
    "gamma": 0.2,
    "tau": 0.02,
    "entropy": 0.0,
    "attention_heads": 1,
    "attention_timed": False,
    "actor_hidden": (500, 128),
    "critic_hidden": (1024, 512, 300),
    "weights_std": 0.1,
}
"""What ``preset="paper"`` changes in a level."""
PRESETS = ("default", "paper")
SCALED = ("pretrain_steps", "spatial_steps", "temporal_steps")
"""Fields that ``budget`` multiplies, beside the steps of the frame attention."""


def level_args(preset: str = "default", **changes: Any) -> DDPGArgs:
    """The arguments of a level in a preset with some of them changed.

    ``feedback="taken"`` gives `DDPGArgs`, ``"all"`` `FullFeedbackArgs`.

    Raises:
        DataError: an unknown preset, name or choice.
    """
    if preset not in PRESETS:
        raise DataError(f"preset must be one of {PRESETS}, got {preset!r}{nearest(str(preset), PRESETS)}")
    return changed_level(DDPGArgs(**(PAPER if preset == "paper" else {})), changes)


def changed_level(args: DDPGArgs, changes: Mapping[str, Any]) -> DDPGArgs:
    """Arguments of a level with some of them changed; another ``feedback`` changes the algorithm, see `level_args`."""
    names = [f.name for f in fields(FullFeedbackArgs)]
    for name in changes:
        if name not in names:
            raise DataError(f"DDPG has no argument {name!r}{nearest(name, names)}; it has {sorted(names)}")
    values = {f.name: getattr(args, f.name) for f in fields(args)} | dict(changes)
    feedback = values["feedback"]
    if not isinstance(feedback, str) or feedback not in ALGORITHMS:
        valid = tuple(ALGORITHMS)
        raise DataError(f"feedback must be one of {valid}, got {feedback!r}{nearest(str(feedback), valid)}")
    kind = ALGORITHMS[feedback]
    if kind is DDPGArgs and values.get("states", "replay") != "replay":
        valid = FullFeedbackArgs.CHOICES["states"]
        if values["states"] not in valid:
            raise DataError(f"states must be one of {valid}, got {values['states']!r}")
        raise DataError(f"states='uniform' needs feedback='all', got feedback={feedback!r}")
    return kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})


@dataclass(frozen=True)
class StrongArgs:
    """Arguments of `Strong`; the defaults are ``preset="default"``."""

    boxes: str = "tracked"
    """Source of f_o: see `agents.strong.agent`."""
    attention: bool = False
    """Both attentions over frames (Eqs. 2-3 and 13-14), see `agents.strong.attention`; without them means
    (STRONG-A)."""
    blind: bool = False
    """Hide every visual part of the observation."""
    rounds: int = 2
    """Turns of spatial and temporal training, after the pre-training of the temporal level."""
    pretrain_steps: int = 60_000
    spatial_steps: int = 40_000
    temporal_steps: int = 350_000
    """Steps of the temporal level in a turn, on average over the turns."""
    ramp: float = 3.0
    """Factor by which each turn trains the temporal level longer than the one before; the sum over the turns stays.
    Early boxes are poor: on the travel level this puts tracked boxes ahead of the best static ones."""
    frame_attention: FrameAttentionArgs = field(default_factory=FrameAttentionArgs)
    """The frame attention, trained at the start of every turn when ``spatial_env.reward`` is "attention_box"."""
    frame_scores: bool = False
    """Adds the logits of the frame attention, averaged in the window and around it, to the observation of the temporal
    level; see `FrameScoresTask`."""
    random_boxes: float = 0.0
    """Share of the samples with a random box while the temporal level trains in a tracked system."""
    box_margin: float = 0.0
    """Added around every box, in fractions of the frame."""
    temporal: DDPGArgs = field(
        default_factory=lambda: level_args(
            states="uniform",
            feedback="all",
            objective="distil",
            critic="heads",
            critic_hidden=(256, 256),
            entropy=0.3,
            num_envs=1024,
            batch=256,
            updates=8,
            capacity=200_000,
            epsilon_end=0.3,
            lr_actor=3e-3,
            lr_critic=2e-3,
        )
    )
    select: str = "last"
    """Result of an episode: ``"last"``, the window after the last move, or ``"value"``, the window of its path in which
    stopping has the highest predicted value relative to the other moves."""
    exploring_starts: bool = True
    """Train the temporal level from random windows. Predictions begin with the initial window in any case."""
    spatial: DDPGArgs = field(
        default_factory=lambda: level_args(
            feedback="all",
            gain=1.0,
            objective="distil",
            critic="heads",
            num_envs=128,
            updates=8,
            stop=box_ops.STOP,
            entropy=0.1,
            epsilon_end=0.3,
            lr_actor=3e-3,
            lr_critic=3e-3,
            actor_hidden=(64, 64),
            critic_hidden=(64, 64),
        )
    )
    temporal_env: TemporalConfig = field(default_factory=TemporalConfig)
    spatial_env: SpatialConfig = field(
        default_factory=lambda: SpatialConfig(
            reward="attention_box", window="random", first_frame_actions=16, appearance=False, surroundings=False
        )
    )
    seed: int = 0

    def __post_init__(self) -> None:
        if self.boxes not in BOXES:
            raise DataError(f"boxes must be one of {BOXES}, got {self.boxes!r}")
        if self.select not in SELECT:
            raise DataError(f"select must be one of {SELECT}, got {self.select!r}{nearest(self.select, SELECT)}")
        check_fields(self)
        for environment in (self.temporal_env, self.spatial_env):
            check_fields(environment)
        if self.frame_scores and (self.attention or not self.has_frame_attention):
            raise DataError(
                "frame_scores=True requires frame attention: boxes must be 'attention', 'static_attention', or "
                "'tracked' with reward='attention_box', and attention off; "
                f"got boxes={self.boxes!r}, reward={self.spatial_env.reward!r}, attention={self.attention}"
            )

    @property
    def takes_turns(self) -> bool:
        """Whether boxes are learnt, so that training goes in turns."""
        return self.boxes in LEARNT

    @property
    def has_frame_attention(self) -> bool:
        """Whether the system trains a frame attention."""
        rests = self.boxes in ("attention", "static_attention")
        return rests or (self.boxes == "tracked" and self.spatial_env.reward == "attention_box")

    def turn_steps(self, turn: int) -> int:
        """Steps of the temporal level in a turn, counted from 1."""
        weights = [self.ramp**i for i in range(self.rounds)]
        return round(self.temporal_steps * self.rounds * weights[turn - 1] / sum(weights))


def strong_args(preset: str = "default", reward: str | None = None, **changes: Any) -> StrongArgs:
    """The arguments of a preset with some of them changed; ``seed`` reaches both levels.

    Args:
        preset: ``"default"`` or ``"paper"``.
        reward: of the spatial level. One that compares values of the critic (`critic_rewards`) goes without the
            frame attention: the spatial level observes what is in and around its box, as in Eq. 10, and learns from the
            rewards of the moves it made.
        changes: fields of `StrongArgs`.
    """
    if preset == "paper":
        args = StrongArgs(
            attention=True,
            temporal=level_args("paper"),
            spatial=level_args("paper", stop=box_ops.STOP),
            exploring_starts=False,
            temporal_env=TemporalConfig(context=False),
            spatial_env=SpatialConfig(surroundings=False),
        )
    elif preset == "default":
        args = StrongArgs()
        if reward in critic_rewards():
            args = replace(
                args,
                random_boxes=0.3,
                spatial=changed_level(args.spatial, {"feedback": "taken"}),
                spatial_env=replace(args.spatial_env, appearance=True, surroundings=True),
            )
    else:
        raise DataError(f"preset must be 'default' or 'paper', got {preset!r}")
    if reward is not None:
        args = replace(args, spatial_env=replace(args.spatial_env, reward=reward))
    return replace(args, **changes)


def changed_args(args: StrongArgs, changes: Mapping[str, Any]) -> StrongArgs:
    """Arguments with some changed. A mapping changes parts of a level or an environment: ``{"temporal": {"tau": .1}}``.

    Raises:
        DataError: a name that does not exist.
    """
    made: dict[str, Any] = {}
    for name, value in changes.items():
        known = [f.name for f in fields(StrongArgs)]
        if name not in known:
            raise DataError(f"STRONG has no argument {name!r}{nearest(name, known)}; it has {sorted(known)}")
        part: Any = getattr(args, name)
        if not isinstance(value, Mapping):
            made[name] = value
        elif isinstance(part, DDPGArgs):
            made[name] = changed_level(part, value)
        elif not is_dataclass(part) or isinstance(part, type):
            raise DataError(f"{name} must be of type {type(part).__name__}, such as {part!r}; got {value!r}")
        else:
            known = [f.name for f in fields(part)]
            for inner in value:
                if inner not in known:
                    raise DataError(f"{name} has no argument {inner!r}{nearest(inner, known)}; it has {sorted(known)}")
                check_value(inner, value[inner], hints_of(type(part))[inner])
            made[name] = replace(part, **value)
    return replace(args, **made)


def system_args(
    seed: int = 0,
    budget: float = 1.0,
    preset: str = "default",
    env: Mapping[str, Any] | None = None,
    **changes: Any,
) -> StrongArgs:
    """The arguments of `Strong` from those of its constructor; ``budget`` is a factor on all steps."""
    check_value("seed", seed, int)
    check_value("budget", budget, float)
    given = dict(changes)
    if env:
        given["temporal_env"] = {**given.get("temporal_env", {}), **env}
    spatial = given.get("spatial_env")
    reward = spatial.get("reward") if isinstance(spatial, Mapping) else None
    args = changed_args(strong_args(preset, reward), {**given, "seed": seed})
    if not args.takes_turns:
        # The same number of steps as a tracked system spends on its temporal level.
        args = replace(args, pretrain_steps=args.pretrain_steps + args.rounds * args.temporal_steps)
    steps = max(int(args.frame_attention.steps * budget), 10)
    scaled: dict[str, Any] = {name: max(int(getattr(args, name) * budget), 1000) for name in SCALED}
    return replace(args, frame_attention=replace(args.frame_attention, steps=steps), **scaled)


def stored_args(raw: Mapping[str, Any]) -> StrongArgs:
    """The arguments of a saved system from the ``args`` of its header, those of earlier releases included.

    Raises:
        DataError: arguments that this release does not know.
    """
    made: dict[str, Any] = {}
    for name, value in raw.items():
        if isinstance(value, Mapping):
            part = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
            made[name] = changed_level(DDPGArgs(), part) if name in ("temporal", "spatial") else part
        else:
            made[name] = value
    return changed_args(StrongArgs(), made)
