"""Feature files of other projects, read one video at a time: h5, npy and npz, one stream or several.

What is read: an HDF5 file keyed by video id, or a folder of ``{video}.npy`` (VSLNet, LGI) or ``{video}.npz`` with an
array ``features`` (Moment-DETR, lighthouse); for text a folder of ``qid{qid}.npz`` with ``last_hidden_state``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from strong_envs.features.datasets.parsing import id_problem, show
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import given_path, os_errors, shown
from strong_envs.features.importing.file_names import FileNames, leaves, list_arrays
from strong_envs.features.importing.h5_stream import H5_SUFFIXES, H5Stream
from strong_envs.features.importing.lengths import (
    all_look_transposed,
    check_lengths,
    looks_transposed,
    transposed_for_sure,
)
from strong_envs.features.importing.options import FileOptions
from strong_envs.features.importing.untrusted_arrays import as_rows, read_npy, read_npz

__all__ = [
    "H5_SUFFIXES",
    "FeatureFiles",
    "Paths",
    "check_lengths",
    "iter_features",
    "list_paths",
    "load_features",
    "load_query_features",
]

ROW_TOLERANCE = 2
LENGTH_TOLERANCE = 0.05

Paths = str | os.PathLike | Sequence[str | os.PathLike]


def list_paths(paths: Paths) -> list[str | os.PathLike]:
    """One path or several as a list."""
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


class FeatureFiles:
    """One stream of arrays by id: an HDF5 file, a folder of npy and npz files, or one such file.

    Ids are looked up in the listing, never joined to a path, so an id cannot lead out of the folder. See
    `strong_envs.features.importing.file_names.FileNames` for which names belong to an id.

    Args:
        path: of the file or folder; sub-folders are searched as well.
        options: which array of a file to read, and what names have before and after the id.
        preferred: see `FileNames`.

    Raises:
        DataError: nothing readable there.
    """

    def __init__(self, path: str | os.PathLike, options: FileOptions | None = None, preferred: bool = True) -> None:
        self.path, self.options = given_path(path, "the path of the features"), options or FileOptions()
        self._h5: H5Stream | None = None
        with os_errors(f"read {shown(path)}"):
            suffix = self.path.suffix.lower()
            if self.path.is_dir():
                found = list_arrays(self.path)
            elif suffix in H5_SUFFIXES and self.path.exists():
                self._h5 = H5Stream(self.path, self.options.key)
                found = [(name, self.path) for name in self._h5.keys]
            elif suffix in (".npy", ".npz") and self.path.exists():
                found = [(self.path.stem, self.path)]
            else:
                raise DataError(f"{shown(path)} is neither an h5, npy or npz file nor a folder of npy or npz files")
        if not found:
            raise DataError(f"{shown(path)} holds no features: npy or npz files in a folder, or arrays in an h5 file")
        self._names = FileNames(found, self.options.prefix, self.options.suffix, preferred)

    @property
    def ids(self) -> list[str]:
        """Ids as the files spell them, sorted."""
        return self._names.ids

    @property
    def any_affixed(self) -> bool:
        """Whether a name has the prefix and the suffix of the options."""
        return self._names.any_affixed

    @property
    def example(self) -> Path:
        """The file of the first array."""
        return self._names.example

    def bytes(self, items: Iterable[str]) -> int:
        """Size of the files of these ids; 0 for an h5 file, which may hold others as well."""
        return 0 if self._h5 is not None else self._names.bytes(items)

    @property
    def unreadable(self) -> list[str]:
        """Names in an h5 file that are not text, for messages."""
        return [] if self._h5 is None else self._h5.unreadable

    def __contains__(self, item: str) -> bool:
        return bool(self._names.find(item))

    def read(self, item: str, report: Report | None = None) -> np.ndarray:
        """The array stored for one id, as stored. Raises `DataError` when it is missing or cannot be used.

        Links to files are followed, since features often lie on another disk; ``report`` takes those that leave the
        folder.
        """
        found = self._names.find(item)
        if not found:
            raise DataError(f"{self.path.name} has no features for {show(item)}")
        if len(found) > 1:
            listed = ", ".join(name if self._h5 is not None else _relative(file, self.path) for name, file in found[:3])
            raise DataError(f"{self.path.name} has {len(found)} arrays for {show(item)}: {listed}; keep one of them")
        name, file = found[0]
        if self._h5 is not None:
            return self._h5.read(name)
        target = leaves(file, self.path) if report is not None and file != self.path else None
        if report is not None and target is not None:
            what = f"{_relative(file, self.path)} is {shown(target)}"
            report.add("a feature file is a link to a file outside of its folder", "doubtful", what)
        return read_npz(file, self.options.key) if file.suffix.lower() == ".npz" else read_npy(file)

    def hint(self, items: Iterable[str]) -> str:
        """What the files are called, and the options under which they would belong to the given ids."""
        return self._names.hint(items)

    def close(self) -> None:
        """Close the file, where there is one for all."""
        if self._h5 is not None:
            self._h5.close()

    def __enter__(self) -> FeatureFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _relative(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file != folder else file.name


def iter_features(
    paths: Paths,
    video_ids: Iterable[str] | None,
    report: Report,
    options: FileOptions | None = None,
    durations: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (video id, (n, D) float32 rows), one video in memory at a time; unusable videos become report rows.

    Args:
        paths: one stream or several. The rows of several are scaled to length 1 each (as Moment-DETR and lighthouse
            do), cut to the shortest stream and concatenated along D.
        video_ids: which videos, in which order; None takes all that the first stream has.
        report: takes the rows for what is missing, broken, cut or doubtful; ``kept`` counts videos.
        options: how files are named and read.
        durations: seconds by video id, to recognise arrays that are stored the other way round.

    Raises:
        DataError: no paths, nothing readable at one of them, or arrays that are certainly (channels, rows).
    """
    listed, options = list_paths(paths), options or FileOptions()
    if not listed:
        raise DataError("no feature paths were given")
    scale = len(listed) > 1 if options.normalise is None else options.normalise
    streams: list[FeatureFiles] = []
    widths: list[int] = []
    first: tuple[str, list[tuple[int, ...]]] | None = None
    seen: list[dict[str, tuple[int, ...]]] = [{} for _ in listed]
    try:
        streams.extend(FeatureFiles(path, options) for path in listed)
        for stream in streams:
            for name in stream.unreadable:
                report.add("a name in an h5 file is not text", "dropped", f"{stream.path.name}: {name}")
        for video in streams[0].ids if video_ids is None else video_ids:
            parts = _read_parts(streams, video, options, report)
            if parts is None:
                continue
            shapes = [part.shape for part in parts]
            first = first or (video, shapes)
            for known, shape in zip(seen, shapes, strict=True):
                known[video] = shape
            for path, a, b in zip(listed, first[1], shapes, strict=True):
                if durations and transposed_for_sure((first[0], a), (video, b), durations):
                    raise DataError(
                        f"{shown(path)} holds arrays with as many rows and other widths ({first[0]}: {list(a)}, "
                        f"{video}: {list(b)}), which fit the durations: they are (channels, rows); pass "
                        "transposed=True (--transposed)"
                    )
                if looks_transposed(b):
                    report.add("an array looks transposed", "doubtful", f"{video}: {b[0]} rows of {b[1]} channels")
            widths = widths or [part.shape[1] for part in parts]
            if widths != [part.shape[1] for part in parts]:
                example = f"{video}: {[part.shape[1] for part in parts]}, others {widths}"
                report.add("features of another width than the first video's", "dropped", example)
                continue
            if scale:
                parts = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in parts]
            report.kept += 1
            yield video, _cut_and_join(parts, video, report)
        for path, known in zip(listed, seen, strict=True):
            if all_look_transposed(known, durations):
                rows, width = next(iter(known.values()))
                what = f"{shown(path)}: {rows} rows of {width} channels in every video"
                report.add("an array looks transposed", "doubtful", what)
    finally:
        for stream in streams:
            stream.close()


def _read_parts(
    streams: list[FeatureFiles], video: str, options: FileOptions, report: Report
) -> list[np.ndarray] | None:
    problem = id_problem(video)
    if problem:
        report.add(problem, "dropped", show(video))
        return None
    missing = next((s for s in streams if video not in s), None)
    if missing is not None:
        report.add("a video has no features", "dropped", f"{video} is not in {missing.path.name}")
        return None
    try:
        return [
            as_rows(stream.read(video, report), f"{stream.path.name}[{video}]", report, options.transposed)
            for stream in streams
        ]
    except DataError as error:
        report.add("a feature file cannot be used", "dropped", str(error))
        return None


def _cut_and_join(parts: list[np.ndarray], video: str, report: Report) -> np.ndarray:
    rows = [len(part) for part in parts]
    if max(rows) > min(rows):
        report.add("streams of different length, cut to the shortest", "clipped", f"{video}: {rows} rows")
        if max(rows) - min(rows) > max(ROW_TOLERANCE, LENGTH_TOLERANCE * max(rows)):
            kind = "streams whose lengths differ a lot; are their strides the same?"
            report.add(kind, "doubtful", f"{video}: {rows} rows")
    return parts[0] if len(parts) == 1 else np.concatenate([part[: min(rows)] for part in parts], axis=1)


def load_features(
    paths: Paths,
    video_ids: Iterable[str] | None = None,
    *,
    durations: Mapping[str, float] | None = None,
    seconds_per_row: float | None = None,
    options: FileOptions | None = None,
) -> tuple[dict[str, np.ndarray], Report]:
    """Load features of many videos into memory; see `iter_features`, which holds one at a time.

    Args:
        paths: one stream or several.
        video_ids: which videos; None takes all.
        durations: seconds by video id; lengths are then checked with `check_lengths`.
        seconds_per_row: what one row covers; None infers it from the durations.
        options: how files are named and read.

    Returns:
        Video id to (n, D) float32, and the report. Nothing usable at all raises `DataError`.
    """
    report = Report(", ".join(str(path) for path in list_paths(paths)))
    loaded = dict(iter_features(paths, video_ids, report, options, durations))
    if not loaded:
        raise DataError(f"no usable features:\n{report}")
    if durations:
        check_lengths({video: len(rows) for video, rows in loaded.items()}, durations, seconds_per_row, report)
    return loaded, report


def load_query_features(
    path: str | os.PathLike, qids: Iterable[str], *, key: str = "last_hidden_state"
) -> tuple[dict[str, np.ndarray], Report]:
    """Load text features by query id from ``qid{qid}.npz``, ``{qid}.npz``, npy files or an h5 file.

    Returns:
        Query id to float32 token vectors (L, D) or a sentence vector (D,), as stored, and the report.
    """
    report, loaded, width = Report(str(path)), {}, 0
    with FeatureFiles(path, FileOptions(key=key, prefix="qid"), preferred=False) as files:
        for qid in qids:
            if qid not in files:
                report.add("a query has no text features", "dropped", show(qid))
                continue
            try:
                array = files.read(qid, report)
                rows = as_rows(array[None] if array.ndim == 1 else array, f"{files.path.name}[{qid}]", report)
            except DataError as error:
                report.add("a text feature file cannot be used", "dropped", str(error))
                continue
            width = width or rows.shape[1]
            if rows.shape[1] != width:
                example = f"{qid}: {rows.shape[1]}, others {width}"
                report.add("text features of another width than the first query's", "dropped", example)
                continue
            loaded[qid] = rows[0] if array.ndim == 1 else rows
            report.kept += 1
    if not loaded:
        raise DataError(f"no usable text features:\n{report}")
    return loaded, report
