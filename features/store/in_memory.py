"""Stores held in memory: one video with some sentences, or annotations alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.datasets.types import Annotations, Query, Report
from strong_envs.features.errors import DataError
from strong_envs.features.store.store import FeatureStore, StoredVideo


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


class OneVideoStore(MemoryStore):
    """A `FeatureStore` over arrays.

    Args:
        frames: (n, D) float32 or float16. grid: (n, h, w, C) or None. duration: seconds.
        sentences: S of them, with vectors (S, Dq) float32.

    The windows of its queries are the whole video, since the truth is unknown.
    """

    def __init__(
        self,
        frames: np.ndarray,
        grid: np.ndarray | None,
        duration: float,
        sentences: list[str],
        vectors: np.ndarray,
    ) -> None:
        given = {"frames": frames, "queries": vectors} | ({} if grid is None else {"grid": grid})
        # Copies: a bank would otherwise change with the arrays it was made from.
        tensors = {name: np.array(value) for name, value in given.items()}
        for name, value in tensors.items():
            if not np.isfinite(value).all():
                raise DataError(f"{name} of the video hold NaN or infinite values")
        if grid is not None and len(grid) != len(frames):
            raise DataError(f"frames have {len(frames)} rows and the grid {len(grid)}; they must be of the same rows")
        digest = hashlib.sha256(repr((duration, sentences)).encode())
        for value in tensors.values():
            digest.update(np.ascontiguousarray(value).tobytes())
        whole = ((0.0, float(duration)),)
        super().__init__(
            "one video",
            tensors,
            [StoredVideo("video", float(duration), len(frames))],
            [Query(f"query {i}", "video", text, whole, "all") for i, text in enumerate(sentences)],
            digest.hexdigest(),
            fps=len(frames) / duration,
        )


PREFIX = "queries:"
TEXT = "hashed-words:512"
"""The encoder where none is named: a thousand different words stay apart in 512 numbers, and nothing is downloaded."""


class QueryStore(MemoryStore):
    """A `FeatureStore` in memory over annotations.

    Args:
        annotations: videos and queries, see `strong_envs.features.datasets.read`.
        text: name of a text encoder, see `strong_envs.features.encoders.text`.
    """

    def __init__(self, annotations: Annotations, text: str = TEXT) -> None:
        from strong_envs.features.encoders.queries import encode_queries
        from strong_envs.features.encoders.text import load

        queries = list(annotations.queries)
        if not queries:
            raise DataError(f"{annotations.name} has no queries, so there is nothing to make a store of")
        encoder = load(text)
        used = dict.fromkeys(query.video for query in queries)
        videos = [StoredVideo(name, annotations.videos[name].duration, 1) for name in used]
        self.report = Report(annotations.report.source)
        self.report.merge(annotations.report)
        vectors, described, facts = encode_queries(encoder, queries, self.report)
        digest = hashlib.sha256(np.ascontiguousarray(vectors).tobytes())
        records = [[asdict(video) for video in videos], [asdict(query) for query in queries]]
        digest.update(json.dumps(records, sort_keys=True, default=str).encode())
        super().__init__(
            f"{annotations.name} (queries)",
            {"frames": np.zeros((len(videos), 1), np.float32), "queries": vectors},
            videos,
            queries,
            digest.hexdigest(),
            extra={**facts, "no_frames": True, "annotations": self.report.as_dict()},
            text=described,
        )

    @classmethod
    def open(cls, path: str | os.PathLike) -> QueryStore:
        """The store of ``"queries:PATH"``, or ``"queries:PATH?text=minilm"`` with another text encoder."""
        from strong_envs.features.datasets import read

        name = os.fspath(path)
        source, _, option = name.removeprefix(PREFIX).partition("?")
        key, _, text = option.partition("=")
        if option and (key != "text" or not text):
            raise DataError(f"only text=ENCODER may follow the question mark, such as text=minilm; got {option!r}")
        if not source:
            raise DataError(f"{name!r} names no annotations; write {PREFIX}PATH, a file or a folder")
        return cls(read(source), text or TEXT)
