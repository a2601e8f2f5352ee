"""Checks of what a user passes in: each names the argument, shows the value, and says what is valid."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from strong_envs.features.errors import DataError, nearest


class UnknownArgument(DataError, TypeError):
    """A keyword that a constructor does not take. Also a `TypeError`: libraries that try keywords catch that."""


def refuse_unknown(given: Iterable[str], valid: Iterable[str]) -> None:
    """Refuse names that are not valid, with the nearest one and all of them."""
    known = sorted(set(valid))
    for name in given:
        if name not in known:
            raise UnknownArgument(f"unexpected keyword argument {name!r}{nearest(name, known)} (valid: {known})")


def check_number(value: Any, name: str, low: float = 0.0, high: float = math.inf, above: bool = False) -> float:
    """A finite number in [low, high], or in (low, high] with ``above``."""
    valid = f"be a number of at least {low:g}" if not above else f"be a number above {low:g}"
    if high < math.inf:
        valid = f"lie in {'(' if above else '['}{low:g}, {high:g}]"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise DataError(f"{name} must {valid}, got {value!r}")
    if not math.isfinite(value) or not low <= value <= high or (above and value == low):
        raise DataError(f"{name} must {valid}, got {value}")
    return float(value)


def check_whole(value: Any, name: str, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise DataError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if not math.isfinite(value) or int(value) != value or value < least:
        raise DataError(f"{name} must be a whole number of at least {least}, got {value}")
    return int(value)


def check_table(value: Any, columns: int, rows: int, name: str, meaning: str) -> np.ndarray:
    """``columns`` numbers, or ``rows`` rows of them, as a (rows, columns) float64 array."""
    try:
        table = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        table = np.zeros(())
    if table.shape not in ((columns,), (1, columns), (rows, columns)):
        many = f" or {rows} rows of them" if rows > 1 else ""
        raise DataError(f"{name} must be {columns} numbers ({meaning}){many}, got {value!r}")
    return np.broadcast_to(table, (rows, columns))


def check_samples(value: Any, rows: int, count: int) -> np.ndarray:
    """One index into the split, or one per environment: (rows,) int64 in [0, count)."""
    try:
        samples = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    except (TypeError, ValueError):
        samples = np.zeros((), object)
    many = f" or {rows} of them" if rows > 1 else ""
    if samples.dtype.kind not in "iu" or samples.shape not in ((), (1,), (rows,)):
        raise DataError(f"options['sample'] must be a whole number in [0, {count}){many}, got {value!r}")
    if samples.min() < 0 or samples.max() >= count:
        raise DataError(f"options['sample'] must lie in [0, {count}), got {value!r}")
    return np.broadcast_to(samples, (rows,)).astype(np.int64)
