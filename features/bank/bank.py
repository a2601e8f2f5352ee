"""One split of a store as packed ragged tensors on a device: what the environments compute their observations from."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from strong_envs.features.bank.mapped import MappedMeans, MappedRows
from strong_envs.features.bank.memory import need_memory
from strong_envs.features.bank.pooling import WindowMeans, box_weights, ragged_prefix_sums
from strong_envs.features.devices import usable_device
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.store.store import FeatureStore
from strong_envs.features.store.tensor_file import block_rows

MEMORY = ("device", "map")
INSTEAD = "open it with memory='map', which reads single rows, or with dtype='float16', or extract with --pca"
DTYPES = {"float16": torch.float16, "float32": torch.float32}


class FeatureBank:
    """Features, queries and truths of one split.

    A *sample* is a query with its video. Frames of all videos are packed one after the other.

    Args:
        store: an open store, or stores joined or cut into windows. split: None takes every query.
        device: where the tensors live, and where rows of mapped ones are brought.
        memory: ``"device"`` keeps frames, grid and objects on the device; ``"map"`` leaves them on disk, which may be
            more than the memory holds, and reads rows when they are used. Means over windows and boxes are then
            computed from those rows each time instead of from prefix sums, and the compiled steps are not used.
        dtype: ``"float16"`` or ``"float32"`` for frames, grid and objects; None keeps frames in float32 and the others
            as stored. Prefix sums are float32 always.

    Attributes:
        n_frames: (V,) int64 feature rows per video; ``duration`` (V,) float64 seconds; ``offsets`` (V + 1,) int64.
        video: (S,) int64, the video of each sample.
        query: (S, Dq) float32 sentence vectors; ``texts`` and ``qids`` lists of length S.
        truth: (S, K, 2) float64, the true windows as fractions of the duration, the last one repeated up to K.
        frames: (N, D) float32 unless ``dtype`` says otherwise: a tensor, or `MappedRows`.
        frame_means: `WindowMeans` of the frames, by sample, or `MappedMeans`.
    """

    hides_truth = False
    """Whether true windows and boxes are refused, see `masked`."""

    def __init__(
        self,
        store: FeatureStore,
        split: str | None = None,
        device: str | torch.device = "cpu",
        *,
        memory: str = "device",
        dtype: str | None = None,
    ) -> None:
        for what, value, valid in (("memory", memory, MEMORY), ("dtype", dtype, (None, *DTYPES))):
            if value not in valid:
                raise DataError(f"{what} must be one of {valid}, got {value!r}{nearest(str(value), map(str, valid))}")
        self.memory, self.dtype = memory, dtype
        picked = [i for i, q in enumerate(store.queries) if split is None or q.split == split]
        if not picked:
            raise DataError(f"store {store.name!r} has no split {split!r}; it has {store.splits}")
        self.store, self.split, self.device = store, split, usable_device(device)
        self.name = f"{store.name}:{split}" if split else store.name
        self.queries = [store.queries[i] for i in picked]
        self.qids = [q.qid for q in self.queries]
        self.texts = [q.text for q in self.queries]
        used = {q.video for q in self.queries}
        self._rows: list[tuple[int, int]] = []
        self.videos = []
        row = 0
        for video in store.videos:
            if video.id in used:
                self.videos.append(video)
                self._rows.append((row, row + video.n_frames))
            row += video.n_frames
        index = {video.id: i for i, video in enumerate(self.videos)}

        def put(values: ArrayLike, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(np.asarray(values), dtype=dtype, device=self.device)

        self.n_frames = put([v.n_frames for v in self.videos], torch.int64)
        self.duration = put([v.duration for v in self.videos], torch.float64)
        self.offsets = put(np.concatenate([[0], np.cumsum([v.n_frames for v in self.videos])]), torch.int64)
        self.video = put([index[q.video] for q in self.queries], torch.int64)
        self.query = put(store.tensor("queries")[picked], torch.float32)
        most = max(len(q.windows) for q in self.queries)
        truth = [[*q.windows, *[q.windows[-1]] * (most - len(q.windows))] for q in self.queries]
        self.truth = put(truth, torch.float64) / self.duration[self.video][:, None, None]
        self.frames = self._tensor("frames")
        self._masked: weakref.ref[FeatureBank] | None = None
        if not torch.isfinite(self.query).all():
            raise DataError(f"store {store.name!r} holds NaN or infinite values in its query vectors")
        self.max_frames = max(v.n_frames for v in self.videos)

    mask: ClassVar[Callable[[FeatureBank], FeatureBank]]
    """Makes the bank without the truth; `strong_envs.features.bank.masked` sets it."""

    def __len__(self) -> int:
        return len(self.queries)

    def __deepcopy__(self, memo: dict) -> FeatureBank:
        # Environment specs are deep-copied on every make; a bank is read-only, so all copies share it.
        return self

    def __repr__(self) -> str:
        size = f"{len(self)} queries, {len(self.videos)} videos"
        return f"FeatureBank({self.name!r}, {size}, device={str(self.device)!r})"

    def masked(self) -> FeatureBank:
        """The bank without the truth, sharing its memory: what an agent is given to predict a test part.

        Asking it for true windows or boxes raises one sentence, see `strong_envs.features.bank.masked`.
        """
        known = None if self._masked is None else self._masked()
        if known is None:
            known = FeatureBank.mask(self)
            self._masked = weakref.ref(known)
        return known

    @property
    def mapped(self) -> bool:
        """Whether frames, grid and objects stay on disk."""
        return self.memory == "map"

    @property
    def frame_dim(self) -> int:
        """D, the length of a pooled frame vector."""
        return self.frames.shape[1]

    @property
    def query_dim(self) -> int:
        """Dq, the length of a sentence vector."""
        return self.query.shape[1]

    @property
    def has_frames(self) -> bool:
        """Whether there are features of the videos; a store of annotations alone has none."""
        return not (self.store.manifest.get("extra") or {}).get("no_frames", False)

    @property
    def has_grid(self) -> bool:
        """Whether the spatial level can run on this bank."""
        return self.store.has("grid")

    @cached_property
    def has_boxes(self) -> bool:
        """Whether every sample has a true box track."""
        return self.store.has("boxes") and all(q.extra.get("track") is not None for q in self.queries)

    @property
    def has_objects(self) -> bool:
        """Whether the store holds detector features, which the local-object variant needs."""
        return self.store.has("objects")

    @cached_property
    def frame_means(self) -> WindowMeans | MappedMeans:
        """Means over windows of the frames, by sample."""
        if isinstance(self.frames, MappedRows):
            return MappedMeans(self.frames, self.offsets, self.video)
        taken = 4 * (len(self.frames) + len(self.videos)) * self.frame_dim
        need_memory(taken, f"the prefix sums of the frames of {self.name!r}", self.device, INSTEAD)
        return WindowMeans.of(self.frames, self.offsets, self.video)

    @cached_property
    def grid(self) -> Tensor | MappedRows:
        """(N, h, w, C) spatial maps, in the store's dtype, or in ``dtype``; read when first used."""
        if not self.has_grid:
            raise DataError(
                f"store {self.store.name!r} has no spatial grid, which boxes need; extract or import it with --grid, "
                "or use the whole frame (boxes='frame')"
            )
        return self._tensor("grid")

    @cached_property
    def objects(self) -> Tensor | MappedRows:
        """(N, K, C) detector features, zeros where a row has fewer than K objects; read when first used."""
        if not self.has_objects:
            raise DataError(
                f"store {self.store.name!r} has no detector features; import them (--objects FOLDER) or extract with "
                "--objects MODULE:FUNCTION"
            )
        return self._tensor("objects")

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """(h, w, C) of the spatial maps."""
        if not self.has_grid:
            _ = self.grid  # raises the error that explains
        height, width, channels = self.store.shape("grid")[1:]
        return height, width, channels

    @cached_property
    def grid_prefix(self) -> tuple[Tensor, Tensor]:
        """Prefix sums over time of the maps, (N + V, h*w, C) float32, and the videos' mean maps (V, h*w, C).

        A mapped bank has none: they would take twice the room of a float16 grid, in memory. It gives `box_sums` alone.
        """
        taken = 4 * (sum(v.n_frames for v in self.videos) + len(self.videos)) * math.prod(self.grid_shape)
        grid = self.grid
        if isinstance(grid, MappedRows):
            raise DataError(
                f"the prefix sums of {self.name!r} would take {taken / 1e9:.1f} GB of memory, and memory='map' keeps "
                "its grid on disk: use bank.box_sums, which reads only the rows it needs, or memory='device'"
            )
        need_memory(taken, f"the prefix sums of the grid of {self.name!r}", self.device, INSTEAD)
        return ragged_prefix_sums(grid.flatten(1, 2), self.offsets)

    @cached_property
    def true_boxes(self) -> Tensor:
        """(M, 4) float32 normalised corners of all tracks; NaN rows where there is no box. See `track_base`."""
        if not self.has_boxes:
            raise DataError(f"store {self.store.name!r} has no true boxes for every query")
        return torch.as_tensor(self.store.tensor("boxes"), dtype=torch.float32, device=self.device)

    @cached_property
    def track_base(self) -> Tensor:
        """(S,) int64: the row of `true_boxes` that belongs to frame 0 of each sample."""
        rows = [self.store.tracks[q.extra["track"]][0] for q in self.queries]
        return torch.as_tensor(rows, dtype=torch.int64, device=self.device)

    def true_box(self, samples: Tensor, frames: Tensor) -> Tensor:
        """True corners of samples (B,) in frames (B,) or (B, P): (..., 4) float32, NaN where there is none."""
        base = self.track_base[samples]
        return self.true_boxes[(base[:, None] if frames.ndim == 2 else base) + frames]

    def box_sums(self, videos: Tensor, first: Tensor, last: Tensor, corners: Tensor) -> Tensor:
        """Sum over frames ``[first, last)`` of the area mean inside one box a row: (...,) indices to (..., C).

        ``corners`` (..., 4) are normalised. Constant time in the number of frames, but for mapped banks, which read
        them.
        """
        if isinstance(self.grid, MappedRows):
            return self._mapped_box_sums(self.grid, videos, first, last, corners)
        prefix, mean = self.grid_prefix
        base = self.offsets[videos] + videos
        length = (last - first).to(torch.float32)[..., None, None]
        maps = prefix[base + last] - prefix[base + first] + mean[videos] * length
        height, width, _ = self.grid_shape
        weights = box_weights(corners, height, width).to(maps.dtype)
        return torch.einsum("...k,...kc->...c", weights, maps)

    def frame_box_features(self, rows: Tensor, corners: Tensor) -> Tensor:
        """Area mean inside boxes of single frames: packed rows (B,) with corners (B, 4) or (B, P, 4): (B[, P], C)."""
        height, width, _ = self.grid_shape
        weights = box_weights(corners, height, width).to(torch.float32)
        maps = self.grid[rows].flatten(1, 2).to(torch.float32)
        return torch.bmm(weights, maps) if corners.ndim == 3 else torch.bmm(weights[:, None], maps)[:, 0]

    def _mapped_box_sums(
        self, grid: MappedRows, videos: Tensor, first: Tensor, last: Tensor, corners: Tensor
    ) -> Tensor:
        height, width, channels = self.grid_shape
        weights = box_weights(corners, height, width).to(torch.float32).reshape(-1, 1, height * width)
        begin = (self.offsets[videos] + first).flatten()
        end = torch.maximum((self.offsets[videos] + last).flatten(), begin)
        out = torch.empty((len(begin), channels), device=self.device)
        # The map of a window is as large as a row of the grid: a few windows at a time bound the memory.
        step = block_rows((1, height * width, channels), 4)
        for i in range(0, len(begin), step):
            maps = grid.window_sums(begin[i : i + step], end[i : i + step]).flatten(1, 2)
            out[i : i + step] = torch.bmm(weights[i : i + step], maps)[:, 0]
        return out.view(*first.shape, channels)

    def _tensor(self, tensor: str) -> Tensor | MappedRows:
        """A tensor with one entry a feature row, of this split's videos, in memory or mapped."""
        dtype = torch.float32 if tensor == "frames" else None
        if self.dtype is not None:
            dtype = DTYPES[self.dtype]
        largest = max(map(abs, self.store.range(tensor)))
        if dtype is torch.float16 and largest > torch.finfo(dtype).max:
            raise DataError(f"{tensor} of {self.store.name!r} reach {largest:.3g}, which float16 cannot hold")
        name = f"the tensor {tensor} of store {self.store.name!r}"
        if self.mapped:
            rows = np.concatenate([self.store.flat_rows(start, stop) for start, stop in _merge(self._rows)])
            return MappedRows(self.store.maps(tensor), rows, self.device, dtype, name)
        held = dtype or DTYPES.get(self.store.manifest["tensors"][tensor]["dtype"], torch.float64)
        count = sum(v.n_frames for v in self.videos)
        needed = count * math.prod(self.store.shape(tensor)[1:]) * held.itemsize
        need_memory(needed, f"the {tensor} of {self.name!r}", self.device, INSTEAD)
        parts = [self.store.tensor(tensor, start, stop) for start, stop in _merge(self._rows)]
        values = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))
        if not torch.isfinite(values).all():
            raise DataError(f"{name} holds NaN or infinite values; extract it again")
        return values.to(self.device, dtype or values.dtype)


def _merge(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in ranges:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged
