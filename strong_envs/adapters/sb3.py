"""Our vector environments for Stable-Baselines3, and actions as a Box for algorithms that know no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from strong_envs.features.errors import DataError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv


def box_space(n_actions: int) -> spaces.Box:
    """One preference in [-1, 1] for each of ``n_actions`` actions."""
    return spaces.Box(-1.0, 1.0, (n_actions,), np.float32)


class BoxActions(gym.ActionWrapper):
    """Discrete(n) as Box(n): the action with the largest number is taken, the first of equals.

    For DDPG, TD3 and their like, as the paper's actor has one output per action.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        _require_discrete(env.action_space)
        self.action_space = box_space(int(env.action_space.n))

    def action(self, action: np.ndarray) -> int:
        """The index of the largest number."""
        preferences = np.asarray(action)
        if preferences.shape != self.action_space.shape or not np.isfinite(preferences).all():
            raise DataError(f"action must be {self.action_space.shape[0]} finite numbers, got {action!r}")
        return int(preferences.argmax())


class BoxActionsVector(gym.vector.VectorActionWrapper):
    """`BoxActions` for vector environments: (B, n) numbers to (B,) actions."""

    def __init__(self, env: gym.vector.VectorEnv) -> None:
        super().__init__(env)
        _require_discrete(env.single_action_space)
        self.single_action_space = box_space(int(env.single_action_space.n))
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: Any) -> Any:
        """The index of the largest number of each row."""
        finite = np.isfinite(actions.detach().cpu().numpy() if hasattr(actions, "detach") else actions).all()
        if tuple(actions.shape) != self.action_space.shape or not finite:
            raise DataError(f"actions must be {self.action_space.shape} finite numbers, got shape {actions.shape}")
        return actions.argmax(-1)


def vec_env(env: gym.vector.VectorEnv | str, num_envs: int = 16, box_actions: bool = False, **arguments: Any) -> VecEnv:
    """A `VecEnv` of Stable-Baselines3 over one of our vector environments.

    Args:
        env: a vector environment with NumPy output and SAME_STEP resets, or an id to make one of, ``num_envs`` wide,
            from ``arguments``. With ``flatten=True`` use ``"MlpPolicy"``, otherwise ``"MultiInputPolicy"``.
        box_actions: offer Box actions, see `BoxActions`; DDPG, TD3 and SAC need them.

    Raises:
        DataError: no Stable-Baselines3, another way to reset, tensors as output, or index observations.
    """
    try:
        from stable_baselines3.common.vec_env import VecEnv
    except ImportError:
        raise DataError("vec_env needs Stable-Baselines3; install it with pip install stable-baselines3") from None
    if isinstance(env, str):
        import strong_envs  # noqa: F401 (registers the ids)

        env = gym.make_vec(env, num_envs=num_envs, **arguments)
    elif arguments:
        raise DataError(f"{sorted(arguments)} apply when env is an id; this environment is made already")
    base = env.unwrapped
    if base.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
        raise DataError("Stable-Baselines3 resets in the same step; make the environment with AutoresetMode.SAME_STEP")
    if getattr(base, "output", "numpy") != "numpy":
        raise DataError("Stable-Baselines3 wants NumPy arrays; make the environment with output='numpy'")
    if getattr(base, "observation", "features") != "features":
        raise DataError("Stable-Baselines3's networks cannot read indices; make the environment with its features")
    if box_actions:
        env = BoxActionsVector(env)
    return _adapter(VecEnv)(env)


def _require_discrete(space: spaces.Space) -> None:
    if not isinstance(space, spaces.Discrete):
        raise DataError(f"box actions stand for the actions of a Discrete space, got {space}")


def _adapter(base: type) -> type:
    """The adapter class, made here because its base is an optional library's."""

    class VectorAdapter(base):
        """Steps all environments at once; every observation it hands out is the caller's to keep."""

        def __init__(self, env: gym.vector.VectorEnv) -> None:
            self.env = env
            self._pending: np.ndarray | None = None
            super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

        def reset(self) -> Any:
            # A list of seeds set by `seed` counts once, then the environments go on drawing.
            seeds = list(self._seeds) if any(one is not None for one in self._seeds) else None
            options = self._options[0] or None
            if any(one != self._options[0] for one in self._options):
                raise DataError("one set of reset options serves all environments here; pass a dict to set_options")
            observation, info = self.env.reset(seed=seeds, options=options)
            self.reset_infos = self._rows(info)
            self._reset_seeds()
            self._reset_options()
            return _own(observation)

        def step_async(self, actions: np.ndarray) -> None:
            self._pending = actions

        def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict]]:
            observation, reward, terminated, truncated, info = self.env.step(self._pending)
            done = terminated | truncated
            infos = self._rows({k: v for k, v in info.items() if k not in _ENDINGS and not k.startswith("_")})
            for i in np.flatnonzero(done):
                final = info["final_obs"]
                one = {name: part[i] for name, part in final.items()} if isinstance(final, dict) else final[i]
                infos[i] = {**infos[i], **{k: v[i] for k, v in info.get("final_info", {}).items()}}
                infos[i]["terminal_observation"] = _own(one)
                infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
                stats = info["episode"]
                infos[i]["episode"] = {"r": float(stats["r"][i]), "l": int(stats["l"][i]), "t": float(stats["t"][i])}
            return _own(observation), reward.astype(np.float32), done, infos

        def _rows(self, info: dict) -> list[dict]:
            return [{name: value[i] for name, value in info.items()} for i in range(self.num_envs)]

        def close(self) -> None:
            self.env.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            # One object serves all rows: what is asked of one is asked of it.
            return [self._find(attr_name)] * len(list(self._get_indices(indices)))

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            if len(list(self._get_indices(indices))) != self.num_envs:
                raise DataError(f"all environments share {attr_name!r}; set it without indices")
            setattr(self.env.unwrapped, attr_name, value)

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            if len(list(self._get_indices(indices))) != self.num_envs:
                raise DataError(f"{method_name!r} runs on all environments at once; call it without indices")
            return [self._find(method_name)(*args, **kwargs)] * self.num_envs

        def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
            from stable_baselines3.common.monitor import Monitor

            # Infos carry the statistics of episodes, which is what SB3 looks for a Monitor for.
            found, layer = wrapper_class is Monitor, self.env
            while not found and layer is not None:
                found, layer = isinstance(layer, wrapper_class), getattr(layer, "env", None)
            return [found] * len(list(self._get_indices(indices)))

        def get_images(self) -> Sequence[np.ndarray | None]:
            return [None] * self.num_envs

        def _find(self, name: str) -> Any:
            for layer in (self.env, self.env.unwrapped):
                if hasattr(layer, name):
                    return getattr(layer, name)
            if name == "render_mode":
                return None
            raise AttributeError(f"{type(self.env.unwrapped).__name__} has no {name!r}")

    return VectorAdapter


_ENDINGS = ("episode", "final_obs", "final_info")


def _own(observation: Any) -> Any:
    """A copy that no later step writes into."""
    if isinstance(observation, dict):
        return {name: np.array(part) for name, part in observation.items()}
    return np.array(observation)
