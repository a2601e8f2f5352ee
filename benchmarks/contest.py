"""Timing two implementations against each other: in turns, on the same work, as a ratio that has to be reached."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

REPETITIONS = 7


@dataclass
class Bar:
    """A ratio that we hold ourselves to: ``ratio`` is the median over repetitions, ``wanted`` the least that will do.

    ``ours`` and ``other`` are what both did a second (medians), in ``unit``; ``wanted`` None only informs.
    """

    name: str
    ratio: float
    ratios: list[float]
    wanted: float | None
    ours: float
    other: float
    unit: str

    @property
    def met(self) -> bool | None:
        return None if self.wanted is None else self.ratio >= self.wanted


def random_actions(steps: int, count: int) -> np.ndarray:
    """(steps, count) uniform actions: 1 in 7 episodes stops at each step, so resets are part of every measurement."""
    return np.random.default_rng(0).integers(0, 7, (steps, count))


def timed(step: Callable[[np.ndarray], Any], actions: np.ndarray) -> float:
    """Seconds for all ``actions``, the result of each step released when the next one comes."""
    began = time.perf_counter()
    for action in actions:
        result = step(action)
    del result
    return time.perf_counter() - began


def race(
    ours: Callable[[np.ndarray], Any], others: dict[str, Callable[[np.ndarray], Any]], actions: np.ndarray, reps: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of each contestant in each repetition, taken in turns so that a slow moment hits all of them."""
    mine: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in others}
    for step in (ours, *others.values()):
        timed(step, actions[:2])
    for _ in range(reps):
        mine.append(timed(ours, actions))
        for name, step in others.items():
            theirs[name].append(timed(step, actions))
    return mine, theirs


def bar(name: str, wanted: float | None, mine: list[float], theirs: list[float], amount: float, unit: str) -> Bar:
    """Compare seconds of two contestants that both did ``amount`` of work."""
    ratios = [other / one for one, other in zip(mine, theirs, strict=True)]
    return Bar(name, median(ratios), ratios, wanted, amount / median(mine), amount / median(theirs), unit)


def machine() -> dict[str, str]:
    """What the numbers were taken on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "system": platform.platform(), "cores": str(os.cpu_count())}
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    found["cpu"] = next((x.split(":")[1].strip() for x in lines if "model name" in x), platform.processor())
    for name in ("strong-envs", "torch", "numpy", "gymnasium", "numba"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    found["compiled path"] = os.environ.get("STRONG_ENVS_COMPILED", "1") + " (STRONG_ENVS_COMPILED)"
    return found
