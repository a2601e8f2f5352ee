"""Arrays, numbers and containers from a pickle, without running anything that it names.

Not even numpy's own functions run: they trust the state that a pickle gives them, and a damaged one crashes the
process. Stand-ins take what the pickle says; arrays are made of it once sizes and types agree.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from strong_envs.features.errors import DataError

_CORES = ("numpy.core", "numpy._core")  # of either age of numpy
MAX_NESTING = 8


class _Type:
    """What a pickled dtype says: its code, and its byte order from the state."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        """The dtype, of numbers or of objects; raises `DataError` for anything else."""
        code = self.code.data.decode("latin1") if isinstance(self.code, _Bytes) else self.code
        known = isinstance(code, str) and (code in ("O", "O8", "O4") or (code[:1] in "fiub" and code[1:] in "1248"))
        if not known or self.order not in ("<", ">", "=", "|"):
            raise DataError(f"the pickle holds values of type {str(code)[:40]!r}; numbers are loaded")
        return np.dtype("O") if code[0] == "O" else np.dtype(f"{self.order.strip('|')}{code}")


class _Array:
    """What a pickled array says: shape, type, order and bytes (or a list of objects)."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def value(self, depth: int) -> Any:
        """The array of numbers, or the list of objects."""
        _, shape, kind, fortran, data = self.state
        return _array(data, kind, shape, "F" if fortran else "C", depth)


class _Scalar(_Array):
    """What a pickled number of numpy says."""

    def __init__(self, kind: Any, data: Any = b"") -> None:
        self.state = (1, (), kind, False, data)


class _Buffer(_Array):
    """What an array pickled by buffer says."""

    def __init__(self, data: Any, kind: Any, shape: Any, order: Any) -> None:
        self.state = (1, shape, kind, order == "F", data)


class _Bytes:
    """What a pickle says of bytes, as old protocols spell them."""

    def __init__(self, text: Any, encoding: Any = "latin1") -> None:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise DataError("the pickle holds bytes in an unknown spelling")
        self.data = text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise DataError("the pickle gives bytes a state")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Bytes,
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _Scalar for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _Buffer for core in _CORES},
}


class _ArraysOnly(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """The unpickler written in Python: the one in C makes room for any place that a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise DataError(f"the pickle asks for {module}.{name}; only numpy arrays and plain containers are loaded")
        return found


def load(data: bytes) -> Any:
    """The value of a pickle: numbers, text, bytes, arrays, and lists, tuples and dicts of them.

    An array of objects comes as a list.

    Raises:
        DataError: not a pickle, or one that asks for anything else.
    """
    try:
        return _value(_ArraysOnly(io.BytesIO(data), encoding="latin1").load(), 0)
    except DataError:
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        raise DataError(f"the pickle cannot be read: {type(error).__name__}: {str(error)[:200]}") from None


def _value(found: Any, depth: int) -> Any:
    if depth > MAX_NESTING:
        raise DataError(f"the pickle is nested deeper than {MAX_NESTING} levels")
    if isinstance(found, _Array):
        return found.value(depth + 1)
    if isinstance(found, _Bytes):
        return found.data
    if type(found) in (list, tuple):
        return type(found)(_value(one, depth + 1) for one in found)
    if type(found) is dict:
        return {key: _value(one, depth + 1) for key, one in found.items()}
    if found is None or type(found) in (bool, int, float, str, bytes):
        return found
    raise DataError(f"the pickle holds a {type(found).__name__.strip('_')} where numbers and arrays are loaded")


def _array(data: Any, kind: Any, shape: Any, order: str, depth: int) -> Any:
    if not isinstance(kind, _Type) or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise DataError(f"the pickle holds an array of shape {str(shape)[:60]}")
    dtype, count = kind.dtype(), math.prod(shape)
    if dtype.hasobject:
        if not isinstance(data, list) or len(data) != count:
            raise DataError(f"the pickle holds an array of {count} objects and not as many")
        return [_value(one, depth + 1) for one in data]
    raw = data.encode("latin1") if isinstance(data, str) else data.data if isinstance(data, _Bytes) else data
    if not isinstance(raw, (bytes, bytearray)) or len(raw) != count * dtype.itemsize or len(shape) > 32:
        raise DataError(f"the pickle holds {dtype} {list(shape)} with another number of bytes")
    return np.frombuffer(bytes(raw), dtype).reshape(shape, order="F" if order == "F" else "C")
