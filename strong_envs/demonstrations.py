"""Policies that show what an environment is about: they look at the truth and are no results."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from strong_envs.features.errors import DataError

Demonstration = Callable[[gym.Env, Mapping[str, Any]], Any]
"""A scalar environment in the middle of an episode, and its ``info``, to the next action."""


def look_ahead(env: gym.Env, info: Mapping[str, Any]) -> int:
    """The action that pays most in a copy of the environment; of equal ones the last, which is stop.

    Args:
        env: a scalar environment with discrete actions, in the middle of an episode.
        info: unused.

    Raises:
        DataError: its actions are not discrete.
    """
    if not isinstance(env.action_space, spaces.Discrete):
        raise DataError(f"look_ahead needs discrete actions, the environment has {env.action_space}")
    start = int(env.action_space.start)
    best, most = start, -np.inf
    for action in range(start, start + int(env.action_space.n)):
        paid = float(copy.deepcopy(env.unwrapped).step(action)[1])
        if paid >= most - 1e-9:
            best, most = action, max(most, paid)
    return best


def name_the_truth(env: gym.Env, info: Mapping[str, Any]) -> np.ndarray:
    """The true window as `TemporalOneShot-v0` takes it, (2,) float32 fractions of the video."""
    bank = env.unwrapped.bank  # type: ignore[attr-defined]
    return np.asarray(bank.truth[int(info["sample"]), 0].cpu(), np.float32)


LOOKS = (2, 13, 8, 5, 10)
"""Positions of `TemporalLook-v0` that `look_and_answer` looks at first, of 16."""


def look_and_answer(env: gym.Env, info: Mapping[str, Any]) -> int:
    """Look here and there, then at both ends of the true moment, and answer with the best window.

    Args:
        env: `TemporalLook-v0` with discrete actions and without an answerer.
        info: of the last step; its ``looks`` are counted.
    """
    bank, sample = env.unwrapped.bank, int(info["sample"])  # type: ignore[attr-defined]
    ends = [min(int(16 * float(end)), 15) for end in bank.truth[sample, 0]]
    wanted = (*LOOKS, *ends)[int(info["looks"]) :]
    useful = np.asarray(env.unwrapped.action_masks())  # type: ignore[attr-defined]
    return next((action for action in wanted if useful[action]), None) or look_ahead(env, info)


def at_random(env: gym.Env, info: Mapping[str, Any]) -> Any:
    """An action drawn from the action space; of those that change something where the environment tells."""
    if isinstance(env.action_space, spaces.Discrete):
        with_mask = getattr(env.unwrapped, "action_masks", None)
        if with_mask is not None:
            return int(env.action_space.sample(np.asarray(with_mask(), np.int8)))
    return env.action_space.sample()


DEMONSTRATIONS: dict[str, tuple[Demonstration, Mapping[str, Any]]] = {
    "TemporalMoment-v0": (look_ahead, {"reward": "iou_delta", "phi": 0.0}),
    "SpatialTrack-v0": (
        look_ahead,
        {"reward": "box_iou", "payment": "change", "window": "truth", "first_frame_actions": 12},
    ),
    "TemporalOneShot-v0": (name_the_truth, {}),
    "TemporalLook-v0": (look_and_answer, {"look_cost": 0.0}),
}
"""By id: what shows it, and the arguments that it is made with for that. Other ids are shown with random actions."""


def demonstration(name: str) -> tuple[Demonstration, dict[str, Any]]:
    """The policy that shows an id and the arguments of ``gym.make`` for it; random actions for an unknown id."""
    policy, arguments = DEMONSTRATIONS.get(name, (at_random, {}))
    return policy, dict(arguments)
