"""f_o: what lies inside the boxes, one box for every frame of every sample (Eqs. 13 and 14 with a mean)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from strong_envs.core import boxes as box_ops
from strong_envs.core.validation import check_number, check_whole
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.pooling import WindowMeans, ragged_prefix_sums, spatial_pyramid, starts_of
from strong_envs.features.devices import constant
from strong_envs.features.errors import DataError, nearest

SOURCES = ("frame", "initial", "gaussian", "truth", "static", "objects", "cells")
BOXLESS = ("objects", "cells")
"""Sources that look at objects of each frame and know no box."""
REDUCE = ("concat", "max")
MOST_BINS = 64
CELLS = 5
"""How many cells of a frame stand in for detected objects (``"cells"``); ours, the paper does not say its K."""
GAUSSIAN_SIGMA = 0.25
"""Standard deviation of the fixed Gaussian weighting, as a share of height and width (TRL+gau)."""

NUMBERS_AT_ONCE = 1 << 26
"""How many numbers of the grid are pooled together (256 MiB in float32)."""


class LocalFeatures:
    """Window means of the features inside boxes, for every sample of a bank.

    Args:
        bank: features of one split.
        source: ``"frame"`` takes the whole frame (f_o := f_s, the paper's TRL); ``"initial"`` the paper's b0 in every
            frame; ``"gaussian"`` a fixed centred Gaussian; ``"truth"`` the true boxes and ``"static"`` the box around
            all true boxes of the true moment (upper bounds); ``"objects"`` the mean over the detected objects of each
            frame (the paper's TRL+local), which the store must hold; ``"cells"`` the mean of the `CELLS` cells with the
            largest norm, where there is no detector; or a tensor of corners, one box per frame of each sample, packed
            sample after sample (R, 4), or one per sample (S, 4).
        levels: bins per side of the spatial pyramid; (1,) is the box mean, (1, 2, 4) the paper's [1, 4, 16] bins.
        reduce: how the bins of a pyramid become one vector: ``"concat"``, or ``"max"``, which keeps the length of a
            cell (the paper's 2,048 numbers). Their mean would be the box mean again.
        margin: added on each side of every box, in fractions of the frame.

    Attributes:
        means: `WindowMeans` over frames of a sample. ``dim``: length of f_o. ``boxes`` (R, 4) corners or None.
        rows: (S + 1,) int64; the boxes of sample s are ``boxes[rows[s]:rows[s + 1]]``.
    """

    def __init__(
        self,
        bank: FeatureBank,
        source: str | Tensor = "frame",
        levels: Sequence[int] = (1,),
        reduce: str = "concat",
        margin: float = 0.0,
    ) -> None:
        if reduce not in REDUCE:
            raise DataError(f"spp_reduce must be one of {REDUCE}, got {reduce!r}{nearest(str(reduce), REDUCE)}")
        if isinstance(source, str) and source not in SOURCES:
            raise DataError(f"boxes must be one of {SOURCES} or a tensor, got {source!r}{nearest(source, SOURCES)}")
        if not isinstance(source, (str, Tensor)):
            raise DataError(f"boxes must be one of {SOURCES} or a tensor, got {type(source).__name__}")
        if not isinstance(levels, Sequence) or not levels:
            raise DataError(f"spp_levels must be bins per side, level by level, such as (1, 2, 4); got {levels!r}")
        self.levels = tuple(check_whole(level, "each of spp_levels", most=MOST_BINS) for level in levels)
        self.margin = check_number(margin, "box_margin", 0, 1)
        if isinstance(source, str) and source in BOXLESS and self.levels != (1,):
            raise DataError(f"boxes={source!r} has no box to divide into spp_levels={self.levels}; leave them at (1,)")
        self.bank, self.reduce = bank, reduce
        self.source = source if isinstance(source, str) else "given"
        self.boxes: Tensor | None = None
        lengths = bank.n_frames[bank.video]
        self.rows = starts_of(lengths)
        if self.source == "frame":
            self.means = bank.frame_means
        elif self.source in ("initial", "gaussian", *BOXLESS):
            self.means = self._same_everywhere()
        elif isinstance(source, Tensor):
            self._set_all(source)
        else:
            tracks = bank.true_boxes[self._track_rows()]
            self._set_all(tracks if source == "truth" else static_boxes(bank, tracks, self.rows))
        self.dim = self.means.dim

    @property
    def box_dim(self) -> int:
        """Length of what `pool` makes of one box: a cell, times the bins of a pyramid that are put side by side."""
        return self.bank.grid_shape[2] * bins_of(self.levels, self.reduce)

    @property
    def range(self) -> tuple[float, float]:
        """Bounds of every number in f_o: a mean lies between the smallest and the largest feature."""
        store = self.bank.store
        if self.source == "objects":
            return store.range("objects")
        if self.source != "frame":
            return store.range("grid")
        low, high = store.range("frames")
        if self.bank.has_grid and self.dim == self.bank.grid_shape[2]:
            # Boxes that come later, from a coupling, look into the grid.
            low, high = min(low, store.range("grid")[0]), max(high, store.range("grid")[1])
        return low, high

    def _track_rows(self) -> Tensor:
        lengths = self.bank.n_frames[self.bank.video]
        start = torch.repeat_interleave(self.bank.track_base - self.rows[:-1], lengths)
        return start + torch.arange(int(self.rows[-1]), device=self.bank.device)

    def _frame_rows(self, samples: Tensor) -> Tensor:
        """Rows of ``bank.grid`` for all frames of ``samples``, packed."""
        videos = self.bank.video[samples]
        lengths = self.bank.n_frames[videos]
        begin = starts_of(lengths)
        start = torch.repeat_interleave(self.bank.offsets[videos] - begin[:-1], lengths)
        return start + torch.arange(int(begin[-1]), device=self.bank.device)

    def _set_all(self, boxes: Tensor) -> None:
        samples = torch.arange(len(self.bank), device=self.bank.device)
        boxes = boxes.to(self.bank.device, torch.float32)
        lengths = self.bank.n_frames[self.bank.video]
        if boxes.shape == (len(self.bank), 4):
            boxes = torch.repeat_interleave(boxes, lengths, 0)
        if boxes.shape != (int(self.rows[-1]), 4):
            raise DataError(
                f"boxes must have shape ({int(self.rows[-1])}, 4), a box per frame of each sample, "
                f"or ({len(self.bank)}, 4), a box per sample; got {tuple(boxes.shape)}"
            )
        self.boxes = boxes
        self.means = WindowMeans.of(self.pool(self._frame_rows(samples), boxes), self.rows, samples)

    def set_boxes(self, samples: Tensor, boxes: Tensor) -> None:
        """Replace the boxes of some samples: (B,) distinct samples and their corners, packed (sum of frames, 4).

        The other samples keep what they had: the whole frame with ``source="frame"``, b0 with ``"initial"``.

        Raises:
            DataError: a source that no box changes, boxes that do not fit the samples, and whole frames of another
                length than a cell of the grid.
        """
        if self.source in (*BOXLESS, "gaussian"):
            what = "a fixed Gaussian over" if self.source == "gaussian" else f"the {self.source} of"
            raise DataError(
                f"f_o comes from {what} each frame, which no box changes; make the temporal level with boxes='initial'"
            )
        if self.boxes is None:
            if self.source == "frame" and self.dim != self.box_dim:
                raise DataError(
                    f"f_o changes from whole frames ({self.dim} numbers) to boxes ({self.box_dim} numbers), and "
                    "observations would change their size; make the temporal level with boxes='initial'"
                )
            box = torch.tensor([0.0, 0.0, 1.0, 1.0], device=self.bank.device)
            if self.source == "initial":
                box = box_ops.corners(torch.tensor(box_ops.INITIAL_BOX, device=self.bank.device))
            self._set_all(box.expand(len(self.bank), 4))
            self.source = "given"
        lengths = self.bank.n_frames[self.bank.video[samples]]
        begin = starts_of(lengths)
        if boxes.shape != (int(begin[-1]), 4):
            raise DataError(f"{len(samples)} samples have {int(begin[-1])} frames, got boxes {tuple(boxes.shape)}")
        boxes = boxes.to(self.bank.device, torch.float32)
        prefix, mean = ragged_prefix_sums(self.pool(self._frame_rows(samples), boxes), begin)
        at = torch.arange(len(prefix), device=self.bank.device)
        owner = torch.repeat_interleave(torch.arange(len(samples), device=self.bank.device), lengths + 1)
        first = begin[:-1] + torch.arange(len(samples), device=self.bank.device)
        own = cast(WindowMeans, self.means)
        own.prefix[own.base[samples][owner] + at - first[owner]] = prefix
        own.mean[samples] = mean
        rows = torch.repeat_interleave(self.rows[samples] - begin[:-1], lengths)
        cast(Tensor, self.boxes)[rows + torch.arange(len(boxes), device=self.bank.device)] = boxes

    def pool(self, rows: Tensor, corners: Tensor) -> Tensor:
        """Features inside boxes of single frames: rows of ``bank.grid`` (B,) and corners (B, 4) to (B, dim) float32.

        A box of NaN (no object in that frame) stands for the whole frame.
        """
        out = []
        whole = constant((0.0, 0.0, 1.0, 1.0), corners.dtype, corners.device)
        step = self._rows_at_once()
        for start in range(0, len(rows), step):
            box = corners[start : start + step]
            box = torch.where(box.isnan().any(-1, keepdim=True), whole, box)
            box = self.widened(box)
            part = rows[start : start + step]
            if self.levels == (1,):
                out.append(self.bank.frame_box_features(part, box))
            else:
                bins = spatial_pyramid(self.bank.grid, box.to(torch.float32), self.levels, part)
                out.append(bins.flatten(1) if self.reduce == "concat" else bins.amax(1))
        return torch.cat(out)

    def widened(self, corners: Tensor) -> Tensor:
        """Corners (..., 4) of boxes with the margin around them, inside the frame."""
        sign = constant((-1.0, -1.0, 1.0, 1.0), corners.dtype, corners.device)
        return (corners + sign * self.margin).clamp(0, 1)

    def inside(self, samples: Tensor, frames: Tensor, corners: Tensor) -> Tensor:
        """f_o^k: samples (B,), frames of their videos (B,) and corners of boxes (B, 4) to (B, dim) float32."""
        return self.pool(self.bank.offsets[self.bank.video[samples]] + frames, corners)

    @property
    def by_frame(self) -> bool:
        """Whether the f_o of one box in many frames is pooled frame by frame, not as the mean of a box in sums."""
        return self.levels != (1,)

    def _rows_at_once(self) -> int:
        return max(1, NUMBERS_AT_ONCE // math.prod(self.bank.grid_shape))

    def _same_everywhere(self) -> WindowMeans:
        """One weighting of the frame for all: sums per video serve all of its samples."""
        bank = self.bank
        if self.source == "initial":
            box = box_ops.corners(torch.tensor([box_ops.INITIAL_BOX], device=bank.device))
            count = len(bank.grid)
            features = self.pool(torch.arange(count, device=bank.device), box.expand(count, 4))
        elif self.source == "objects":
            objects = bank.objects
            step = max(1, NUMBERS_AT_ONCE // math.prod(objects.shape[1:]))
            features = torch.cat([mean_of_objects(part) for part in objects.split(step)])
        elif self.source == "cells":
            features = torch.cat([mean_of_largest(part, CELLS) for part in bank.grid.split(self._rows_at_once())])
        else:
            height, width, _ = bank.grid_shape
            y = (torch.arange(height, device=bank.device) + 0.5) / height - 0.5
            x = (torch.arange(width, device=bank.device) + 0.5) / width - 0.5
            weights = torch.exp(-(y[:, None] ** 2 + x**2) / (2 * GAUSSIAN_SIGMA**2)).flatten()
            weights = weights / weights.sum()
            features = torch.cat(
                [
                    torch.einsum("k,bkc->bc", weights, part.flatten(1, 2).to(torch.float32))
                    for part in bank.grid.split(self._rows_at_once())
                ]
            )
        return WindowMeans.of(features, bank.offsets, bank.video)


def bins_of(levels: Sequence[int], reduce: str) -> int:
    """How many vectors of a cell's length a pyramid puts side by side."""
    return sum(level**2 for level in levels) if reduce == "concat" else 1


def static_boxes(bank: FeatureBank, tracks: Tensor, rows: Tensor) -> Tensor:
    """The smallest box around the true boxes in the true windows of each sample: (S, 4).

    Where no true box lies in any of its windows, the box around those of the whole video.

    Args:
        bank: features of one split.
        tracks: (R, 4) corners of the true boxes of every frame of each sample, packed, NaN where there is none.
        rows: (S + 1,) int64, where each sample begins.
    """
    count, device = len(bank), bank.device
    lengths = rows.diff()
    owner = torch.repeat_interleave(torch.arange(count, device=device), lengths)
    middle = (torch.arange(len(tracks), device=device) - rows[owner] + 0.5) / lengths[owner]
    seen = ~tracks.isnan().any(-1)
    inside = torch.zeros_like(seen)
    for k in range(bank.truth.shape[1]):
        true = bank.truth[owner, k]
        inside |= seen & (middle >= true[:, 0]) & (middle < true[:, 1])
    some = torch.zeros(count, dtype=torch.bool, device=device).index_fill_(0, owner[inside], True)
    inside = torch.where(some[owner], inside, seen)[:, None]
    index = owner[:, None].expand(-1, 2)
    low = torch.ones(count, 2, device=device).scatter_reduce_(0, index, torch.where(inside, tracks[:, :2], 1.0), "amin")
    high = torch.zeros(count, 2, device=device)
    high = high.scatter_reduce_(0, index, torch.where(inside, tracks[:, 2:], 0.0), "amax")
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device)
    return torch.where((high > low).all(-1, keepdim=True), torch.cat((low, high), -1), whole)


def mean_of_objects(objects: Tensor) -> Tensor:
    """Mean over the objects of each frame, whatever the query: (B, K, C) to (B, C) float32.

    A row of zeros says that there is no object and is left out; a frame without any gives zeros.
    """
    there = (objects != 0).any(-1, keepdim=True)
    total = objects.to(torch.float32).sum(1)
    return total / there.sum(1).clamp(min=1)


def mean_of_largest(grid: Tensor, count: int) -> Tensor:
    """Mean of the ``count`` cells with the largest Euclidean norm in each frame: (B, h, w, C) to (B, C) float32."""
    cells = grid.flatten(1, 2).to(torch.float32)
    best = cells.norm(dim=-1).topk(min(count, cells.shape[1]), dim=1).indices
    return cells.gather(1, best[..., None].expand(-1, -1, cells.shape[-1])).mean(1)
