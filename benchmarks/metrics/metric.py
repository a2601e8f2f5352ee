"""What a metric is, and the table of all metrics; the entries themselves stand in `benchmarks.metrics.catalogue`.

A metric is one function and what a table has to know about its column::

    @metric("middle error", "distance of the predicted from the true middle, in seconds", percent=False)
    def middle_error(prediction: Prediction, truth: GroundTruth) -> np.ndarray:
        middles = np.nanmean(truth.windows, axis=2)
        return np.nanmin(abs(spans_of(prediction).mean(1)[:, None] - middles), axis=1)

Tables are computed from stored predictions, so a metric that is added has its column in the table of every run,
finished ones included.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from strong_envs.benchmarks.metrics.definitions import threshold_text
from strong_envs.features.errors import DataError


@dataclass(frozen=True)
class Metric:
    """One column of the tables, or one for each threshold.

    Attributes:
        name: heading of the column. With ``{m}`` in it the metric has one column for each threshold of IoU.
        values: of a metric of predictions ``(prediction, truth)``, followed by ``(m, comparison)`` where the name has
            ``{m}``; returns (S,) numbers, one a query, or None where the prediction does not have what it needs. Of a
            metric of runs ``(run)``, the stored cell; returns one number or None.
        legend: what the numbers are, one line for the foot of a table.
        per_run: a metric of training runs (seconds, parameters), which has no value per query and no interval.
        percent: a share, shown in percent with two decimals.
        detail: columns that tables leave out unless ``--metrics`` asks for them: all, none, or some thresholds.
        drop: columns that a narrow terminal leaves out first have the lowest number; 0 always stays. A mapping gives
            it by threshold.
        thresholds: the m, where they are not those of the protocol.
        single: name of the value of one query, where it differs from the name of the column.
        statistic: over the training runs: ``"mean"`` or ``"iqm"``.
        fewest_runs: training runs below which the column is empty.
    """

    name: str
    values: Callable[..., Any]
    legend: str
    per_run: bool = False
    percent: bool = True
    detail: bool | Collection[float] = False
    drop: int | Mapping[float, int] = 0
    thresholds: tuple[float, ...] | None = None
    single: str = ""
    statistic: str = "mean"
    fewest_runs: int = 1

    def column(self, m: float | None = None) -> str:
        """The heading at a threshold: ``Acc@.5`` for ``Acc@{m}`` and 0.5."""
        return self.name if m is None else self.name.replace("{m}", threshold_text(m))

    def levels(self, protocol: Iterable[float]) -> tuple[float | None, ...]:
        """The thresholds of its columns under a protocol's; ``(None,)`` of a metric without any."""
        if "{m}" not in self.name:
            return (None,)
        return tuple(protocol) if self.thresholds is None else self.thresholds


METRICS: dict[str, Metric] = {}
"""Name to metric, in the order of the columns."""


def register(entry: Metric) -> Metric:
    """Add a metric behind the last column.

    Raises:
        DataError: a metric of this name exists, or its statistic is unknown.
    """
    if entry.name in METRICS:
        raise DataError(f"there is a metric {entry.name!r} already")
    if entry.statistic not in ("mean", "iqm"):
        raise DataError(f"the statistic of {entry.name!r} must be 'mean' or 'iqm', got {entry.statistic!r}")
    METRICS[entry.name] = entry
    return entry


def metric(name: str, legend: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as a metric; arguments as of `Metric`."""

    def add(values: Callable[..., Any]) -> Callable[..., Any]:
        register(Metric(name, values, legend, **options))
        return values

    return add
