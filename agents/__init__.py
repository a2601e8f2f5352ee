"""Agents: the two levels of STRONG, the systems it is compared with, and the references that keep everyone honest."""

from agents import (  # noqa: F401 (register their systems)
    acrn,
    ctrl,
    evidence,
    library_agents,
    mcn,
    one_shot,
    read_agent,
    sm_rl,
    tsp_prl,
    variants,
)
from agents.predictor import Moment, Predictor, load, pretrained
from agents.systems import REGISTRY, Entry, Prediction, System, find, make, names, register, why_not

__all__ = [
    "REGISTRY",
    "Entry",
    "Moment",
    "Prediction",
    "Predictor",
    "System",
    "find",
    "load",
    "make",
    "names",
    "pretrained",
    "register",
    "why_not",
]
