"""Registers the environments with Gymnasium, scalar and vector under one id."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

IDS = {
    "TemporalMoment-v0": ("temporal.env:TemporalMomentEnv", "temporal.vector_env:TemporalMomentVectorEnv"),
    "SpatialTrack-v0": ("spatial.env:SpatialTrackEnv", "spatial.vector_env:SpatialTrackVectorEnv"),
    "TemporalOneShot-v0": ("temporal.one_shot:TemporalOneShotEnv", "temporal.one_shot:TemporalOneShotVectorEnv"),
    "TemporalLook-v0": ("looks.env:TemporalLookEnv", "looks.vector_env:TemporalLookVectorEnv"),
}
FLAT_IDS = {name.replace("-v", "Flat-v"): name for name in IDS}
"""The same environments with ``flatten=True``, for programs that know an environment by its id alone."""


def register_all() -> None:
    """Register every id that is not registered yet."""
    ids: list[tuple[str, str, dict[str, Any]]] = [(name, name, {}) for name in IDS]
    ids += [(flat, name, {"flatten": True}) for flat, name in FLAT_IDS.items()]
    for name, base, arguments in ids:
        if name not in gym.registry:
            scalar, vector = (f"strong_envs.{entry}" for entry in IDS[base])
            gym.register(name, entry_point=scalar, vector_entry_point=vector, kwargs=arguments)
