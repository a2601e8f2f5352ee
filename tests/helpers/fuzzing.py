"""Spoilt bytes and trees for readers, and what a reader may answer."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from strong_envs.features.datasets.types import Annotations
from strong_envs.features.errors import DataError

FUZZ = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)


NASTY = [
    None,
    True,
    "",
    "x",
    "../../etc/passwd",
    "\ud800",
    "\x1b[2J\x00",
    "nan",
    [],
    {},
    [[]],
    [None, None],
    0,
    -1,
    -0.0,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    10**400,
    2**63,
    5e-324,
]


def paths(tree: object, prefix: tuple = ()) -> list[tuple]:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [prefix] + [path for key, child in children for path in paths(child, (*prefix, key))]


@st.composite
def spoilt_trees(draw: st.DrawFn, tree: object) -> object:
    """A tree with some of its nodes replaced, removed or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(tree)))
        value = copy.deepcopy(draw(st.sampled_from(NASTY)))
        if not path:
            return value
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        what = draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
        if what == "replace" or isinstance(parent, list):
            parent[path[-1]] = value
        else:
            old = parent.pop(path[-1])
            if what == "rename":
                parent[str(value)] = old
    return tree


@st.composite
def spoilt_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes cut short, with some overwritten, and perhaps something inserted."""
    spoilt = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        spoilt[draw(st.integers(0, len(spoilt) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(spoilt)))
        spoilt[at:at] = draw(st.binary(max_size=12))
    if draw(st.booleans()):
        spoilt = spoilt[: draw(st.integers(0, len(spoilt)))]
    return bytes(spoilt)


def only_data_errors(function: Callable[..., object], *args: object, **options: object) -> object:
    try:
        return function(*args, **options)
    except DataError as error:
        assert 0 < len(str(error)) < 5000
        return None


def assert_sound(found: Annotations) -> None:
    str(found.report)
    assert found.queries and found.report.kept == len(found.queries)
    assert len({q.qid for q in found.queries}) == len(found.queries)
    for query in found.queries:
        duration = found.videos[query.video].duration
        assert math.isfinite(duration) and query.windows
        assert all(0 <= start < end <= duration for start, end in query.windows)
        query.text.encode()
        assert ".." not in query.video.split("/") and query.video.isprintable()
        boxes = query.extra.get("boxes")
        assert boxes is None or (boxes.shape[1:] == (4,) and not (boxes > 1).any() and not (boxes < 0).any())


def array_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    array = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
    if kind == "npy":
        np.save(buffer, array)
    elif kind == "npz":
        np.savez_compressed(buffer, features=array, last_hidden_state=array)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(buffer, "w") as file:
            file["v"] = array
    return buffer.getvalue()
