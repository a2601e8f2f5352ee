"""Our vector environments for Stable-Baselines3, and actions as a Box for algorithms that know no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from strong_envs.features.errors import DataError

if TYPE_CHECKING:
    from strong_envs.adapters.sb3_vec_env import VectorAdapter


def box_space(n_actions: int) -> spaces.Box:
    """One preference in [-1, 1] for each of ``n_actions`` actions."""
    return spaces.Box(-1.0, 1.0, (n_actions,), np.float32)


class BoxActions(gym.ActionWrapper):
    """Discrete(n) as Box(n): the action with the largest number is taken, the first of equals.

    For DDPG, TD3 and their like, as the paper's actor has one output per action.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.n_actions = _discrete(env.action_space)
        self.action_space = box_space(self.n_actions)

    def action(self, action: np.ndarray) -> int:
        """The index of the largest number."""
        preferences = np.asarray(action)
        if preferences.shape != (self.n_actions,) or not np.isfinite(preferences).all():
            raise DataError(f"action must be {self.n_actions} finite numbers, got {action!r}")
        return int(preferences.argmax())


class BoxActionsVector(gym.vector.VectorActionWrapper):
    """`BoxActions` for vector environments: (B, n) numbers to (B,) actions."""

    def __init__(self, env: gym.vector.VectorEnv) -> None:
        super().__init__(env)
        self.single_action_space = box_space(_discrete(env.single_action_space))
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: Any) -> Any:
        """The index of the largest number of each row."""
        finite = np.isfinite(actions.detach().cpu().numpy() if hasattr(actions, "detach") else actions).all()
        if tuple(actions.shape) != self.action_space.shape or not finite:
            raise DataError(f"actions must be {self.action_space.shape} finite numbers, got shape {actions.shape}")
        return actions.argmax(-1)


def vec_env(
    env: gym.vector.VectorEnv | str, num_envs: int = 16, box_actions: bool = False, **arguments: Any
) -> VectorAdapter:
    """A `VecEnv` of Stable-Baselines3 over one of our vector environments.

    Args:
        env: a vector environment with NumPy output and SAME_STEP resets, or an id to make one of. With
            ``flatten=True`` use ``"MlpPolicy"``, otherwise ``"MultiInputPolicy"``.
        num_envs: how many environments an id makes.
        box_actions: offer Box actions, see `BoxActions`; DDPG, TD3 and SAC need them.
        **arguments: of the environment that an id makes; ``render_mode="rgb_array"`` lets VecVideoRecorder film it.

    Raises:
        DataError: no Stable-Baselines3, another way to reset, tensors as output, or index observations.
    """
    try:
        from strong_envs.adapters.sb3_vec_env import VectorAdapter
    except ImportError:
        raise DataError("vec_env needs Stable-Baselines3; install it with pip install stable-baselines3") from None
    if isinstance(env, str):
        import strong_envs  # noqa: F401 (registers the ids)

        # SB3 expects the first observation of the next episode in the step that ends one.
        arguments.setdefault("autoreset_mode", AutoresetMode.SAME_STEP)
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
    return VectorAdapter(BoxActionsVector(env) if box_actions else env)


def _discrete(space: spaces.Space) -> int:
    if not isinstance(space, spaces.Discrete):
        raise DataError(f"box actions stand for the actions of a Discrete space, got {space}")
    return int(space.n)
