"""Units that do not fit each other: times in fractions, percent, milliseconds or frames beside durations in seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from strong_envs.features.datasets.types import Report

SLOW = 8.0
"""Frames a second that no video goes below."""
FAR = 1.5
"""A time of more than so many durations is far outside of its video."""


def suspect_units(times: Sequence[tuple[float, float]], report: Report, where: str) -> None:
    """Add a doubtful row where the times of a split and the durations of its videos look like different units.

    Args:
        times: (end of a window as the file states it, duration of its video), both after conversion to seconds.
        report: takes the row.
        where: the split, for the example.
    """
    if not times:
        return
    ends, durations = [e for e, _ in times], [d for _, d in times]
    ratios = [e / d for e, d in times]
    length = statistics.median(durations)
    example = f"{where}: ends up to {max(ends):g}, durations up to {max(durations):g} s"
    far = sum(r > FAR for r in ratios)
    if max(durations) <= 1.0:
        report.add("no video is longer than one second", "doubtful", example)
    elif max(ends) <= 1.0 and length > 2.0:
        report.add("times look like fractions of the duration", "doubtful", example)
    elif far >= 0.3 * len(times):
        unit = "milliseconds" if max(ratios) > 150 else "percent" if max(ends) <= 100.0 < SLOW * length else "frames"
        report.add(f"times look like {unit}", "doubtful", example)
    elif len(times) >= 4 and max(ratios) < 0.05:
        report.add("durations look like milliseconds or frames", "doubtful", example)
