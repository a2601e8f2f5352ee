"""Feature files of other projects, read one video at a time: h5, npy and npz, one stream or several.

What is read: an HDF5 file keyed by video id, or a folder of ``{video}.npy`` (VSLNet, LGI) or ``{video}.npz`` with an
array ``features`` (Moment-DETR, lighthouse); for text a folder of ``qid{qid}.npz`` with ``last_hidden_state``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from strong_envs.features.datasets.parsing import id_problem, show, strip_video_suffix
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.importing.untrusted_arrays import H5Stream, as_rows, read_npy, read_npz

H5_SUFFIXES = (".h5", ".hdf5", ".hdf")
ROW_TOLERANCE = 2
LENGTH_TOLERANCE = 0.05

Paths = str | os.PathLike | Sequence[str | os.PathLike]


def list_paths(paths: Paths) -> list[str | os.PathLike]:
    """One path or several as a list."""
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


class FeatureFiles:
    """One stream of arrays by id: an HDF5 file, a folder of npy and npz files, or one such file.

    Ids are looked up in the listing, never joined to a path, so an id cannot lead out of the folder. A file or key
    that carries a video suffix (``s13-d21.avi.npy``) is found under the id without it, and the other way round.

    Raises:
        DataError: nothing readable there.
    """

    def __init__(self, path: str | os.PathLike, key: str = "features", prefix: str = "") -> None:
        self.path, self.key, self._h5 = Path(path), key, None
        try:
            if self.path.is_dir():
                found = {p.stem: p for p in sorted(self.path.iterdir(), reverse=True) if p.suffix in (".npz", ".npy")}
            elif self.path.suffix in H5_SUFFIXES and self.path.exists():
                self._h5 = H5Stream(self.path, key)
                found = {name: self.path for name in self._h5.keys}
            elif self.path.suffix in (".npy", ".npz") and self.path.exists():
                found = {self.path.stem: self.path}
            else:
                raise DataError(f"{str(path)!r} is neither an h5, npy or npz file nor a folder of npy or npz files")
        except (OSError, ValueError) as error:
            raise error if isinstance(error, DataError) else DataError(f"{show(str(path))}: {error}") from None
        if not found:
            raise DataError(f"{str(path)!r} holds no features: npy or npz files in a folder, or arrays in an h5 file")
        self._files: dict[str, Path] = found
        self._names = {strip_video_suffix(name.removeprefix(prefix)): name for name in reversed(found)}
        self._names |= {name: name for name in found}

    @property
    def ids(self) -> list[str]:
        """Ids as the files spell them, sorted."""
        return sorted(self._files)

    def __contains__(self, item: str) -> bool:
        return self._name(item) is not None

    def read(self, item: str) -> np.ndarray:
        """The array stored for one id, as stored. Raises `DataError` when it is missing or cannot be used."""
        name = self._name(item)
        if name is None:
            raise DataError(f"{self.path.name} has no features for {show(item)}")
        file = self._files[name]
        if self._h5 is not None:
            return self._h5.read(name)
        return read_npz(file, self.key) if file.suffix == ".npz" else read_npy(file)

    def close(self) -> None:
        """Close the file, where there is one for all."""
        if self._h5 is not None:
            self._h5.close()

    def __enter__(self) -> FeatureFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _name(self, item: str) -> str | None:
        if item in self._names:
            return self._names[item]
        return self._names.get(strip_video_suffix(item))


def iter_features(
    paths: Paths,
    video_ids: Iterable[str] | None,
    report: Report,
    *,
    key: str = "features",
    normalise: bool | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (video id, (n, D) float32 rows), one video in memory at a time; unusable videos become report rows.

    Args:
        paths: one stream or several. The rows of several are scaled to length 1 each (as Moment-DETR and lighthouse
            do), cut to the shortest stream and concatenated along D.
        video_ids: which videos, in which order; None takes all that the first stream has.
        report: takes the rows for what is missing, broken, cut or doubtful; ``kept`` counts videos.
        key: name of the array in npz files and h5 groups.
        normalise: scale rows to length 1; None does so where there are several streams.
    """
    listed = list_paths(paths)
    if not listed:
        raise DataError("no feature paths were given")
    scale = len(listed) > 1 if normalise is None else normalise
    streams: list[FeatureFiles] = []
    widths: list[int] = []
    try:
        streams.extend(FeatureFiles(path, key) for path in listed)
        for video in streams[0].ids if video_ids is None else video_ids:
            parts = _read_parts(streams, video, report)
            if parts is None:
                continue
            widths = widths or [part.shape[1] for part in parts]
            if widths != [part.shape[1] for part in parts]:
                example = f"{video}: {[part.shape[1] for part in parts]}, others {widths}"
                report.add("features of another width than the first video's", "dropped", example)
                continue
            if scale:
                parts = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in parts]
            report.kept += 1
            yield video, _cut_and_join(parts, video, report)
    finally:
        for stream in streams:
            stream.close()


def _read_parts(streams: list[FeatureFiles], video: str, report: Report) -> list[np.ndarray] | None:
    problem = id_problem(video)
    if problem:
        report.add(problem, "dropped", show(video))
        return None
    missing = next((s for s in streams if video not in s), None)
    if missing is not None:
        report.add("a video has no features", "dropped", f"{video} is not in {missing.path.name}")
        return None
    try:
        return [as_rows(stream.read(video), f"{stream.path.name}[{video}]", report) for stream in streams]
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
    key: str = "features",
    normalise: bool | None = None,
) -> tuple[dict[str, np.ndarray], Report]:
    """Load features of many videos into memory; see `iter_features`, which holds one at a time.

    Args:
        paths: one stream or several.
        video_ids: which videos; None takes all.
        durations: seconds by video id; lengths are then checked with `check_lengths`.
        seconds_per_row: what one row covers; None infers it from the durations.
        key: name of the array in npz files and h5 groups.
        normalise: scale rows to length 1; None does so where there are several streams.

    Returns:
        Video id to (n, D) float32, and the report. Nothing usable at all raises `DataError`.
    """
    report = Report(", ".join(str(path) for path in list_paths(paths)))
    loaded = dict(iter_features(paths, video_ids, report, key=key, normalise=normalise))
    if not loaded:
        raise DataError(f"no usable features:\n{report}")
    if durations:
        check_lengths({video: len(rows) for video, rows in loaded.items()}, durations, seconds_per_row, report)
    return loaded, report


def check_lengths(
    rows: Mapping[str, int], durations: Mapping[str, float], seconds_per_row: float | None, report: Report
) -> float | None:
    """Compare feature lengths with durations: a misfit of more than 2 rows and 5 % is a doubtful row of the report.

    Args:
        rows: feature rows by video id.
        durations: seconds by video id.
        seconds_per_row: what one row covers; None takes the median of duration / rows.
        report: takes the misfits.

    Returns:
        Seconds per row where all videos share it, None where they do not (features resampled to a fixed length).
    """
    common = {video: n for video, n in rows.items() if video in durations}
    if not common:
        return seconds_per_row
    spread = max(durations[v] for v in common) / min(durations[v] for v in common)
    if seconds_per_row is None and len(common) > 1 and len(set(common.values())) == 1 and spread > 1 + LENGTH_TOLERANCE:
        kind = "every video has the same number of rows: features resampled to a fixed length"
        report.add(kind, "doubtful", f"{next(iter(common.values()))} rows")
        return None
    step = seconds_per_row or float(np.median([durations[v] / n for v, n in common.items()]))
    if not step > 0:
        raise DataError(f"seconds_per_row must be positive, got {seconds_per_row!r}")
    misfits = 0
    for video, n in common.items():
        expected = durations[video] / step
        if abs(n - expected) > max(ROW_TOLERANCE, LENGTH_TOLERANCE * expected):
            misfits += 1
            what = f"{video}: {n} rows, {expected:.1f} expected for {durations[video]:g} s at {step:.4g} s a row"
            report.add("feature length does not fit the duration", "doubtful", what)
    return None if seconds_per_row is None and misfits else step


def load_query_features(
    path: str | os.PathLike, qids: Iterable[str], *, key: str = "last_hidden_state"
) -> tuple[dict[str, np.ndarray], Report]:
    """Load text features by query id from ``qid{qid}.npz``, ``{qid}.npz``, npy files or an h5 file.

    Returns:
        Query id to float32 token vectors (L, D) or a sentence vector (D,), as stored, and the report.
    """
    report, loaded, width = Report(str(path)), {}, 0
    with FeatureFiles(path, key, prefix="qid") as files:
        for qid in qids:
            if qid not in files:
                report.add("a query has no text features", "dropped", show(qid))
                continue
            try:
                array = files.read(qid)
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
