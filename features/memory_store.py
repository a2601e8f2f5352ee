"""What stores share that stand in memory and on no disk: `features.one_video` and `features.query_store`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from features.records import Query
from features.store import FeatureStore, StoredVideo


class MemoryStore(FeatureStore):
    """A `FeatureStore` over arrays, which are kept as they are.

    Args:
        name: of the store. tensors: by name, as in a store on disk. videos, queries: what their rows belong to.
        content_hash: differs where anything of it differs. about: further entries of the manifest.
    """

    def __init__(
        self,
        name: str,
        tensors: dict[str, np.ndarray],
        videos: list[StoredVideo],
        queries: list[Query],
        content_hash: str,
        **about: Any,
    ) -> None:
        self.path, self.tracks = Path("memory"), {}
        self.videos, self.queries, self._tensors = videos, queries, tensors
        rest: Mapping[str, Any] = {"extra": {}, "backbone": {}, "text": {}, "fps": None, **about}
        self.manifest = {
            "name": name,
            **rest,
            "content_hash": content_hash,
            "tensors": {
                key: {"shape": list(v.shape), "dtype": str(v.dtype), "range": (float(v.min()), float(v.max()))}
                for key, v in tensors.items()
            },
        }

    def tensor(self, tensor: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``[start, stop)`` of a tensor, as in `FeatureStore.tensor`."""
        self._require(tensor)
        return self._tensors[tensor][start:stop]

    def maps(self, tensor: str) -> list[np.ndarray]:
        """The array itself."""
        self._require(tensor)
        return [self._tensors[tensor]]

    def verify(self) -> None:
        """Nothing on disk could differ."""
