"""A feature store on disk: safetensors files beside one JSON manifest, written whole or not at all.

Layout of a store folder::

    manifest.json          dimensions, units, rates, backbone, text encoder, videos, queries, hashes
    frames.safetensors     "frames"  (N, D)        one pooled vector per feature row, videos packed one after the other
    queries.safetensors    "queries" (S, Dq)       one vector per query, in the order of the manifest
    grid.safetensors       "grid"    (N, h, w, C)  the spatial map of every row (optional)
    objects.safetensors    "objects" (N, K, C)     detector features of K objects in every row (optional)
    boxes.safetensors      "boxes"   (M, 4)        true boxes, tracks packed one after the other (optional)

Feature row ``i`` of a video with ``n`` rows and a duration of ``T`` seconds covers seconds ``[i*T/n, (i+1)*T/n)``.
Boxes are normalised corners ``x1, y1, x2, y2`` in [0, 1]; a row of NaN says that the object has no box in that row.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.datasets.types import Query
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.store.tensor_file import Rows, map_tensor, read_header, sha256, write_tensor

FORMAT = "strong-envs feature store"
FORMAT_VERSION = 1
RANK = {"frames": 2, "queries": 2, "grid": 4, "objects": 3, "boxes": 2}
TENSORS = tuple(RANK)
PER_ROW = ("frames", "grid", "objects")
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
"""What kind of JSON each part of a manifest is."""
"""Tensors with one entry for every feature row."""


@dataclass(frozen=True)
class StoredVideo:
    """A video of a store: ``n_frames`` feature rows over ``duration`` seconds; ``path`` leads to its pixels, if any."""

    id: str
    duration: float
    n_frames: int
    path: str | None = None
    extra: dict = field(default_factory=dict, compare=False)


class FeatureStore:
    """An opened store. Tensors are read when asked for; the manifest has been checked against the files' headers.

    Attributes: ``path``, ``manifest`` (dict), ``videos`` (list of `StoredVideo`), ``queries`` (list of `Query`),
    ``tracks`` (dict of track id to the (first, last) rows of the boxes tensor).
    """

    def __init__(self, path: Path, manifest: dict) -> None:
        self.path = path
        self.manifest = manifest
        self.videos = [StoredVideo(**v) for v in manifest["videos"]]
        self.queries = [
            Query(**{**q, "windows": tuple((float(s), float(e)) for s, e in q["windows"])}) for q in manifest["queries"]
        ]
        self.tracks = {name: (int(a), int(b)) for name, (a, b) in manifest.get("tracks", {}).items()}

    @classmethod
    def open(cls, path: str | os.PathLike) -> FeatureStore:
        """Open a store folder; every way in which it can be unfit raises `DataError` with one sentence."""
        folder = Path(path)
        manifest_path = folder / "manifest.json"
        if not folder.is_dir():
            raise DataError(f"no store at {str(folder)!r}: there is no such folder")
        if not manifest_path.is_file():
            raise DataError(f"{str(folder)!r} is not a store: it has no manifest.json")
        try:
            manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{manifest_path} is not readable JSON: {error}") from None
        try:
            check_manifest(folder, manifest)
            return cls(folder, manifest)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{manifest_path} lacks or misstates a field: {error!r}") from None

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def splits(self) -> list[str]:
        """Names of the splits, sorted."""
        return sorted({q.split for q in self.queries})

    @property
    def content_hash(self) -> str:
        """SHA-256 over the tensors' bytes and the records: two stores with the same hash hold the same data."""
        return self.manifest["content_hash"]

    def has(self, tensor: str) -> bool:
        """Whether the store holds ``"frames"``, ``"queries"``, ``"grid"``, ``"objects"`` or ``"boxes"``."""
        return tensor in self.manifest["tensors"]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        self._require(tensor)
        return tuple(self.manifest["tensors"][tensor]["shape"])

    def range(self, tensor: str) -> tuple[float, float]:
        """Smallest and largest value of a tensor, without reading it."""
        self._require(tensor)
        low, high = self.manifest["tensors"][tensor]["range"]
        return float(low), float(high)

    def tensor(self, tensor: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``[start, stop)`` of a tensor; only those rows are read from disk."""
        from safetensors import SafetensorError, safe_open

        self._require(tensor)
        try:
            with safe_open(str(self.path / f"{tensor}.safetensors"), framework="numpy") as handle:
                rows = handle.get_slice(tensor)
                return rows[start : rows.get_shape()[0] if stop is None else stop]
        except (SafetensorError, OSError) as error:
            raise DataError(f"{self.path / tensor}.safetensors cannot be read: {error}") from None

    def maps(self, tensor: str) -> list[np.ndarray]:
        """Read-only memory maps of a tensor; laid end to end they are what `flat_rows` counts in. Nothing is read."""
        self._require(tensor)
        return [map_tensor(self.path / f"{tensor}.safetensors", tensor)]

    def flat_rows(self, start: int, stop: int) -> np.ndarray:
        """Where feature rows ``[start, stop)`` lie in `maps`: int64. Stores that are views of others differ here."""
        return np.arange(start, stop, dtype=np.int64)

    def verify(self) -> None:
        """Read every file and compare its hash with the manifest's; raises `DataError` on the first that differs."""
        for tensor, entry in self.manifest["tensors"].items():
            digest = sha256(self.path / f"{tensor}.safetensors")
            if digest != entry["sha256"]:
                said = entry["sha256"][:12]
                raise DataError(f"{tensor}.safetensors has hash {digest[:12]}, the manifest says {said}")

    def _require(self, tensor: str) -> None:
        if not self.has(tensor):
            raise DataError(f"store {self.name!r} has no {tensor}; it has {sorted(self.manifest['tensors'])}")


def write_store(
    path: str | os.PathLike,
    *,
    name: str,
    videos: list[StoredVideo],
    queries: list[Query],
    frames: Rows,
    query_vectors: np.ndarray,
    grid: Rows | None = None,
    objects: Rows | None = None,
    boxes: dict[str, np.ndarray] | None = None,
    fps: float | None = None,
    backbone: dict | None = None,
    text: dict | None = None,
    extra: dict | None = None,
    overwrite: bool = False,
) -> FeatureStore:
    """Write a store and open it. The folder appears complete or not at all.

    Tensors may be arrays, memory maps, or `features.store.tensor_file.RowBlocks`, whose blocks are taken one at a
    time: each
    is checked, hashed and written in one pass, and never held as a whole.

    Args:
        path: folder to create; it must not exist unless ``overwrite``.
        frames: (N, D) float16 or float32, packed in the order of ``videos``.
        query_vectors: (S, Dq) float32, in the order of ``queries``.
        grid: (N, h, w, C) float16 or float32, or None.
        objects: (N, K, C) float16 or float32 detector features, or None; a row of zeros stands for "no object".
        boxes: track id to (n_frames, 4) float32 normalised corners; ``query.extra["track"]`` names a query's track.
        fps: feature rows per second where all videos share it (None where they differ).
        backbone, text, extra: JSON-ready descriptions of what made the features, the vectors, and anything else.

    Raises:
        DataError: shapes that do not fit each other, values that are not finite, queries of unknown videos or tracks.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise DataError(f"{str(target)!r} exists; choose another path or pass overwrite=True")
    tensors: dict[str, Rows] = {"frames": frames, "queries": query_vectors}
    tensors |= {key: value for key, value in (("grid", grid), ("objects", objects)) if value is not None}
    tracks: dict[str, tuple[int, int]] = {}
    if boxes:
        row = 0
        for track, rows in boxes.items():
            tracks[track] = (row, row + len(rows))
            row += len(rows)
        tensors["boxes"] = np.concatenate([np.asarray(b, np.float32) for b in boxes.values()])
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": name,
        "fps": fps,
        "units": {"duration": "seconds", "windows": "seconds", "boxes": "normalised corners x1 y1 x2 y2"},
        "dims": {
            "frame": int(frames.shape[1]) if frames.ndim == 2 else None,
            "query": int(query_vectors.shape[1]) if query_vectors.ndim == 2 else None,
            "grid": None if grid is None else [int(x) for x in grid.shape[1:]],
            "objects": None if objects is None else [int(x) for x in objects.shape[1:]],
        },
        "backbone": backbone or {},
        "text": text or {},
        "extra": extra or {},
        "videos": [asdict(v) for v in videos],
        "queries": [{**asdict(q), "windows": [list(w) for w in q.windows]} for q in queries],
        "tracks": {k: list(v) for k, v in tracks.items()},
        "tensors": {},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        digest = hashlib.sha256()
        for key, value in tensors.items():
            entry = manifest["tensors"][key] = write_tensor(staging / f"{key}.safetensors", key, value)
            digest.update(entry["sha256"].encode())
        records = {k: manifest[k] for k in ("videos", "queries", "tracks")}
        digest.update(json.dumps(records, sort_keys=True).encode())
        manifest["content_hash"] = digest.hexdigest()
        check_manifest(staging, manifest)
        (staging / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        os.chmod(staging, 0o755)
        _move_into_place(staging, target, overwrite)
    finally:
        if staging.exists():
            shutil.rmtree(staging, ignore_errors=True)
    return FeatureStore.open(target)


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
    rows = sum(int(v["n_frames"]) for v in videos.values())
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
    """Refuse a manifest in which a field that somebody reads later is of another kind than `write_store` writes."""

    def pair(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 2 and all(_number(x) for x in value)

    def require(holds: bool, field: str, value: Any) -> None:
        if not holds:
            raise DataError(f"{folder}/manifest.json misstates {field}: {str(value)[:80]!r}")

    for key, kind in KINDS.items():
        require(isinstance(manifest[key], kind), key, manifest[key])
    require(manifest.get("fps") is None or _number(manifest["fps"]), "fps", manifest.get("fps"))
    for key, entry in manifest["tensors"].items():
        require(isinstance(entry["sha256"], str), f"the hash of {key}", entry["sha256"])
        require(pair(entry["range"]), f"the range of {key}", entry["range"])
    for video in manifest["videos"]:
        require(isinstance(video["id"], str), "the id of a video", video["id"])
        fits = type(video["n_frames"]) is int and _number(video["duration"])
        require(fits, f"the length of video {video['id']!r}", (video["n_frames"], video["duration"]))
    for query in manifest["queries"]:
        texts = [query["qid"], query["video"], query["text"], query.get("split", "")]
        require(all(isinstance(x, str) for x in texts), "a query", texts)
        require(all(pair(window) for window in query["windows"]), "the windows of a query", query["windows"])
        require(isinstance(query.get("extra", {}), dict), "extra of a query", query.get("extra"))
    for name, rows in manifest.get("tracks", {}).items():
        require(pair(rows) and all(type(x) is int for x in rows), f"track {name!r}", rows)


def _number(value: Any) -> bool:
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


def _move_into_place(staging: Path, target: Path, overwrite: bool) -> None:
    """Rename, so that a reader sees the old store or the new one, never a mixture; the old one goes last."""
    if not target.exists():
        try:
            os.rename(staging, target)
            return
        except OSError:
            if not target.exists():
                raise
    if not overwrite:
        raise DataError(f"{str(target)!r} was created by somebody else meanwhile; nothing was overwritten")
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, old / "store")
    os.rename(staging, target)
    shutil.rmtree(old, ignore_errors=True)
