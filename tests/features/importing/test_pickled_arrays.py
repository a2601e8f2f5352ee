"""Pickles of arrays: nothing that they name is run, not even numpy's own functions, which a damaged state crashes."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest

from strong_envs.features.errors import DataError
from strong_envs.features.importing.pickled_arrays import load

RECORD = {
    "plain": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "strided": np.arange(10, dtype=np.float32)[::2],
    "big endian": np.arange(3, dtype=">f4"),
    "half": np.ones(2, np.float16),
    "number": np.float64(2.5),
    "count": np.int32(3),
    "list": [1, 2.0, None, True, ("x", b"y")],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("outer", ["record", "list", "array of objects"])
def test_arrays_come_back_in_every_protocol(protocol, outer):
    made = {"record": RECORD, "list": [RECORD] * 3, "array of objects": np.array([RECORD] * 3, dtype=object)}[outer]
    found = load(pickle.dumps(made, protocol))
    for one in [found] if outer == "record" else found:
        assert one["list"] == RECORD["list"] and float(one["number"]) == 2.5 and int(one["count"]) == 3
        for name in ("plain", "fortran", "strided", "big endian", "half"):
            assert np.array_equal(one[name], RECORD[name]) and one[name].dtype == RECORD[name].dtype
    assert outer == "record" or len(found) == 3


class Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self.what = function, arguments

    def __reduce__(self) -> tuple:
        return self.what


@pytest.mark.parametrize(
    "made",
    [
        Call(os.system, "true"),
        Call(eval, "1"),
        Call(np.load, "x"),
        Call(np.frombuffer, b"12345678"),
        Call(np.memmap, "x"),
        Call(getattr, str, "upper"),
        np.random.default_rng(0),
        np.array([1 + 2j]),
        np.array(["text"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.ma.array([1, 2]),
        {1, 2},
        object(),
    ],
)
def test_anything_else_is_refused(made):
    with pytest.raises(DataError):
        load(pickle.dumps([made], 4))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04N",
        b"\x80\x04]r" + struct.pack("<I", 2**32 - 1) + b".",  # a place in the memo that would take 32 GB
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # room for a terabyte
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b".",
        b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
        b"\x80\x04" + b"(" * 100_000 + b"l.",
        b"cnumpy\nndarray\n(K\x00db.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"cos\nsystem\n(S'true'\ntR.",
    ],
)
def test_damaged_pickles_are_one_sentence(data):
    try:
        assert load(data) in (None, [])
    except DataError as error:
        assert len(str(error)) < 500


@pytest.mark.parametrize("state", [None, (), (1,), (1, (2,), None, False, b"12"), (1, (-1,), None, False, b""), 5, "x"])
def test_states_that_do_not_fit_are_refused(state):
    """The state of an array as a pickle may give it; numpy itself takes some of these and crashes."""

    class Crafted:
        def __reduce__(self) -> tuple:
            return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    with pytest.raises(DataError):
        load(pickle.dumps(Crafted(), 4))
