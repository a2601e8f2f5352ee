"""Parts of a store as a store of their own: other videos made of its rows, other queries, no tensor copied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property

import numpy as np

from strong_envs.features.datasets.types import Query, Report
from strong_envs.features.store.manifest import PER_ROW
from strong_envs.features.store.store import FeatureStore, StoredVideo
from strong_envs.features.store.tensor_file import gather_rows


class StoreView(FeatureStore):
    """A store whose videos are ranges of another's rows and whose queries are chosen among the other's.

    Args:
        base: where the numbers are. name: of the view.
        videos: with ``spans``, the feature rows [first, last) of ``base`` that make each; ranges may overlap.
        queries: with ``vectors``, the row of the base's query tensor that belongs to each.
        tracks: id to rows of the base's boxes. report: what was changed. extra: goes into the manifest's ``extra``.
    """

    def __init__(
        self,
        base: FeatureStore,
        name: str,
        videos: list[StoredVideo],
        spans: Sequence[tuple[int, int]],
        queries: list[Query],
        vectors: Sequence[int],
        tracks: dict[str, tuple[int, int]],
        report: Report,
        extra: dict,
    ) -> None:
        self.base, self.path, self.report = base, base.path, report
        self.videos, self.queries, self.tracks = videos, queries, tracks
        self._spans, self._vectors = list(spans), np.asarray(vectors, np.int64)
        rows = sum(b - a for a, b in self._spans)
        tensors = {key: dict(entry) for key, entry in base.manifest["tensors"].items()}
        for key, entry in tensors.items():
            if key in PER_ROW or key == "queries":
                entry["shape"] = [rows if key in PER_ROW else len(queries), *entry["shape"][1:]]
        records = [[asdict(v) for v in videos], self._spans, [asdict(q) for q in queries], extra]
        digest = hashlib.sha256(f"{base.content_hash}{json.dumps(records, sort_keys=True)}".encode())
        self.manifest = {
            **base.manifest,
            "name": name,
            "tensors": tensors,
            "extra": {**(base.manifest.get("extra") or {}), **extra, "view": report.as_dict()},
            "content_hash": digest.hexdigest(),
        }

    def tensor(self, tensor: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``[start, stop)`` of a tensor of the view, copied out of the store's files."""
        self._require(tensor)
        if tensor == "queries":
            return self.base.tensor(tensor)[self._vectors][start:stop]
        if tensor not in PER_ROW:
            return self.base.tensor(tensor, start, stop)
        return gather_rows(self.base.maps(tensor), self._flat[start:stop])

    def maps(self, tensor: str) -> list[np.ndarray]:
        """The base's memory maps; `flat_rows` says which rows of them the view shows."""
        return self.base.maps(tensor)

    def flat_rows(self, start: int, stop: int) -> np.ndarray:
        """Where feature rows ``[start, stop)`` of the view lie in `maps`: int64."""
        return self._flat[start:stop]

    def verify(self) -> None:
        """`FeatureStore.verify` of the store that the view shows."""
        self.base.verify()

    @cached_property
    def _flat(self) -> np.ndarray:
        whole = self.base.flat_rows(0, self.base.shape("frames")[0])
        return np.concatenate([whole[a:b] for a, b in self._spans])
