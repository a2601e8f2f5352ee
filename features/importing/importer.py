"""From feature files and annotations of other projects to one store, with every misfit counted."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from strong_envs.features.datasets import READERS, read
from strong_envs.features.datasets.boxes import boxes_at_rows, read_boxes
from strong_envs.features.datasets.types import Annotations, Query, Report
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.work_folder import size
from strong_envs.features.importing.detections import ObjectFiles
from strong_envs.features.importing.feature_files import (
    Paths,
    check_lengths,
    iter_features,
    list_paths,
    load_features,
    load_query_features,
)
from strong_envs.features.importing.strong_release import import_authors_file
from strong_envs.features.store.store import FeatureStore, StoredVideo, write_store

__all__ = [
    "check_lengths",
    "import_authors_file",
    "import_store",
    "iter_features",
    "load_features",
    "load_query_features",
]

Encode = Callable[[list[str]], np.ndarray]


def import_store(
    out: str | os.PathLike,
    annotations: Annotations,
    *,
    features: Paths,
    text: Encode | str | os.PathLike | None = None,
    boxes: Mapping[str, np.ndarray] | str | os.PathLike | None = None,
    objects: str | os.PathLike | None = None,
    name: str | None = None,
    key: str = "features",
    normalise: bool | None = None,
    seconds_per_row: float | None = None,
    backbone: dict | None = None,
    overwrite: bool = False,
    progress: bool = False,
    say: Callable[[str], object] = len,
) -> tuple[FeatureStore, Report]:
    """Make a store of annotations and feature files. Videos go through a file, so memory holds one at a time.

    Args:
        out: folder of the store, which appears whole or not at all.
        features: one stream or several, see `iter_features`.
        text: ``encode(texts) -> (S, Dq)``; or the path of text features by query id, whose token vectors (L, Dq) are
            averaged; None hashes words (`features.encoders.hashed_words.encode`).
        boxes: a boxes.json or what `read_boxes` returns, track or video id to (source frames, 4) corners; boxes that a
            reader left in ``query.extra`` need no argument. They are sampled at the middle of each feature row.
        objects: detector features by video id, arrays (n, K, C), see `features.importing.detections.ObjectFiles`; a
        video without
            them is dropped.
        name: of the store; None takes the annotations'.
        seconds_per_row: what one feature row covers; None infers it.
        backbone: JSON-ready description of what made the features.
        overwrite: replace an existing store.
        progress: show a bar.
        say: hears one line with the store's size before it is written.

    Returns:
        The opened store and the report; ``kept`` counts queries. No usable query at all raises `DataError`.
    """
    report, target = Report(str(out)), Path(out)
    if target.exists() and not overwrite:
        raise DataError(f"{str(target)!r} exists; choose another path or pass overwrite=True")
    tracks = dict(read_boxes(boxes, report) if isinstance(boxes, (str, os.PathLike)) else boxes or {})
    target.parent.mkdir(parents=True, exist_ok=True)
    found = None if objects is None else ObjectFiles(objects)
    with tempfile.TemporaryFile(dir=target.parent) as packed, tempfile.TemporaryFile(dir=target.parent) as extra:
        try:
            videos, width = _pack(annotations, features, key, normalise, packed, found, extra, report, progress)
        finally:
            if found is not None:
                found.close()
        durations = {v.id: v.duration for v in videos.values()}
        step = check_lengths({v.id: v.n_frames for v in videos.values()}, durations, seconds_per_row, report)
        queries = _with_video(annotations.queries, videos, report)
        queries, vectors, described = _text_vectors(queries, text, report)
        queries, rows_of = _box_tracks(queries, videos, annotations, tracks, report)
        if not queries:
            raise DataError(f"no query is left for a store:\n{report}")
        rows = sum(v.n_frames for v in videos.values())
        frames = np.memmap(packed, np.float32, "r", shape=(rows, width))
        detected = None if found is None else np.memmap(extra, found.dtype, "r", shape=(rows, *found.shape))
        total = frames.nbytes + vectors.nbytes + (0 if detected is None else detected.nbytes)
        say(f"{len(videos)} videos, {rows} rows: the store will take {size(total)} ({total} bytes)")
        report.kept = len(queries)
        store = write_store(
            target,
            name=name or annotations.name,
            videos=list(videos.values()),
            queries=queries,
            frames=frames,
            query_vectors=vectors,
            objects=detected,
            boxes=rows_of or None,
            fps=None if step is None else 1.0 / step,
            backbone=backbone or {"imported": [Path(p).name for p in list_paths(features)]},
            text=described,
            extra={"import": report.as_dict(), "annotations": annotations.report.as_dict()},
            overwrite=overwrite,
        )
    return store, report


def _pack(
    annotations: Annotations,
    features: Paths,
    key: str,
    normalise: bool | None,
    packed: BinaryIO,
    objects: ObjectFiles | None,
    detected: BinaryIO,
    report: Report,
    progress: bool,
) -> tuple[dict[str, StoredVideo], int]:
    from tqdm import tqdm

    videos: dict[str, StoredVideo] = {}
    width = 0
    rows = iter_features(features, annotations.videos, report, key=key, normalise=normalise)
    for video_id, array in tqdm(rows, "videos", len(annotations.videos), disable=not progress, unit=" videos"):
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
    if text is None:
        from strong_envs.features.encoders.hashed_words import encode as text

    described = {"encoder": f"{getattr(text, '__module__', '')}.{getattr(text, '__qualname__', type(text).__name__)}"}
    vectors = np.asarray(text([q.text for q in queries]), np.float32)
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


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``import`` command to ``strong-envs``."""
    parser = subparsers.add_parser(
        "import",
        help="make a store from annotations and feature files of other projects",
        description="Make a store from annotations and h5, npy or npz features. A feature_all_*.npy of the paper's "
        "authors is converted on its own: give it as ANNOTATIONS with --allow-pickle and --split.",
    )
    parser.add_argument("annotations", help="annotations: a file, or a folder in its data set's own layout")
    parser.add_argument("--features", nargs="+", help="feature files: one stream, or several that are concatenated")
    parser.add_argument("--out", required=True, help="folder of the store to make")
    parser.add_argument("--text", help="a folder of qid*.npz, or a text encoder's name; default: hashed words")
    parser.add_argument("--boxes", help="a boxes.json")
    parser.add_argument("--objects", help="detector features by video: an h5 file or a folder of arrays (n, K, C)")
    parser.add_argument("--format", choices=sorted(READERS), help="format of the annotations, where it cannot be told")
    parser.add_argument("--key", default="features", help="name of the array in npz files and h5 groups")
    parser.add_argument("--seconds-per-row", type=float, help="seconds one feature row covers; default: inferred")
    parser.add_argument("--split", help="split of a feature_all_*.npy")
    parser.add_argument("--allow-pickle", action="store_true", help="unpickle a feature_all_*.npy of a trusted source")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing store")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command and return its exit code: 0 a store was made (what it left out is printed), 2 none was."""
    try:
        if not args.features:
            if Path(args.annotations).suffix != ".npy":
                raise DataError("pass --features with an h5 file, or a folder of npy or npz files")
            if not args.split:
                raise DataError("pass --split with the split this file holds: train or test")
            store, report = import_authors_file(
                args.out, args.annotations, split=args.split, allow_pickle=args.allow_pickle, overwrite=args.overwrite
            )
        else:
            annotations = read(args.annotations, args.format)
            store, report = import_store(
                args.out,
                annotations,
                features=args.features,
                text=_text(args.text),
                boxes=args.boxes,
                objects=args.objects,
                key=args.key,
                seconds_per_row=args.seconds_per_row,
                overwrite=args.overwrite,
                progress=sys.stderr.isatty(),
                say=lambda line: print(line, file=sys.stderr),
            )
            report.merge(annotations.report)
            report.kept = len(store.queries)
    except DataError as error:
        if args.json:
            print(json.dumps({"error": str(error)}))
        else:
            print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"store": str(store.path), "content_hash": store.content_hash, "report": report.as_dict()}))
    else:
        print(f"{report}\nwrote {store.path}: {len(store.videos)} videos, {len(store.queries)} queries")
    return 0


def _text(name: str | None) -> object:
    if name is None or Path(name).exists():
        return name
    from strong_envs.features.encoders.text import load

    return load(name).encode
