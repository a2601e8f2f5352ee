"""Long videos as views of a store: clips joined end to end by index, so that no feature is copied.

A long video is a list of row ranges of the base store. Some of its clips are asked about; the others are drawn from
those that do not show what is asked, so that every query has one true window. What else they show is left to chance:
with objects of a hundred colours, shapes and events, many differ from the target in one of the three.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from strong_envs.features.composing.clips import PARTS
from strong_envs.features.composing.readers.from_store import rows_in
from strong_envs.features.composing.recipe import KEY, Piece, Recipe, Source
from strong_envs.features.datasets.types import Query, Report
from strong_envs.features.errors import DataError
from strong_envs.features.store.store import FeatureStore, StoredVideo
from strong_envs.features.store.subset import StoreView

VIDEOS = {"train": 400, "val": 60, "test": 100}
QUERIES = 4
DRAWN_SIZE = (64, 64)


@dataclass
class _Clip:
    """Rows [first, last) of the base store, from row ``inside`` of its video, and what is asked about them."""

    video: StoredVideo
    first: int
    last: int
    inside: int
    group: str
    shows: set[str] = field(default_factory=set)
    asks: list[int] = field(default_factory=list)
    """Numbers of the base store's queries."""


def lengthen(
    store: FeatureStore,
    clips: int = 10,
    videos: dict[str, int] | None = None,
    queries: int = QUERIES,
    seed: int = 0,
    name: str | None = None,
) -> StoreView:
    """A view of a store whose videos are many of its clips, one after another.

    A clip is a whole video of the drawn world, or the window of a query of any other store, such as one that
    `strong-envs compose --layout sequence` wrote. What a query asks about is its colour, shape and event, or its
    event, or else its sentence. ``extra["group"]`` of a query names the clip that it is about: the unit of evidence.

    Args:
        store: with feature rows of one rate; every part of it is made longer by itself.
        clips: of a video.
        videos: number of videos by part; `VIDEOS` by default, in every part that the store has.
        queries: clips of each video that are asked about, one query each.
        seed: of every draw. A longer list of videos begins with a shorter one.
        name: of the view.

    Raises:
        DataError: no rate, fewer than two clips a video, or a part in which no other clips can be found.
    """
    rate = store.manifest.get("fps")
    if not rate:
        raise DataError(f"store {store.name!r} states no rate of feature rows, so its clips cannot be joined")
    if clips < 2 or not 1 <= queries <= clips:
        raise DataError(f"a long video has 2 or more clips and asks about 1 to all of them; got {clips} and {queries}")
    found = _clips_of(store)
    made_videos, made_queries, spans, vectors = [], [], [], []
    for number, part in enumerate(PARTS):
        pool = [clip for clip in found if store.queries[clip.asks[0]].split == part]
        for i in range((videos or VIDEOS).get(part, 0) if pool else 0):
            rng = np.random.default_rng([seed, number, i])
            chosen, asked = _draw(rng, pool, clips, queries, store, part)
            video = f"long_{part}_{i:05d}"
            pieces, row = [], 0
            for clip in chosen:
                pieces.append((clip, row))
                spans.append((clip.first, clip.last))
                row += clip.last - clip.first
            made_videos.append(StoredVideo(video, row / rate, row, extra=_recipe(pieces)))
            for k, (place, index) in enumerate(asked):
                clip, at = pieces[place]
                old = store.queries[index]
                shift = (at - clip.inside) / rate
                start, end = (min(max(t + shift, at / rate), row / rate) for t in old.windows[0])
                extra = {key: value for key, value in old.extra.items() if key not in ("track", "box", "tile")}
                extra |= {"group": clip.group, "source_qid": old.qid}
                made_queries.append(Query(f"{video}-{k}", video, old.text, ((start, end),), part, extra))
                vectors.append(index)
    report = Report(store.name)
    report.kept = len(made_queries)
    title = name or f"{store.name}-long-{clips}"
    about = {"shared_rows": True, "long": {"clips": clips, "queries": queries, "seed": seed, "of": store.name}}
    view = StoreView(store, title, made_videos, spans, made_queries, vectors, {}, report, about)
    view.manifest["tensors"].pop("boxes", None)
    return view


def open_long(name: str, store: FeatureStore) -> StoreView:
    """The view that ``"long:STORE?clips=50&queries=4"`` names, of the opened STORE.

    Raises:
        DataError: another option, or a value that is no whole number.
    """
    options: dict[str, int] = {}
    for part in filter(None, name.partition("?")[2].split("&")):
        key, _, value = part.partition("=")
        if key not in ("clips", "queries", "seed", "train", "val", "test") or not value.isdigit():
            raise DataError(
                f"options of long: are clips, queries, seed, train, val and test with whole numbers, such as "
                f"long:STORE?clips=50&test=40; got {part!r}"
            )
        options[key] = int(value)
    videos = VIDEOS | {part: options.pop(part) for part in PARTS if part in options}
    clips, queries, seed = (
        options.get(key, usual) for key, usual in (("clips", 10), ("queries", QUERIES), ("seed", 0))
    )
    return lengthen(store, clips, videos, queries, seed)


def base_name(name: str) -> str:
    """STORE of ``"long:STORE?..."``."""
    base = name.removeprefix("long:").partition("?")[0]
    if not base:
        raise DataError(f"{name!r} names no store; write long:STORE, a key or a path")
    return base


def _about(query: Query) -> str:
    parts = [str(query.extra[key]) for key in ("colour", "shape", "event") if key in query.extra]
    return " ".join(parts) or query.text


def _clips_of(store: FeatureStore) -> list[_Clip]:
    row, place, by_id = 0, {}, {}
    for video in store.videos:
        place[video.id], by_id[video.id] = row, video
        row += video.n_frames
    found: dict[tuple, _Clip] = {}
    whole: dict[str, set[str]] = defaultdict(set)
    for query in store.queries:
        whole[query.video].add(_about(query))
    for index, query in enumerate(store.queries):
        video = by_id[query.video]
        drawn = "seed" in video.extra
        first, last = (0, video.n_frames) if drawn else rows_in(query.windows[0], video)
        if first >= last or len(query.windows) > 1:
            continue
        # A clip that stands in several composed videos is one clip.
        key = (video.id,) if drawn else (query.split, query.extra.get("clip", (video.id, first, last)))
        if key not in found:
            group = video.id if drawn else str(query.extra.get("group", video.id))
            base = place[video.id]
            found[key] = _Clip(video, base + first, base + last, first, group)
        clip = found[key]
        clip.shows |= whole[query.video] if drawn else {_about(query)}
        # Of the places where a composed clip stands, the first one has its rows.
        if drawn or (clip.video.id == video.id and clip.inside == first):
            clip.asks.append(index)
    return list(found.values())


def _draw(
    rng: np.random.Generator, pool: list[_Clip], count: int, queries: int, store: FeatureStore, part: str
) -> tuple[list[_Clip], list[tuple[int, int]]]:
    """The clips of a video in their order, and (place, number of a base query) of what is asked."""
    targets: list[tuple[_Clip, int]] = []
    asked: set[str] = set()
    shown: set[str] = set()
    for number in rng.permutation(len(pool)).tolist():
        clip = pool[number]
        index = clip.asks[int(rng.integers(len(clip.asks)))]
        key = _about(store.queries[index])
        if key not in shown and not clip.shows & asked:
            targets.append((clip, index))
            asked.add(key)
            shown |= clip.shows
        if len(targets) == queries:
            break
    others = [clip for clip in pool if not clip.shows & asked]
    rest = count - len(targets)
    if not targets or (rest and not others):
        raise DataError(f"the {part} part of {store.name!r} has too few different clips for videos of {count}")
    # Every clip once, and again only where there are too few.
    rounds = [rng.permutation(len(others)) for _ in range(math.ceil(rest / max(len(others), 1)))]
    order = np.concatenate(rounds) if rounds else np.zeros(0, np.int64)
    filling = [(others[int(i)], -1) for i in order[:rest]]
    line = [(targets + filling)[i] for i in rng.permutation(count)]
    return [clip for clip, _ in line], [(i, index) for i, (_, index) in enumerate(line) if index >= 0]


def _recipe(pieces: list[tuple[_Clip, int]]) -> dict:
    """What draws the pixels of a long video: those of its clips, where they are drawn or composed of files."""
    sources: dict[str, int] = {}
    kept: list[Source] = []
    placed: list[Piece] = []
    size = DRAWN_SIZE
    for clip, at in pieces:
        own, first = Recipe.of(clip.video), clip.inside
        if own is not None:
            piece = next((p for p in own.at(first) if p.tile == 0), None)
            if piece is None or own.tiles != (1, 1):
                return {}
            source, first, size = own.sources[piece.source], piece.first + first - piece.at, own.size
        else:
            video, seed = clip.video, clip.video.extra.get("seed")
            level = video.extra.get("level")
            source = Source(video.id, clip.group, video.duration, video.n_frames, video.path, seed, level)
        if source.id not in sources:
            sources[source.id] = len(kept)
            kept.append(source)
        placed.append(Piece(0, at, clip.last - clip.first, sources[source.id], first))
    return {KEY: Recipe((1, 1), size, tuple(kept), tuple(placed)).as_json()}
