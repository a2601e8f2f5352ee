"""Observations written row by row: in plain NumPy for one episode, and compiled by numba for a batch.

`copy_into` and `mean_into` work on slices; `compiled_kernels.kernels` puts `copy_loop` and `mean_loop` in their place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from strong_envs.core.spans import context_windows, frame_window
from strong_envs.temporal.compiled_stores import LANES

# Known to compiled code only: stores that pass the caches.
stream_copy: Any = None
stream_mean: Any = None
stream_end: Any = None


class Tables(NamedTuple):
    """What an observation is made of: vectors of queries (Q, Dq), frames of samples (S,), sums and means of windows.

    ``reach`` (S,) are the frames of the context. ``prefix``, ``mean``, ``base`` and ``group`` are those of f_o, the
    ``whole`` ones those of whole frames, see `WindowMeans`.
    """

    query: np.ndarray
    n_frames: np.ndarray
    reach: np.ndarray
    prefix: np.ndarray
    mean: np.ndarray
    base: np.ndarray
    group: np.ndarray
    whole_prefix: np.ndarray
    whole_mean: np.ndarray
    whole_base: np.ndarray
    whole_group: np.ndarray
    total: float
    context: bool
    moment: bool
    time: bool
    max_steps: int


def copy_into(out: np.ndarray, at: int, part: np.ndarray, stream: bool) -> None:
    """``out[at:] = part`` for one part of a row."""
    out[at : at + len(part)] = part


def mean_into(
    out: np.ndarray, at: int, prefix: np.ndarray, mean: np.ndarray, base: int, first: int, last: int, stream: bool
) -> None:
    """Write the mean of a window, from prefix sums, into ``out[at:]``; an empty window gives zeros."""
    row = out[at : at + len(mean)]
    if last <= first:
        row[:] = 0.0
        return
    np.subtract(prefix[base + last], prefix[base + first], out=row)
    row /= np.float32(last - first)
    row += mean


def copy_loop(out: np.ndarray, at: int, part: np.ndarray, stream: bool) -> None:
    """`copy_into` for compiled code; ``stream`` writes past the caches."""
    row = out[at : at + len(part)]
    if not stream:
        for d in range(len(part)):
            row[d] = part[d]
        return
    # Whole lines are streamed, and what is left on both sides of them is not.
    address: Any = np.uintp(row.ctypes.data)
    begin = min((LANES - (address // 4) % LANES) % LANES, len(part))
    stop = begin + (len(part) - begin) // LANES * LANES
    stream_copy(address + np.uintp(4 * begin), np.uintp(part.ctypes.data + 4 * begin), stop - begin)
    for d in range(begin):
        row[d] = part[d]
    for d in range(stop, len(part)):
        row[d] = part[d]


def mean_loop(
    out: np.ndarray, at: int, prefix: np.ndarray, mean: np.ndarray, base: int, first: int, last: int, stream: bool
) -> None:
    """`mean_into` for compiled code; ``stream`` writes past the caches."""
    low, high, row = prefix[base + first], prefix[base + last], out[at : at + len(mean)]
    share, weight = np.float32(1.0 / max(last - first, 1)), np.float32(last > first)
    if not stream:
        for d in range(len(mean)):
            row[d] = (high[d] - low[d]) * share + mean[d] * weight
        return
    address: Any = np.uintp(row.ctypes.data)
    begin = min((LANES - (address // 4) % LANES) % LANES, len(mean))
    stop = begin + (len(mean) - begin) // LANES * LANES
    stream_mean(
        address + np.uintp(4 * begin), np.uintp(high.ctypes.data + 4 * begin), np.uintp(low.ctypes.data + 4 * begin),
        np.uintp(mean.ctypes.data + 4 * begin), share, weight, stop - begin,
    )  # fmt: skip
    for d in range(begin):
        row[d] = (high[d] - low[d]) * share + mean[d] * weight
    for d in range(stop, len(mean)):
        row[d] = (high[d] - low[d]) * share + mean[d] * weight


def observe_row(
    row: np.ndarray, sample: int, start: float, end: float, t: int, same: bool, stream: bool, tables: Tables
) -> None:
    """Write the observation of one state into ``row`` (size,), the parts in the order of `TemporalTask.observe`.

    With ``same`` the row shows that sample already: what depends on it alone is not written again. ``stream`` writes
    past the caches.
    """
    n, b, centre = int(tables.n_frames[sample]), int(tables.base[sample]), tables.mean[tables.group[sample]]
    first, last = frame_window(start, end, tables.total, n)
    scene = tables.whole_mean[tables.whole_group[sample]]
    size = len(centre)
    begin = size - size  # not a literal, for which numba would compile `copy_into` once more
    if not same:
        copy_into(row, begin, tables.query[sample], stream)
    at = tables.query.shape[1]
    row[at] = np.float32(start) / np.float32(tables.total)
    row[at + 1] = np.float32(end) / np.float32(tables.total)
    at += 2
    span = (first, last)
    windows: tuple[tuple[Any, Any], ...] = (span, span, span, span, span)
    if tables.context:
        windows = context_windows(first, last, int(tables.reach[sample]), n)
    for w in range(5 if tables.context else 1):
        low, high = windows[w]
        mean_into(row, at, tables.prefix, centre, b, low, high, stream)
        at += size
        if w == 0:
            if tables.moment:
                mean_into(row, at, tables.whole_prefix, scene, int(tables.whole_base[sample]), first, last, stream)
            elif not same:
                copy_into(row, at, scene, stream)
            at += len(scene)
    if tables.time:
        row[at] = np.float32(t) / np.float32(tables.max_steps)


def observe_all(
    sample: np.ndarray, start: np.ndarray, end: np.ndarray, t: np.ndarray, mask: np.ndarray, out: np.ndarray,
    held: np.ndarray, keep: bool, stream: bool, *given: Any,
) -> None:  # fmt: skip
    """Write the observations of B states into ``out`` (B, size).

    Rows outside ``mask`` are not touched. ``held`` (B,) is the sample whose query a row holds, -1 for none; with
    ``keep`` what depends on the sample alone is not written again. ``stream`` writes past the caches. The rest are the
    fields of `Tables`.
    """
    tables = Tables(*given)
    for i in range(len(sample)):
        if mask[i]:
            s = sample[i]
            same = keep and held[i] == s
            held[i] = s
            observe_row(out[i], s, start[i], end[i], t[i], same, stream, tables)
    if stream:
        stream_end()
