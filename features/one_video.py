"""A store of one video and some sentences, held in memory: features that somebody has at hand, no file written."""

from __future__ import annotations

import hashlib

import numpy as np

from features.memory_store import MemoryStore
from features.records import DataError, Query
from features.store import StoredVideo


class OneVideoStore(MemoryStore):
    """A `FeatureStore` over arrays.

    Args:
        frames: (n, D) float32 or float16. grid: (n, h, w, C) or None. duration: seconds.
        sentences: S of them, with vectors (S, Dq) float32.

    The windows of its queries are the whole video: nobody knows the truth.
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
