"""A STRONG small enough for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from strong_envs.agents.strong.args import StrongArgs, level_args
from strong_envs.agents.strong.cell_attention.attention import CellAttentionArgs
from strong_envs.agents.strong.frame_attention.attention import FrameAttentionArgs
from strong_envs.agents.strong.presets import strong_args

PACE = dict(num_envs=16, batch=32, updates=1, warmup=64)
DDPG = dict(actor_hidden=(32, 16), critic_hidden=(32, 16))
UNIFORM: dict[str, Any] = {"states": "uniform", "objective": "distil", "critic": "heads"}
CELLS = CellAttentionArgs(stretches=8, hidden=8, queries=4, moves=4, episodes=8, steps_per_update=20, slots=16)


def small_level(algorithm: str = "dqn", **changes: Any):
    """The arguments of a small level."""
    layers: dict[str, Any] = {"hidden": (16,), "width": 16} if algorithm == "dqn" else DDPG
    return level_args(**{"algorithm": algorithm, **PACE, **layers, **changes})


def small_strong(boxes: str = "tracked", learns_from: str = "own rewards", **changes: Any) -> StrongArgs:
    """STRONG that trains in a second; each ``learns_from`` has the algorithms that go with it."""
    algorithm = "full feedback" if learns_from == "all rewards" else "dqn"
    uniform = UNIFORM if learns_from == "all rewards" else {}
    made: dict[str, Any] = {
        "rounds": 1,
        "pretrain_steps": 400,
        "spatial_steps": 400,
        "temporal_steps": 400,
        "temporal": small_level(algorithm, **uniform),
        "spatial": small_level(algorithm, stop=8, network="plain"),
        "cells": CELLS,
        "frame_attention": FrameAttentionArgs(steps=5, queries=4, frames=6, hidden=8, inside_hidden=8),
    }
    return strong_args(boxes=boxes, learns_from=learns_from, **(made | changes))


TINY_PACE = dict(num_envs=8, batch=16, updates=1, warmup=24, capacity=100)
"""Ten iterations a stage: three before the first update, and a replay that is full before the end."""
TINY_DDPG = dict(actor_hidden=(8, 8), critic_hidden=(8, 8))
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "own": ("own rewards", {"algorithm": "dqn", "hidden": (8,), "width": 8, "dropout": 0.1}),
    "replay": ("frame labels", {"algorithm": "ddpg", **TINY_DDPG}),
    "uniform": ("all rewards", {"algorithm": "full feedback", **TINY_DDPG, **UNIFORM}),
    "all": ("all rewards", {"algorithm": "full feedback", **TINY_DDPG, "objective": "distil"}),
}
"""What a system learns from, and its levels."""


def tiny_strong(form: str = "own", rounds: int = 2, **changes: Any) -> StrongArgs:
    """A system of one of `FORMS` whose every stage is a few updates."""
    learns_from, level = FORMS[form]
    steps = 160 if form == "uniform" else 80
    made: dict[str, Any] = {
        "rounds": rounds,
        # Four episodes are up to 80 steps.
        "pretrain_steps": 400 if form == "own" else steps,
        "temporal_steps": 400 if form == "own" else steps,
        "spatial_steps": steps,
        "temporal": level_args(**TINY_PACE, **level),
        "spatial": level_args(**TINY_PACE, **level, stop=8, network="plain"),
        "cells": replace(CELLS, stretches=4, dropout=0.1, episodes=4, steps_per_update=20, slots=4),
        "frame_attention": FrameAttentionArgs(steps=6, queries=4, frames=6, hidden=8, inside_hidden=8),
        "random_boxes": 0.5,
    }
    return strong_args(learns_from=learns_from, **(made | changes))
