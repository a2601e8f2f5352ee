"""What an episode searches: the full video (the main protocol), or windows cut out of it as in the paper's experiments.

    store = strong_envs.features.search_windows.apply("charades", "window", fps=24)
    features.register("charades-windows", lambda: store)      # now features="charades-windows" works everywhere

In a window of 64 to 512 frames that is known to hold the moment, a constant guess does well: numbers of the two
protocols never share a column. The manifest and the name of the returned store hold the protocol.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from strong_envs.features.datasets.types import Query, Report
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.registry import Source, open_store
from strong_envs.features.store.store import FeatureStore, StoredVideo
from strong_envs.features.store.subset import StoreView

FULL_VIDEO, WINDOW, LEAKY = "full video", "window", "random_pairs_leaky"
PROTOCOLS = (FULL_VIDEO, WINDOW, LEAKY)
SIZES = (64, 128, 256, 512)
"""Frames of the windows, of the source video."""


@dataclass(frozen=True)
class WindowRule:
    """Which windows are cut, and which window goes with which query.

    Attributes:
        sizes: lengths in source frames; windows of one length start every ``(1 - overlap) * length`` frames, and one
            more ends with the video. A video shorter than all of them is one window.
        overlap: share of a window that it has in common with the next of its length.
        share: a query goes with windows that hold at least this share of its moment (of all its moments together).
        per_query: how many of these are drawn for each query; None takes them all.
        empty: splits whose queries are paired with *every* window of their video, moment or not; never ``"train"``.
        fps: source frames a second; None takes each video's own ``extra["source_fps"]``, which extraction leaves there.
        seed: of the draw, which depends on nothing else but the query's id.
    """

    sizes: tuple[int, ...] = SIZES
    overlap: float = 0.8
    share: float = 0.5
    per_query: int | None = 1
    empty: tuple[str, ...] = ()
    fps: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or any(not isinstance(n, int) or n < 1 for n in self.sizes):
            raise DataError(f"sizes are whole numbers of frames, got {self.sizes!r}")
        if not 0 <= self.overlap < 1 or not 0 < self.share <= 1:
            raise DataError(f"overlap lies in [0, 1) and share in (0, 1], got {self.overlap} and {self.share}")
        if self.per_query is not None and self.per_query < 1:
            raise DataError(f"per_query is at least 1, or None for all windows; got {self.per_query}")
        if "train" in self.empty:
            raise DataError("a window without its moment has nothing to learn from: empty=('test',), never 'train'")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise DataError(f"fps is a positive number of source frames a second, got {self.fps}")

    def __str__(self) -> str:
        """The rule as results show it."""
        drawn = "all" if self.per_query is None else f"{self.per_query} drawn (seed {self.seed})"
        every = f", every window in {'/'.join(self.empty)}" if self.empty else ""
        rate = "their videos' rate" if self.fps is None else f"{self.fps:g} a second"
        return (
            f"windows of {'/'.join(map(str, self.sizes))} frames ({rate}), {100 * self.overlap:g} % overlap, "
            f"{drawn} of those with {100 * self.share:g} % of the moment{every}"
        )


def apply(source: Source, protocol: str = FULL_VIDEO, **options: Any) -> FeatureStore:
    """A store under a protocol by name, as a view: no tensor is copied.

    Args:
        source: a key, a path or an open store.
        protocol: ``"full video"`` (the store itself); ``"window"`` (see `cut_windows`; options are `WindowRule`'s);
            ``"random_pairs_leaky"`` (see `random_pairs_leaky`; options ``share`` and ``seed``).
        **options: of the protocol.
    """
    store = open_store(source)
    if protocol == FULL_VIDEO and not options:
        return store
    if protocol == WINDOW:
        try:
            return cut_windows(store, WindowRule(**options))
        except TypeError as error:
            raise DataError(f"options of the window protocol are fields of WindowRule: {error}") from None
    if protocol == LEAKY:
        return random_pairs_leaky(store, **options)
    if protocol == FULL_VIDEO:
        raise DataError(f"the full video takes no options, got {sorted(options)}")
    raise DataError(f"protocol must be one of {PROTOCOLS}, got {protocol!r}{nearest(protocol, PROTOCOLS)}")


def searched(store: FeatureStore) -> str:
    """What an episode on this store searches, for the tables: ``"full video"``, or the rule that cut windows."""
    return (store.manifest.get("extra") or {}).get("protocol", FULL_VIDEO)


def window_rows(video: StoredVideo, rule: WindowRule) -> list[tuple[int, int]]:
    """Feature rows [first, last) of every window of a video, without repeats, in the order of sizes and starts."""
    fps = rule.fps or video.extra.get("source_fps")
    if not fps:
        raise DataError(
            f"windows are counted in source frames, and video {video.id!r} has no known frame rate: pass fps="
        )
    frames = max(1, round(video.duration * fps))
    spans: list[tuple[int, int]] = []
    for size in (n for n in rule.sizes if n <= frames):
        stride = max(1, round(size * (1 - rule.overlap)))
        starts = list(range(0, frames - size + 1, stride))
        spans += [(s, s + size) for s in starts + [frames - size] * (starts[-1] != frames - size)]
    rows: dict[tuple[int, int], None] = {}
    for first, last in spans or [(0, frames)]:
        low = min(round(first * video.n_frames / frames), video.n_frames - 1)
        rows[low, min(max(low + 1, round(last * video.n_frames / frames)), video.n_frames)] = None
    return list(rows)


def cut_windows(store: FeatureStore, rule: WindowRule | None = None) -> StoreView:
    """Windows of the store's videos as videos of their own, queries with the windows that the rule gives them.

    The truth is cut at the window's ends and counts from its start. Where ``rule.empty`` pairs a query with a window
    that its moment does not touch, the truth lies outside of [0, duration], so that every IoU with it is 0. The
    ``extra`` of windows and queries holds ``source_video``, ``window`` (seconds of the video) and ``source_qid``.

    Returns:
        A view of the store; ``report`` counts queries that no window holds (dropped) and truths that were cut.
    """
    rule = rule or WindowRule()
    report = Report(f"{store.name}, {rule}")
    first_row = dict(zip((v.id for v in store.videos), _starts(store.videos), strict=True))
    by_id = {v.id: v for v in store.videos}
    windows: dict[str, list[tuple[int, int]]] = {}
    videos: dict[tuple[str, int, int], StoredVideo] = {}
    tracks: dict[str, tuple[int, int]] = {}
    queries: list[Query] = []
    vectors: list[int] = []
    for index, query in enumerate(store.queries):
        video = by_id[query.video]
        if video.id not in windows:
            windows[video.id] = window_rows(video, rule)
        chosen = _choose(query, video, windows[video.id], rule)
        if not chosen:
            kind = f"no window holds {100 * rule.share:g} % of the moment"
            report.add(kind, "dropped", f"{query.qid}: {query.windows} in {len(windows[video.id])} windows")
        for a, b in chosen:
            step = video.duration / video.n_frames
            start, end = a * step, b * step
            if (video.id, a, b) not in videos:
                about = {"source_video": video.id, "window": [start, end]}
                videos[video.id, a, b] = StoredVideo(f"{video.id}[{a}:{b}]", end - start, b - a, None, about)
            truth = _truth(query, start, end)
            if sum(e - s for s, e in truth) < sum(e - s for s, e in query.windows) - 1e-9:
                report.add("a truth is cut at the ends of its window", "clipped", f"{query.qid}: {query.windows}")
            extra: dict[str, Any] = {
                **query.extra,
                "source_qid": query.qid,
                "source_video": video.id,
                "window": [start, end],
            }
            if query.extra.get("track") is not None:
                low = store.tracks[query.extra["track"]][0]
                extra["track"] = f"{query.extra['track']}[{a}:{b}]"
                tracks[extra["track"]] = (low + a, low + b)
            qid = query.qid if rule.per_query == 1 and query.split not in rule.empty else f"{query.qid}[{a}:{b}]"
            queries.append(replace(query, qid=qid, video=f"{video.id}[{a}:{b}]", windows=truth, extra=extra))
            vectors.append(index)
    if not queries:
        raise DataError(f"no query is left under the rule:\n{report}")
    report.kept = len(queries)
    cut = [(first_row[name] + a, first_row[name] + b) for name, a, b in videos]
    return StoreView(store, f"{store.name}, windows", list(videos.values()), cut, queries, vectors, tracks, report,
                     {"protocol": str(rule)})  # fmt: skip


def _starts(videos: list[StoredVideo]) -> list[int]:
    return [0, *np.cumsum([v.n_frames for v in videos]).tolist()[:-1]]


def _choose(query: Query, video: StoredVideo, rows: list[tuple[int, int]], rule: WindowRule) -> list[tuple[int, int]]:
    if query.split in rule.empty:
        return rows
    step = video.duration / video.n_frames
    whole = sum(e - s for s, e in query.windows)
    low, high = np.array(rows, np.float64).T[:, :, None] * step
    starts, ends = np.array(query.windows).T
    held = (np.minimum(high, ends) - np.maximum(low, starts)).clip(0).sum(1)
    fit = [row for row, inside in zip(rows, held, strict=True) if inside >= rule.share * whole - 1e-9]
    if rule.per_query is None or len(fit) <= rule.per_query:
        return fit
    rng = np.random.default_rng([rule.seed, zlib.crc32(query.qid.encode())])
    return [fit[i] for i in sorted(rng.choice(len(fit), rule.per_query, replace=False))]


def _truth(query: Query, start: float, end: float) -> tuple[tuple[float, float], ...]:
    inside = [(max(s, start) - start, min(e, end) - start) for s, e in query.windows if min(e, end) > max(s, start)]
    return tuple(inside) or tuple((s - start, e - start) for s, e in query.windows)


def random_pairs_leaky(store: FeatureStore, share: float = 0.8, seed: int = 0) -> StoreView:
    """All queries drawn anew into ``random_pairs_leaky_train`` and ``random_pairs_leaky_test``.

    Pairs of a video and a sentence are split, not videos: most test videos, often with a paraphrase of the same moment,
    are in the train split as well. It exists to reproduce numbers that were measured so; the official splits are those
    that the annotations name.

    Args:
        store: with videos and queries.
        share: of the queries that train.
        seed: of the draw.
    """
    if not 0 < share < 1:
        raise DataError(f"share of the train pairs lies between 0 and 1, got {share}")
    order = np.random.default_rng(seed).permutation(len(store.queries))
    train = set(order[: round(share * len(order))].tolist())
    queries = [
        replace(q, split=f"{LEAKY}_{'train' if i in train else 'test'}", extra={**q.extra, "official_split": q.split})
        for i, q in enumerate(store.queries)
    ]
    report = Report(f"{store.name}, {LEAKY}")
    seen = {q.video for q in queries if q.split.endswith("train")}
    for query in queries:
        if query.split.endswith("test") and query.video in seen:
            report.add("a test query whose video is in the train split", "doubtful", f"{query.qid} of {query.video}")
    report.kept = len(queries)
    starts = _starts(store.videos)
    spans = [(a, a + v.n_frames) for a, v in zip(starts, store.videos, strict=True)]
    digest = hashlib.sha256(np.sort(order[: len(train)]).astype("<i8").tobytes()).hexdigest()[:12]
    vectors = list(range(len(queries)))
    return StoreView(store, f"{store.name}, {LEAKY}", store.videos, spans, queries, vectors, store.tracks, report,
                     {"split_rule": f"{LEAKY}: {share:g} train, seed {seed}, {digest}"})  # fmt: skip
