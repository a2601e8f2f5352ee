"""From videos and annotations to a store.

Every video is decoded once, sampled at the centre of each feature row, sent through the backbone, and kept as a file
of its own until all are there; then the store is written in one go. Kill it at any moment and run it again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from strong_envs.features.datasets.parsing import VIDEO_SUFFIXES, strip_video_suffix
from strong_envs.features.datasets.types import Annotations, Query, Report
from strong_envs.features.encoders.backbones import Backbone
from strong_envs.features.encoders.backbones import load as load_backbone
from strong_envs.features.encoders.queries import encode_queries
from strong_envs.features.encoders.text import load as load_text
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.assemble import Extraction, merge, moved_before
from strong_envs.features.extraction.options import ExtractOptions
from strong_envs.features.extraction.pca import PCA, choose_videos, fit, of_store
from strong_envs.features.extraction.work_folder import (
    REDUCTION,
    Job,
    check_work_folder,
    finished,
    need_space,
    read_shard,
    settings_hash,
    size,
    work_folder,
)
from strong_envs.features.extraction.worker import Setup, run
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import given_path, os_errors, shown
from strong_envs.features.files.untrusted_json import read_json
from strong_envs.features.importing.detections import Detector
from strong_envs.features.store.store import FeatureStore, check_target
from strong_envs.features.video_io import Decoder

Say = Callable[[str], object]
"""Takes one line for people."""


def extract(
    videos: Iterable[str | os.PathLike] | Mapping[str, str],
    annotations: Annotations,
    out: str | os.PathLike,
    options: ExtractOptions | None = None,
    boxes: Mapping[str, np.ndarray] | None = None,
) -> tuple[FeatureStore, Report]:
    """Turn video files and their annotations into a store.

    Row i of a video with n = round(duration * fps) rows holds the features of the frame that is on the screen at
    (i + 0.5) * duration / n seconds. Finished videos wait in the folder ``OUT.work``: after a kill the same call
    continues and gives the same bytes as an uninterrupted run. The folder is removed at the end.

    Args:
        videos: files, or folders searched for them; a file belongs to the annotated video whose id is its name,
            with or without the suffix. Or a mapping of annotated video id to file.
        annotations: videos and queries, see `strong_envs.features.datasets.read`.
        out: folder of the store.
        options: None takes the defaults.
        boxes: track id to (n_source_frames, 4) normalised corners, NaN rows where there is none. A track belongs to
            the queries that name it in ``extra["track"]``, else to the queries of the video of that id. Boxes that
            the annotations carry themselves (``extra["boxes"]``) are used as well.

    Returns:
        The store, and the report: the annotations' own findings, files without annotation, videos without a file,
        broken videos, and every query dropped with its video.

    Raises:
        DataError: unusable arguments, missing packages or weights, too little disk, other settings than those of the
            extraction to continue, or not one usable video.
    """
    options = options or ExtractOptions()
    with os_errors(f"extract into {shown(out)}"):
        return _extract(videos, annotations, check_place(out, options.overwrite), options, boxes or {})


def check_place(out: str | os.PathLike, overwrite: bool) -> Path:
    """Check, before any work, that a store and the work folder beside it can be written."""
    target = given_path(out, "the folder of the store (--out)")
    if target.name in ("", ".."):
        target = Path(os.path.abspath(out))
    if moved_before(target, work_of(target)) is None:
        check_target(target, overwrite)
    check_work_folder(work_of(target))
    return target


def work_of(target: Path) -> Path:
    """The work folder of a store."""
    return target.with_name(target.name + ".work")


def _extract(
    videos: Iterable[str | os.PathLike] | Mapping[str, str],
    annotations: Annotations,
    target: Path,
    options: ExtractOptions,
    boxes: Mapping[str, np.ndarray],
) -> tuple[FeatureStore, Report]:
    say: Say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.progress else len
    report = Report(annotations.report.source)
    report.merge(annotations.report)
    files = match_files(videos, annotations, report)
    annotations = _real_durations(annotations, files, report)
    jobs = _plan(annotations, files, options.fps, report)
    planned = {job.video for job in jobs}
    queries = [q for q in annotations.queries if q.video in planned]
    network = load_backbone(options.backbone, options.device, options.weights)
    reducer, fit_on, pca_settings = _plan_pca(options, queries, network)
    jobs = [replace(job, reduce=options.pca is not None and job.video not in fit_on) for job in jobs]
    settings = {
        "backbone": network.describe(),
        "fps": options.fps,
        "grid": options.grid,
        "dtype": options.dtype,
        "pca": pca_settings,
    }
    if options.objects is not None:
        settings["objects"] = Detector(options.objects).describe()
    folder = work_of(target)
    done = moved_before(target, folder)
    if done is not None:
        shutil.rmtree(folder, ignore_errors=True)
        report.kept = len(done.queries)
        return done, report
    encoder = load_text(options.text, options.device, options.text_weights)
    vectors, text_info, facts = encode_queries(encoder, queries, report)
    del encoder  # before videos are decoded
    needed = _bytes_needed(jobs, network, settings, folder)
    _tell_size(jobs, network, settings, needed, need_space(folder, needed), say)
    with work_folder(folder, settings):
        failed, reducer = _extract_all(jobs, Setup(options, folder, reducer), network, pca_settings, say)
        kept = [job for job in jobs if job.video not in failed]
        for video, reason in failed.items():
            report.add("a broken video", "dropped", f"{video}: {reason}")
        _drop_queries(queries, set(failed), "its video is broken", report)
        rows = [i for i, q in enumerate(queries) if q.video not in failed]
        if not rows:
            raise DataError("no video could be extracted; {}: {}".format(*next(iter(failed.items()))))
        store = merge(
            Extraction(
                target=target,
                folder=folder,
                jobs=kept,
                annotations=annotations,
                queries=[queries[i] for i in rows],
                query_vectors=vectors[rows],
                boxes=dict(boxes),
                pca=reducer,
                settings=settings,
                text=text_info,
                facts=facts,
                overwrite=options.overwrite,
                report=report,
            )
        )
    shutil.rmtree(folder, ignore_errors=True)
    written = sum(f.stat().st_size for f in target.iterdir())
    say(f"wrote {target}: {len(kept)} videos, {len(rows)} queries, {size(written)}")
    return store, report


def match_files(
    videos: Iterable[str | os.PathLike] | Mapping[str, str], annotations: Annotations, report: Report
) -> dict[str, str]:
    """Annotated video id to file.

    Ids match a file's name with or without a suffix of a video, on either side; for files in a folder that is given,
    also the name with its sub-folders (``train/clip.mp4`` for the id ``train/clip``).

    Raises:
        DataError: a path that does not exist, two files for one id, or no match at all.
    """
    if isinstance(videos, Mapping):
        return {video: str(file) for video, file in videos.items() if video in annotations.videos}
    files: dict[Path, str] = {}
    for given in (given_path(one, "the path of the videos") for one in videos):
        if given.is_dir():
            found = sorted(p for p in given.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
            files |= {p: p.relative_to(given).as_posix() for p in found}
        elif given.is_file():
            files.setdefault(given, given.name)
        else:
            raise DataError(f"no video file or folder at {str(given)!r}")
    by_name = {_nfc(video): video for video in annotations.videos}
    by_stem = {strip_video_suffix(name): video for name, video in by_name.items()}
    matched: dict[str, str] = {}
    for file, name in files.items():
        names = [_nfc(n) for n in (name, strip_video_suffix(name), file.name, file.stem)]
        alike = by_stem.get(names[1], by_stem.get(strip_video_suffix(names[2])))
        video = next((by_name[n] for n in names if n in by_name), alike)
        if video is None:
            report.add("a video file that no annotation names", "doubtful", str(file))
        elif video in matched:
            raise DataError(f"video {video!r} has two files, {matched[video]!r} and {str(file)!r}; give one of them")
        else:
            matched[video] = str(file)
    if not matched:
        example, there = next(iter(annotations.videos), None), ", ".join(list(files.values())[:4]) or "none"
        raise DataError(
            f"none of the {len(files)} files ({there}) is one of the {len(annotations.videos)} annotated videos: "
            f"names must be ids such as {example!r}"
        )
    return matched


def _nfc(name: str) -> str:
    """A name in one Unicode form: some file systems store accents as letters of their own."""
    return unicodedata.normalize("NFC", name)


def _real_durations(annotations: Annotations, files: dict[str, str], report: Report) -> Annotations:
    """Annotations with the durations of the files, where the annotations count whole chunks (`Video.slack`)."""
    videos = dict(annotations.videos)
    for name, file in files.items():
        video = videos[name]
        if not video.slack > 0:
            continue
        try:
            decoder = Decoder(file)
            decoder.close()
        except DataError:
            continue  # reported by the extraction
        seconds = decoder.listed_seconds
        if video.duration - video.slack <= seconds < video.duration:
            report.add("a last chunk is shorter than the others", "clipped", f"{name}: {seconds:.2f} s")
            videos[name] = replace(video, duration=seconds, slack=0.0)
    queries = []
    for query in annotations.queries:
        duration = videos[query.video].duration
        windows = tuple((s, min(e, duration)) for s, e in query.windows if s < duration)
        if windows:
            queries.append(replace(query, windows=windows))
        else:
            report.add(
                "the window lies outside its video", "dropped", f"{query.qid}: {query.windows} in {duration:g} s"
            )
    return replace(annotations, videos=videos, queries=queries)


def _plan(annotations: Annotations, files: dict[str, str], fps: float, report: Report) -> list[Job]:
    asked = {q.video for q in annotations.queries}
    absent = [v for v in annotations.videos if v in asked and v not in files]
    for name in absent:
        report.add("no file for an annotated video", "dropped", name)
    _drop_queries(annotations.queries, set(absent), "its video has no file", report)
    jobs = []
    for video in annotations.videos.values():
        if video.id in files and not (math.isfinite(video.duration) and video.duration > 0):
            raise DataError(f"video {video.id!r} has an annotated duration of {video.duration} s; it must be positive")
        if video.id in files and video.id in asked:
            jobs.append(Job(video.id, files[video.id], video.duration, max(1, round(video.duration * fps))))
        elif video.id in files:
            report.add("a video without a query is left out", "doubtful", video.id)
    if not jobs:
        raise DataError("none of the given videos has a query")
    return jobs


def _drop_queries(queries: Iterable[Query], videos: set[str], why: str, report: Report) -> None:
    for query in queries:
        if query.video in videos:
            report.add(f"a query is dropped: {why}", "dropped", f"{query.qid} of {query.video}")


def _plan_pca(
    options: ExtractOptions, queries: list[Query], network: Backbone
) -> tuple[PCA | None, set[str], dict | None]:
    """A reduction that exists already, the videos to fit one on, and what the settings say about it."""
    pca = options.pca
    if pca is None:
        return None, set(), None
    if not isinstance(pca, int):
        reducer = of_store(pca, network.dim)
        return reducer, set(), {"dim": reducer.dim, "from": settings_hash(reducer.as_json())}
    if not 1 <= pca <= network.dim:
        raise DataError(f"pca must lie between 1 and the {network.dim} channels of {network.name}, got {pca}")
    chosen = choose_videos(queries, options.pca_videos)
    return None, chosen, {"dim": pca, "fitted_on": settings_hash({"videos": sorted(chosen)})}


def _row_bytes(network: Backbone, settings: dict, reduced: bool) -> int:
    dim = settings["pca"]["dim"] if reduced and settings["pca"] else network.dim
    cells = 1 + (math.prod(network.grid) if settings["grid"] else 0)
    found = settings.get("objects", {"objects": 0, "dim": 0})
    return (dim * cells + found["objects"] * found["dim"]) * np.dtype(settings["dtype"]).itemsize


def _bytes_needed(jobs: list[Job], network: Backbone, settings: dict, folder: Path) -> int:
    """Most bytes that will still be written at a time: videos to come, and the store."""
    shards = sum(j.n_rows * _row_bytes(network, settings, j.reduce) for j in jobs if not finished(folder, j))
    return shards + sum(j.n_rows for j in jobs) * _row_bytes(network, settings, True)


def _tell_size(jobs: list[Job], network: Backbone, settings: dict, needed: int, free: int, say: Say) -> None:
    rows = sum(j.n_rows for j in jobs)
    total = rows * _row_bytes(network, settings, True)
    dim = settings["pca"]["dim"] if settings["pca"] else network.dim
    cells = f"({network.grid[0]} x {network.grid[1]} cells + 1)" if settings["grid"] else "1"
    found = settings.get("objects")
    more = f" and {found['objects']} objects x {found['dim']}" if found else ""
    say(
        f"{len(jobs)} videos, {rows} rows of {cells} x {dim}{more} {settings['dtype']}: the store will take "
        f"{size(total)} ({total} bytes); {size(needed)} are needed on the way, {size(free)} are free"
    )


def _extract_all(
    jobs: list[Job], setup: Setup, network: Backbone, pca: dict | None, say: Say
) -> tuple[dict[str, str], PCA | None]:
    """Extract what is not finished; gives why videos failed, by id, and the reduction where there is one."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    progress = setup.options.progress
    started = time.perf_counter()
    todo = [job for job in jobs if not finished(setup.folder, job)]
    if len(todo) < len(jobs):
        say(f"continuing: {len(jobs) - len(todo)} of {len(jobs)} videos were finished before")
    total, left = sum(j.n_rows for j in jobs), sum(j.n_rows for j in todo)
    failed: dict[str, str] = {}
    with tqdm(total=total, initial=total - left, unit="row", desc="extract", disable=not progress) as bar:
        for stage in [None] if pca is None or setup.pca is not None else [False, True]:
            part = [job for job in todo if stage is None or job.reduce == stage]
            if stage and pca is not None:
                setup = replace(setup, pca=_fit_pca(jobs, failed, setup, pca))
            for job, reason in run(part, setup, network, bar.update):
                if reason is not None:
                    failed[job.video] = reason
                    if progress:
                        bar.write(f"skipped {job.video}: {reason}", file=sys.stderr)
    seconds = time.perf_counter() - started
    say(f"extracted {left} rows in {seconds:.1f} s ({left / max(seconds, 1e-9):.1f} rows/s)")
    if setup.pca is not None:
        say(f"{network.dim} channels to {setup.pca.dim} keep {100 * setup.pca.explained:.1f} % of the variance")
    return {job.video: failed[job.video] for job in jobs if job.video in failed}, setup.pca


def _fit_pca(jobs: list[Job], failed: dict[str, str], setup: Setup, pca: dict) -> PCA:
    file = setup.folder / REDUCTION
    if file.is_file():
        return PCA.from_json(read_json(file))

    def parts() -> Iterable[np.ndarray]:
        for job in jobs:
            if not job.reduce and job.video not in failed:
                x = read_shard(setup.folder, job, "grid" if setup.options.grid else "frames")
                yield x.reshape(-1, x.shape[-1])

    if all(job.reduce or job.video in failed for job in jobs):
        raise DataError(f"PCA cannot be fitted: every chosen train video is broken; {next(iter(failed.items()))}")
    reducer = fit(parts(), pca["dim"])
    write_text(file, json.dumps(reducer.as_json()))
    return reducer
