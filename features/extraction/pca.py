"""Fewer channels by principal components, so that the grids of a whole data set fit one device.

The map is linear, hence it commutes with every mean: pooling reduced cells equals reducing the pooled vector.
"""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np

from strong_envs.features.datasets.types import Query
from strong_envs.features.errors import DataError
from strong_envs.features.files.untrusted_json import as_type
from strong_envs.features.store.store import FeatureStore

CHUNK = 16384


class _Stored(msgspec.Struct):
    """A reduction as a manifest holds it."""

    dim: Annotated[int, msgspec.Meta(ge=1, le=2**20)]
    source_dim: Annotated[int, msgspec.Meta(ge=1, le=2**20)]
    explained: Annotated[float, msgspec.Meta(ge=0, le=1 + 1e-6)]
    n_rows: Annotated[int, msgspec.Meta(ge=1)]
    mean: str
    components: str


@dataclass(frozen=True)
class PCA:
    """``y = (x - mean) @ components.T``.

    Attributes:
        mean: (D,) float32. components: (N, D) float32, orthonormal rows, largest variance first.
        explained: share of the variance that the N components keep, in [0, 1].
        n_rows: number of vectors it was fitted on.
    """

    mean: np.ndarray
    components: np.ndarray
    explained: float
    n_rows: int

    @property
    def dim(self) -> int:
        """Channels after the reduction."""
        return len(self.components)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Reduce the last axis: (..., D) of any float type to (..., N) float32."""
        if x.shape[-1] != len(self.mean):
            raise DataError(f"this PCA reduces {len(self.mean)} channels, the features have {x.shape[-1]}")
        flat = x.reshape(-1, x.shape[-1])
        out = np.empty((len(flat), self.dim), np.float32)
        for start in range(0, len(flat), CHUNK):
            out[start : start + CHUNK] = (
                flat[start : start + CHUNK].astype(np.float32) - self.mean
            ) @ self.components.T
        return out.reshape(*x.shape[:-1], self.dim)

    def as_json(self) -> dict:
        """A JSON-ready form; the numbers are base64 of little-endian float32."""
        return {
            "dim": self.dim,
            "source_dim": len(self.mean),
            "explained": self.explained,
            "n_rows": self.n_rows,
            "encoding": "base64 of little-endian float32, row-major",
            "mean": _encode(self.mean),
            "components": _encode(self.components),
        }

    @classmethod
    def from_json(cls, data: dict) -> PCA:
        """The inverse of `as_json`; raises `DataError` on anything else."""
        found = as_type(data, _Stored, "this is not the description of a reduction of channels")
        try:
            mean = _decode(found.mean, (found.source_dim,))
            components = _decode(found.components, (found.dim, found.source_dim))
        except ValueError as error:
            raise DataError(f"the reduction of channels holds other numbers than it states: {error}") from None
        if not (np.isfinite(mean).all() and np.isfinite(components).all()):
            raise DataError("the reduction of channels holds NaN or infinite values")
        return cls(mean, components, found.explained, found.n_rows)


def fit(parts: Iterable[np.ndarray], dim: int) -> PCA:
    """Fit on a stream of (n, D) arrays, one pass, memory of O(D^2) whatever the number of rows.

    Means and scatter matrices of the parts are merged by the parallel update of Chan, Golub and LeVeque (1979).

    Raises:
        DataError: ``dim`` outside 1..D, fewer rows than ``dim``, or values that are not finite.
    """
    count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for part in parts:
        for start in range(0, len(part), CHUNK):
            x = part[start : start + CHUNK].astype(np.float32)
            if not count:
                mean, scatter = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
            centre = x.mean(0, dtype=np.float64)
            x = x - centre.astype(np.float32)
            delta, total = centre - mean, count + len(x)
            scatter += (x.T @ x).astype(np.float64) + np.outer(delta, delta) * (count * len(x) / total)
            mean += delta * (len(x) / total)
            count = total
    if not 1 <= dim <= len(mean):
        raise DataError(f"PCA to {dim} channels is not possible: the features have {len(mean)}")
    if count < dim:
        raise DataError(f"PCA to {dim} channels needs at least as many vectors, there are {count}")
    if not np.isfinite(scatter).all():
        raise DataError("PCA met values that are not finite")
    variances, vectors = np.linalg.eigh(scatter / count)
    components = vectors[:, ::-1][:, :dim].T
    # An eigenvector's sign is arbitrary: fixing it makes two machines agree.
    largest = np.abs(components).argmax(1)
    components = components * np.sign(components[np.arange(dim), largest])[:, None]
    total_variance = float(variances.clip(0).sum())
    explained = float(variances[::-1][:dim].clip(0).sum()) / total_variance if total_variance > 0 else 1.0
    return PCA(mean.astype(np.float32), components.astype(np.float32), explained, count)


def choose_videos(queries: Iterable[Query], most: int) -> set[str]:
    """At most ``most`` videos with a train query, to fit a reduction on; the same for the same data.

    Raises:
        DataError: no query is a train query.
    """
    queries = list(queries)
    train = sorted({q.video for q in queries if q.split == "train"})
    if not train:
        splits = sorted({q.split for q in queries})
        raise DataError(
            f"PCA is fitted on train videos and there are none (splits: {splits}); pass a train store's path"
        )
    return sample_videos(train, most)


def sample_videos(train: Iterable[str], most: int) -> set[str]:
    """At most ``most`` of the ids of train videos; the same for the same ids."""
    ordered = sorted(train)
    return set(random.Random(0).sample(ordered, min(most, len(ordered))))


def of_store(path: str | os.PathLike, channels: int) -> PCA:
    """The reduction of a store, for features of ``channels`` channels.

    Raises:
        DataError: the store has none, or one for another number of channels.
    """
    saved = FeatureStore.open(path).manifest["extra"].get("pca")
    if saved is None:
        raise DataError(f"the store {str(path)!r} has no reduction of its own; pass the number of channels instead")
    reducer = PCA.from_json(saved)
    if len(reducer.mean) != channels:
        raise DataError(f"the reduction of {str(path)!r} is for {len(reducer.mean)} channels, not {channels}")
    return reducer


def _encode(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def _decode(text: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").reshape(shape).astype(np.float32)
