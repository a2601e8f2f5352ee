"""``strong-envs throughput --env my_module:MyEnv-v0``: any environment beside ours, with random actions.

Steps a second of one environment and of a vector of them, and what uniformly random actions earn: the row below which
no agent on that environment should fall.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from strong_envs.benchmarks.results.tables import ABSENT
from strong_envs.benchmarks.speed.harness import write
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import sentence

OURS = "TemporalMoment-v0"
KEYS = ("tiou", "iou")
"""Where an environment's ``info`` has the IoU of the window."""


def measure(env_id: str, seconds: float = 2.0, episodes: int = 200, count: int = 64, seed: int = 0) -> dict[str, Any]:
    """One environment: speed alone and as a vector of ``count``, and the random policy's episodes.

    Args:
        env_id: a registered id; ``module:id`` imports the module first.
        seconds: to time each for.
        episodes: of the random policy, at most.
        count: environments of the vector.
        seed: of the environments and the actions.

    Raises:
        DataError: no such environment, or one that cannot be made without arguments.
    """
    import strong_envs  # noqa: F401, so that our ids are registered

    try:
        env = gym.make(env_id)
    except (Exception, SystemExit) as error:  # code of a user may fail in any way
        raise DataError(f"cannot make the environment {env_id!r}: {sentence(error)}") from error
    with env:
        alone = _speed(env, seconds, seed)
        found = _random_policy(env, episodes, 5 * seconds, seed)
    try:
        with contextlib.closing(gym.make_vec(env_id, num_envs=count)) as many:
            together = count * _speed(many, seconds, seed)
    except (gym.error.Error, AssertionError, TypeError, ValueError) as error:
        together, found["vector"] = None, f"{type(error).__name__}: {error}"
    return {"env": env_id, "steps a second": alone, f"steps a second, {count} envs": together, **found}


def _speed(env: Any, seconds: float, seed: int) -> float:
    """Steps a second with random actions; a single environment is reset when an episode ends."""
    single = not hasattr(env, "num_envs")
    env.action_space.seed(seed)
    env.reset(seed=seed)
    steps, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds or steps < 10:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps += 1
        if single and (terminated or truncated):
            env.reset()
    return steps / passed


def _random_policy(env: Any, episodes: int, seconds: float, seed: int) -> dict[str, Any]:
    """Mean return, length and, where ``info`` tells it, last IoU of episodes with random actions."""
    env.action_space.seed(seed)
    returns, lengths, ious, began = [], [], [], time.perf_counter()
    for episode in range(episodes):
        env.reset(seed=seed if episode == 0 else None)
        total, length, over = 0.0, 0, False
        while not over:
            _, reward, terminated, truncated, info = env.step(env.action_space.sample())
            total, length = total + float(reward), length + 1
            over = terminated or truncated or time.perf_counter() - began > seconds
        if not (terminated or truncated):
            break  # time is up: an episode cut short would count as a short one
        returns.append(total)
        lengths.append(length)
        ious += [float(info[key]) for key in KEYS if key in info][:1]
    if not returns:
        return {"episodes": 0}
    summary = {"episodes": len(returns), "return": float(np.mean(returns)), "length": float(np.mean(lengths))}
    return summary | ({"mIoU": float(np.mean(ious))} if ious else {})


def main(env_id: str, as_json: bool, quick: bool, out: Path | None = None) -> int:
    """Measure an environment and ours beside it, print both, and write ``throughput.json`` to a folder."""
    from strong_envs.benchmarks.execution.provenance import machine, versions

    options: dict[str, Any] = {"seconds": 0.1, "episodes": 5, "count": 4} if quick else {}
    rows = [measure(name, **options) for name in dict.fromkeys((env_id, OURS))]
    result = {"rows": rows, "machine": machine(), "versions": versions()}
    if out is not None:
        write(result, out, "throughput")
    if as_json:
        print(json.dumps(result, indent=1))
        return 0
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        values = [row.get(name) for row in rows]
        shown = [ABSENT if v is None else f"{v:,.3f}" if isinstance(v, float) else str(v) for v in values]
        print(f"{name:<28}" + "".join(f"{text:>32}" for text in shown))
    return 0
