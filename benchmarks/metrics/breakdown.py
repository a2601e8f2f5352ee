"""Scores by what the true moment is like: how long it is, and where in the video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from strong_envs.benchmarks.metrics.ground_truth import units_of
from strong_envs.benchmarks.metrics.statistics import estimate
from strong_envs.features.errors import DataError, nearest

KINDS = {"length": "length of the true moment", "position": "middle of the true moment"}
BINS = 5
FEWEST = 5
"""Queries that a bin needs; smaller bins are left out."""


@dataclass(frozen=True)
class Bin:
    """Queries whose true moment lies in [low, high) of the video; ``index`` (n,) are their rows."""

    low: float
    high: float
    index: np.ndarray

    @property
    def label(self) -> str:
        """The part of the video, such as 20 to 40 %."""
        return f"{100 * self.low:.0f}\N{EN DASH}{100 * self.high:.0f} %"


def bins(truth: Any, kind: str, count: int = BINS) -> list[Bin]:
    """Bins of queries by their true windows, fractions of the video; only those with `FEWEST` queries or more.

    A query with several true windows is in the bin of each of them.

    Positions are cut evenly over the video. Lengths are cut evenly between the shortest and the longest: cut over the
    video, a collection of short moments would have a single bin.
    """
    if kind not in KINDS:
        raise DataError(f"a breakdown is by one of {sorted(KINDS)}, got {kind!r}{nearest(kind, KINDS)}")
    windows = true_windows(truth)
    values = windows[..., 1] - windows[..., 0] if kind == "length" else windows.mean(-1)
    low, high = (float(values.min()), float(values.max())) if kind == "length" else (0.0, 1.0)
    edges = np.linspace(low, max(high, low + 1e-6), count + 1)
    which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, count - 1)
    found = [Bin(float(edges[i]), float(edges[i + 1]), np.flatnonzero((which == i).any(axis=1))) for i in range(count)]
    return [b for b in found if len(b.index) >= FEWEST]


def true_windows(truth: Any) -> np.ndarray:
    """The true windows of a result file as (S, K, 2): (S, 2), or a list of windows for each query.

    Where a query has fewer than K its last one is repeated.
    """
    each = [np.asarray(windows, np.float64).reshape(-1, 2) for windows in truth]
    if not each or not all(len(windows) for windows in each):
        raise DataError("a result file has one true window or more for each query")
    most = max(len(windows) for windows in each)
    return np.stack([np.concatenate([w, np.repeat(w[-1:], most - len(w), axis=0)]) for w in each])


def table(per_query: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """MIoU of every system in every bin: rows with ``bin``, ``queries`` and ``systems`` label to (mean, low, high)."""
    units = np.array(units_of(per_query))
    rows = []
    for b in bins(per_query["truth"], kind):
        systems = {}
        for label, runs in per_query["IoU"].items():
            found = estimate(np.array(runs)[:, b.index], groups=units[b.index].tolist(), draws=400)
            systems[label] = (found.mean, found.low, found.high)
        middle = (b.low + b.high) / 2
        rows.append({"bin": b.label, "middle": middle, "queries": len(b.index), "systems": systems})
    return rows
