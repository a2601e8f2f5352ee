"""From feature files and annotations of other projects to one store, with every misfit counted."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from strong_envs.features.datasets.boxes import boxes_at_rows, read_boxes
from strong_envs.features.datasets.leaks import find_copies
from strong_envs.features.datasets.types import Annotations, Query, Report
from strong_envs.features.encoders.queries import encode_queries, report_equal_vectors
from strong_envs.features.encoders.text import TextEncoder
from strong_envs.features.encoders.text import load as load_text
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.options import PCA_VIDEOS
from strong_envs.features.extraction.pca import PCA, choose_videos, fit, of_store
from strong_envs.features.extraction.work_folder import need_space, size
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.importing.detections import ObjectFiles
from strong_envs.features.importing.feature_files import (
    FeatureFiles,
    Paths,
    iter_features,
    list_paths,
    load_query_features,
)
from strong_envs.features.importing.grids import GridFiles
from strong_envs.features.importing.lengths import check_lengths
from strong_envs.features.importing.options import Encode, FileOptions, ImportOptions
from strong_envs.features.store.store import FeatureStore, StoreContents, StoredVideo, check_target, write_store

INSTEAD = "choose another --out, or reduce channels (--pca)"


class _Spool:
    """Rows of one tensor, collected in a temporary file so that memory holds one video."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)
        self._dtype, self._shape, self._rows = np.dtype(np.float32), (0,), 0

    def fitting(self, rows: np.ndarray) -> np.ndarray:
        """Rows in the dtype of the first ones. Raises `DataError` for values that it cannot hold."""
        if not self._rows:
            self._dtype, self._shape = rows.dtype, rows.shape[1:]
        with np.errstate(over="ignore"):
            fitted = np.ascontiguousarray(rows, self._dtype)
        if not np.isfinite(fitted).all():
            largest = float(np.abs(rows).max())
            raise DataError(f"values reach {largest:.3g}, too large for {self._dtype}, the type of the first video")
        return fitted

    def add(self, rows: np.ndarray) -> None:
        """Append rows from `fitting`."""
        self._file.write(rows.data)
        self._rows += len(rows)

    def array(self) -> np.ndarray:
        """All rows as a memory map."""
        self._file.flush()
        return np.memmap(self._file, self._dtype, "r", shape=(self._rows, *self._shape))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def import_store(
    out: str | os.PathLike, annotations: Annotations, features: Paths | None, options: ImportOptions | None = None
) -> tuple[FeatureStore, Report]:
    """Make a store of annotations and feature files. Videos go through a file, so memory holds one at a time.

    Args:
        out: folder of the store, which appears whole or not at all.
        annotations: videos and queries, see `strong_envs.features.datasets.read`.
        features: one stream or several, see `iter_features`; None takes the means of the grid's cells.
        options: None takes the defaults.

    Returns:
        The opened store and the report; ``kept`` counts queries.

    Raises:
        DataError: ``out`` is not free, files that cannot be used, or no usable query at all.
    """
    options, report = options or ImportOptions(), Report(str(out))
    if features is None and options.grid is None:
        raise DataError("pass features, a grid, or both")
    target = check_target(out, options.overwrite)
    with os_errors(f"import into {shown(target)}"), ExitStack() as stack:
        source = _Source(annotations, features, options, report, stack)
        # Twice, in a temporary file and in the store, rows of at least half the bytes (float64 becomes float32).
        need_space(target.parent, source.bytes(), INSTEAD)
        given = options.boxes
        tracks = dict(read_boxes(given, report) if isinstance(given, (str, os.PathLike)) else given or {})
        reducer = _reduction(source, annotations, options)
        spools = {name: stack.enter_context(closing(_Spool(target.parent))) for name in source.tensors}
        videos, digests = _pack(source, reducer, spools)
        durations, slack = _lengths(annotations)
        step = check_lengths(
            {v.id: v.n_frames for v in videos.values()}, durations, options.seconds_per_row, report, slack
        )
        queries = _with_video(annotations.queries, videos, report)
        queries, vectors, described, facts = _text_vectors(queries, options.text, report)
        queries, rows_of = _box_tracks(queries, videos, annotations, tracks, report)
        if not queries:
            raise DataError(f"no query is left for a store:\n{report}")
        find_copies(digests, queries, report)
        tensors = {name: spool.array() for name, spool in spools.items()}
        rows = len(tensors["frames"])
        total = vectors.nbytes + sum(array.nbytes for array in tensors.values())
        free = need_space(target.parent, total, INSTEAD)
        options.say(
            f"{len(videos)} videos, {rows} rows: the store will take {size(total)} ({total} bytes); {size(free)} free"
        )
        report.kept = len(queries)
        reports = {"import": report.as_dict(), "annotations": annotations.report.as_dict()}
        paths = [*list_paths(features or []), *([] if options.grid is None else [options.grid])]
        contents = StoreContents(
            name=options.name or annotations.name,
            videos=list(videos.values()),
            queries=queries,
            frames=tensors["frames"],
            query_vectors=vectors,
            grid=tensors.get("grid"),
            objects=tensors.get("objects"),
            boxes=rows_of or None,
            fps=None if step is None else 1.0 / step,
            backbone=options.backbone or {"imported": [Path(p).name for p in paths]},
            text=described,
            extra={**facts, **reports, **({} if reducer is None else {"pca": reducer.as_json()})},
        )
        return write_store(target, contents, overwrite=options.overwrite), report


class _Source:
    """Frames, grid and objects of one video after the other."""

    def __init__(
        self,
        annotations: Annotations,
        features: Paths | None,
        options: ImportOptions,
        report: Report,
        stack: ExitStack,
    ) -> None:
        self.annotations, self.features, self.options, self.report = annotations, features, options, report
        names = FileOptions(prefix=options.prefix, suffix=options.suffix)
        self.grid = None if options.grid is None else stack.enter_context(closing(GridFiles(options.grid, options)))
        self.objects = (
            None if options.objects is None else stack.enter_context(closing(ObjectFiles(options.objects, names)))
        )
        self._check_affixes()
        self.tensors = ["frames", *(["grid"] if self.grid else []), *(["objects"] if self.objects else [])]

    def _check_affixes(self) -> None:
        """Refuse a prefix and suffix that no file has: names without them would be read in their place."""
        affixes = {"--prefix": self.options.prefix, "--suffix": self.options.suffix}
        given = " and ".join(f"{option} {value!r}" for option, value in affixes.items() if value)
        if not given or self.features is None:
            return
        others = [maps.files for maps in (self.grid, self.objects) if maps is not None]
        with ExitStack() as stack:
            own = [stack.enter_context(FeatureFiles(path, self.options)) for path in list_paths(self.features)]
            if not any(files.any_affixed for files in (*own, *others)):
                names = ", ".join(map(repr, own[0].ids[:3]))
                raise DataError(f"no feature file has {given} in its name; files there are named {names}")

    def frames(self, videos: Iterable[str], report: Report) -> Iterator[tuple[str, np.ndarray | None]]:
        """Ids with feature rows (n, D), or with None where the rows are to be made of the grid."""
        if self.features is None:
            yield from ((video, None) for video in videos)
        else:
            durations = _lengths(self.annotations)[0]
            yield from iter_features(self.features, videos, report, self.options, durations)

    def bytes(self) -> int:
        """Size of the files of annotated videos, unless their channels are reduced."""
        if self.options.pca is not None:
            return 0
        with ExitStack() as stack:
            files = [stack.enter_context(FeatureFiles(p, self.options)) for p in list_paths(self.features or [])]
            files += [] if self.grid is None else [self.grid.files]
            return sum(stream.bytes(self.annotations.videos) for stream in files)

    def hint(self) -> str:
        """What the files are called."""
        if self.features is None:
            return "" if self.grid is None else self.grid.files.hint(self.annotations.videos)
        with FeatureFiles(list_paths(self.features)[0], self.options) as files:
            return files.hint(self.annotations.videos)


def _lengths(annotations: Annotations) -> tuple[dict[str, float], dict[str, float]]:
    """Durations of videos, and by how much each may be shorter."""
    videos = annotations.videos.values()
    return {v.id: v.duration for v in videos}, {v.id: v.slack for v in videos}


def _reduction(source: _Source, annotations: Annotations, options: ImportOptions) -> PCA | None:
    """The reduction of the grid's channels, or of the features' where there is no grid; fitted in a pass of its own."""
    pca, quiet = options.pca, Report("reduction")
    if pca is None:
        return None

    def parts(videos: Iterable[str]) -> Iterator[np.ndarray]:
        for video, rows in source.frames(videos, quiet):
            if source.grid is None:
                if rows is not None:
                    yield rows
                continue
            try:
                cells = source.grid.read(video, None, quiet)
            except DataError:
                continue  # reported when the video is packed
            yield cells.reshape(-1, cells.shape[-1])

    if isinstance(pca, int):
        chosen = choose_videos(annotations.queries, PCA_VIDEOS)
        found = parts(v for v in annotations.videos if v in chosen)
        first = next(found, None)
        if first is None:
            raise DataError(f"PCA cannot be fitted: none of {len(chosen)} train videos has features; {source.hint()}")
        return fit(chain([first], found), pca)
    first = next(parts(annotations.videos), None)
    if first is None:
        raise DataError(f"none of the {len(annotations.videos)} annotated videos has usable features; {source.hint()}")
    return of_store(pca, first.shape[-1])


def _reduced(rows: np.ndarray, reducer: PCA | None) -> np.ndarray:
    """Rows with fewer channels, in the dtype that they have."""
    if reducer is None:
        return rows
    with np.errstate(over="ignore"):
        return reducer.apply(rows).astype(rows.dtype)


def _pack(
    source: _Source, reducer: PCA | None, spools: dict[str, _Spool]
) -> tuple[dict[str, StoredVideo], dict[str, bytes]]:
    """Write the tensors of all videos to the spools; gives the videos, and a hash of the frames of each."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    annotations, report = source.annotations, source.report
    videos: dict[str, StoredVideo] = {}
    digests: dict[str, bytes] = {}
    every = source.frames(annotations.videos, report)
    bar = tqdm(every, "videos", len(annotations.videos), disable=not source.options.progress, unit=" videos")
    for name, frames in bar:
        found: dict[str, np.ndarray] = {}
        part = "grid"
        try:
            if source.grid is not None:
                cells = source.grid.read(name, None if frames is None else len(frames), report)
                found["grid"] = _reduced(cells, reducer)
            part = "features"
            if frames is None:
                found["frames"] = found["grid"].mean((1, 2), dtype=np.float32)
            else:
                found["frames"] = frames if source.grid is not None else _reduced(frames, reducer)
            part = "objects"
            if source.objects is not None:
                found["objects"] = source.objects.read(name, len(found["frames"]), report)
            for part, spool in spools.items():
                found[part] = spool.fitting(found[part])
        except DataError as error:
            report.add("a part of a video cannot be used", "dropped", f"{name}, {part}: {error}")
            continue
        for tensor, spool in spools.items():
            spool.add(found[tensor])
        video = annotations.videos[name]
        videos[name] = StoredVideo(name, video.duration, len(found["frames"]), video.path)
        digests[name] = hashlib.sha256(found["frames"].tobytes()).digest()
    if not videos:
        raise DataError(
            f"none of the {len(annotations.videos)} annotated videos has usable features; {source.hint()}\n{report}"
        )
    if 2 * len(videos) < len(annotations.videos):
        report.add("most videos have no features", "doubtful", source.hint())
    return videos, digests


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
    queries: list[Query], text: Encode | TextEncoder | str | os.PathLike | None, report: Report
) -> tuple[list[Query], np.ndarray, dict, dict]:
    """Queries with vectors, the vectors (S, Dq), what made them, and facts for the manifest's ``extra``."""
    if isinstance(text, (str, os.PathLike)):
        names = {q.qid: q.extra.get("source_qid", q.qid) for q in queries}
        loaded, found = load_query_features(text, names.values())
        found.kept = 0
        report.merge(found)
        queries = [q for q in queries if names[q.qid] in loaded]
        arrays = [loaded[names[q.qid]] for q in queries]
        vectors = np.stack([a if a.ndim == 1 else a.mean(0) for a in arrays])
        report_equal_vectors(queries, vectors, report)
        return queries, vectors, {"imported": Path(text).name, "pooling": "mean of tokens"}, {}
    if not queries:
        return queries, np.zeros((0, 0), np.float32), {}, {}
    if text is None or isinstance(text, TextEncoder):
        return queries, *encode_queries(load_text("hashed-words") if text is None else text, queries, report)
    name = getattr(text, "__qualname__", type(text).__name__)
    described = {"encoder": f"{getattr(text, '__module__', '')}.{name}"}
    vectors = np.asarray(text([q.text for q in queries]), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(queries):
        raise DataError(f"text must return one vector a sentence, ({len(queries)}, Dq); it returned {vectors.shape}")
    report_equal_vectors(queries, vectors, report)
    return queries, vectors, described, {}


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
