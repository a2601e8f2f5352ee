"""Agents: STRONG, the systems that it is compared with, and reference predictors.

Importing this package imports every module in it, so that each can register its systems: a new system is one new
file. These modules import optional libraries (Stable-Baselines3, OpenCV, matplotlib) inside functions only.
"""

from strong_envs.agents.inference import Moment, Predictor, load, pretrained
from strong_envs.agents.registry import (
    REGISTRY,
    BaseSystem,
    Prediction,
    System,
    SystemSpec,
    find,
    import_modules,
    incompatibility,
    make,
    names,
    register,
    with_defaults,
)

__all__ = [
    "REGISTRY",
    "BaseSystem",
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
    "with_defaults",
]

# The full name: a checkout on the search path offers this package as ``agents`` too.
import_modules(__path__, "strong_envs.agents.")
