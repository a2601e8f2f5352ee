"""The manifest of a store: what it must say, checked against the headers of the tensors beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.files.untrusted_json import MAX_BYTES, as_type, parse_json, read_json
from strong_envs.features.store.tensor_file import read_header

FORMAT = "strong-envs feature store"
FORMAT_VERSION = 1
FILE = "manifest.json"
RANK = {"frames": 2, "queries": 2, "grid": 4, "objects": 3, "boxes": 2}
"""Number of dimensions of each tensor."""
TENSORS = tuple(RANK)
PER_ROW = ("frames", "grid", "objects")
"""Tensors with one entry for every feature row."""

_LARGEST = 1.7976931348623157e308
Finite = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]
Count = Annotated[int, Meta(ge=1, lt=2**53)]


class _Video(Struct, forbid_unknown_fields=True):
    id: str
    duration: Positive
    n_frames: Count
    path: str | None = None
    extra: dict[str, Any] = {}


class _Query(Struct, forbid_unknown_fields=True):
    qid: str
    video: str
    text: str
    windows: Annotated[list[tuple[Finite, Finite]], Meta(min_length=1)]
    split: str = "train"
    extra: dict[str, Any] = {}


class _Tensor(Struct):
    shape: list[Count]
    dtype: Literal["float16", "float32", "float64"]
    range: tuple[Finite, Finite]
    sha256: str


class _Maker(Struct):
    """What made features or vectors; the entries that the project itself reads."""

    name: str | None = None
    dim: int | None = None


class _Extra(Struct):
    """Everything else; the entries that the project itself reads."""

    protocol: str | None = None
    no_frames: bool = False
    pca: dict[str, Any] | None = None


class _Manifest(Struct):
    name: str
    content_hash: str
    tensors: dict[str, _Tensor]
    videos: list[_Video]
    queries: list[_Query]
    tracks: dict[str, tuple[int, int]]
    dims: dict[str, Any]
    backbone: _Maker
    text: _Maker
    extra: _Extra
    units: dict[str, Any]
    fps: Positive | None = None
    spans: list[tuple[int, int]] | None = None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a store folder, see `check_manifest`."""
    if not folder.is_dir():
        raise DataError(f"no store at {shown(folder)}: there is no such folder")
    if not (folder / FILE).is_file():
        raise DataError(f"{shown(folder)} is not a store: it has no {FILE}")
    manifest = read_json(folder / FILE)
    check_manifest(folder, manifest)
    return manifest


def manifest_text(manifest: dict[str, Any]) -> str:
    """The manifest as JSON that `read_manifest` accepts.

    Raises:
        DataError: entries that are not JSON, text that is not Unicode, or a manifest that is too large to be read back.
    """
    try:
        text = json.dumps(manifest)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"a description or an extra entry of the store is not JSON: {error}") from None
    if len(text) > MAX_BYTES:
        raise DataError(
            f"the manifest would take {len(text):,} bytes, at most {MAX_BYTES:,} are read: divide the data into "
            "several stores, which features=[...] joins, or drop extra entries of the queries"
        )
    parse_json(text, f"the {FILE} to be written")
    return text


def is_store(folder: Path) -> bool:
    """Whether a folder is a store and nothing else: a manifest of this format, and no file that stores do not have."""
    return _has_manifest(folder) and not _foreign(folder)


def may_replace(folder: Path) -> bool:
    """`is_store`, for a folder that is to be replaced.

    Raises:
        DataError: a store that holds something else as well, which it names.
    """
    if not _has_manifest(folder):
        return False
    found = _foreign(folder)
    if found:
        names = ", ".join(map(shown, found[:3])) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise DataError(
            f"the store {shown(folder)} also holds {names}, which its replacement would delete; move that away, or "
            "choose another path"
        )
    return True


def _has_manifest(folder: Path) -> bool:
    """Whether a folder, and no link to one, has a manifest of this format."""
    try:
        manifest = None if folder.is_symlink() else read_json(folder / FILE)
    except (OSError, DataError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def _foreign(folder: Path) -> list[str]:
    """Names in a store's folder that stores do not have; what file managers leave behind is no loss."""
    known = {FILE, ".DS_Store", "Thumbs.db", "desktop.ini", *(f"{tensor}.safetensors" for tensor in TENSORS)}
    return sorted(p.name for p in folder.iterdir() if p.name not in known or not p.is_file())


def check_manifest(folder: Path, manifest: Any) -> None:
    """Check a manifest against the tensors' headers (no tensor is read). Raises `DataError`."""
    where = shown(folder / FILE)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{where} does not describe a {FORMAT}")
    if manifest.get("version") != FORMAT_VERSION:
        version = str(manifest.get("version"))[:40]
        raise DataError(f"store version {version} is not supported; this release reads {FORMAT_VERSION}")
    found = as_type(manifest, _Manifest, where)
    tensors = found.tensors
    unknown = set(tensors) - set(TENSORS)
    if unknown or not {"frames", "queries"} <= set(tensors):
        raise DataError(
            f"a store holds {TENSORS} (the first two always), the manifest lists {str(sorted(tensors))[:200]}"
        )
    for key, entry in tensors.items():
        with os_errors(f"read {shown(folder / f'{key}.safetensors')}"):
            shape, dtype = read_header(folder / f"{key}.safetensors", key)
        if list(shape) != entry.shape or dtype != entry.dtype:
            raise DataError(
                f"{key}.safetensors holds {dtype} {list(shape)}, the manifest says {entry.dtype} {entry.shape}"
            )
        if len(shape) != RANK[key]:
            raise DataError(f"{key} must have {RANK[key]} dimensions, it has shape {list(shape)}")
        if entry.range[0] > entry.range[1]:
            raise DataError(f"{where} states the range {list(entry.range)} of {key}, largest value first")
    videos = {v.id: v for v in found.videos}
    if len(videos) != len(found.videos):
        raise DataError("the manifest lists a video id twice")
    rows = rows_on_disk(found.spans, sum(v.n_frames for v in found.videos), tensors["frames"].shape[0])
    for key in PER_ROW:
        if key in tensors and tensors[key].shape[0] != rows:
            raise DataError(f"{key} has {tensors[key].shape[0]} rows, the videos add up to {rows}")
    if tensors["queries"].shape[0] != len(found.queries):
        raise DataError(f"{tensors['queries'].shape[0]} query vectors for {len(found.queries)} queries")
    boxes = tensors["boxes"].shape[0] if "boxes" in tensors else 0
    for name, (first, last) in found.tracks.items():
        if not 0 <= first < last <= boxes:
            raise DataError(f"track {name[:80]!r} has rows [{first}, {last}) of {boxes} boxes")
    for query in found.queries:
        _check_query(query, videos, found.tracks)


def rows_on_disk(spans: Sequence[tuple[int, int]] | None, rows: int, stored: int) -> int:
    """Rows that the tensors of a store must have whose videos add up to ``rows``.

    Args:
        spans: of the manifest: None, or the stretches of rows that make the videos.
        rows: of all videos.
        stored: rows of the tensor ``frames`` on disk.

    Raises:
        DataError: spans that are no stretches of the tensor's rows, or that do not add up to the videos' rows.
    """
    if spans is None:
        return rows
    for first, last in spans:
        if not 0 <= first < last <= stored:
            raise DataError(f"the span [{first}, {last}) is no stretch of the {stored} rows of frames")
    count = sum(last - first for first, last in spans)
    if count != rows:
        raise DataError(f"the spans hold {count} rows, the videos add up to {rows}")
    return stored


def _check_query(query: _Query, videos: dict[str, _Video], tracks: dict[str, tuple[int, int]]) -> None:
    where = f"query {query.qid[:80]!r}"
    video = videos.get(query.video)
    if video is None:
        raise DataError(f"{where} names the unknown video {query.video[:80]!r}{nearest(query.video, videos)}")
    for start, end in query.windows:
        if not 0 <= start < end <= video.duration + 1e-6:
            raise DataError(f"{where} has the window [{start}, {end}] in a video of {video.duration} s")
    track = query.extra.get("track")
    if track is not None:
        if not isinstance(track, str) or track not in tracks:
            raise DataError(f"{where} names the unknown track {str(track)[:80]!r}")
        first, last = tracks[track]
        if last - first != video.n_frames:
            raise DataError(f"track {track[:80]!r} has {last - first} boxes, its video {video.n_frames} rows")
