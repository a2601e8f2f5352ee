"""Arguments of STRONG from a preset, from those of its constructor, and from a saved file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from strong_envs.agents.ranges import check_value, hints_of
from strong_envs.agents.strong.args import LEARNS_FROM, LEARNT, StrongArgs, changed_level, level_args
from strong_envs.agents.strong.levels.dqn import DQNArgs
from strong_envs.agents.strong.levels.level import LevelArgs
from strong_envs.core import boxes as box_ops
from strong_envs.core.rewards import critic_rewards
from strong_envs.features.errors import DataError, nearest
from strong_envs.local_features import BOXLESS
from strong_envs.spatial.task import SpatialConfig
from strong_envs.temporal.task import TemporalConfig

FULL_FEEDBACK: dict[str, Any] = {
    "algorithm": "full feedback",
    "network": "plain",
    "objective": "distil",
    "critic": "heads",
    "updates": 8,
    "epsilon_end": 0.3,
    "lr_actor": 3e-3,
    "weight_decay": 1e-3,
}
"""What ``learns_from="all rewards"`` changes in both levels."""
ALL_REWARDS: dict[str, Any] = {
    "rounds": 2,
    "ramp": 3.0,
    "pretrain_steps": 60_000,
    "spatial_steps": 40_000,
    "temporal_steps": 350_000,
    "exploring_starts": True,
    "temporal_env": TemporalConfig(),
    "spatial_env": SpatialConfig(
        reward="attention_box", window="random", first_frame_actions=16, appearance=False, surroundings=False
    ),
}
"""The other arguments of ``learns_from="all rewards"``: those of the result files of 26 November 2026 and before."""
QUICK_RISE: dict[str, Any] = {"rise": 0.05}
"""What the default changes in the temporal level where neither boxes nor attention are learnt. Validation, one seed:
95.0 instead of 94.6 on GT boxes and 35.4 instead of 33.6 on whole frames. ``strong``, whose attention over cells needs
a slow start, loses five points by it before its first turn."""
SCALED = ("pretrain_steps", "spatial_steps", "temporal_steps")
"""Fields that ``budget`` multiplies, beside the steps of the frame attention."""


def strong_args(
    preset: str = "default",
    reward: str | None = None,
    learns_from: str = "own rewards",
    boxes: str = "tracked",
    **changes: Any,
) -> StrongArgs:
    """The arguments of a preset with some of them changed; ``seed`` reaches both levels.

    ``preset="paper"`` is the letter of sections 3.2 to 3.4 and 4.1.4. What stays different: boxes are tracked once a
    turn in the window that greedy episodes localise, not anew in every window on the way (``tracked_window``); frames
    outside it are whole (``outside_boxes``); the bins of the pyramid become one vector by their maximum
    (``spp_reduce``); the attentions are trained by the critic's error alone and have no target copy; the target uses
    mu (``target``); exploration is epsilon-greedy; an episode ends after T moves, and a move beyond the video is
    refused; b_0 is read as corners; Eq. 11 compares max Q with a tolerance; numbers of steps, turns, episodes side by
    side and the size of the replay are ours.

    Args:
        preset: ``"default"`` or ``"paper"``.
        reward: of the spatial level. With one that compares values of the critic (`critic_rewards`) the spatial level
            observes what is in and around its box, as in Eq. 10.
        learns_from: see `StrongArgs`.
        boxes: see `StrongArgs`.
        **changes: other fields of `StrongArgs`.
    """
    if learns_from not in LEARNS_FROM:
        valid = LEARNS_FROM
        raise DataError(f"learns_from must be one of {valid}, got {learns_from!r}{nearest(str(learns_from), valid)}")
    made: dict[str, Any] = {"learns_from": learns_from, "boxes": boxes}
    if preset == "paper":
        made |= {
            "attention": "frames",
            "attention_stretches": None,
            "spp_levels": (1,) if boxes in BOXLESS else (1, 2, 4),
            "tracked_window": "localised",
            "random_boxes": 0.0,
            "box_margin": 0.0,
            "temporal": level_args("paper"),
            "spatial": level_args("paper", stop=box_ops.STOP),
            "temporal_env": TemporalConfig(context=False, global_scope="moment"),
            "spatial_env": SpatialConfig(surroundings=False),
        }
    elif preset == "default":
        args = StrongArgs()
        made["attention"] = "cells" if boxes in LEARNT and learns_from == "own rewards" else "none"
        if made["attention"] == "none":
            made["random_boxes"] = 0.0
            made["box_margin"] = 0.0
        if boxes not in LEARNT and changes.get("attention", "none") == "none":
            made["temporal"] = changed_level(args.temporal, QUICK_RISE)
        if learns_from == "all rewards":
            made["temporal"] = changed_level(
                args.temporal,
                FULL_FEEDBACK
                | {
                    "states": "uniform",
                    "critic_hidden": (256, 256),
                    "entropy": 0.3,
                    "num_envs": 1024,
                    "capacity": 200_000,
                    "lr_critic": 2e-3,
                },
            )
            made["spatial"] = changed_level(
                args.spatial,
                FULL_FEEDBACK
                | {
                    "gain": 1.0,
                    "num_envs": 128,
                    "entropy": 0.1,
                    "lr_critic": 3e-3,
                    "actor_hidden": (64, 64),
                    "critic_hidden": (64, 64),
                },
            )
            made |= ALL_REWARDS
        if reward in critic_rewards():
            made["spatial"] = changed_level(args.spatial, {"network": "matching"})
            made["spatial_env"] = replace(made.get("spatial_env", args.spatial_env), appearance=True, surroundings=True)
            made["random_boxes"] = 0.3
    else:
        raise DataError(f"preset must be 'default' or 'paper', got {preset!r}")
    if reward is not None:
        made["spatial_env"] = replace(made.get("spatial_env", StrongArgs().spatial_env), reward=reward)
    return StrongArgs(**(made | changes))


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
        elif isinstance(part, LevelArgs):
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
    base = strong_args(preset, reward, **{name: given[name] for name in ("learns_from", "boxes") if name in given})
    if given.get("attention", "none") != "none":
        # It is not given to `strong_args`, which would check it before the arguments that it needs are changed, too.
        base = replace(base, temporal=changed_level(base.temporal, {"rise": LevelArgs.rise}))
    args = changed_args(base, {**given, "seed": seed})
    if not args.takes_turns and "pretrain_steps" not in given:
        # The same number of steps as a tracked system spends on its temporal level.
        args = replace(args, pretrain_steps=args.pretrain_steps + args.rounds * args.temporal_steps)
    steps = max(int(args.frame_attention.steps * budget), 10)
    scaled: dict[str, Any] = {name: max(int(getattr(args, name) * budget), 1000) for name in SCALED}
    return replace(args, frame_attention=replace(args.frame_attention, steps=steps), **scaled)


def stored_args(raw: Mapping[str, Any]) -> StrongArgs:
    """The arguments of a saved system from the ``args`` of its header; those that are absent take their defaults.

    Raises:
        DataError: arguments that this release does not know.
    """
    made: dict[str, Any] = {}
    for name, value in raw.items():
        if isinstance(value, Mapping):
            part = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
            made[name] = changed_level(DQNArgs(), part) if name in ("temporal", "spatial") else part
        else:
            made[name] = tuple(value) if isinstance(value, list) else value
    return changed_args(StrongArgs(), made)
