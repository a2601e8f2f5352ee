"""Settings of systems by name, as `agents.settings` has them, and the lists of values that a sweep goes through."""

from __future__ import annotations

from typing import Any

from agents.settings import check_settings, parse_settings, parse_value, places, with_setting, with_settings
from features.records import DataError

__all__ = [
    "check_settings",
    "parse_settings",
    "parse_value",
    "parse_values",
    "places",
    "with_setting",
    "with_settings",
]


def parse_values(text: str) -> list[Any]:
    """``"0,0.2,0.4"`` to values; with semicolons the values themselves may have commas: ``"(64,64);(256,128)"``."""
    values = [parse_value(part) for part in text.split(";" if ";" in text else ",") if part.strip()]
    if not values:
        raise DataError(f"values are written 0,0.2,0.4; got {text!r}")
    if len({repr(v) for v in values}) < len(values):
        raise DataError(f"a value stands twice in {text!r}")
    return values
