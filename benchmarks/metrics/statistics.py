"""Intervals over seeds and queries, paired tests between systems, performance profiles.

Scores are (R, S): one row a seed (a training run), one column a query, each entry an IoU or a hit. Means are taken
over the queries of a run first; runs are then summarised by their mean or their interquartile mean (Agarwal et al.
2021). Everything is NumPy, and the same arguments give the same numbers.

Queries of one video are not independent: TACoS has 4,001 test queries in 25 videos. ``groups`` (the video of each
query, or the clip that composed videos share) makes every function draw whole videos instead of single queries, which
gives wider intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from strong_envs.benchmarks.metrics.definitions import hits
from strong_envs.features.errors import DataError

DRAWS = 2000
CONFIDENCE = 0.95
ENOUGH_SEEDS = 5
ENOUGH_VIDEOS = 10
CHUNK = 1 << 21
"""Numbers held at once while resampling."""


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval, all as fractions. ``caveat`` says what the interval leaves out, or is None."""

    mean: float
    iqm: float
    low: float
    high: float
    seeds: int
    queries: int
    confidence: float = CONFIDENCE
    caveat: str | None = None

    def as_dict(self) -> dict:
        """A JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """System a minus system b over the same queries: difference, its interval, and the p-value of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float
    queries: int
    units: int
    """Independent units that were drawn: videos if groups were given, else queries."""
    caveat: str | None = None

    def as_dict(self) -> dict:
        """A JSON-ready form."""
        return asdict(self)


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half of all values: a quarter of them, rounded down, is left out at each end.

    The definition of Agarwal et al. 2021; with fewer than four values nothing is left out.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=None)
    if not ordered.size:
        raise DataError("the interquartile mean of no values is not defined")
    return float(_iqm(ordered[None])[0])


def caveat(seeds: int | None = None, videos: int | None = None) -> str | None:
    """What an interval over so few runs or videos leaves out, for the foot of a table; None where nothing.

    Args:
        seeds: training runs, None for a system without randomness.
        videos: distinct videos, None where not known.
    """
    notes = []
    if seeds == 1:
        notes.append("1 seed: the interval covers the choice of queries only; another training run may lie outside it.")
    elif seeds is not None and seeds < ENOUGH_SEEDS:
        notes.append(f"{seeds} seeds: intervals over so few training runs are too narrow; use {ENOUGH_SEEDS} or more.")
    if videos == 1:
        notes.append("1 video: the interval covers the choice of its queries; other videos may lie outside it.")
    elif videos is not None and videos < ENOUGH_VIDEOS:
        notes.append(f"{videos} videos: intervals over so few videos are too narrow.")
    return " ".join(notes) or None


def estimate(scores: ArrayLike, **options: Any) -> Estimate:
    """`estimates` of a single metric: scores (R, S), or (S,) for one run."""
    return estimates({"": scores}, **options)[""]


def estimates(
    scores: Mapping[str, ArrayLike],
    *,
    groups: Sequence[str] | None = None,
    statistic: str = "mean",
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    deterministic: bool = False,
) -> dict[str, Estimate]:
    """Metrics with bootstrap intervals: runs and queries are both drawn with replacement, independently.

    Args:
        scores: metric name to (R, S), or (S,) for one run, all of the same system and the same shape.
        groups: (S,) video of each query, to draw videos instead of queries; of a single video, queries are drawn.
        statistic: what the interval is of: ``"mean"`` or ``"iqm"`` over the runs.
        draws: bootstrap samples.
        confidence: of the interval.
        seed: of the resampling.
        deterministic: the system has no randomness (a constant window): no caveat about its single run.
    """
    runs = {name: _scores(values) for name, values in scores.items()}
    shapes = {values.shape for values in runs.values()}
    if len(shapes) != 1:
        raise DataError(f"the metrics of one system have one shape (seeds, queries), got {sorted(shapes)}")
    over_runs = _statistic(statistic)
    ((n_runs, n_queries),) = shapes
    rng = np.random.default_rng(seed)
    means = _resampled_means(np.concatenate(list(runs.values())), groups, draws, rng)
    means = _resampled_runs(means.reshape(draws, len(runs), n_runs), rng)
    note = caveat(None if deterministic else n_runs, None if groups is None else len(set(groups)))
    found = {}
    for index, (name, values) in enumerate(runs.items()):
        each = values.mean(axis=1)
        low, high = _interval(over_runs(np.sort(means[:, index], axis=1)), confidence)
        found[name] = Estimate(
            mean=float(each.mean()),
            iqm=interquartile_mean(each),
            low=float(low),
            high=float(high),
            seeds=n_runs,
            queries=n_queries,
            confidence=confidence,
            caveat=note,
        )
    return found


def stratified_interval(
    strata: Sequence[ArrayLike],
    statistic: str = "iqm",
    *,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Stratified bootstrap over several data sets (Agarwal et al. 2021): (value, low, high).

    Args:
        strata: one array a data set, (R_d,) with the metric of each run. Runs are drawn within each data set and the
            statistic is taken over the runs of all data sets together.
        statistic: ``"mean"`` or ``"iqm"``.
        draws: bootstrap samples.
        confidence: of the interval.
        seed: of the resampling.
    """
    parts = [np.asarray(s, np.float64) for s in strata]
    if not parts or any(p.ndim != 1 or not p.size or not np.isfinite(p).all() for p in parts):
        raise DataError("each data set needs a row of finite numbers, one a run")
    over_runs = _statistic(statistic)
    rng = np.random.default_rng(seed)
    sample = np.concatenate([p[rng.integers(0, len(p), (draws, len(p)))] for p in parts], axis=1)
    low, high = _interval(over_runs(np.sort(sample, axis=1)), confidence)
    return float(over_runs(np.sort(np.concatenate(parts))[None])[0]), float(low), float(high)


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    draws: int = 10_000,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Compare two systems over the same queries, in the same order.

    Each system's score of a query is its mean over that system's runs. The p-value is of the two-sided sign-flip
    permutation test of "no difference on these queries"; the interval is a paired bootstrap. Neither covers
    training: with few runs a significant difference may be due to the seeds, and then there is a caveat.

    Args:
        a: (R, S) or (S,) scores of the first system.
        b: those of the second; the numbers of runs may differ.
        groups: (S,) video of each query, to draw whole videos.
        draws: sign flips and bootstrap samples.
        confidence: of the interval.
        seed: of the resampling.
    """
    first, second = _paired_scores(a, b)
    difference = first.mean(axis=0) - second.mean(axis=0)
    sums, _ = _by_group(difference[None], groups)
    rng = np.random.default_rng(seed)
    low, high = _interval(_resampled_means(difference[None], groups, draws, rng)[:, 0], confidence)
    total, extreme, step = sums[0], 0, max(1, CHUNK // sums.shape[1])
    observed = abs(total.sum())
    for start in range(0, draws, step):
        signs = rng.integers(0, 2, (min(step, draws - start), len(total)), np.int8).astype(np.float64)
        # Flipping signs at random: the sum with signs of +1 and -1 is twice the sum of those kept, less the total.
        flipped = 2.0 * (signs @ total) - total.sum()
        extreme += int((np.abs(flipped) >= observed - 1e-9 * max(1.0, observed)).sum())
    runs = min(len(first), len(second))
    return Comparison(
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        p_value=(1 + extreme) / (1 + draws),
        queries=len(difference),
        units=len(total),
        caveat=caveat(runs, None if groups is None else len(set(groups))),
    )


def difference_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    draws: int = 10_000,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Compare two systems as they would come out with other training runs and other videos.

    A bootstrap draws training runs of each system and, the same ones for both, videos. The interval is of the
    difference of the means; the p-value is twice the share of draws on the other side of zero. `paired_test` asks less:
    whether these very runs differ on other queries.

    Args:
        a: (R, S) or (S,) scores of the first system.
        b: those of the second; the numbers of runs may differ.
        groups: (S,) what is drawn as a whole: the video of each query, or the clip that several videos share.
        draws: bootstrap samples.
        confidence: of the interval.
        seed: of the resampling.
    """
    first, second = _paired_scores(a, b)
    rng = np.random.default_rng(seed)
    means = _resampled_means(np.concatenate((first, second)), groups, draws, rng)
    sides = means[:, None, : len(first)], means[:, None, len(first) :]
    ours, theirs = (_resampled_runs(side, rng).mean(axis=(1, 2)) for side in sides)
    low, high = _interval(ours - theirs, confidence)
    # Equal means, such as of a system with itself, come out apart by rounding.
    below, above = (ours - theirs <= 1e-12).sum(), (ours - theirs >= -1e-12).sum()
    return Comparison(
        difference=float(first.mean() - second.mean()),
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2.0 * (1 + int(min(below, above))) / (1 + draws)),
        queries=first.shape[1],
        units=_by_group(first, groups)[0].shape[1],
        caveat=caveat(min(len(first), len(second)), None if groups is None else len(set(groups))),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several claims (Holm 1979), in their order.

    All claims whose adjusted value is at most alpha can be made together: the chance that any of them is wrong is then
    at most alpha. The smallest of n values is multiplied by n, the next by n - 1 and so on, never falling.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise DataError(f"p-values lie in [0, 1], got {[p for p in p_values if not 0 <= p <= 1]}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def performance_profile(
    scores: ArrayLike,
    thresholds: ArrayLike,
    *,
    comparison: str = ">=",
    groups: Sequence[str] | None = None,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of runs x queries whose score reaches each threshold, with a pointwise interval: three arrays (M,).

    The run-score distribution of Agarwal et al. 2021, with IoUs as scores; at m it is Acc@m. That paper counts with
    ``">"``; the default here is the comparison of the main protocol.
    """
    runs = _scores(scores)
    levels = np.atleast_1d(np.asarray(thresholds, np.float64))
    reached = np.concatenate([hits(runs, m, comparison) for m in levels]).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = _resampled_means(reached, groups, draws, rng).reshape(draws, len(levels), len(runs))
    low, high = _interval(_resampled_runs(means, rng).mean(axis=2), confidence)
    return reached.mean(axis=1).reshape(len(levels), len(runs)).mean(axis=1), low, high


def _paired_scores(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two systems, (R, S) each, refused where they are not of the same number of queries."""
    first, second = _scores(a), _scores(b)
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"a paired test needs the same queries: the first system has {first.shape[1]}, the second {second.shape[1]}"
        )
    return first, second


def _scores(scores: ArrayLike) -> np.ndarray:
    runs = np.atleast_2d(np.asarray(scores, np.float64))
    if runs.ndim != 2 or not runs.size:
        raise DataError(f"scores have shape (seeds, queries) or (queries,), got {np.shape(scores)}")
    if not np.isfinite(runs).all():
        raise DataError(f"{int((~np.isfinite(runs)).sum())} of {runs.size} scores are not finite numbers")
    return runs


def _statistic(name: str) -> Callable[[np.ndarray], np.ndarray]:
    known = {"mean": lambda rows: rows.mean(axis=1), "iqm": _iqm}
    if name not in known:
        raise DataError(f"the statistic must be one of {sorted(known)}, got {name!r}")
    return known[name]


def _iqm(ordered: np.ndarray) -> np.ndarray:
    """Interquartile mean of each row of an array whose rows are sorted."""
    cut = ordered.shape[1] // 4
    return ordered[:, cut : ordered.shape[1] - cut].mean(axis=1)


def _interval(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    if not 0 < confidence < 1:
        raise DataError(f"the confidence lies between 0 and 1, got {confidence}")
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def _by_group(runs: np.ndarray, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the scores (R, G) and numbers of queries (G,) of each group; without groups each query is one."""
    if groups is not None and len(groups) != runs.shape[1]:
        raise DataError(f"there are {len(groups)} groups for {runs.shape[1]} queries")
    if groups is None:
        return runs, np.ones(runs.shape[1])
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    # One video drawn again and again would give an interval of width 0.
    if len(names) == 1:
        return runs, np.ones(runs.shape[1])
    sums = np.stack([np.bincount(index, row, len(names)) for row in runs])
    return sums, np.bincount(index, minlength=len(names)).astype(np.float64)


def _resampled_means(
    runs: np.ndarray, groups: Sequence[str] | None, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Mean of each row of ``runs`` (R, S) over queries (or groups of them) drawn with replacement: (draws, R)."""
    if draws < 1:
        raise DataError(f"draws must be 1 or more, got {draws}")
    sums, sizes = _by_group(runs, groups)
    units, step = len(sizes), max(1, CHUNK // len(sizes))
    means = np.empty((draws, len(runs)))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        picked = rng.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
        times = np.bincount(picked.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)
        means[start : start + rows] = (times @ sums.T) / (times @ sizes)[:, None]
    return means


def _resampled_runs(means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw runs with replacement, the same ones for every metric of a draw: (draws, P, R) to (draws, P, R)."""
    draws, _, n_runs = means.shape
    if n_runs == 1:
        return means
    picked = rng.integers(0, n_runs, (draws, 1, n_runs))
    return np.take_along_axis(means, np.broadcast_to(picked, means.shape), axis=2)
