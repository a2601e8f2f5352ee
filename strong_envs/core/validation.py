"""Checks of what a user passes in: each names the argument, shows the value, and says what is valid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strong_envs.features.errors import DataError, nearest

MOST = 2**31 - 1
"""No count of an argument is larger: it would not fit the arrays that it sizes."""


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
    if not low <= value <= high or not _is_float(value) or (above and value == low):
        raise DataError(f"{name} must {valid}, got {shown(value)}")
    return float(value)


def check_whole(value: Any, name: str, least: int = 1, most: int = MOST) -> int:
    """A whole number in [least, most]."""
    valid = f"be a whole number of at least {least}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise DataError(f"{name} must {valid}, got {value!r}")
    if not _is_float(value) or int(value) != value or value < least:
        raise DataError(f"{name} must {valid}, got {shown(value)}")
    if value > most:
        raise DataError(f"{name} must be a whole number in [{least:,}, {most:,}], got {shown(value)}")
    return int(value)


def check_choice(value: Any, name: str, valid: Sequence[str]) -> str:
    """One of several words."""
    if not isinstance(value, str) or value not in valid:
        raise DataError(f"{name} must be one of {tuple(valid)}, got {value!r}{nearest(value, valid)}")
    return value


def check_seed(seed: Any, name: str = "seed") -> int | None:
    """A whole number of at least 0, or None."""
    if seed is None:
        return None
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DataError(f"{name} must be a whole number of at least 0 or None, got {shown(seed)}")
    return int(seed)


def check_actions(actions: Any, count: int, n_actions: int, device: torch.device) -> Tensor:
    """One action per environment as (count,) int64 on ``device``; values on an accelerator are not looked at.

    Raises:
        DataError: another shape, numbers that are not whole, or outside [0, n_actions).
    """
    if not isinstance(actions, Tensor):
        try:
            given = np.asarray(actions)
        except (TypeError, ValueError):
            given = np.asarray(None)
        if given.dtype == object and given.ndim:
            # Python integers beyond int64, and whatever else has no dtype of its own
            raise DataError(f"actions must be integers in [0, {n_actions}), got {shown(actions)}")
        if given.shape != (count,):
            raise DataError(f"actions must have shape ({count},), got {given.shape}")
        if given.dtype.kind not in "iub":
            raise DataError(f"actions must be integers in [0, {n_actions}), got {given.dtype}")
        if bool((given >= n_actions).any()) or bool((given < 0).any()):
            raise DataError(f"actions must lie in [0, {n_actions}), got {shown(actions)}")
        return torch.as_tensor(given.astype(np.int64), device=device)
    if actions.shape != (count,):
        raise DataError(f"actions must have shape ({count},), got {tuple(actions.shape)}")
    if actions.is_floating_point() or actions.is_complex():
        raise DataError(f"actions must be integers in [0, {n_actions}), got {actions.dtype}")
    if actions.device.type == "cpu":
        return check_actions(actions.detach().numpy(), count, n_actions, device)
    return actions.to(device, torch.int64)


def check_fractions(actions: Any, count: int, width: int, what: str, device: torch.device) -> Tensor:
    """Box actions as (count, width) float64 in [0, 1] on ``device``; numbers out of that range are clipped.

    Gymnasium's ClipAction does the same. Infinite numbers are clipped too: float32 has no others for numbers beyond its
    range. Values on an accelerator are not looked at.

    Args:
        actions: anything with that shape.
        count: environments.
        width: numbers of an action.
        what: the numbers in words, for the message.
        device: of the result.

    Raises:
        DataError: another shape, or NaN.
    """
    wanted = f"actions must be ({count}, {width}) {what}"
    try:
        given = actions if isinstance(actions, Tensor) else torch.as_tensor(np.asarray(actions, np.float64))
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{wanted}; got {shown(actions)}") from None
    if given.shape != (count, width) or given.is_complex():
        raise DataError(f"{wanted}; got {tuple(given.shape)} {given.dtype}")
    given = given.to(device, torch.float64)
    if given.device.type == "cpu" and bool(given.isnan().any()):
        raise DataError(f"{wanted}; got NaN in {shown(given.tolist())}")
    return given.clamp(0, 1)


def _is_float(value: Any) -> bool:
    """Whether a number is finite and not beyond the range of a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def shown(value: Any) -> str:
    """``repr`` cut to a line; whole numbers of thousands of digits have none."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def check_table(value: Any, columns: int, rows: int, name: str, meaning: str) -> np.ndarray:
    """``columns`` numbers, or ``rows`` rows of them, as a (rows, columns) float64 array."""
    try:
        table = np.asarray(value.cpu() if isinstance(value, Tensor) else value, np.float64)
    except (TypeError, ValueError, OverflowError):
        table = np.zeros(())
    if table.shape not in ((columns,), (1, columns), (rows, columns)):
        many = f" or {rows} rows of them" if rows > 1 else ""
        raise DataError(f"{name} must be {columns} numbers ({meaning}){many}, got {shown(value)}")
    return np.broadcast_to(table, (rows, columns))


def check_samples(value: Any, rows: int, count: int, mask: np.ndarray | None = None) -> np.ndarray:
    """One index into the split, or one per environment: (rows,) int64 in [0, count).

    Only rows in ``mask`` (rows,) are looked at; the others may hold anything, and get 0.
    """
    try:
        samples = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    except (TypeError, ValueError, OverflowError):
        samples = np.zeros((), object)
    many = f" or {rows} of them" if rows > 1 else ""
    if samples.dtype.kind not in "iu" or samples.shape not in ((), (1,), (rows,)):
        raise DataError(f"options['sample'] must be a whole number in [0, {count}){many}, got {shown(value)}")
    samples = np.broadcast_to(samples, (rows,))
    bad = (samples < 0) | (samples >= count)
    if (bad if mask is None else bad & mask).any():
        raise DataError(f"options['sample'] must lie in [0, {count}), got {shown(value)}")
    return np.where(bad, 0, samples).astype(np.int64)
