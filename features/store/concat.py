"""Several stores as one: their videos and queries one after the other, no tensor copied."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from strong_envs.features.datasets.leaks import find_leaks
from strong_envs.features.datasets.types import Query, Report
from strong_envs.features.errors import DataError
from strong_envs.features.store.manifest import FORMAT, FORMAT_VERSION
from strong_envs.features.store.store import FeatureStore, StoredVideo

FILES = ("imported",)
"""Entries of a description that name source files, which may differ between stores."""


class JoinedStore(FeatureStore):
    """Stores laid end to end, with the interface of one; see `join`.

    Attributes: as `FeatureStore`; ``stores`` the parts, ``report`` the renamed ids and suspected leaks.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = list(stores)
        self.path = self.stores[0].path
        self.report = Report(" + ".join(s.name for s in self.stores))
        self.videos, self.queries, self.tracks = _records(self.stores, self.report)
        self.report.merge(find_leaks(self.queries))
        self.report.kept = len(self.queries)
        self.manifest = _manifest(self.stores, self.report)

    def tensor(self, tensor: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``[start, stop)`` of a tensor of the stores laid end to end."""
        total = self.shape(tensor)[0]
        stop, parts, before = total if stop is None else min(stop, total), [], 0
        for store in self.stores:
            count = store.shape(tensor)[0] if store.has(tensor) else 0
            low, high = max(start - before, 0), min(stop - before, count)
            if low < high:
                parts.append(store.tensor(tensor, low, high))
            before += count
        return np.concatenate(parts) if parts else self.stores[0].tensor(tensor, 0, 0)

    def maps(self, tensor: str) -> list[np.ndarray]:
        """Memory maps of all parts, in order."""
        self._require(tensor)
        return [one for store in self.stores if store.has(tensor) for one in store.maps(tensor)]

    def flat_rows(self, start: int, stop: int) -> np.ndarray:
        """Where feature rows ``[start, stop)`` lie in `maps`: int64."""
        out, row, place = [], 0, 0
        for store in self.stores:
            count = store.shape("frames")[0]
            low, high = max(start - row, 0), min(stop - row, count)
            if low < high:
                out.append(place + store.flat_rows(low, high))
            row, place = row + count, place + sum(len(one) for one in store.maps("frames"))
        return np.concatenate(out) if out else np.empty(0, np.int64)

    def verify(self) -> None:
        """`FeatureStore.verify` of every part."""
        for store in self.stores:
            store.verify()


def join(stores: Sequence[FeatureStore]) -> FeatureStore:
    """Join opened stores. Ids that occur in several become ``"store name/id"``; ``report`` of the result counts them.

    Raises:
        DataError: no store, or stores whose dimensions, units, backbone, text encoder or channel reduction differ.
    """
    if not stores:
        raise DataError("no store was given to join")
    if len(stores) == 1:
        return stores[0]
    for other in stores[1:]:
        found = _differences(stores[0].manifest, other.manifest)
        if found:
            listed = "; ".join(f"{name}: {a} against {b}" for name, a, b in found)
            raise DataError(f"stores {stores[0].name!r} and {other.name!r} cannot be joined, they differ in {listed}")
    return JoinedStore(stores)


def _differences(a: dict, b: dict) -> list[tuple[str, str, str]]:
    found = []
    for part in ("dims", "units", "backbone", "text"):
        left, right = a.get(part) or {}, b.get(part) or {}
        for key in sorted((left.keys() | right.keys()) - set(FILES)):
            if left.get(key) != right.get(key):
                found.append((f"{part} {key}", _short(left.get(key)), _short(right.get(key))))
    reduced = [json.dumps((m.get("extra") or {}).get("pca"), sort_keys=True) for m in (a, b)]
    if reduced[0] != reduced[1]:
        first, second = ("none" if r == "null" else hashlib.sha256(r.encode()).hexdigest()[:12] for r in reduced)
        found.append(("channel reduction (extract the second store with --pca FIRST_STORE)", first, second))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _records(
    stores: list[FeatureStore], report: Report
) -> tuple[list[StoredVideo], list[Query], dict[str, tuple[int, int]]]:
    labels = [s.name for s in stores]
    if len(set(labels)) < len(labels):
        labels = [f"{name}#{i + 1}" for i, name in enumerate(labels)]
    video_ids = _unique(labels, [[v.id for v in s.videos] for s in stores])
    query_ids = _unique(labels, [[q.qid for q in s.queries] for s in stores])
    track_ids = _unique(labels, [list(s.tracks) for s in stores])
    videos: list[StoredVideo] = []
    queries: list[Query] = []
    tracks: dict[str, tuple[int, int]] = {}
    first = 0
    splits: dict[str, set[str]] = {}
    for store, new_video, new_query, new_track in zip(stores, video_ids, query_ids, track_ids, strict=True):
        for video in store.videos:
            if new_video[video.id] != video.id:
                report.add("a video id occurs in several stores", "doubtful", f"{video.id} is {new_video[video.id]}")
            videos.append(replace(video, id=new_video[video.id]))
        for query in store.queries:
            extra = dict(query.extra)
            if new_query[query.qid] != query.qid:
                extra.setdefault("source_qid", query.qid)
            if extra.get("track") is not None:
                extra["track"] = new_track[extra["track"]]
            splits.setdefault(query.video, set()).add(query.split)
            queries.append(replace(query, qid=new_query[query.qid], video=new_video[query.video], extra=extra))
        tracks |= {new_track[name]: (a + first, b + first) for name, (a, b) in store.tracks.items()}
        first += store.shape("boxes")[0] if store.has("boxes") else 0
    repeated = [v for v, n in Counter(v.id for s in stores for v in s.videos).items() if n > 1]
    for name in repeated:
        if len(splits.get(name, ())) > 1:
            kind = "a video id has queries of several splits: if it is one video, it leaks"
            report.add(kind, "doubtful", f"{name}: {sorted(splits[name])}")
    return videos, queries, tracks


def _unique(labels: list[str], names: list[list[str]]) -> list[dict[str, str]]:
    """Old name to new for each store: names that occur in several are prefixed with the store's label."""
    counts = Counter(name for one in names for name in set(one))
    taken = {name for name, count in counts.items() if count == 1}
    out = []
    for label, one in zip(labels, names, strict=True):
        new = {}
        for name in dict.fromkeys(one):
            new[name] = name
            if counts[name] > 1:
                new[name] = f"{label}/{name}"
                while new[name] in taken:
                    new[name] += "+"
                taken.add(new[name])
        out.append(new)
    return out


def _manifest(stores: list[FeatureStore], report: Report) -> dict[str, Any]:
    first = stores[0].manifest
    rates = {s.manifest.get("fps") for s in stores}
    digest = hashlib.sha256(b"joined")
    for store in stores:
        digest.update(store.content_hash.encode())
    tensors = {}
    for name in {name: None for s in stores for name in s.manifest["tensors"]}:
        entries = [s.manifest["tensors"][name] for s in stores if s.has(name)]
        tensors[name] = {
            "shape": [sum(e["shape"][0] for e in entries), *entries[0]["shape"][1:]],
            "dtype": str(np.result_type(*(e["dtype"] for e in entries))),
            "range": [min(e["range"][0] for e in entries), max(e["range"][1] for e in entries)],
        }
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": report.source,
        "fps": rates.pop() if len(rates) == 1 else None,
        **{part: first.get(part) for part in ("units", "dims", "backbone", "text")},
        "extra": {
            **({"pca": first["extra"]["pca"]} if (first.get("extra") or {}).get("pca") else {}),
            "joined": [{"name": s.name, "path": str(s.path), "content_hash": s.content_hash} for s in stores],
            "report": report.as_dict(),
        },
        "tensors": tensors,
        "content_hash": digest.hexdigest(),
    }
