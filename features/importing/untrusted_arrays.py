"""Numeric arrays from untrusted files: headers are checked against sizes before memory is taken, no code is run."""

from __future__ import annotations

import ast
import math
import os
import zipfile
from typing import IO

import numpy as np

from strong_envs.features.datasets.parsing import check_file, show
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError

MAX_ARRAY_BYTES = 2 * 2**30
MAX_FILE_BYTES = 64 * 2**30
MAX_HEADER_BYTES = 10_000
MAX_ZIP_MEMBERS = 10_000
NPY_MAGIC = b"\x93NUMPY"


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """The numeric array of one ``.npy`` file. Objects (pickles), other types and wrong sizes raise `DataError`."""
    file = check_file(path, MAX_FILE_BYTES)
    try:
        with open(file, "rb") as handle:
            return _npy(handle, file.stat().st_size, file.name)
    except OSError as error:
        raise DataError(f"{str(file)!r} cannot be read: {error}") from None


def read_npz(path: str | os.PathLike, key: str) -> np.ndarray:
    """The array ``key`` of one ``.npz`` file; the member's stated size and its header must agree before it is read."""
    file = check_file(path, MAX_FILE_BYTES)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MAX_ZIP_MEMBERS:
                raise DataError(f"{file.name} holds {len(members):,} members; up to {MAX_ZIP_MEMBERS:,} are read")
            found = next((m for m in members if m.filename == f"{key}.npy"), None)
            if found is None:
                names = [m.filename.removesuffix(".npy") for m in members[:8]]
                raise DataError(f"{file.name} has no array {key!r}; it has {show(names)}")
            if found.file_size > MAX_ARRAY_BYTES:
                size = f"{found.file_size:,} bytes; the limit is {MAX_ARRAY_BYTES:,}"
                raise DataError(f"{file.name}: {key} unpacks to {size}")
            with archive.open(found) as handle:
                return _npy(handle, found.file_size, f"{file.name}[{key}]")
    except DataError:
        raise
    except Exception as error:  # zipfile and its decompressors raise a dozen types on broken archives
        raise DataError(f"{str(file)!r} is not a readable npz archive: {type(error).__name__}: {error}") from None


def npz_keys(path: str | os.PathLike) -> list[str]:
    """Names of the arrays of an ``.npz`` file."""
    file = check_file(path, MAX_FILE_BYTES)
    try:
        with zipfile.ZipFile(file) as archive:
            return [m.filename.removesuffix(".npy") for m in archive.infolist()[:MAX_ZIP_MEMBERS]]
    except Exception as error:
        raise DataError(f"{str(file)!r} is not a readable npz archive: {type(error).__name__}: {error}") from None


def npy_header(handle: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, dtype and Fortran order from the header of a ``.npy`` stream, which is left at the first data byte."""
    start = handle.read(8)
    if start[:6] != NPY_MAGIC or len(start) < 8:
        raise DataError(f"{where} is not an npy array: it starts with {show(start[:6])}, not {show(NPY_MAGIC)}")
    width = {1: 2, 2: 4, 3: 4}.get(start[6])
    if width is None:
        raise DataError(f"{where} has npy version {start[6]}; 1, 2 and 3 exist")
    length = int.from_bytes(handle.read(width), "little")
    if length > MAX_HEADER_BYTES:
        raise DataError(f"{where} has an npy header of {length:,} bytes; up to {MAX_HEADER_BYTES:,} are read")
    raw = handle.read(length)
    try:
        header = ast.literal_eval(raw.decode("latin1").strip())
        shape, order = header["shape"], header["fortran_order"]
        dtype = np.lib.format.descr_to_dtype(header["descr"])
    except Exception as error:  # the header is a Python literal, and a broken one fails in many ways
        raise DataError(f"{where} has a broken npy header: {type(error).__name__}") from None
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise DataError(f"{where} has the npy shape {show(shape)}; a shape is a tuple of sizes")
    return shape, dtype, bool(order)


def _npy(handle: IO[bytes], size: int, where: str) -> np.ndarray:
    shape, dtype, fortran = npy_header(handle, where)
    check_numeric(dtype, where)
    needed, held = math.prod(shape) * dtype.itemsize, size - handle.tell()
    if needed > held:
        raise DataError(f"{where} says {dtype} {list(shape)}, {needed:,} bytes, and holds {held:,}: cut short or wrong")
    check_size(shape, dtype, where)
    data = handle.read(needed)
    if len(data) != needed:
        raise DataError(f"{where} ends after {len(data):,} of {needed:,} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def check_numeric(dtype: np.dtype, where: str) -> None:
    """Refuse dtypes that are neither floats nor integers."""
    if dtype.hasobject:
        raise DataError(
            f"{where} holds pickled Python objects, which can run code when loaded; convert it once with "
            "strong_envs.features.importing.strong_release.import_authors_file(..., allow_pickle=True) "
            "if you trust its source"
        )
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise DataError(f"{where} holds {dtype} values; features are float16, float32, float64 or integers")


def check_size(shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
    """Refuse empty arrays and those above the limit, counted as float32, which they become."""
    size = math.prod(shape) * max(dtype.itemsize, 4)
    if size > MAX_ARRAY_BYTES:
        raise DataError(
            f"{where} says {dtype} {list(shape)}: {size:,} bytes as float32, more than the limit {MAX_ARRAY_BYTES:,}"
        )
    if size == 0:
        raise DataError(f"{where} is empty: shape {list(shape)}")


def as_rows(array: np.ndarray, where: str, report: Report, transposed: bool = False) -> np.ndarray:
    """A (n, D) float32 array, with middle axes of length one removed; anything else raises `DataError`.

    ``transposed`` takes (D, n) arrays.
    """
    shape = array.shape
    if array.ndim > 2 and math.prod(shape[1:-1]) == 1:
        array = array.reshape(shape[0], shape[-1])
    elif array.ndim > 2 and math.prod(shape[:-2]) == 1:
        array = array.reshape(shape[-2:])
    if array.ndim != 2:
        grid = "; spatial maps are given with --grid" if array.ndim == 4 else ""
        raise DataError(f"{where} has shape {list(shape)}; features are (rows, dimensions){grid}")
    array = array.T if transposed else array
    if array.ndim != len(shape):
        report.add("axes of length one were removed", "doubtful", f"{where}: {list(shape)} to {list(array.shape)}")
    if array.dtype.kind != "f":
        report.add("features are integers; read as float32", "doubtful", f"{where}: {array.dtype}")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(array, np.float32)
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        bad = int((~finite).sum())
        raise DataError(f"{where} holds NaN or infinite values in {bad} of {len(rows)} rows")
    zero = ~rows.any(1)
    if zero.any():
        report.add("feature rows that are zero throughout", "doubtful", f"{where}: {int(zero.sum())} of {len(rows)}")
    return rows
