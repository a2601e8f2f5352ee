"""Scores of predictions: every metric of the table, one value a query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strong_envs.agents.registry import Prediction
from strong_envs.benchmarks.metrics.catalogue import METRICS
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth
from strong_envs.benchmarks.metrics.metric import Metric
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError


def score(
    prediction: Prediction,
    truth: FeatureBank | GroundTruth,
    thresholds: Sequence[float] = (),
    comparison: str = ">=",
) -> dict[str, np.ndarray]:
    """Values per query, (S,) float64 each, of every metric that applies to a prediction.

    Args:
        prediction: of every query of the split.
        truth: the bank that was predicted, or its `GroundTruth`.
        thresholds: the m of Acc@m and R@n IoU=m; without any these are left out.
        comparison: of a hit, ``">="`` or ``">"``.

    Returns:
        ``IoU``, ``IoU signed``, ``IoU legacy``, ``dR@1 IoU=.5``, ``m_vIoU``, ``steps`` and so on: the columns of
        `benchmarks.metrics.catalogue`, under the name of a single value where that is another one (``IoU`` of mIoU).
    """
    known = truth if isinstance(truth, GroundTruth) else GroundTruth.of_bank(truth)
    found = {}
    for entry in METRICS.values():
        if entry.per_run or entry.statistic != "mean":
            continue
        for m in entry.levels(thresholds):
            values = entry.values(prediction, known) if m is None else entry.values(prediction, known, m, comparison)
            if values is not None:
                found[entry.single or entry.column(m)] = _one_each(entry, values, len(known.durations))
    return found


def _one_each(entry: Metric, values: np.ndarray, count: int) -> np.ndarray:
    """The values as float64; `DataError` where there is not one finite number a query."""
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (count,):
        raise DataError(f"the metric {entry.name!r} must return ({count},) values, one a query; got {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise DataError(f"the metric {entry.name!r} returned {int((~np.isfinite(numbers)).sum())} numbers not finite")
    return numbers
