"""The file format of the paper's authors, ``feature_all_{train,test}.npy``: a pickled list, converted once to a store.

Unpickling can run any code the file names. Nothing is unpickled without ``allow_pickle=True``, and then nothing that it
names is run: see `strong_envs.features.importing.pickled_arrays`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.parsing import check_file, number, show
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.importing import pickled_arrays
from strong_envs.features.importing.untrusted_arrays import as_rows, check_numeric, npy_header
from strong_envs.features.store.store import FeatureStore, StoreContents, StoredVideo, check_target, write_store

MAX_PICKLE_BYTES = 4 * 2**30
FIELDS = ("video_info", "w_vec", "v_feature", "w_start", "w_end", "fps")


def read_authors_file(path: str | os.PathLike, *, allow_pickle: bool = False) -> list[dict]:
    """The list of records in a ``feature_all_*.npy``, as the pickle holds them.

    Raises:
        DataError: ``allow_pickle`` is not set, the file is broken, or it asks for anything but arrays and containers.
    """
    file = check_file(path, MAX_PICKLE_BYTES)
    if not allow_pickle:
        raise DataError(
            f"{file.name} is a pickle, which can run code when loaded; if you trust its source, pass allow_pickle=True "
            "(--allow-pickle) to convert it once into a store"
        )
    with os_errors(f"read {shown(file)}"), open(file, "rb") as handle:
        _, dtype, _ = npy_header(handle, file.name)
        if not dtype.hasobject:
            raise DataError(f"{file.name} holds {dtype} values, not a pickled list of records")
        records = pickled_arrays.load(handle.read())
    if not isinstance(records, list) or not records:
        raise DataError(f"{file.name} holds {type(records).__name__}, not a list of records")
    return records


def import_authors_file(
    out: str | os.PathLike,
    path: str | os.PathLike,
    *,
    split: str,
    allow_pickle: bool = False,
    overwrite: bool = False,
) -> tuple[FeatureStore, Report]:
    """Convert one ``feature_all_*.npy`` into a store: every record is a window of a video, and one query on it.

    A record is ``{video_info "VID-start-size", w_vec (4800), v_feature (2048) or (n, 2048), w_start, w_end, fps}`` with
    start and size in frames, and w_start and w_end in seconds of the whole video. The stored video is the window: its
    id is ``video_info``, its duration is size / fps, and the moment is moved and clipped to it. The sentence itself
    is not in the file, so the query's text says so. The protocol is windows, never the full video: results on such a
    store do not compare with full-video results.

    Returns:
        The store and the report; ``kept`` counts records. See `read_authors_file` for what is refused.
    """
    check_target(out, overwrite)
    out_rows = Collector("released features", path)
    report = out_rows.report
    videos: dict[str, StoredVideo] = {}
    frames: dict[str, np.ndarray] = {}
    vectors: list[np.ndarray] = []
    widths: tuple[int, int] | None = None
    for index, record in enumerate(read_authors_file(path, allow_pickle=allow_pickle)):
        where = f"{Path(path).name}:{index}"
        try:
            info, start, duration, window, rows, vector = _record(record, where, report)
        except DataError as error:
            out_rows.drop("a record cannot be used", str(error))
            continue
        widths = widths or (len(vector), rows.shape[1])
        if widths != (len(vector), rows.shape[1]):
            out_rows.drop("vectors of another width than the first record's", where)
            continue
        video = out_rows.video(info, duration, where)
        before = len(out_rows.queries)
        if video is not None:
            text = f"(sentence {index} is not in the released file)"
            moved = [window[0] - start, window[1] - start]
            out_rows.query(f"{split}_{index}", video, text, [moved], split, where)
        if video is not None and len(out_rows.queries) > before:
            vectors.append(vector)
            if info not in frames:
                frames[info], videos[info] = rows, StoredVideo(info, video.duration, len(rows))
    annotations = out_rows.finish()
    contents = StoreContents(
        name=f"released features, {split}",
        videos=list(videos.values()),
        queries=annotations.queries,
        frames=np.concatenate(list(frames.values())),
        query_vectors=np.stack(vectors),
        backbone={"imported": Path(path).name},
        text={"imported": Path(path).name, "field": "w_vec"},
        extra={"protocol": "window", "import": report.as_dict()},
    )
    return write_store(out, contents, overwrite=overwrite), report


def _record(
    record: object, where: str, report: Report
) -> tuple[str, float, float, tuple[float, float], np.ndarray, np.ndarray]:
    if not isinstance(record, dict) or set(FIELDS) - set(record):
        have = sorted(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise DataError(f"{where} must have the fields {FIELDS}, it has {show(have)}")
    info = record["video_info"]
    parts = info.rsplit("-", 2) if isinstance(info, str) else []
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) < 12 for p in parts[1:]):
        raise DataError(f"{where}: video_info must be 'VID-start-size' in frames, got {show(info)}")
    fps, w_start, w_end = (_scalar(record[key]) for key in ("fps", "w_start", "w_end"))
    if fps is None or fps <= 0 or w_start is None or w_end is None:
        raise DataError(f"{where}: fps, w_start and w_end must be numbers, got {show(record['fps'])}")
    vector = _vectors(record["w_vec"], f"{where} w_vec", report)
    if len(vector) != 1:
        raise DataError(f"{where}: w_vec has shape {list(vector.shape)}; it is one vector")
    rows = _vectors(record["v_feature"], f"{where} v_feature", report)
    return info, int(parts[1]) / fps, int(parts[2]) / fps, (w_start, w_end), rows, vector[0]


def _scalar(value: object) -> float | None:
    if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 and value.dtype.kind in "fiu":
        return number(value.item())
    return number(value)


def _vectors(value: object, where: str, report: Report) -> np.ndarray:
    try:
        array = np.atleast_2d(np.asarray(value, None if isinstance(value, np.ndarray) else np.float32))
    except (ValueError, TypeError) as error:
        raise DataError(f"{where} is not an array: {error}") from None
    check_numeric(array.dtype, where)
    if array.size == 0:
        raise DataError(f"{where} is empty")
    return as_rows(array, where, report)
