"""What tables ask about a column by its heading: order, percent, legend, and which columns go first."""

from __future__ import annotations

import re
from collections.abc import Iterable

from strong_envs.benchmarks.metrics.catalogue import METRICS
from strong_envs.benchmarks.metrics.metric import Metric
from strong_envs.features.errors import DataError, nearest


def find(column: str) -> tuple[Metric, float | None] | None:
    """The metric of a column and its threshold, or None for a column of another release."""
    if column in METRICS:
        return METRICS[column], None
    for entry in METRICS.values():
        head, mark, tail = entry.name.partition("{m}")
        if mark and (found := re.fullmatch(f"{re.escape(head)}(\\d*\\.?\\d+){re.escape(tail)}", column)):
            return entry, float(found[1])
    return None


def all_columns(thresholds: Iterable[float]) -> list[str]:
    """Every column that a row can have under the thresholds of a protocol."""
    levels = tuple(thresholds)
    return [entry.column(m) for entry in METRICS.values() for m in entry.levels(levels)]


def is_percent(column: str) -> bool:
    """Whether the numbers of a column are shares."""
    found = find(column)
    return found is not None and found[0].percent


def is_detail(column: str) -> bool:
    """Whether tables leave a column out unless it is asked for."""
    found = find(column)
    if found is None:
        return False
    entry, m = found
    return entry.detail if isinstance(entry.detail, bool) else m in entry.detail


def drop_rank(column: str) -> int:
    """Columns with the lowest number are the first that a narrow terminal leaves out; 0 stays."""
    found = find(column)
    if found is None:
        return 0
    entry, m = found
    return entry.drop if isinstance(entry.drop, int) else entry.drop.get(m if m is not None else -1.0, 0)


def in_order(columns: Iterable[str]) -> list[str]:
    """Columns in the order of the table of metrics, each once; those of one metric by threshold, unknown ones last."""
    places = {name: i for i, name in enumerate(METRICS)}

    def place(column: str) -> tuple[int, float]:
        found = find(column)
        return (len(places), 0.0) if found is None else (places[found[0].name], found[1] or 0.0)

    return sorted(dict.fromkeys(columns), key=place)


def legend_of(columns: Iterable[str]) -> list[str]:
    """What the columns are, a line a metric: ``Acc@m: share of queries ...``."""
    found = (find(column) for column in columns)
    entries = dict.fromkeys(pair[0].name for pair in found if pair is not None)
    return [f"{name.replace('{m}', 'm')}: {METRICS[name].legend}" for name in entries]


def known_columns(wanted: Iterable[str], known: Iterable[str]) -> list[str]:
    """The wanted columns.

    Raises:
        DataError: a column that is not among the known ones; the message names the nearest.
    """
    wanted, known = list(wanted), list(known)
    for name in wanted:
        if name not in known:
            raise DataError(f"no row has the metric {name!r}{nearest(name, known)}; metrics are {known}")
    return wanted
