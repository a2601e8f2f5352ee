"""Arguments of `agents.strong.agent.Strong`, and the presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from strong_envs.agents.strong.ddpg import DDPGArgs, ddpg_args
from strong_envs.agents.strong.frame_attention import FrameAttentionArgs
from strong_envs.core import boxes as box_ops
from strong_envs.core.rewards import critic_rewards
from strong_envs.features.errors import DataError
from strong_envs.spatial.task import SpatialConfig
from strong_envs.temporal.task import TemporalConfig


@dataclass(frozen=True)
class StrongArgs:
    """Arguments of `Strong`; the defaults are ``preset="default"``."""

    boxes: str = "tracked"
    """What the temporal level sees: see the module."""
    attention: bool = False
    """Both attentions over frames (Eqs. 2-3 and 13-14), see `agents.strong.attention`; without them means
    (STRONG-A)."""
    blind: bool = False
    """Hide every visual part of the observation."""
    rounds: int = 2
    """Turns of spatial and temporal training after the temporal level was trained alone."""
    pretrain_steps: int = 60_000
    spatial_steps: int = 40_000
    temporal_steps: int = 350_000
    """Steps of the temporal level in a turn, on average over the turns."""
    ramp: float = 3.0
    """How many times longer each turn trains the temporal level than the one before; the sum stays. Early boxes are not
    worth much training: on the travel level it is what puts tracked boxes ahead of the best that stand still."""
    frame_attention: FrameAttentionArgs = field(default_factory=FrameAttentionArgs)
    """Attention of the temporal level, trained at the start of every turn when ``spatial_env.reward`` is
    "attention_box"."""
    frame_scores: bool = False
    """Show the temporal level what its frame attention says of the frames in the window and around it, see
    `FrameScoresTask`."""
    random_boxes: float = 0.0
    """Share of the samples with a random box while the temporal level trains in a tracked system."""
    box_margin: float = 0.0
    """Added around every box, in fractions of the frame."""
    temporal: DDPGArgs = field(
        default_factory=lambda: ddpg_args(
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
    """The result of an episode: the window after the last move, or with ``"value"`` the one of its path in which
    stopping has the highest predicted value relative to the other moves."""
    exploring_starts: bool = True
    """Train the temporal level from windows drawn at random; it is scored from the initial window all the same."""
    spatial: DDPGArgs = field(
        default_factory=lambda: ddpg_args(
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

    def turn_steps(self, turn: int) -> int:
        """Steps of the temporal level in a turn, counted from 1."""
        weights = [self.ramp**i for i in range(self.rounds)]
        return round(self.temporal_steps * self.rounds * weights[turn - 1] / sum(weights))


def strong_args(preset: str = "default", reward: str | None = None, **changes: Any) -> StrongArgs:
    """The arguments of a preset with some of them changed; ``seed`` reaches both levels.

    ``reward`` is what pays the spatial level. One that compares values of the critic (`critic_rewards`) leaves
    the frame attention out: the spatial level sees what is in and around its box, as in Eq. 10, and learns from the
    moves it made.
    """
    if preset == "paper":
        args = StrongArgs(
            attention=True,
            temporal=ddpg_args("paper"),
            spatial=ddpg_args("paper", stop=box_ops.STOP),
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
                spatial=replace(args.spatial, feedback="taken"),
                spatial_env=replace(args.spatial_env, appearance=True, surroundings=True),
            )
    else:
        raise DataError(f"preset must be 'default' or 'paper', got {preset!r}")
    if reward is not None:
        args = replace(args, spatial_env=replace(args.spatial_env, reward=reward))
    return replace(args, **changes)
