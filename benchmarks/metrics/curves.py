"""Learning curves on the validation part: whether one is flat at its end, and the seconds to a level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LAST = 0.25
"""Share of a training at whose end its curve is judged."""
FLAT = 0.01
"""Rise of the validation mIoU over that share, below which the curve counts as flat."""

LEVELS = (0.5, 0.7, 0.8, 0.85)
"""Levels of validation mIoU for which the seconds of training are printed."""


def seconds_to(trace: Sequence[Mapping[str, Any]], level: float) -> float | None:
    """Seconds of training after which a curve first lies at a level or above; None where it never does.

    Args:
        trace: scores in the order of the training, see `rise`.
        level: mIoU, a share.
    """
    return next((float(point["seconds"]) for point in trace if float(point["IoU"]) >= level), None)


def quality_rows(
    traces: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], levels: Sequence[float] = LEVELS
) -> list[dict[str, Any]]:
    """Seconds to every level for each system.

    Returns:
        For each system its name, its ``runs``, ``best``, the mean over its runs of the highest score, and ``to``, for
        each level the seconds of every run that reached it, in ascending order.
    """
    rows = []
    for name, runs in traces.items():
        runs = [run for run in runs if run]
        reached = {level: [seconds_to(run, level) for run in runs] for level in levels}
        best = [max(float(point["IoU"]) for point in run) for run in runs]
        to = {level: sorted(one for one in found if one is not None) for level, found in reached.items()}
        rows.append({"system": name, "runs": len(runs), "best": sum(best) / max(len(best), 1), "to": to})
    return rows


def quality_markdown(
    traces: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], levels: Sequence[float] = LEVELS
) -> str:
    """`quality_rows` as a Markdown table: the mean seconds, their range, and how many runs reached the level."""
    lines = [
        "| system | runs | best mIoU | " + " | ".join(f"to {100 * level:g}" for level in levels) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(levels),
    ]
    for row in quality_rows(traces, levels):
        cells = []
        for level in levels:
            found, runs = row["to"][level], row["runs"]
            if not found:
                cells.append("-")
                continue
            spread = f" ({found[0]:.0f} to {found[-1]:.0f})" if len(found) > 1 else ""
            some = f", {len(found)} of {runs}" if len(found) < runs else ""
            cells.append(f"{sum(found) / len(found):.0f} s{spread}{some}")
        lines.append(f"| {row['system']} | {row['runs']} | {100 * row['best']:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


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
