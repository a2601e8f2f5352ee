"""Clips that are encoded already: the windows of a store's queries, or its whole videos."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np

from strong_envs.features.composing.clips import Clip, ClipSet, part_of, sentence_key
from strong_envs.features.datasets.types import Query, Report
from strong_envs.features.errors import DataError
from strong_envs.features.store.store import FeatureStore, StoredVideo


def rows_in(window: tuple[float, float], video: StoredVideo) -> tuple[int, int]:
    """The first and last feature row whose middle lies in a window of seconds."""
    scale = video.n_frames / video.duration
    first, last = (math.ceil(round(t * scale - 0.5, 6)) for t in window)
    return max(first, 0), min(last, video.n_frames)


def clips_of_store(store: FeatureStore, *, whole: bool = False, report: Report | None = None) -> ClipSet:
    """Clips of a store: the rows of each query's window with its sentences, or each whole video with all of them.

    A video is a group, for its rows may overlap. Queries of the drawn world are about a colour, a shape and an event,
    whatever the words; those of other stores are about what they say.

    Args:
        store: of extracted or imported features.
        whole: take whole videos.
        report: takes the counts.

    Raises:
        DataError: no usable window.
    """
    report = report or Report(store.name)
    videos = {v.id: v for v in store.videos}
    first_row = dict(
        zip(videos, np.cumsum([0, *(v.n_frames for v in store.videos)])[:-1].tolist(), strict=True),
    )
    by_video: dict[str, list[Query]] = defaultdict(list)
    for query in store.queries:
        by_video[query.video].append(query)
    boxes = store.tensor("boxes") if store.has("boxes") else None
    clips: dict[str, Clip] = {}
    for video_id, queries in by_video.items():
        video = videos[video_id]
        for query in queries:
            part = part_of(query.split)
            if part is None:
                kind = "a split is none of train, val and test; the clip is dealt to a part"
                report.add(kind, "doubtful", f"{query.qid}: {query.split}")
            if not sentence_key(query.text):
                report.add("a caption has no word", "dropped", f"{query.qid}: {query.text!r}")
                continue
            for window in ((0.0, video.duration),) if whole else query.windows:
                rows = rows_in(window, video)
                if rows[0] >= rows[1]:
                    report.add("a window holds the middle of no feature row", "dropped", f"{query.qid}: {window}")
                    continue
                clip = _clip(query, video, rows, first_row[video_id], queries, whole, part)
                track = None if whole else query.extra.get("track")
                if track is not None and boxes is not None:
                    start = store.tracks[track][0]
                    clip = replace(clip, row_boxes=np.asarray(boxes[start + rows[0] : start + rows[1]], np.float32))
                _merge(clips, clip)
    if not clips:
        raise DataError(f"store {store.name!r} has no window to make a clip of:\n{report}")
    if len({c.part for c in clips.values()}) > 1 and None in {c.part for c in clips.values()}:
        clips = {k: replace(c, part=None) for k, c in clips.items()}
    report.kept = len(clips)
    return ClipSet(store.name, "store", None, list(clips.values()), report)


def _about(query: Query) -> str | None:
    """What a query of the drawn world is about."""
    parts = [query.extra.get(k) for k in ("colour", "shape", "event")]
    return f"drawn: {' '.join(map(str, parts))}" if all(isinstance(p, str) for p in parts) else None


def _clip(
    query: Query, video: StoredVideo, rows: tuple[int, int], base: int, others: list[Query], whole: bool,
    part: str | None,
) -> Clip:  # fmt: skip
    about = None if whole else _about(query)
    shows = set()
    for other in others:
        if whole or any(a < rows[1] and b > rows[0] for a, b in (rows_in(w, video) for w in other.windows)):
            shows.add(_about(other) or sentence_key(other.text))
    event = query.extra.get("event")
    pixels = {
        "path": video.path,
        "duration": video.duration,
        "n_frames": video.n_frames,
        "first": rows[0],
        **{k: video.extra[k] for k in ("seed", "level") if k in video.extra},
    }
    size = [video.extra.get("height"), video.extra.get("width")]
    if all(isinstance(x, int) for x in size):
        pixels["size"] = size
    elif "seed" in video.extra:
        pixels["size"] = [64, 64]
    return Clip(
        id=f"{video.id}@{rows[0]}-{rows[1]}" + (f" {about.removeprefix('drawn: ')}" if about else ""),
        group=video.id,
        label=event if isinstance(event, str) and not whole else None,
        about=about,
        sentences=(query.text,),
        part=part,
        duration=(rows[1] - rows[0]) * video.duration / video.n_frames,
        shows=frozenset(shows),
        rows=(base + rows[0], base + rows[1]),
        pixels=pixels,
    )


def _merge(clips: dict[str, Clip], clip: Clip) -> None:
    """Add a clip, or its sentence to the clip of the same rows."""
    known = clips.setdefault(clip.id, clip)
    if known is not clip:
        keys = {sentence_key(t) for t in known.sentences}
        fresh = tuple(t for t in clip.sentences if sentence_key(t) not in keys)
        label = known.label if known.label == clip.label else None
        clips[clip.id] = replace(known, sentences=known.sentences + fresh, label=label, shows=known.shows | clip.shows)
