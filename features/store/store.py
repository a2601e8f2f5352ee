"""A feature store on disk: safetensors files beside one JSON manifest, written whole or not at all.

Layout of a store folder::

    manifest.json          dimensions, units, rates, backbone, text encoder, videos, queries, hashes
    frames.safetensors     "frames"  (N, D)        one pooled vector per feature row, videos packed one after the other
    queries.safetensors    "queries" (S, Dq)       one vector per query, in the order of the manifest
    grid.safetensors       "grid"    (N, h, w, C)  the spatial map of every row (optional)
    objects.safetensors    "objects" (N, K, C)     detector features of K objects in every row (optional)
    boxes.safetensors      "boxes"   (M, 4)        true boxes, tracks packed one after the other (optional)

A store may repeat rows: with the list ``spans`` in its manifest, the rows of its videos are the stretches [first, last)
of the tensors ``frames``, ``grid`` and ``objects``, one after the other. Composed videos share the rows of their clips.

Feature row ``i`` of a video with ``n`` rows and a duration of ``T`` seconds covers seconds ``[i*T/n, (i+1)*T/n)``.
Boxes are normalised corners ``x1, y1, x2, y2`` in [0, 1]; a row of NaN says that the object has no box in that row.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.datasets.types import Query
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import recover, refuse_replacing, replaced_folder
from strong_envs.features.files.errors import check_output, given_path, os_errors, shown
from strong_envs.features.store.manifest import (
    FILE,
    FORMAT,
    FORMAT_VERSION,
    PER_ROW,
    check_manifest,
    manifest_text,
    may_replace,
    read_manifest,
)
from strong_envs.features.store.tensor_file import Rows, gather_rows, map_tensor, sha256, write_tensor


@dataclass(frozen=True)
class StoredVideo:
    """A video of a store: ``n_frames`` feature rows over ``duration`` seconds; ``path`` is its video file, if any."""

    id: str
    duration: float
    n_frames: int
    path: str | None = None
    extra: dict = field(default_factory=dict, compare=False)


class FeatureStore:
    """An opened store. Tensors are read when used; the manifest has been checked against the files' headers.

    Attributes: ``path``, ``manifest`` (dict), ``videos`` (list of `StoredVideo`), ``queries`` (list of `Query`),
    ``tracks`` (dict of track id to the (first, last) rows of the boxes tensor).
    """

    _rows: np.ndarray | None = None
    """Where the feature rows lie in the tensors, for a store that repeats rows."""

    def __init__(self, path: Path, manifest: dict) -> None:
        self.path = path
        if manifest.get("spans") is not None:
            self._rows = np.concatenate([np.arange(a, b, dtype=np.int64) for a, b in manifest["spans"]])
            manifest = {k: v for k, v in manifest.items() if k != "spans"}
            manifest["tensors"] = {k: dict(e) for k, e in manifest["tensors"].items()}
            for tensor in PER_ROW:
                if tensor in manifest["tensors"]:
                    entry = manifest["tensors"][tensor]
                    entry["shape"] = [len(self._rows), *entry["shape"][1:]]
        self.manifest = manifest
        self.videos = [StoredVideo(**v) for v in manifest["videos"]]
        self.queries = [
            Query(**{**q, "windows": tuple((float(s), float(e)) for s, e in q["windows"])}) for q in manifest["queries"]
        ]
        self.tracks = {name: (int(a), int(b)) for name, (a, b) in manifest.get("tracks", {}).items()}

    @classmethod
    def open(cls, path: str | os.PathLike) -> FeatureStore:
        """Open a store folder; every way in which it can be unfit raises `DataError` with one sentence.

        A store whose replacement was interrupted is brought back first.
        """
        folder = Path(path)
        with os_errors(f"open the store {shown(folder)}"):
            recover(folder)
            return cls(folder, read_manifest(folder))

    @property
    def name(self) -> str:
        """Name of the store."""
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
        if self._rows is not None and tensor in PER_ROW:
            return gather_rows(FeatureStore.maps(self, tensor), self._rows[start:stop])
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
        """Where feature rows ``[start, stop)`` lie in `maps`: int64, other numbers where rows are views or repeated."""
        if self._rows is not None:
            return self._rows[start:stop]
        return np.arange(start, stop, dtype=np.int64)

    def verify(self) -> None:
        """Read every file and compare its hash with the manifest's; raises `DataError` on the first that differs."""
        for tensor, entry in self.manifest["tensors"].items():
            with os_errors(f"read {tensor} of the store {shown(self.path)}"):
                digest = sha256(self.path / f"{tensor}.safetensors")
            if digest != entry["sha256"]:
                said = entry["sha256"][:12]
                raise DataError(f"{tensor}.safetensors has hash {digest[:12]}, the manifest says {said}")

    def _require(self, tensor: str) -> None:
        if not self.has(tensor):
            raise DataError(f"store {self.name!r} has no {tensor}; it has {sorted(self.manifest['tensors'])}")


@dataclass(frozen=True)
class StoreContents:
    """Everything that a store holds.

    Tensors may be arrays, memory maps, or `strong_envs.features.store.tensor_file.RowBlocks`, whose blocks are taken
    one at a time.

    Attributes:
        name: of the store.
        videos: in the order in which their rows are packed.
        queries: in the order of their vectors.
        frames: (N, D) float16 or float32, packed in the order of ``videos``.
        query_vectors: (S, Dq) float32, in the order of ``queries``.
        grid: (N, h, w, C) float16 or float32, or None.
        objects: (N, K, C) float16 or float32 detector features, or None; a row of zeros stands for "no object".
        boxes: track id to (n_frames, 4) float32 normalised corners; ``query.extra["track"]`` names a query's track.
        fps: feature rows per second where all videos share it, else None.
        backbone: JSON-ready description of what made the features.
        text: JSON-ready description of what made the query vectors.
        extra: anything else, JSON-ready.
        spans: stretches [first, last) of ``frames``, ``grid`` and ``objects`` that make the rows of the videos, one
            after the other, where rows are repeated or left out; None takes every row once.
    """

    name: str
    videos: list[StoredVideo]
    queries: list[Query]
    frames: Rows
    query_vectors: np.ndarray
    grid: Rows | None = None
    objects: Rows | None = None
    boxes: dict[str, np.ndarray] | None = None
    fps: float | None = None
    backbone: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    spans: list[tuple[int, int]] | None = None

    def tensors(self) -> dict[str, Rows]:
        """The tensors by the name of their file; the boxes of all tracks are one tensor."""
        boxes = [np.asarray(rows, np.float32) for rows in (self.boxes or {}).values()]
        given: dict[str, Rows | None] = {
            "frames": self.frames,
            "queries": self.query_vectors,
            "grid": self.grid,
            "objects": self.objects,
            "boxes": np.concatenate(boxes) if boxes else None,
        }
        return {name: rows for name, rows in given.items() if rows is not None}

    def manifest(self) -> dict[str, Any]:
        """The manifest but for the entries of the tensors and the content hash."""
        tracks, row = {}, 0
        for track, rows in (self.boxes or {}).items():
            tracks[track] = [row, row + len(rows)]
            row += len(rows)
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "name": self.name,
            "fps": self.fps,
            "units": {"duration": "seconds", "windows": "seconds", "boxes": "normalised corners x1 y1 x2 y2"},
            "dims": {
                "frame": int(self.frames.shape[1]) if self.frames.ndim == 2 else None,
                "query": int(self.query_vectors.shape[1]) if self.query_vectors.ndim == 2 else None,
                "grid": None if self.grid is None else [int(x) for x in self.grid.shape[1:]],
                "objects": None if self.objects is None else [int(x) for x in self.objects.shape[1:]],
            },
            "backbone": self.backbone,
            "text": self.text,
            "extra": self.extra,
            "videos": [asdict(v) for v in self.videos],
            "queries": [{**asdict(q), "windows": [list(w) for w in q.windows]} for q in self.queries],
            "tracks": tracks,
            "tensors": {},
            **({} if self.spans is None else {"spans": [list(s) for s in self.spans]}),
        }


def check_target(path: str | os.PathLike, overwrite: bool) -> Path:
    """Check that a store can be written to a path, before the work.

    Args:
        path: folder of the store to be; its parents are created.
        overwrite: whether a store that is there may be replaced. Nothing but a store ever is.

    Returns:
        The path.

    Raises:
        DataError: something else is there, or the place cannot be written to.
    """
    target = given_path(path, "the folder of the store (--out)")
    with os_errors(f"write the store {shown(target)}"):
        recover(target)
        refuse_replacing(target, may_replace if overwrite else None, "a feature store")
        with suppress(FileNotFoundError):
            os.lstat(target)  # a name that the file system refuses
        check_output(target.absolute().parent, "folder", "the folder of the store,")
    return target


def write_store(path: str | os.PathLike, contents: StoreContents, *, overwrite: bool = False) -> FeatureStore:
    """Write a store and open it. The folder appears complete or not at all.

    Every tensor is checked, hashed and written in one pass, and never held as a whole.

    Args:
        path: folder to create.
        contents: what to write.
        overwrite: replace a store at ``path``; anything else that is there is refused.

    Raises:
        DataError: shapes that do not fit each other, values that are not finite, queries of unknown videos or tracks;
            or the folder cannot be written.
    """
    target = check_target(path, overwrite)
    with replaced_folder(target, may_replace if overwrite else None, "a feature store") as staging:
        fill_folder(staging, contents)
    return FeatureStore.open(target)


def fill_folder(folder: Path, contents: StoreContents) -> str:
    """Write the files of a store into an empty folder and check them; returns the content hash."""
    manifest = contents.manifest()
    digest = hashlib.sha256()
    for key, value in contents.tensors().items():
        entry = manifest["tensors"][key] = write_tensor(folder / f"{key}.safetensors", key, value)
        digest.update(entry["sha256"].encode())
    records = {k: manifest[k] for k in ("videos", "queries", "tracks", "spans") if k in manifest}
    try:
        digest.update(json.dumps(records, sort_keys=True).encode())
    except (TypeError, ValueError) as error:
        raise DataError(f"a video or query of the store holds what is not JSON: {error}") from None
    manifest["content_hash"] = digest.hexdigest()
    check_manifest(folder, manifest)
    (folder / FILE).write_text(manifest_text(manifest), encoding="utf-8")
    return manifest["content_hash"]
