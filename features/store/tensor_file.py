"""One tensor in one safetensors file, written row block by row block and read back through a memory map.

A tensor may be larger than the memory: nothing here holds more than a block of it (`BLOCK_BYTES`). The bytes are those
that the safetensors package writes for the same tensor, so any of its readers opens the files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from strong_envs.features.errors import DataError

DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64"}
CODES = {name: code for code, name in DTYPES.items()}
BLOCK_BYTES = 1 << 26
"""Most bytes of a tensor that are processed together (64 MiB); a single longer row is a block of its own."""


@dataclass(frozen=True)
class RowBlocks:
    """A tensor that comes in pieces: ``blocks`` are arrays whose rows, one after the other, fill ``shape``.

    ``dtype`` is ``"float16"``, ``"float32"`` or ``"float64"``; the blocks are read once, in order, one at a time.
    """

    shape: tuple[int, ...]
    dtype: str
    blocks: Iterable[np.ndarray]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]


Rows = np.ndarray | RowBlocks


def block_rows(shape: tuple[int, ...], itemsize: int) -> int:
    """Rows of a tensor of this shape that make one block, at least 1."""
    return max(1, BLOCK_BYTES // max(1, math.prod(shape[1:]) * itemsize))


def row_blocks(name: str, values: Rows) -> Iterator[np.ndarray]:
    """The rows of an array or of `RowBlocks` as contiguous arrays of at most a block each.

    Raises:
        DataError: a block whose rows do not fit the declared shape, or too few or too many rows in all.
    """
    step = block_rows(tuple(values.shape), np.dtype(values.dtype).itemsize)
    if isinstance(values, np.ndarray):
        for start in range(0, len(values), step):
            yield np.ascontiguousarray(values[start : start + step])
        return
    count = 0
    for block in values.blocks:
        if tuple(block.shape[1:]) != tuple(values.shape[1:]):
            raise DataError(f"{name}: a block has rows of shape {block.shape[1:]}, declared were {values.shape[1:]}")
        count += len(block)
        if count > values.shape[0]:
            break
        for start in range(0, len(block), step):
            yield np.ascontiguousarray(block[start : start + step], values.dtype)
    if count != values.shape[0]:
        more = "at least " if count > values.shape[0] else ""
        raise DataError(f"{name}: the blocks hold {more}{count} rows, declared were {values.shape[0]}")


class Finite:
    """Range of a tensor and its rows that are not finite, block by block; rows of boxes may be NaN as a whole."""

    def __init__(self, name: str) -> None:
        self.name, self.low, self.high = name, math.inf, -math.inf
        self.rows, self.bad, self.first = 0, 0, -1

    def add(self, block: np.ndarray) -> None:
        """Look at the next rows (n, ...)."""
        flat = block.reshape(len(block), -1)
        # NaN passes through a minimum and an infinity shows in it: no array of flags unless there is something.
        low, high = (float(flat.min()), float(flat.max())) if flat.size else (math.inf, -math.inf)
        if flat.size and not (math.isfinite(low) and math.isfinite(high)):
            finite = np.isfinite(flat)
            bad = ~finite.all(1) if self.name != "boxes" else finite.any(1) & ~finite.all(1)
            if bad.any():
                self.first = self.rows + int(bad.argmax()) if self.first < 0 else self.first
                self.bad += int(bad.sum())
            low = float(flat.min(where=finite, initial=math.inf))
            high = float(flat.max(where=finite, initial=-math.inf))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.rows += len(block)

    def done(self) -> list[float]:
        """[smallest, largest] of all finite values; raises `DataError` with the number of bad rows."""
        if self.bad:
            raise DataError(
                f"{self.name} holds NaN or infinite values in {self.bad} of {self.rows} rows, "
                f"the first in row {self.first}"
            )
        return [self.low, self.high] if self.low <= self.high else [0.0, 0.0]


def check_finite(name: str, values: Rows) -> None:
    """Refuse NaN and infinities with the number of rows affected; box rows may be NaN as a whole."""
    check = Finite(name)
    for block in row_blocks(name, values):
        check.add(block)
    check.done()


def write_tensor(file: Path, name: str, values: Rows) -> dict:
    """Write one tensor in one pass and return its manifest entry: shape, dtype, range, sha256.

    Raises:
        DataError: a dtype that is no float, rows that do not fit the declared shape, values that are not finite; what
            was written until then is left to the caller to remove.
    """
    dtype = str(np.dtype(values.dtype))
    if dtype not in CODES:
        raise DataError(f"{name} is {dtype}; a store holds {sorted(CODES)}")
    shape = [int(n) for n in values.shape]
    size = math.prod(shape) * np.dtype(dtype).itemsize
    header = {name: {"dtype": CODES[dtype], "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, check = hashlib.sha256(), Finite(name)
    with open(file, "wb") as handle:

        def put(data: bytes | memoryview) -> None:
            handle.write(data)
            digest.update(data)

        put(len(text).to_bytes(8, "little"))
        put(text)
        for block in row_blocks(name, values):
            check.add(block)
            # Little-endian whatever the machine; flat bytes, so that no copy is made.
            put(block.astype(f"<{block.dtype.str[1:]}", copy=False).reshape(-1).view(np.uint8).data)
    os.chmod(file, 0o644)
    return {"shape": shape, "dtype": dtype, "range": check.done(), "sha256": digest.hexdigest()}


def read_header(file: Path, name: str) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of the tensor of a file, checked by the safetensors package; no number is read."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise DataError(f"the store lacks {file.name}, which its manifest names")
    try:
        with safe_open(str(file), framework="numpy") as handle:
            rows = handle.get_slice(name)
            return tuple(rows.get_shape()), DTYPES.get(rows.get_dtype(), rows.get_dtype())
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is not a readable safetensors file holding {name!r}: {error}") from None


def map_tensor(file: Path, name: str) -> np.memmap:
    """The tensor of a file as a read-only memory map: numbers are read when they are used.

    Raises:
        DataError: `read_header`'s, or a dtype that NumPy cannot map.
    """
    shape, dtype = read_header(file, name)
    if dtype not in CODES:
        raise DataError(f"{file} holds {dtype}, a store holds {sorted(CODES)}")
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        begin = json.loads(handle.read(length))[name]["data_offsets"][0]
    stored = np.dtype(dtype).newbyteorder("<")
    return np.memmap(file, stored, "r", offset=8 + length + begin, shape=shape)


def gather_rows(maps: list[np.ndarray], flat: np.ndarray) -> np.ndarray:
    """Rows ``flat`` (n,) of arrays laid end to end, copied out of them: (n, ...)."""
    out = np.empty((len(flat), *maps[0].shape[1:]), np.result_type(*maps))
    bounds = np.cumsum([0, *map(len, maps)])
    which = np.searchsorted(bounds, flat, "right") - 1
    for k, one in enumerate(maps):
        here = which == k
        out[here] = one[flat[here] - bounds[k]]
    return out


def sha256(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(file, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
