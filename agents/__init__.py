"""Agents: STRONG, the systems it is compared with, and reference predictors."""

from strong_envs.agents.baselines import (  # noqa: F401 (register their systems)
    acrn,
    ctrl,
    frame_classifier,
    mcn,
    one_shot,
    read,
    sb3,
    sm_rl,
    tsp_prl,
)
from strong_envs.agents.inference import Moment, Predictor, load, pretrained
from strong_envs.agents.registry import (
    REGISTRY,
    Prediction,
    System,
    SystemSpec,
    find,
    incompatibility,
    make,
    names,
    register,
)
from strong_envs.agents.strong import system, variants  # noqa: F401 (register their systems)

__all__ = [
    "REGISTRY",
    "Moment",
    "Prediction",
    "Predictor",
    "System",
    "SystemSpec",
    "find",
    "incompatibility",
    "load",
    "make",
    "names",
    "pretrained",
    "register",
]
