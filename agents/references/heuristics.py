"""Reference predictors that ignore the video: the scores that a system has to exceed.

Every predictor is fitted on the queries of the training split and predicts one window a query::

    constant = REFERENCES["constant"]().fit(QuerySet.of(annotations, "train"))
    windows = constant.predict(QuerySet.of(annotations, "test"))      # (S, 2) seconds

All work on windows as fractions of the duration. Only `Oracle` reads the truth of the queries it predicts: it is
the upper bound of the action grid, not a system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from strong_envs.agents.references.tfidf import TfIdf
from strong_envs.core.spans import CLAMPED, STOP, TIE, move, move_table, overlap
from strong_envs.features.datasets.types import Query
from strong_envs.features.errors import DataError, nearest

INITIAL_SPAN = (0.25, 0.75)


@dataclass(frozen=True)
class QuerySet:
    """Queries as arrays, the input of a reference predictor.

    ``texts`` (S,) sentences; ``durations`` (S,) float64 seconds of each query's video; ``windows`` (S, K, 2) float64
    seconds, filled up with rows of NaN where a query has fewer than K true windows; ``videos`` (S,) ids.
    """

    texts: tuple[str, ...]
    durations: np.ndarray
    windows: np.ndarray
    videos: tuple[str, ...]
    qids: tuple[str, ...]
    units: tuple[str, ...] = ()
    """(S,) `Query.unit`; empty where each video is one."""

    @classmethod
    def of(cls, source: Any, split: str) -> QuerySet:
        """The queries of one split of `features.Annotations` or of a `features.FeatureStore`."""
        videos = source.videos.values() if isinstance(source.videos, Mapping) else source.videos
        known = sorted({q.split for q in source.queries})
        if split not in known:
            raise DataError(f"{source.name} has no split {split!r}{nearest(split, known)}; it has {known}")
        return cls.from_records([q for q in source.queries if q.split == split], {v.id: v.duration for v in videos})

    @classmethod
    def from_records(cls, queries: Iterable[Query], durations: Mapping[str, float]) -> QuerySet:
        """From query records and the duration in seconds of each video."""
        rows = list(queries)
        if not rows:
            raise DataError("a reference predictor needs at least one query")
        missing = sorted({q.video for q in rows} - set(durations))
        if missing:
            raise DataError(f"no duration is known of {len(missing)} videos, the first is {missing[0]!r}")
        most = max(len(q.windows) for q in rows)
        windows = np.full((len(rows), most, 2), np.nan)
        for row, query in zip(windows, rows, strict=True):
            row[: len(query.windows)] = query.windows
        return cls(
            tuple(q.text for q in rows),
            np.array([durations[q.video] for q in rows], np.float64),
            windows,
            tuple(q.video for q in rows),
            tuple(q.qid for q in rows),
            tuple(q.unit for q in rows),
        )

    @property
    def fractions(self) -> np.ndarray:
        """The true windows as fractions of the duration: (S, K, 2)."""
        return self.windows / self.durations[:, None, None]

    def __len__(self) -> int:
        return len(self.texts)


class Reference(Protocol):
    """A predictor: ``label`` names its row in a table, ``description`` is the sentence below the table."""

    label: str
    description: str
    sees: str
    learns_from: str
    """As of `agents.registry.SystemSpec`; the oracle alone sees the true windows."""

    def fit(self, train: QuerySet) -> Reference:
        """Learn from the training queries and return itself."""

    def predict(self, queries: QuerySet) -> np.ndarray:
        """One window a query: (S, 2) seconds."""


class Whole:
    """The whole video."""

    label = "full video"
    sees = "nothing"
    learns_from = "nothing"
    description = "Predicts the whole video."

    def fit(self, train: QuerySet) -> Whole:
        """Nothing to fit."""
        return self

    def predict(self, queries: QuerySet) -> np.ndarray:
        """(S, 2) seconds."""
        return _seconds(np.array([0.0, 1.0]), queries)


class Initial:
    """The window where every episode starts (section 3.2 of the paper), without a move."""

    label = "initial window"
    sees = "nothing"
    learns_from = "nothing"
    description = "Predicts the agents' initial window, [0.25, 0.75] of the video: an agent that stops at once."

    def fit(self, train: QuerySet) -> Initial:
        """Nothing to fit."""
        return self

    def predict(self, queries: QuerySet) -> np.ndarray:
        """(S, 2) seconds."""
        return _seconds(np.array(INITIAL_SPAN), queries)


class Constant:
    """One window for all queries: the best on the training queries, among the windows with ends on a grid.

    Args:
        cells: cells of the grid, 100 for steps of 0.01.
        threshold: None maximises the training mIoU; a number m maximises the training Acc@m.
    """

    label = "constant"
    sees = "nothing"
    learns_from = "window labels"
    description = "Predicts one window for every query, fitted on the training queries; it sees no video and no query."

    def __init__(self, cells: int = 100, threshold: float | None = None) -> None:
        self.cells, self.threshold = cells, threshold
        self.window: np.ndarray | None = None

    def fit(self, train: QuerySet) -> Constant:
        """Find the best window on the grid."""
        self.window = best_window(train.fractions, self.cells, self.threshold)
        return self

    def predict(self, queries: QuerySet) -> np.ndarray:
        """(S, 2) seconds."""
        return _seconds(_fitted(self, self.window), queries)


class RandomWindow:
    """Two uniform positions, sorted. Each seed is one draw of all queries."""

    label = "random window"
    sees = "nothing"
    learns_from = "nothing"
    description = "Draws both ends uniformly and sorts them; the mean of many draws."

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, train: QuerySet) -> RandomWindow:
        """Nothing to fit."""
        return self

    def predict(self, queries: QuerySet) -> np.ndarray:
        """(S, 2) seconds."""
        rng = np.random.default_rng(self.seed)
        return _seconds(np.sort(rng.random((len(queries), 2)), axis=1), queries)


class QueryNeighbours:
    """The window that fits the moments of the most similar training sentences; the video is not read.

    Sentences are TF-IDF vectors of words (`TfIdf`). Among the windows with ends on a grid, the one with the highest
    mean IoU with the k nearest training queries' windows, weighted by cosine similarity, is predicted. A sentence
    that shares no word with the training queries gets the best constant window.

    Args:
        k: training queries that count.
        cells: cells of the grid, 50 for steps of 0.02.
        threshold: None maximises the mean IoU; a number m maximises the share of IoUs that reach m.
    """

    label = "query only (kNN)"
    sees = "sentences"
    learns_from = "window labels"
    description = (
        "Finds the 200 training sentences with the most similar words and predicts the window that fits their moments "
        "best; it sees the query and never the video."
    )

    def __init__(self, k: int = 200, cells: int = 50, threshold: float | None = None) -> None:
        if k < 1:
            raise DataError(f"k must be 1 or more neighbours, got {k}")
        self.k, self.cells, self.threshold = k, cells, threshold
        self.index: TfIdf | None = None

    def fit(self, train: QuerySet) -> QueryNeighbours:
        """Index the sentences and score every window of the grid for each of them."""
        self.index = TfIdf(train.texts)
        grid = windows_on_grid(self.cells)
        scores = np.empty((len(train), len(grid)), np.float32)
        for start, block in _score_blocks(grid, train.fractions, self.threshold):
            scores[:, start : start + len(block)] = block.T
        self._grid, self._scores = grid, scores
        self._fallback = grid[scores.mean(axis=0, dtype=np.float64).argmax()]
        return self

    def predict(self, queries: QuerySet) -> np.ndarray:
        """(S, 2) seconds."""
        index = _fitted(self, self.index)
        found: dict[str, np.ndarray] = {}
        for text in dict.fromkeys(queries.texts):
            rows, similarity = index.nearest(text, self.k)
            weights = similarity.astype(np.float32)
            found[text] = self._grid[(weights @ self._scores[rows]).argmax()] if weights.any() else self._fallback
        return _seconds(np.stack([found[text] for text in queries.texts]), queries)


class Oracle:
    """The best window that the agent's moves can reach: an upper bound of every agent that acts on this grid.

    The seven moves of section 3.2 from the initial window (or all nineteen with ``multi_scale``); a move is refused if
    it leaves the video or crosses the ends. Of the windows within ``steps`` moves, the one with the highest IoU with
    the truth is taken. Stopping costs no move.

    Args:
        steps: moves of an episode, T.
        half_steps: z_e, half the number of steps that make a video.
    """

    label = "oracle"
    sees = "GT windows"
    learns_from = "nothing"
    description = (
        "The best window that the moves can reach within an episode, chosen by the truth: the upper bound of the "
        "action grid."
    )

    def __init__(self, steps: int = 20, half_steps: int = 10, multi_scale: bool = False) -> None:
        self.reachable = reachable_windows(steps, half_steps, multi_scale)

    def fit(self, train: QuerySet) -> Oracle:
        """Nothing to fit."""
        return self

    def predict(self, queries: QuerySet) -> np.ndarray:
        """(S, 2) seconds."""
        truth = queries.fractions
        best, choice = np.full(len(queries), -1.0), np.zeros(len(queries), np.int64)
        for start, block in _score_blocks(self.reachable, truth, None):
            row = block.argmax(axis=0)
            iou = block[row, np.arange(len(queries))]
            better = iou > best
            best[better], choice[better] = iou[better], row[better] + start
        return _seconds(self.reachable[choice], queries)


REFERENCES: dict[str, Callable[..., Reference]] = {
    "whole": Whole,
    "init": Initial,
    "constant": Constant,
    "random_window": RandomWindow,
    "knn": QueryNeighbours,
    "oracle": Oracle,
}


def best_window(fractions: np.ndarray, cells: int = 100, threshold: float | None = None) -> np.ndarray:
    """The window on a grid with the highest mean IoU (or share of IoUs that reach ``threshold``): (2,) fractions.

    Args:
        fractions: (S, K, 2) true windows as fractions of the duration, filled up with NaN.
        cells: cells of the grid. Of equal windows the first is taken, in the order of start, then end.
        threshold: None maximises the mean IoU.
    """
    grid = windows_on_grid(cells)
    means = np.concatenate([block.mean(axis=1) for _, block in _score_blocks(grid, fractions, threshold)])
    return grid[means.argmax()]


def windows_on_grid(cells: int) -> np.ndarray:
    """All windows with both ends on i / cells: (cells * (cells + 1) / 2, 2) fractions, by start, then end."""
    if cells < 1:
        raise DataError(f"a grid needs 1 or more cells, got {cells}")
    start, end = np.triu_indices(cells + 1, 1)
    return np.stack([start, end], axis=1) / cells


def reachable_windows(steps: int, half_steps: int = 10, multi_scale: bool = False) -> np.ndarray:
    """Windows that at most ``steps`` moves reach from the initial one: (W, 2) fractions, nearest first.

    The moves and their rules are those of the environment (`strong_envs.core.spans`).
    """
    if steps < 0 or half_steps < 1:
        raise DataError(f"steps must be 0 or more and half_steps 1 or more, got {steps} and {half_steps}")
    total = 2.0 * half_steps
    table = move_table(multi_scale=multi_scale)
    moves = np.delete(np.arange(len(table)), STOP)
    # Positions are whole multiples of the smallest move, so a window is known by two integers.
    unit = np.abs(table[table != 0]).min()
    width = round(total / unit) + 1
    frontier = np.array([INITIAL_SPAN]) * total
    seen = np.zeros(width * width, bool)
    found = []
    for taken in range(steps + 1):
        key = np.rint(frontier[:, 0] / unit).astype(np.int64) * width + np.rint(frontier[:, 1] / unit).astype(np.int64)
        key, first = np.unique(key, return_index=True)
        frontier = frontier[first[~seen[key]]]
        seen[key] = True
        found.append(frontier)
        if taken == steps or not len(frontier):
            break
        start, end = np.repeat(frontier, len(moves), axis=0).T
        start, end, _ = move(start, end, np.tile(moves, len(frontier)), table, total)
        frontier = np.stack([start, end], axis=1)
    return np.concatenate(found) / total


def _score_blocks(
    windows: np.ndarray, fractions: np.ndarray, threshold: float | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index of the first window, scores (b, S)) for blocks of windows (W, 2) against true windows (S, K, 2)."""
    # Blocks small enough to stay in the processor's cache: faster than one large array.
    step = max(1, (1 << 15) // fractions[..., 0].size)
    low, high = fractions[None, :, :, 0], fractions[None, :, :, 1]
    for first in range(0, len(windows), step):
        start, end = windows[first : first + step, None, None, 0], windows[first : first + step, None, None, 1]
        iou = overlap(start, end, low, high, CLAMPED)
        best = iou[..., 0] if iou.shape[-1] == 1 else np.fmax.reduce(iou, axis=-1)
        yield first, best if threshold is None else (best >= threshold - TIE).astype(np.float64)


def _seconds(fractions: np.ndarray, queries: QuerySet) -> np.ndarray:
    return fractions * queries.durations[:, None]


def _fitted(predictor: Any, learnt: Any) -> Any:
    if learnt is None:
        raise DataError(f"{type(predictor).__name__} predicts after fit(train) only")
    return learnt
