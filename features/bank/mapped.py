"""Tensors that stay on disk: rows are read when they are used, and only those reach the device.

The system keeps what was read lately in memory and drops it when room is needed, so a store may be larger than the
memory. A step that asks for rows waits for the disk, and on a device for the copy of those rows to it.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from strong_envs.features.errors import DataError
from strong_envs.features.store.tensor_file import block_rows

LONG = 512
"""Windows of more rows are summed one by one: there a call for each costs little beside its rows."""


class MappedRows:
    """A tensor (N, ...) on disk that is indexed by rows like one in memory.

    ``x[rows]`` takes a row number, a slice, a mask (N,) or int64 numbers of any shape (...,), on any device, and gives
    (..., *row shape) on ``device`` in ``dtype``. ``split`` and ``flatten`` are those of a tensor.

    Args:
        maps: read-only arrays with rows of one shape, laid end to end.
        rows: (N,) int64, where each row lies in them; None takes all in order.
        device, dtype: of what is handed out. name: for errors.
    """

    def __init__(
        self,
        maps: Sequence[np.ndarray],
        rows: np.ndarray | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        name: str = "a mapped tensor",
    ) -> None:
        self._parts = _views(maps)
        self._files = [
            (str(one.filename), str(one.dtype), one.offset, one.shape) if isinstance(one, np.memmap) else None
            for one in maps
        ]
        self._rows = None if rows is None else torch.from_numpy(np.asarray(rows, np.int64))
        self._bounds = torch.tensor([0, *np.cumsum([len(part) for part in self._parts])])
        # Stores that were joined may hold float16 and float32.
        self._held = functools.reduce(torch.promote_types, (part.dtype for part in self._parts))
        self.device, self.dtype = torch.device(device), dtype or self._held
        self.name, self._cells = name, 1
        count = int(self._bounds[-1]) if self._rows is None else len(self._rows)
        self.shape = torch.Size((count, *self._parts[0].shape[1:]))
        self._seen = torch.zeros(count, dtype=torch.bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __deepcopy__(self, memo: dict) -> MappedRows:
        # It is read-only, and a copy would read the whole file into memory.
        return self

    def __getstate__(self) -> dict:
        # Another process maps the same files; the numbers are not sent to it.
        state = dict(vars(self))
        if None not in self._files:
            state["_parts"] = [tuple(part.shape) for part in self._parts]
        return state

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        files = [file for file in self._files if file is not None]
        if len(files) == len(self._files):
            try:
                maps = [np.memmap(file, np.dtype(dtype), "r", at, shape) for file, dtype, at, shape in files]
            except (OSError, ValueError) as error:
                raise DataError(f"{self.name} was mapped from a file that is gone or has changed: {error}") from None
            self._parts = [part.view(shape) for part, shape in zip(_views(maps), state["_parts"], strict=True)]

    def __repr__(self) -> str:
        return f"MappedRows({self.name!r}, {tuple(self.shape)}, {self.dtype}, device={str(self.device)!r})"

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def __getitem__(self, index: int | slice | Tensor | np.ndarray) -> Tensor:
        if isinstance(index, tuple):
            raise DataError(f"{self.name} stays on disk and is indexed by rows: write x[rows][:, ...]")
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        index = torch.as_tensor(index).cpu()
        if index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        flat = index.to(torch.int64).reshape(-1)
        flat = torch.where(flat < 0, flat + len(self), flat)
        if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < len(self):
            raise IndexError(f"rows of {self.name} lie in [0, {len(self)}), got {int(flat.min())} to {int(flat.max())}")
        out = self._gather(self._places(flat))
        fresh = ~self._seen[flat]
        if fresh.any():
            self._check(out[fresh])
            self._seen[flat] = True
        return out.to(self.device, self.dtype).reshape(*index.shape, *self.shape[1:])

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> MappedRows:
        """The same numbers with dimensions merged; nothing is read."""
        first, last = start_dim % self.ndim, end_dim % self.ndim
        new = object.__new__(MappedRows)
        vars(new).update(vars(self))
        if first == 0:
            cells = math.prod(self.shape[1 : last + 1])
            new._parts = [part.flatten(0, last) for part in self._parts]
            new._bounds, new._cells = self._bounds * cells, self._cells * cells
        else:
            new._parts = [part.flatten(first, last) for part in self._parts]
            cells = 1
        new.shape = torch.Size((len(self) * cells, *new._parts[0].shape[1:]))
        new._seen = torch.zeros(len(new), dtype=torch.bool)
        return new

    def window_sums(self, first: Tensor, last: Tensor) -> Tensor:
        """Sums over rows ``[first, last)`` of each of (W,) windows: (W, ...) float32 on the device."""
        lengths = (last - first).clamp(min=0).cpu()
        starts = first.cpu().clamp(max=len(self) - 1)
        step = block_rows(tuple(self.shape), 4)
        if len(lengths) and int(lengths.max()) > min(LONG, step):
            out = self._long_sums(starts, lengths, step)
        else:
            out = torch.empty((len(first), math.prod(self.shape[1:])))
            ends = lengths.cumsum(0)
            begin = 0
            while begin < len(lengths):
                # As many windows as make one block of rows
                done = int(ends[begin - 1]) if begin else 0
                end = max(int(torch.searchsorted(ends, done + step, right=True)), begin + 1)
                out[begin:end] = self._short_sums(starts[begin:end], lengths[begin:end])
                begin = end
            out = out.view(len(first), *self.shape[1:])
        self._check(out)
        return out.to(self.device)

    def _short_sums(self, starts: Tensor, lengths: Tensor) -> Tensor:
        """(W, numbers of a row) float32: all rows of all windows at once, which saves a call for each window."""
        begins = lengths.cumsum(0) - lengths
        owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        places = self._places(torch.arange(len(owner)) + (starts - begins)[owner])
        if len(self._parts) == 1 and self._held == torch.float32:
            return embedding_bag(places, self._parts[0].flatten(1), begins, mode="sum")
        rows = self._gather(places).flatten(1).to(torch.float32)
        return embedding_bag(torch.arange(len(rows)), rows, begins, mode="sum")

    def _long_sums(self, starts: Tensor, lengths: Tensor, step: int) -> Tensor:
        """(W, ...) float32, window by window in blocks: sums of blocks keep what a running sum would round away."""
        out = torch.zeros((len(starts), *self.shape[1:]))
        for i, (first, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            for at in range(first, first + length, step):
                out[i] += self._block(at, min(at + step, first + length)).sum(0, dtype=torch.float32)
        return out

    def _block(self, first: int, last: int) -> Tensor:
        """Rows ``[first, last)``, without a copy where they are neighbours in one file."""
        places = self._places(torch.arange(first, last))
        which = int(torch.searchsorted(self._bounds, int(places[0]), right=True)) - 1
        begin = int(places[0]) - int(self._bounds[which])
        part = self._parts[which]
        if begin + last - first <= len(part) and bool((places.diff() == 1).all()):
            return part[begin : begin + last - first]
        return self._gather(places)

    def _places(self, flat: Tensor) -> Tensor:
        if self._rows is None:
            return flat
        if self._cells == 1:
            return self._rows[flat]
        return self._rows[flat // self._cells] * self._cells + flat % self._cells

    def _gather(self, places: Tensor) -> Tensor:
        if len(self._parts) == 1:
            return self._parts[0].index_select(0, places)
        out = torch.empty((len(places), *self.shape[1:]), dtype=self._held)
        which = torch.searchsorted(self._bounds, places, right=True) - 1
        for k, part in enumerate(self._parts):
            here = which == k
            out[here] = part[places[here] - self._bounds[k]].to(self._held)
        return out

    def _check(self, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            raise DataError(f"{self.name} holds NaN or infinite values; extract it again")


def _views(maps: Sequence[np.ndarray]) -> list[Tensor]:
    with warnings.catch_warnings():
        # torch warns that a read-only array becomes a tensor; nothing here writes into it.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return [torch.from_numpy(np.asarray(one)) for one in maps]


class MappedMeans:
    """`WindowMeans` of frames that stay on disk: windows are read and averaged when used.

    Args:
        frames: (N, D) packed frames. offsets: (V + 1,) int64, the videos' bounds in them.
        group: (S,) int64, the video of each sample.
    """

    def __init__(self, frames: MappedRows, offsets: Tensor, group: Tensor) -> None:
        self.frames, self.offsets, self.group = frames, offsets, group
        self._mean: Tensor | None = None

    @property
    def dim(self) -> int:
        """D."""
        return self.frames.shape[1]

    @property
    def mean(self) -> Tensor:
        """(V, D) float32 means of whole videos; the first access reads every frame once."""
        if self._mean is None:
            total = self.frames.window_sums(self.offsets[:-1], self.offsets[1:])
            self._mean = total / self.offsets.diff()[:, None]
        return self._mean

    def __call__(self, samples: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Mean over frames ``[first, last)`` of each sample: (B, D) for (B,) bounds, (B, P, D) for (B, P) bounds."""
        base = self.offsets[self.group[samples]]
        base = base[:, None] if first.ndim == 2 else base
        total = self.frames.window_sums((base + first).flatten(), (base + last).flatten())
        length = (last - first).clamp(min=1).unsqueeze(-1)
        return total.view(*first.shape, self.dim) / length
