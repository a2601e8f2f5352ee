"""From feature files and annotations of other projects to one store, with every misfit counted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from strong_envs.features.datasets.boxes import boxes_at_rows, read_boxes
from strong_envs.features.datasets.types import Annotations, Query, Report
from strong_envs.features.encoders import hashed_words
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.work_folder import size
from strong_envs.features.importing.detections import ObjectFiles
from strong_envs.features.importing.feature_files import (
    Paths,
    check_lengths,
    iter_features,
    list_paths,
    load_query_features,
)
from strong_envs.features.importing.options import Encode, ImportOptions
from strong_envs.features.store.store import FeatureStore, StoreContents, StoredVideo, write_store


def import_store(
    out: str | os.PathLike, annotations: Annotations, features: Paths, options: ImportOptions | None = None
) -> tuple[FeatureStore, Report]:
    """Make a store of annotations and feature files. Videos go through a file, so memory holds one at a time.

    Args:
        out: folder of the store, which appears whole or not at all.
        annotations: videos and queries, see `strong_envs.features.datasets.read`.
        features: one stream or several, see `iter_features`.
        options: None takes the defaults.

    Returns:
        The opened store and the report; ``kept`` counts queries.

    Raises:
        DataError: ``out`` exists, files that cannot be used, or no usable query at all.
    """
    options = options or ImportOptions()
    report, target = Report(str(out)), Path(out)
    if target.exists() and not options.overwrite:
        raise DataError(f"{str(target)!r} exists; choose another path or pass overwrite=True")
    given = options.boxes
    tracks = dict(read_boxes(given, report) if isinstance(given, (str, os.PathLike)) else given or {})
    target.parent.mkdir(parents=True, exist_ok=True)
    found = None if options.objects is None else ObjectFiles(options.objects)
    with tempfile.TemporaryFile(dir=target.parent) as packed, tempfile.TemporaryFile(dir=target.parent) as detected:
        try:
            videos, width = _pack(annotations, features, options, packed, found, detected, report)
        finally:
            if found is not None:
                found.close()
        durations = {v.id: v.duration for v in videos.values()}
        step = check_lengths({v.id: v.n_frames for v in videos.values()}, durations, options.seconds_per_row, report)
        queries = _with_video(annotations.queries, videos, report)
        queries, vectors, described = _text_vectors(queries, options.text, report)
        queries, rows_of = _box_tracks(queries, videos, annotations, tracks, report)
        if not queries:
            raise DataError(f"no query is left for a store:\n{report}")
        rows = sum(v.n_frames for v in videos.values())
        frames: np.ndarray = np.memmap(packed, np.float32, "r", shape=(rows, width))
        objects: np.ndarray | None = None
        if found is not None and found.shape is not None:
            objects = np.memmap(detected, np.dtype(found.dtype), "r", shape=(rows, *found.shape))
        total = frames.nbytes + vectors.nbytes + (0 if objects is None else objects.nbytes)
        options.say(f"{len(videos)} videos, {rows} rows: the store will take {size(total)} ({total} bytes)")
        report.kept = len(queries)
        contents = StoreContents(
            name=options.name or annotations.name,
            videos=list(videos.values()),
            queries=queries,
            frames=frames,
            query_vectors=vectors,
            objects=objects,
            boxes=rows_of or None,
            fps=None if step is None else 1.0 / step,
            backbone=options.backbone or {"imported": [Path(p).name for p in list_paths(features)]},
            text=described,
            extra={"import": report.as_dict(), "annotations": annotations.report.as_dict()},
        )
        return write_store(target, contents, overwrite=options.overwrite), report


def _pack(
    annotations: Annotations,
    features: Paths,
    options: ImportOptions,
    packed: IO[bytes],
    objects: ObjectFiles | None,
    detected: IO[bytes],
    report: Report,
) -> tuple[dict[str, StoredVideo], int]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    videos: dict[str, StoredVideo] = {}
    width = 0
    rows = iter_features(features, annotations.videos, report, key=options.key, normalise=options.normalise)
    for video_id, array in tqdm(rows, "videos", len(annotations.videos), disable=not options.progress, unit=" videos"):
        video, width = annotations.videos[video_id], array.shape[1]
        if objects is not None:
            try:
                detected.write(objects.read(video_id, len(array), report).data)
            except DataError as error:
                report.add("the objects of a video cannot be used", "dropped", str(error))
                continue
        packed.write(np.ascontiguousarray(array, np.float32).data)
        videos[video_id] = StoredVideo(video_id, video.duration, len(array), video.path)
    if not videos:
        raise DataError(f"none of the {len(annotations.videos)} annotated videos has usable features:\n{report}")
    packed.flush()
    detected.flush()
    return videos, width


def _with_video(queries: list[Query], videos: Mapping[str, StoredVideo], report: Report) -> list[Query]:
    kept = []
    for query in queries:
        video = videos.get(query.video)
        if video is None:
            report.add("a query whose video has no features", "dropped", f"{query.qid} of {query.video}")
            continue
        shortest, row = min(e - s for s, e in query.windows), video.duration / video.n_frames
        if shortest < row:
            kind = "a moment is shorter than one feature row"
            report.add(kind, "doubtful", f"{query.qid}: {shortest:.3g} s in rows of {row:.3g} s")
        kept.append(query)
    return kept


def _text_vectors(
    queries: list[Query], text: Encode | str | os.PathLike | None, report: Report
) -> tuple[list[Query], np.ndarray, dict]:
    if isinstance(text, (str, os.PathLike)):
        names = {q.qid: q.extra.get("source_qid", q.qid) for q in queries}
        loaded, found = load_query_features(text, names.values())
        found.kept = 0
        report.merge(found)
        queries = [q for q in queries if names[q.qid] in loaded]
        arrays = [loaded[names[q.qid]] for q in queries]
        vectors = np.stack([a if a.ndim == 1 else a.mean(0) for a in arrays])
        return queries, vectors, {"imported": Path(text).name, "pooling": "mean of tokens"}
    if not queries:
        return queries, np.zeros((0, 0), np.float32), {}
    encode: Encode = hashed_words.encode if text is None else text
    name = getattr(encode, "__qualname__", type(encode).__name__)
    described = {"encoder": f"{getattr(encode, '__module__', '')}.{name}"}
    vectors = np.asarray(encode([q.text for q in queries]), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(queries):
        raise DataError(f"text must return one vector a sentence, ({len(queries)}, Dq); it returned {vectors.shape}")
    return queries, vectors, described


def _box_tracks(
    queries: list[Query],
    videos: Mapping[str, StoredVideo],
    annotations: Annotations,
    given: Mapping[str, np.ndarray],
    report: Report,
) -> tuple[list[Query], dict[str, np.ndarray]]:
    rows_of: dict[str, np.ndarray] = {}
    kept = []
    for query in queries:
        extra = {k: v for k, v in query.extra.items() if k not in ("boxes", "first_box_frame", "track")}
        source, first, total = query.extra.get("boxes"), query.extra.get("first_box_frame", 0), None
        track = str(query.extra.get("track", query.video))
        if source is None:
            source = given.get(track, given.get(query.video))
        else:
            total = annotations.videos[query.video].n_frames
        if source is not None:
            # Tracks are named within their video, so that two videos can both have a track "0".
            name = track if track.split("/")[0] == query.video else f"{query.video}/{track}"
            if name not in rows_of:
                rows = boxes_at_rows(np.asarray(source, np.float32), videos[query.video].n_frames, first, total)
                if not np.isfinite(rows).all(1).any():
                    report.add("a box track misses the middle of every feature row", "doubtful", name)
                rows_of[name] = rows
            extra["track"] = name
        kept.append(replace(query, extra=extra))
    return kept, rows_of
