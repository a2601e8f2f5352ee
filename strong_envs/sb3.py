"""Stable-Baselines3 adapters under their short name; see `strong_envs.adapters.sb3`."""

from strong_envs.adapters.sb3 import BoxActions, BoxActionsVector, vec_env

__all__ = ["BoxActions", "BoxActionsVector", "vec_env"]
