"""Learning curves on the validation part: whether one is flat at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LAST = 0.25
"""Share of a training at whose end its curve is judged."""
FLAT = 0.01
"""Rise of the validation mIoU over that share, below which the curve counts as flat."""


def rise(trace: Sequence[Mapping[str, Any]]) -> float | None:
    """How much the validation mIoU rose over the last quarter of a training, negative where it fell.

    The rule: the score at the end minus the last one at or before three quarters of the training. Shares are of the
    last stage, counted in its steps; an alternating training is judged by its last turn.

    Args:
        trace: scores in the order of the training, see `benchmarks.execution.timed_training.TimedTraining`.

    Returns:
        A difference of shares, 0.01 is one point; None of a trace with no score before its last quarter.
    """
    shares = [(_share(point), float(point["IoU"])) for point in trace]
    start = len(shares) - 1
    # Shares begin anew with every stage.
    while start > 0 and shares[start - 1][0] < shares[start][0]:
        start -= 1
    before = [score for share, score in shares[max(start, 0) :] if share <= 1 - LAST]
    return shares[-1][1] - before[-1] if before and shares[-1][0] >= 1 else None


def _share(point: Mapping[str, Any]) -> float:
    return float(point.get("done", 0)) / max(float(point.get("total", 1)), 1e-9)


def verdict(change: float | None) -> str | None:
    """``"flat"`` or ``"rising"``; None where the curve was not measured."""
    return None if change is None else "flat" if change < FLAT else "rising"
