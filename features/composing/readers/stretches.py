"""Times that a list gives for its clips: a clip is a file of its own, cut already."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from strong_envs.features.composing.readers.fields import FIELDS, pick
from strong_envs.features.datasets.parsing import number
from strong_envs.features.errors import DataError

Stretch = tuple[float, float]
SAME = 0.1
"""Seconds by which two writings of one time may differ."""
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d*)?)")
_TIME = re.compile(r"^(start|begin|end|stop)[ _]?(time|frame|sec|ms|second|idx)?s?$|^(time|frame)[ _]?(start|end)$")


def stretches_of(row: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> tuple[list[Stretch], bool]:
    """The stretches of seconds that a row (names in lower case) gives: of two fields, or of a list of pairs.

    Returns:
        The stretches, and whether the row has times that cannot be read as such.
    """
    start, end = pick(row, names["start"]), pick(row, names["end"])
    if start is not None and end is None:
        begin, length = seconds(start), seconds(pick(row, ("duration",)))
        end = None if begin is None or length is None else begin + length
    given = pick(row, names["times"])
    if isinstance(given, str) and given.lstrip().startswith("["):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            given = None
    pairs = [[start, end]] if start is not None and end is not None else []
    if isinstance(given, list) and given:
        pairs += [given] if not isinstance(given[0], list) else given
    found = [s for s in map(_pair, pairs) if s is not None]
    known = {*FIELDS["start"], *FIELDS["end"]}
    unread = any(_TIME.match(name) and row[name] not in (None, "") and name not in known for name in row)
    return found, len(found) < len(pairs) or (unread and not found)


def _pair(value: object) -> Stretch | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    start, end = map(seconds, value)
    return None if start is None or end is None or not 0 <= start < end else (start, end)


def seconds(value: object) -> float | None:
    """A time as a number, also where it is text: of a table, or of a clock (``0:01:02.5``); None for anything else."""
    if not isinstance(value, str):
        return number(value)
    clock = _CLOCK.fullmatch(value.strip())
    if clock is not None:
        return 3600.0 * int(clock[1] or 0) + 60.0 * int(clock[2]) + float(clock[3])
    try:
        return number(float(value))
    except ValueError:
        return None


def refuse_several(given: Mapping[str, Iterable[Stretch]]) -> None:
    """Raise `DataError` where one file is given with several stretches: its captions are true of a part of it each.

    Args:
        given: the stretches of each file.
    """
    several = {}
    for name, stretches in given.items():
        found = sorted(stretches)
        if any(abs(a[0] - b[0]) > SAME or abs(a[1] - b[1]) > SAME for a, b in itertools.pairwise(found)):
            several[name] = found
    if several:
        name, found = next(iter(several.items()))
        shown = ", ".join(f"{a:g} to {b:g} s" for a, b in found[:3])
        raise DataError(
            f"{len(several):,} files are given with several stretches of time (for example {name!r}: {shown}); compose "
            "takes trimmed clips, each true from its beginning to its end: cut each stretch to a file of its own, or "
            "name the field of these files with --field file=NAME. --field start=- reads no times. Moments of long "
            "videos are read by strong-envs extract"
        )
