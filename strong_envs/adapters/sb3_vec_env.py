"""The adapter class behind `strong_envs.adapters.sb3.vec_env`; importing it imports Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from strong_envs.features.errors import DataError

_ENDINGS = ("episode", "final_obs", "final_info")


class VectorAdapter(VecEnv):
    """Steps all environments at once; every observation it hands out is the caller's to keep.

    `get_attr` and `env_method` give each row its own part of what has a row per environment.
    """

    def __init__(self, env: gym.vector.VectorEnv) -> None:
        self.env = env
        self._pending: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        """Start new episodes everywhere."""
        # A list of seeds set by `seed` counts once, then the environments go on drawing.
        seeds: Any = list(self._seeds) if any(one is not None for one in self._seeds) else None
        options = self._options[0] or None
        if any(one != self._options[0] for one in self._options):
            raise DataError("one set of reset options serves all environments here; pass a dict to set_options")
        observation, info = self.env.reset(seed=seeds, options=options)
        self.reset_infos = self._rows_of(info)
        self._reset_seeds()
        self._reset_options()
        return own(observation)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._pending = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict]]:
        """One step of every environment."""
        observation, reward, terminated, truncated, info = self.env.step(self._pending)
        done = terminated | truncated
        infos = self._rows_of(info)
        for i in np.flatnonzero(done):
            final = info["final_obs"]
            one = {name: part[i] for name, part in final.items()} if isinstance(final, dict) else final[i]
            details = {name: part for name, part in info.get("final_info", {}).items() if not name.startswith("_")}
            infos[i] = {**infos[i], **{name: part[i] for name, part in details.items()}}
            infos[i]["terminal_observation"] = own(one)
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            stats = info["episode"]
            infos[i]["episode"] = {"r": float(stats["r"][i]), "l": int(stats["l"][i]), "t": float(stats["t"][i])}
        return own(observation), np.asarray(reward, np.float32), np.asarray(done), infos

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute for each of the rows; arrays and tensors of one row per environment are divided."""
        return self._divided(self._find(attr_name), indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of all environments, which share it."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise DataError(f"all environments share {attr_name!r}; set it without indices")
        setattr(self.env.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method once for all environments; each of the rows gets its part of the result."""
        return self._divided(self._find(method_name)(*args, **kwargs), indices)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Whether a wrapper is among the layers; infos carry what a Monitor gives."""
        layer: Any = self.env
        found = wrapper_class is Monitor
        while not found and layer is not None:
            found, layer = isinstance(layer, wrapper_class), getattr(layer, "env", None)
        return [found] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One picture per environment, with ``render_mode="rgb_array"``."""
        pictures: Any = self.env.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if pictures is None else list(pictures)

    def _rows_of(self, info: dict[str, Any]) -> list[dict[str, Any]]:
        shown = {k: v for k, v in info.items() if k not in _ENDINGS and not k.startswith("_")}
        return [{name: value[i] for name, value in shown.items()} for i in range(self.num_envs)]

    def _divided(self, value: Any, indices: Any) -> list[Any]:
        """The part of each row of ``indices``, or ``value`` itself where it has no row per environment."""
        return [self._part(value, i) for i in self._get_indices(indices)]

    def _part(self, value: Any, i: int) -> Any:
        if isinstance(value, dict) and value:
            parts = {name: self._part(part, i) for name, part in value.items()}
            return parts if all(parts[name] is not value[name] for name in value) else value
        rows = isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim > 0 and len(value) == self.num_envs
        return value[i] if rows else value

    def _find(self, name: str) -> Any:
        for layer in (self.env, self.env.unwrapped):
            if hasattr(layer, name):
                return getattr(layer, name)
        raise AttributeError(f"{type(self.env.unwrapped).__name__} has no {name!r}")


def own(observation: Any) -> Any:
    """A copy that no later step writes into."""
    if isinstance(observation, dict):
        return {name: np.array(part) for name, part in observation.items()}
    return np.array(observation)
