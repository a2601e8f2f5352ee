"""Whether numbers of feature rows fit the durations of their videos, and whether arrays are the right way round."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError

ROW_TOLERANCE = 2
LENGTH_TOLERANCE = 0.05
MAX_ROWS_PER_SECOND = 240.0
"""More rows than this are no features of frames."""
MAX_SECONDS_PER_ROW = 60.0
CHANNELS = frozenset({128, 256, 300, 384, 500, 512, 640, 768, 1024, 1280, 1536, 2048, 2304, 2560, 2816, 3072, 4096})
"""Usual lengths of a feature vector."""

Named = tuple[str, tuple[int, ...]]
"""A video's id and the shape (n, D) of its array."""


def check_lengths(
    rows: Mapping[str, int],
    durations: Mapping[str, float],
    seconds_per_row: float | None,
    report: Report,
    slack: Mapping[str, float] | None = None,
) -> float | None:
    """Compare feature lengths with durations: a misfit of more than 2 rows and 5 % is a doubtful row of the report.

    Args:
        rows: feature rows by video id.
        durations: seconds by video id.
        seconds_per_row: what one row covers; None takes the median of duration / rows.
        report: takes the misfits.
        slack: seconds by video id by which a video may be shorter than its duration, see `Video`.

    Returns:
        Seconds per row where all videos share it, None where they do not (features resampled to a fixed length).
    """
    common = {video: n for video, n in rows.items() if video in durations}
    if not common:
        return seconds_per_row
    for video, n in common.items():
        rate = n / durations[video]
        if rate > MAX_ROWS_PER_SECOND:
            what = f"{video}: {n:,} rows for {durations[video]:g} s, {rate:,.0f} a second"
            report.add("more feature rows than a video has frames", "doubtful", what)
        elif rate < 1 / MAX_SECONDS_PER_ROW and durations[video] > 2 * MAX_SECONDS_PER_ROW:
            what = f"{video}: {n:,} rows for {durations[video]:g} s"
            report.add("one feature row covers more than a minute", "doubtful", what)
    spread = max(durations[v] for v in common) / min(durations[v] for v in common)
    if seconds_per_row is None and len(common) > 1 and len(set(common.values())) == 1 and spread > 1 + LENGTH_TOLERANCE:
        kind = "every video has the same number of rows: features resampled to a fixed length"
        report.add(kind, "doubtful", f"{next(iter(common.values()))} rows")
        return None
    step = seconds_per_row or float(np.median([durations[v] / n for v, n in common.items()]))
    if not step > 0:
        raise DataError(f"seconds_per_row must be positive, got {seconds_per_row!r}")
    misfits = 0
    for video, n in common.items():
        expected, shorter = durations[video] / step, (slack or {}).get(video, 0.0) / step
        tolerance = max(ROW_TOLERANCE, LENGTH_TOLERANCE * expected)
        if not -tolerance - shorter <= n - expected <= tolerance:
            misfits += 1
            what = f"{video}: {n} rows, {expected:.1f} expected for {durations[video]:g} s at {step:.4g} s a row"
            report.add("feature length does not fit the duration", "doubtful", what)
    return None if seconds_per_row is None and misfits else step


def transposed_for_sure(one: Named, other: Named, durations: Mapping[str, float]) -> bool:
    """Whether the widths of two arrays with the same number of rows differ as the durations of their videos do."""
    (a, (rows, width)), (b, (rows_b, width_b)) = one, other
    if rows != rows_b or width == width_b or a not in durations or b not in durations:
        return False
    expected = width * durations[b] / durations[a]
    return abs(width_b - expected) <= max(ROW_TOLERANCE, LENGTH_TOLERANCE * expected)


def all_look_transposed(shapes: Mapping[str, tuple[int, ...]], durations: Mapping[str, float] | None) -> bool:
    """Whether all arrays have one shape, of two usual lengths of feature vectors, that is more likely (channels, rows).

    An example is (512, 128), videos resampled to 128 rows; a single array of that shape says nothing.

    Args:
        shapes: (n, D) by video id.
        durations: seconds by video id; arrays of videos of equal length are not suspected.
    """
    if len(shapes) < 2 or len(set(shapes.values())) > 1:
        return False
    known = [durations[video] for video in shapes if video in durations] if durations else []
    if known and max(known) <= min(known) * (1 + LENGTH_TOLERANCE):
        return False
    rows, width = next(iter(shapes.values()))
    return rows in CHANNELS and width in CHANNELS and width < rows


def looks_transposed(shape: tuple[int, ...]) -> bool:
    """Whether an array has a usual number of channels as rows, and fewer columns than any usual number of channels."""
    rows, width = shape
    return rows in CHANNELS and width < rows and width not in CHANNELS and width > 1
