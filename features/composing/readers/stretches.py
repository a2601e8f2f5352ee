"""Times that a list gives for its clips: a clip is a file of its own, cut already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from strong_envs.features.datasets.parsing import number
from strong_envs.features.errors import DataError

STARTS = (
    "start",
    "start_time",
    "start time",
    "starttime",
    "start_sec",
    "start_seconds",
    "t_start",
    "begin",
    "begin_time",
)
ENDS = ("end", "end_time", "end time", "endtime", "end_sec", "end_seconds", "t_end", "stop", "finish")
PAIRS = (
    *("timestamps", "timestamp", "times", "segments", "segment", "moments", "windows", "window", "relevant_windows"),
    *("time_range", "spans", "span"),
)
Stretch = tuple[float, float]


def stretches_of(row: Mapping[str, Any]) -> list[Stretch]:
    """The stretches of seconds that a row (names in lower case) gives: of two fields, or of a list of pairs."""
    found = [_pair([_first(row, STARTS), _first(row, ENDS)])]
    for name in PAIRS:
        value = row.get(name)
        if isinstance(value, list):
            found += [_pair(value)] if value and not isinstance(value[0], list) else [_pair(v) for v in value]
    return [s for s in found if s is not None]


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[n] for n in names if row.get(n) not in (None, "")), None)


def _pair(value: object) -> Stretch | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    start, end = map(_seconds, value)
    return None if start is None or end is None or not 0 <= start < end else (start, end)


def _seconds(value: object) -> float | None:
    """A number, also one that a table holds as text."""
    try:
        return number(float(value)) if isinstance(value, str) else number(value)
    except ValueError:
        return None


def refuse_several(given: Mapping[str, set[Stretch]]) -> None:
    """Raise `DataError` where one file is given with several stretches: its captions are true of a part of it each.

    Args:
        given: the stretches of each file.
    """
    several = {name: sorted(stretches) for name, stretches in given.items() if len(stretches) > 1}
    if several:
        name, found = next(iter(several.items()))
        shown = ", ".join(f"{a:g} to {b:g} s" for a, b in found[:3])
        raise DataError(
            f"{len(several):,} files are given with several stretches of time (for example {name!r}: {shown}); compose "
            "takes trimmed clips, each true from its beginning to its end: cut each stretch to a file of its own. "
            "Moments of long videos are read by strong-envs extract"
        )
