"""The manifest of a store: what it must say, checked against the headers of the tensors beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strong_envs.features.errors import DataError, nearest
from strong_envs.features.store.tensor_file import read_header

FORMAT = "strong-envs feature store"
FORMAT_VERSION = 1
RANK = {"frames": 2, "queries": 2, "grid": 4, "objects": 3, "boxes": 2}
"""Number of dimensions of each tensor."""
TENSORS = tuple(RANK)
PER_ROW = ("frames", "grid", "objects")
"""Tensors with one entry for every feature row."""
KINDS = {
    "name": str,
    "content_hash": str,
    "tensors": dict,
    "videos": list,
    "queries": list,
    "tracks": dict,
    "dims": dict,
    "backbone": dict,
    "text": dict,
    "extra": dict,
    "units": dict,
}
"""JSON type of each part of a manifest."""


def check_manifest(folder: Path, manifest: dict) -> None:
    """Check a manifest against the tensors' headers (no tensor is read). Raises `DataError`."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{folder}/manifest.json does not describe a {FORMAT}")
    if manifest["version"] != FORMAT_VERSION:
        raise DataError(f"store version {manifest['version']!r} is not supported; this release reads {FORMAT_VERSION}")
    _check_kinds(folder, manifest)
    tensors = manifest["tensors"]
    unknown = set(tensors) - set(TENSORS)
    if unknown or not {"frames", "queries"} <= set(tensors):
        raise DataError(f"a store holds {TENSORS} (the first two always), the manifest lists {sorted(tensors)}")
    for key, entry in tensors.items():
        shape, dtype = read_header(folder / f"{key}.safetensors", key)
        if list(shape) != list(entry["shape"]) or dtype != entry["dtype"]:
            raise DataError(
                f"{key}.safetensors holds {dtype} {list(shape)}, the manifest says {entry['dtype']} {entry['shape']}"
            )
        if math.prod(shape) == 0:
            raise DataError(f"{key} is empty: shape {list(shape)}")
    for key, entry in tensors.items():
        if len(entry["shape"]) != RANK[key]:
            raise DataError(f"{key} must have {RANK[key]} dimensions, it has shape {entry['shape']}")
    videos = {v["id"]: v for v in manifest["videos"]}
    if len(videos) != len(manifest["videos"]):
        raise DataError("the manifest lists a video id twice")
    rows = rows_on_disk(
        manifest.get("spans"), sum(int(v["n_frames"]) for v in videos.values()), tensors["frames"]["shape"]
    )
    for key in PER_ROW:
        if key in tensors and tensors[key]["shape"][0] != rows:
            raise DataError(f"{key} has {tensors[key]['shape'][0]} rows, the videos add up to {rows}")
    for video in videos.values():
        if int(video["n_frames"]) < 1 or not (math.isfinite(video["duration"]) and video["duration"] > 0):
            raise DataError(f"video {video['id']!r} has {video['n_frames']} rows over {video['duration']} s")
    if tensors["queries"]["shape"][0] != len(manifest["queries"]):
        raise DataError(f"{tensors['queries']['shape'][0]} query vectors for {len(manifest['queries'])} queries")
    tracks = manifest.get("tracks", {})
    for query in manifest["queries"]:
        _check_query(query, videos, tracks, tensors)


def _check_kinds(folder: Path, manifest: dict) -> None:
    """Refuse a manifest with a field of another type than `write_store` writes."""

    def pair(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 2 and all(is_number(x) for x in value)

    def require(holds: bool, field: str, value: Any) -> None:
        if not holds:
            raise DataError(f"{folder}/manifest.json misstates {field}: {str(value)[:80]!r}")

    for key, kind in KINDS.items():
        require(isinstance(manifest[key], kind), key, manifest[key])
    require(manifest.get("fps") is None or is_number(manifest["fps"]), "fps", manifest.get("fps"))
    for key, entry in manifest["tensors"].items():
        require(isinstance(entry["sha256"], str), f"the hash of {key}", entry["sha256"])
        require(pair(entry["range"]), f"the range of {key}", entry["range"])
    for video in manifest["videos"]:
        require(isinstance(video["id"], str), "the id of a video", video["id"])
        fits = type(video["n_frames"]) is int and is_number(video["duration"])
        require(fits, f"the length of video {video['id']!r}", (video["n_frames"], video["duration"]))
    for query in manifest["queries"]:
        texts = [query["qid"], query["video"], query["text"], query.get("split", "")]
        require(all(isinstance(x, str) for x in texts), "a query", texts)
        require(all(pair(window) for window in query["windows"]), "the windows of a query", query["windows"])
        require(isinstance(query.get("extra", {}), dict), "extra of a query", query.get("extra"))
    for name, rows in manifest.get("tracks", {}).items():
        require(pair(rows) and all(type(x) is int for x in rows), f"track {name!r}", rows)


def rows_on_disk(spans: Any, rows: int, shape: Sequence[int]) -> int:
    """Rows that the tensors of a store must have whose videos add up to ``rows``.

    Args:
        spans: of the manifest: None, or the stretches of rows that make the videos.
        rows: of all videos.
        shape: of the tensor ``frames`` on disk.

    Raises:
        DataError: spans that are no stretches of the tensor's rows, or that do not add up to the videos' rows.
    """
    if spans is None:
        return rows
    count = 0
    for span in spans if isinstance(spans, list) else [spans]:
        whole = isinstance(span, (list, tuple)) and len(span) == 2 and all(type(x) is int for x in span)
        if not whole or not 0 <= span[0] < span[1] <= shape[0]:
            raise DataError(f"the span {str(span)[:80]} is no stretch of the {shape[0]} rows of frames")
        count += span[1] - span[0]
    if count != rows:
        raise DataError(f"the spans hold {count} rows, the videos add up to {rows}")
    return int(shape[0])


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_query(query: dict, videos: dict, tracks: dict, tensors: dict) -> None:
    where = f"query {query['qid']!r}"
    if query["video"] not in videos:
        raise DataError(f"{where} names the unknown video {query['video']!r}{nearest(query['video'], videos)}")
    video = videos[query["video"]]
    if not query["windows"]:
        raise DataError(f"{where} has no window")
    for start, end in query["windows"]:
        if not 0 <= start < end <= video["duration"] + 1e-6:
            raise DataError(f"{where} has the window [{start}, {end}] in a video of {video['duration']} s")
    track = (query.get("extra") or {}).get("track")
    if track is not None:
        if track not in tracks:
            raise DataError(f"{where} names the unknown track {track!r}")
        first, last = tracks[track]
        if last - first != int(video["n_frames"]) or not 0 <= first < last <= tensors["boxes"]["shape"][0]:
            raise DataError(f"track {track!r} has {last - first} boxes, its video {video['n_frames']} rows")
