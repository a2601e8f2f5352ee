"""`check`: hold your own bank, store, environment or subclass against what this project's environments promise.

from strong_envs.testing import check
check("my_store")                      # a store on disk, or a registered key: its numbers, then both levels on it
check("TemporalMoment-v0", phi=0.05)   # an id with arguments: scalar, vector, and that both agree
check(MyEnv, features="my_store")      # a subclass
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

import strong_envs  # noqa: F401 (registers the ids)
from strong_envs import features as feature_registry
from strong_envs.core.env_base import EnvBase
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError

TEMPORAL, SPATIAL = "TemporalMoment-v0", "SpatialTrack-v0"
ENVS = 3
ROWS_AT_ONCE = 512


class CheckFailed(AssertionError):
    """A promise that does not hold; the message says which, for what, and what was found."""


def check(target: Any, *, steps: int = 150, seed: int = 0, **arguments: Any) -> list[str]:
    """Check a bank, a store, an environment, an id or a class; returns the names of the checks that passed.

    Args:
        target: a `FeatureBank`; a registered key or the path of a store; the id of an environment; an instance of
            `gymnasium.Env`; or a class (or function) that makes one.
        steps: length of the random rollouts.
        seed: seed of the rollouts.
        arguments: passed to the environments that are made; ``split`` and ``device`` also to the bank.

    Raises:
        CheckFailed: something does not hold.
        DataError: the target or the arguments are none that can be checked.
    """
    if isinstance(target, str) and target in gym.registry:
        return _check_id(target, steps, seed, arguments)
    if isinstance(target, str) and ":" in target and target.split(":")[1] in gym.registry:
        return _check_id(target.split(":")[1], steps, seed, arguments)
    if isinstance(target, gym.Env):
        if arguments:
            raise DataError(f"arguments {sorted(arguments)} cannot reach an environment that is made already")
        return check_env(target, steps, seed)
    if isinstance(target, FeatureBank):
        return _check_bank(target, steps, seed, arguments)
    if callable(target):
        env = target(**arguments)
        if not isinstance(env, gym.Env):
            raise CheckFailed(f"{target!r} made {type(env).__name__}, not a gymnasium.Env")
        return check_env(env, steps, seed)
    where = {name: arguments.pop(name) for name in ("split", "device") if name in arguments}
    return _check_bank(feature_registry.load(target, **where), steps, seed, arguments)


def check_bank(bank: FeatureBank) -> list[str]:
    """Numbers, truths and boxes of a bank; raises `CheckFailed`."""
    name = repr(bank)
    for part in ("query", "truth", "duration"):
        _require(bool(torch.isfinite(getattr(bank, part)).all()), f"{name}: {part} holds NaN or infinite numbers")
    # A few rows at a time: frames and grid may be mapped from a disk.
    low, high = math.inf, -math.inf
    for rows in bank.frames.split(ROWS_AT_ONCE):
        _require(bool(torch.isfinite(rows).all()), f"{name}: frames holds NaN or infinite numbers")
        low, high = min(low, float(rows.min())), max(high, float(rows.max()))
    _require(high > low, f"{name}: all features are the same number")
    starts, ends = bank.truth[..., 0], bank.truth[..., 1]
    bad = (~((starts >= 0) & (starts < ends) & (ends <= 1 + 1e-6))).flatten(1).any(1)
    if bad.any():
        i = int(bad.nonzero()[0])
        raise CheckFailed(f"{name}: query {bank.qids[i]!r} has windows {bank.truth[i].tolist()}, as fractions")
    _require(bool((bank.n_frames > 0).all()), f"{name}: a video has no feature rows")
    _require(int(bank.offsets[-1]) == len(bank.frames), f"{name}: offsets end at {int(bank.offsets[-1])}")
    unique = len(torch.unique(bank.query, dim=0))
    different = len(set(bank.texts))
    _require(unique > 1 or different == 1, f"{name}: {different} different sentences share one vector")
    passed = ["numbers are finite", "truths lie in their videos", "sentences differ"]
    if bank.has_grid:
        for rows in bank.grid.split(ROWS_AT_ONCE):
            _require(bool(torch.isfinite(rows).all()), f"{name}: the grid holds NaN or infinite numbers")
        passed.append("the grid is finite")
    if bank.has_boxes:
        rows = bank.true_boxes[~bank.true_boxes.isnan().any(-1)]
        inside = (rows[:, :2] >= -1e-3).all() & (rows[:, 2:] <= 1 + 1e-3).all() & (rows[:, :2] < rows[:, 2:]).all()
        _require(bool(inside), f"{name}: true boxes must be corners x1 < x2, y1 < y2 in [0, 1]")
        passed.append("true boxes lie in their frames")
    return passed


def check_env(env: gym.Env, steps: int = 150, seed: int = 0) -> list[str]:
    """One environment: Gymnasium's checker without a warning, then random rollouts; raises `CheckFailed`."""
    from gymnasium.utils.env_checker import check_env as gymnasium_check

    name = type(env.unwrapped).__name__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            gymnasium_check(env.unwrapped, skip_render_check=True)
        except (AssertionError, Warning, gym.error.Error) as error:
            raise CheckFailed(f"{name}: Gymnasium's checker says: {error}") from error
    first, again, other = (_rollout(env, s, steps, name) for s in (seed, seed, seed + 1000))
    _require(_equal(first, again), f"{name}: two rollouts with seed {seed} and the same actions differ")
    bank = getattr(env.unwrapped, "bank", None)
    if bank is None or len(bank) > 3:
        _require(not _equal(first, other), f"{name}: seeds {seed} and {seed + 1000} give the same rollout")
    try:
        env.reset(options={"no such option": 1})
    except ValueError:
        pass
    else:
        raise CheckFailed(f"{name}: reset accepts an option that does not exist")
    return ["Gymnasium's checker", "observations lie in their space", "rewards are finite", "episodes end", "seeds"]


def _check_id(name: str, steps: int, seed: int, arguments: dict) -> list[str]:
    passed = check_env(gym.make(name, **arguments), steps, seed)
    if gym.spec(name).vector_entry_point is not None:
        _check_agreement(name, steps, seed, arguments)
        passed.append("scalar and vector agree")
    return passed


def _check_bank(bank: FeatureBank, steps: int, seed: int, arguments: dict) -> list[str]:
    passed = check_bank(bank)
    passed += [f"{TEMPORAL}: {one}" for one in _check_id(TEMPORAL, steps, seed, {"features": bank, **arguments})]
    if bank.has_grid:
        spatial = {"features": bank, "critic": _critic(7), "window": "random"}
        passed += [f"{SPATIAL}: {one}" for one in _check_id(SPATIAL, steps, seed, spatial)]
    return passed


def _critic(n_actions: int) -> Callable[[dict[str, Tensor]], Tensor]:
    """A fixed critic that depends on f_o, so that boxes matter."""
    return lambda o: o["local"].mean(-1, keepdim=True) * torch.arange(1.0, n_actions + 1, device=o["local"].device)


def _rollout(env: gym.Env, seed: int, steps: int, name: str) -> list[Any]:
    env.action_space.seed(0)
    shown, info = env.reset(seed=seed)
    seen, length = [_copy(shown)], 0
    limit = _limit(env)
    for _ in range(steps):
        action = env.action_space.sample()
        shown, reward, terminated, truncated, info = env.step(action)
        length += 1
        if not env.observation_space.contains(shown):
            raise CheckFailed(f"{name}: after action {action} the observation leaves its space: {_outside(env, shown)}")
        if isinstance(reward, bool) or not isinstance(reward, (int, float, np.floating)) or not np.isfinite(reward):
            raise CheckFailed(f"{name}: after action {action} the reward is {reward!r}, not a finite number")
        if "tiou" in info:
            _require(0 <= info["tiou"] <= 1, f"{name}: info['tiou'] is {info['tiou']}")
        if info.get("span") is not None:
            start, end = info["span"]
            _require(0 <= start <= end, f"{name}: after action {action} the window is {(start, end)} s")
        _require(length <= limit, f"{name}: an episode is still going after {length} steps")
        seen.append((_copy(shown), float(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            shown, info = env.reset()
            seen.append(_copy(shown))
            length = 0
    return seen


def _limit(env: gym.Env) -> int:
    task, bank = getattr(env.unwrapped, "task", None), getattr(env.unwrapped, "bank", None)
    config: Any = getattr(task, "config", None)
    if isinstance(env.unwrapped, EnvBase) and hasattr(config, "max_steps"):
        return env.unwrapped.max_steps
    if bank is not None and hasattr(config, "actions_per_frame"):
        return int(bank.max_frames * config.actions_per_frame + config.first_frame_actions)
    return 1_000_000


def _check_agreement(name: str, steps: int, seed: int, arguments: dict) -> None:
    vector = gym.make_vec(name, num_envs=ENVS, autoreset_mode=AutoresetMode.SAME_STEP, **arguments)
    singles = [gym.make(name, **arguments) for _ in range(ENVS)]
    together = vector.reset(seed=seed)[0]
    alone = [env.reset(seed=seed + i)[0] for i, env in enumerate(singles)]
    vector.action_space.seed(seed)
    for step in range(steps):
        actions = vector.action_space.sample()
        together, reward, terminated, truncated, _ = vector.step(actions)
        for i, env in enumerate(singles):
            alone[i], r, done, cut, _ = env.step(actions[i])
            if abs(float(r) - float(reward[i])) > 1e-5 or (done, cut) != (bool(terminated[i]), bool(truncated[i])):
                raise CheckFailed(
                    f"{name}: in step {step} of environment {i} the scalar one gives {(r, done, cut)}, the vector one "
                    f"{(float(reward[i]), bool(terminated[i]), bool(truncated[i]))}"
                )
            if done or cut:
                alone[i] = env.reset()[0]
            if not _equal(alone[i], _row(together, i)):
                raise CheckFailed(f"{name}: in step {step} scalar and vector observations of environment {i} differ")


def _row(observation: Any, i: int) -> Any:
    return {name: part[i] for name, part in observation.items()} if isinstance(observation, dict) else observation[i]


def _copy(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {name: np.array(part) for name, part in observation.items()}
    return np.array(observation)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, atol=1e-4))


def _outside(env: gym.Env, shown: Any) -> str:
    if isinstance(shown, dict) and isinstance(env.observation_space, gym.spaces.Dict):
        spaces = env.observation_space.spaces
        if shown.keys() != spaces.keys():
            return f"keys {sorted(shown)}, the space has {sorted(spaces)}"
        bad = [name for name, part in shown.items() if not spaces[name].contains(part)]
        return ", ".join(f"{name} {_found(shown[name])} in {spaces[name]}" for name in bad)
    return f"{_found(shown)} in {env.observation_space}"


def _found(part: Any) -> str:
    values = np.asarray(part)
    if not values.size or values.dtype.kind not in "fiub":
        return f"{type(part).__name__}"
    return f"{values.dtype} {values.shape} from {values.min():g} to {values.max():g}"


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise CheckFailed(message)
