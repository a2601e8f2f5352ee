"""Units that do not fit each other: times in fractions, percent, milliseconds or frames beside durations in seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from strong_envs.features.datasets.types import Report

SLOW = 8.0
"""Frames a second that no video goes below."""
FASTEST = 30.0
"""The usual frame rate of videos: times of more than so many durations are not only suspected of being frames."""
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
        minutes = " or minutes" if all(60.0 * e <= d for e, d in times) else ""
        report.add(f"times look like fractions of the duration{minutes}", "doubtful", example)
    elif far >= 0.3 * len(times):
        report.add(f"times look like {_larger(max(ends), max(ratios), length)}", "doubtful", example)
    elif len(times) >= 4 and max(ratios) <= 1 / 60 and max(ratios) > 1 / 240:
        report.add("times look like minutes, or durations like frames", "doubtful", example)
    elif len(times) >= 4 and max(ratios) < 0.05:
        report.add("durations look like milliseconds or frames", "doubtful", example)


def _larger(end: float, ratio: float, length: float) -> str:
    """Units that are smaller than those of the durations and fit all times.

    Args:
        end: the largest time.
        ratio: the largest time over the duration of its video.
        length: the median duration.
    """
    if ratio > 150:
        return "milliseconds"
    units = ["percent"] if end <= 100.0 else []
    # At the rate of any video, frames up to 100 are less than a dozen seconds.
    if end > 100.0 or SLOW * length <= 100.0:
        units.append("frames")
    minutes = ", or durations like minutes" if FASTEST < ratio <= 60.0 else ""
    return " or ".join(units) + minutes
