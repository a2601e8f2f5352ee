"""Registers the environments with Gymnasium, scalar and vector under one id."""

from __future__ import annotations

import gymnasium as gym

IDS = {
    "TemporalMoment-v0": ("temporal_moment:TemporalMomentEnv", "temporal_moment:TemporalMomentVectorEnv"),
    "SpatialTrack-v0": ("spatial_track:SpatialTrackEnv", "spatial_track:SpatialTrackVectorEnv"),
    "TemporalOneShot-v0": ("temporal_one_shot:TemporalOneShotEnv", "temporal_one_shot:TemporalOneShotVectorEnv"),
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
