"""Registers the environments with Gymnasium, scalar and vector under one id."""

from __future__ import annotations

import gymnasium as gym

IDS = {
    "TemporalMoment-v0": ("temporal.env:TemporalMomentEnv", "temporal.vector_env:TemporalMomentVectorEnv"),
    "SpatialTrack-v0": ("spatial.env:SpatialTrackEnv", "spatial.vector_env:SpatialTrackVectorEnv"),
    "TemporalOneShot-v0": ("temporal.one_shot:TemporalOneShotEnv", "temporal.one_shot:TemporalOneShotVectorEnv"),
}


def register_all() -> None:
    """Register every id that is not registered yet."""
    for name, (scalar, vector) in IDS.items():
        if name not in gym.registry:
            gym.register(
                name,
                entry_point=f"strong_envs.{scalar}",
                vector_entry_point=f"strong_envs.{vector}",
            )
