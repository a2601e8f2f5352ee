"""The end of an extraction: finished videos, boxes and queries become a store, in one move."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from strong_envs.features.datasets import boxes_at_rows
from strong_envs.features.datasets.leaks import find_copies
from strong_envs.features.datasets.types import Annotations, Query, Report
from strong_envs.features.extraction.pca import PCA
from strong_envs.features.extraction.work_folder import MARKER, Job, read_shard, shard_facts
from strong_envs.features.files.atomic import replaced_folder, write_text
from strong_envs.features.files.untrusted_json import read_json
from strong_envs.features.store.manifest import is_store, may_replace
from strong_envs.features.store.store import FeatureStore, StoreContents, StoredVideo, fill_folder
from strong_envs.features.store.tensor_file import RowBlocks

CARRIED_BOXES = ("boxes", "first_box_frame")


@dataclass(frozen=True)
class Extraction:
    """What an extraction brings to its store.

    Attributes:
        target: folder of the store.
        folder: work folder with the finished videos.
        jobs: those videos, in order.
        annotations: with the videos of all jobs.
        queries: those whose video is there; ``query_vectors`` (S, Dq) float32 theirs.
        boxes: tracks given beside the annotations, by id.
        pca: the reduction of channels, None without one.
        settings: how the features were made, JSON-ready; ``text`` the same of the vectors.
        facts: further entries of the manifest's ``extra``.
        overwrite: whether a store at the target is replaced.
        report: findings; ``kept`` is set to the number of queries.
    """

    target: Path
    folder: Path
    jobs: list[Job]
    annotations: Annotations
    queries: list[Query]
    query_vectors: np.ndarray
    boxes: dict[str, np.ndarray]
    pca: PCA | None
    settings: dict
    text: dict
    facts: dict
    overwrite: bool
    report: Report


def merge(found: Extraction) -> FeatureStore:
    """Write the store from the finished videos of a work folder and move it to the target, replacing what is there."""
    target, folder, jobs, report = found.target, found.folder, found.jobs, found.report
    report.kept = len(found.queries)
    facts = {job.video: shard_facts(folder, job) for job in jobs}
    tensors = _tensors(folder, jobs, found.pca, facts[jobs[0].video]["tensors"])
    stored = []
    for job in jobs:
        fact = facts[job.video]
        _doubts(job, fact, report)
        about = {k: fact[k] for k in ("width", "height", "source_fps", "bytes")}
        stored.append(StoredVideo(job.video, job.duration, job.n_rows, os.path.abspath(job.path), about))
    queries, tracks = box_tracks(jobs, found.annotations, found.queries, found.boxes, facts, report)
    digests = {job.video: hashlib.sha256(read_shard(folder, job, "frames").tobytes()).digest() for job in jobs}
    find_copies(digests, queries, report)
    extra = {**found.facts, "extract": found.settings, "report": report.as_dict()}
    if found.pca is not None:
        extra["pca"] = found.pca.as_json()
    contents = StoreContents(
        name=target.name,
        videos=stored,
        queries=queries,
        frames=tensors["frames"],
        query_vectors=found.query_vectors,
        grid=tensors.get("grid"),
        objects=tensors.get("objects"),
        boxes=tracks or None,
        fps=found.settings["fps"],
        backbone=found.settings["backbone"],
        text=found.text,
        extra=extra,
    )
    with replaced_folder(target, may_replace if found.overwrite else None, "a feature store") as staging:
        content_hash = fill_folder(staging, contents)
        write_text(folder / MARKER, json.dumps({"content_hash": content_hash}))
    return FeatureStore.open(target)


def moved_before(target: Path, folder: Path) -> FeatureStore | None:
    """The store at ``target`` if an extraction was killed after moving it there and before it had tidied up."""
    if not (folder / MARKER).is_file() or not is_store(target):
        return None
    store, marked = FeatureStore.open(target), read_json(folder / MARKER)
    return store if isinstance(marked, dict) and marked.get("content_hash") == store.content_hash else None


def _tensors(folder: Path, jobs: list[Job], pca: PCA | None, first: dict) -> dict[str, RowBlocks]:
    """The tensors of all videos, one video in memory at a time, reduced where they were kept whole.

    ``first`` gives shape and dtype of the first video's tensors.
    """

    def blocks(tensor: str) -> Iterator[np.ndarray]:
        for job in jobs:
            rows = read_shard(folder, job, tensor)
            if pca is not None and not job.reduce and tensor != "objects":
                rows = pca.apply(rows).astype(rows.dtype)
            yield rows

    total, out = sum(job.n_rows for job in jobs), {}
    for tensor, (shape, dtype) in first.items():
        width = shape[-1] if pca is None or tensor == "objects" else pca.dim
        out[tensor] = RowBlocks((total, *shape[1:-1], width), dtype, blocks(tensor))
    return out


def _doubts(job: Job, fact: dict, report: Report) -> None:
    short, over = fact.get("missing_seconds", 0.0), fact.get("unused_seconds", 0.0)
    if short > 0.5 * job.duration / job.n_rows:
        kind = "a file ends before its annotated duration; its last row is repeated"
        report.add(kind, "doubtful", f"{job.video}: {short:.2f} of {job.duration:.2f} s are missing")
    if over:
        kind = "a file is longer than its annotated duration; the rest is not used"
        report.add(kind, "doubtful", f"{job.video}: {over:.2f} s past {job.duration:.2f} s")


def box_tracks(
    jobs: list[Job],
    annotations: Annotations,
    queries: list[Query],
    boxes: dict[str, np.ndarray],
    facts: dict[str, dict],
    report: Report,
) -> tuple[list[Query], dict[str, np.ndarray]]:
    """Queries that name their track, and the tracks at feature rows: id to (n_rows, 4) float32, NaN without a box."""
    rows = {job.video: job.n_rows for job in jobs}
    unused = dict.fromkeys(boxes)
    tracks: dict[str, np.ndarray] = {}
    owner: dict[str, str] = {}
    out = []
    for query in queries:
        extra = {k: v for k, v in query.extra.items() if k not in CARRIED_BOXES}
        named = extra.pop("track", None)
        source, first, total, track = None, 0, None, ""
        given = next((t for t in (named, query.video) if t in boxes), None)
        if given is not None:
            source, track = boxes[given], given
            unused.pop(given, None)
        elif query.extra.get("boxes") is not None:
            source, first = np.asarray(query.extra["boxes"], np.float32), int(query.extra.get("first_box_frame", 0))
            video = annotations.videos[query.video]
            total = video.n_frames or round(video.duration * facts[query.video]["source_fps"])
            track = str(named if named is not None else query.qid)
        if source is not None:
            if owner.setdefault(track, query.video) != query.video:
                track = f"{query.video}/{track}"
                owner[track] = query.video
            if track not in tracks:
                frames = facts[query.video].get("frame_of_row")
                tracks[track] = boxes_at_rows(source, rows[query.video], first, total, frames)
            if np.isfinite(tracks[track][:, 0]).any():
                extra["track"] = track
            else:
                report.add("a box track has no box at any feature row", "doubtful", f"{track} of {query.qid}")
        elif boxes:
            report.add("no box track for a query", "doubtful", f"{query.qid} of {query.video}")
        out.append(replace(query, extra=extra))
    for track in unused:
        report.add("a box track that no query uses", "doubtful", track)
    used = {q.extra["track"] for q in out if "track" in q.extra}
    return out, {k: v for k, v in tracks.items() if k in used}
