"""Search spaces: the settings of a system that ``strong-envs tune`` chooses, with the values that are tried.

A system declares its space beside its arguments and names it in its registration::

    SPACE = {"lr": Between(1e-3, 3e-2), "hidden": OneOf(64, 128, 256)}
    register(SystemSpec("mine", Mine, "...", space=SPACE))

The names are those of ``--set``. The default value of every setting belongs to its space, for the first trial of a
tuning is the system as it ships.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from strong_envs.features.errors import DataError


@dataclass(frozen=True)
class Between:
    """Numbers from ``low`` to ``high``, evenly spread over their logarithms; with ``log=False`` over themselves.

    Raises:
        DataError: an empty range, or a range of logarithms that begins at 0 or below.
    """

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise DataError(f"a range needs a lower and a higher end, got {self.low} to {self.high}")
        if self.log and self.low <= 0:
            raise DataError(f"a range of logarithms begins above 0, got {self.low}; use log=False")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True, init=False)
class OneOf:
    """One of several values: numbers, texts, True, False or None.

    Raises:
        DataError: fewer than two values, or one of another type.
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        if len(values) < 2:
            raise DataError(f"a choice needs two values or more, got {values}")
        for value in values:
            if not (value is None or isinstance(value, (bool, int, float, str))):
                raise DataError(f"the values of a choice are numbers, texts, True, False or None, got {value!r}")
        object.__setattr__(self, "values", values)

    def __contains__(self, value: object) -> bool:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in self.values)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {"values": list(self.values)}


Space = Mapping[str, Between | OneOf]
"""Settings by the name of ``--set``, with the values that are tried."""
