"""A validation part for every store: its own, or one that is carved out of the training part, whole groups at a time.

    store = features.split_validation("charades")          # trains on nine tenths, chooses on the last one
    train, val, test = (features.load(store, split) for split in ("train", "val", "test"))

Settings, stages and variants are chosen on validation alone. A store that names a validation part (the default world
and composed stores do) is taken as it is.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import replace

import numpy as np

from strong_envs.features.composing.recipe import Recipe
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.store.store import FeatureStore, StoredVideo
from strong_envs.features.store.subset import StoreView

VALIDATION = "val"
"""Name of the validation part, as of the parts of composed stores and of the annotation readers."""
SHARE = 0.1
"""Share of the training videos that is carved where a store has no validation part."""
NAMED_GROUPS = ("group", "source_video")
"""Entries of a video's ``extra`` that name what it was cut from."""


def with_validation(store: FeatureStore, train: str = "train", share: float = SHARE, seed: int = 0) -> FeatureStore:
    """The store with a part ``"val"``: as it is where it has one, else a view of it with one carved out of training.

    Videos that share a clip, a group or a source video (see `groups`) go into one part together, and so do all queries
    of a video. Groups are taken in an order that depends on their names and the seed alone, until they hold ``share``
    of the training videos. Other parts stay as they are, and no tensor is copied.

    Args:
        store: with a training part.
        train: name of the training part.
        share: of the training videos, in (0, 1).
        seed: of the choice.

    Returns:
        The store, or a view whose ``report`` says what was carved; its content hash is another one.

    Raises:
        DataError: a share outside (0, 1), no such training part, or one whose videos all belong together.
    """
    if VALIDATION in store.splits:
        return store
    if not 0 < share < 1:
        raise DataError(f"the share of the training videos that validate lies between 0 and 1, got {share}")
    used = {q.video for q in store.queries if q.split == train}
    if not used:
        raise DataError(
            f"store {store.name!r} has no validation part, and none can be carved: it has no split {train!r}; it has "
            f"{store.splits}"
        )
    group_of = groups([v for v in store.videos if v.id in used])
    chosen = _chosen(group_of, share, seed)
    if not chosen:
        raise DataError(
            f"store {store.name!r} has no validation part, and none can be carved: the {len(used)} videos of its split "
            f"{train!r} belong to one group, and parts are made of whole groups"
        )
    carved = {video for video, group in group_of.items() if group in chosen}
    queries = [replace(q, split=VALIDATION) if q.split == train and q.video in carved else q for q in store.queries]
    report = Report(f"{store.name}, validation carved from {train}")
    report.kept = len(queries)
    ends = np.cumsum([v.n_frames for v in store.videos]).tolist()
    spans = [(end - v.n_frames, end) for end, v in zip(ends, store.videos, strict=True)]
    rule = f"{len(carved)} of {len(used)} videos of {train} ({share:g}, seed {seed}), whole groups"
    return StoreView(store, f"{store.name}, validation carved", store.videos, spans, queries, range(len(queries)),
                     store.tracks, report, {"validation": rule})  # fmt: skip


def groups(videos: list[StoredVideo]) -> dict[str, str]:
    """Video id to the name of its group: videos belong together that share, directly or through others, a source.

    Sources are the clips and groups of a composed video's recipe and the entries `NAMED_GROUPS` of its ``extra``.
    The name of a group is the smallest id of its videos, so that it does not depend on their order.
    """
    first_with: dict[Hashable, str] = {}
    parent = {v.id: v.id for v in videos}

    def root(video: str) -> str:
        while parent[video] != video:
            parent[video] = parent[parent[video]]
            video = parent[video]
        return video

    for video in videos:
        for source in _sources(video):
            one, other = sorted((root(first_with.setdefault(source, video.id)), root(video.id)))
            parent[other] = one
    return {v.id: root(v.id) for v in videos}


def _sources(video: StoredVideo) -> Iterator[Hashable]:
    for name in NAMED_GROUPS:
        if isinstance(value := video.extra.get(name), (str, int)):
            yield name, value
    recipe = Recipe.of(video)
    for source in recipe.used_sources() if recipe is not None else ():
        yield "clip", source.id
        yield "clip group", source.group


def _chosen(group_of: dict[str, str], share: float, seed: int) -> set[str]:
    """Groups with about ``share`` of the videos, at least one and never all."""
    sizes = Counter(group_of.values())
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}/{VALIDATION}/{group}".encode()).digest())
    wanted = max(1, round(share * len(group_of)))
    chosen: set[str] = set()
    held = 0
    for group in order[:-1]:
        # A group that would take more than its share is left to training where a smaller one may follow.
        if held < wanted and held + sizes[group] <= max(wanted, len(group_of) // 2):
            chosen.add(group)
            held += sizes[group]
    if not chosen and len(sizes) > 1:
        chosen.add(min(order, key=lambda group: sizes[group]))
    return chosen
