"""Manifests that state odd numbers, types and sizes: one sentence, and bounded memory."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from random_stores import random_store

from strong_envs.features import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.store import manifest as manifests
from strong_envs.features.store.store import FeatureStore, StoreContents, StoredVideo, write_store

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path) -> Path:
    return random_store(tmp_path / "s", [3, 4]).path


def change(store: Path, edit: Callable[[dict], object]) -> None:
    tree = json.loads((store / "manifest.json").read_text())
    edit(tree)
    (store / "manifest.json").write_text(json.dumps(tree))


EDITS = {
    "reversed range": lambda m: m["tensors"]["frames"].update(range=[1.0, -1.0]),
    "infinite range": lambda m: m["tensors"]["grid"].update(range=[0.0, 1e999]),
    "range of one": lambda m: m["tensors"]["grid"].update(range=[0.0]),
    "no range": lambda m: m["tensors"]["grid"].pop("range"),
    "BF16": lambda m: m["tensors"]["frames"].update(dtype="BF16"),
    "F8_E4M3": lambda m: m["tensors"]["grid"].update(dtype="F8_E4M3"),
    "complex": lambda m: m["tensors"]["frames"].update(dtype="complex64"),
    "infinite fps": lambda m: m.update(fps=1e999),
    "negative fps": lambda m: m.update(fps=-2.0),
    "fps as text": lambda m: m.update(fps="2"),
    "negative duration": lambda m: m["videos"][0].update(duration=-1.0),
    "NaN duration": lambda m: m["videos"][0].update(duration=float("nan")),
    "many rows": lambda m: m["videos"][0].update(n_frames=2**60),
    "half a row": lambda m: m["videos"][0].update(n_frames=1.5),
    "true rows": lambda m: m["videos"][0].update(n_frames=True),
    "a window of three": lambda m: m["queries"][0].update(windows=[[0, 1, 2]]),
    "no window": lambda m: m["queries"][0].update(windows=[]),
    "text as number": lambda m: m["queries"][0].update(text=3),
    "track past the end": lambda m: m["tracks"].update(x=[0, 10**6]),
    "track reversed": lambda m: m["tracks"].update(x=[3, 1]),
    "track as list": lambda m: m["queries"][0]["extra"].update(track=["t"]),
    "backbone's name": lambda m: m["backbone"].update(name=["a"]),
    "protocol": lambda m: m["extra"].update(protocol={"a": 1}),
    "reduction": lambda m: m["extra"].update(pca=3),
    "name": lambda m: m.update(name=None),
    "unknown field": lambda m: m["videos"][0].update(surprise=1),
    "lists for objects": lambda m: m.update(tensors=[], videos={}, queries={}),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_odd_entry_is_one_sentence(name, store):
    change(store, EDITS[name])
    with pytest.raises(DataError) as error:
        FeatureBank(FeatureStore.open(store))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("field", ["duration", "n_frames", "windows", "range", "shape", "version", "tracks", "extra"])
@pytest.mark.parametrize("digits", [400, 6000, 100_000])
def test_numbers_of_thousands_of_digits(field, digits, store):
    text = (store / "manifest.json").read_text()
    found = re.search(rf'"{field}": [^"\d]*(\d)', text)
    place = text.index(":", text.index(f'"{field}"')) + 1 if found is None else found.start(1)
    (store / "manifest.json").write_text(text[:place] + "9" * digits + text[place + 1 :])
    with pytest.raises(DataError):
        FeatureStore.open(store)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "I64", "BOOL", "C64", "X1"])
@pytest.mark.parametrize("both", [True, False])
def test_tensors_of_other_types(dtype, both, store):
    file = store / "grid.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw.replace(b'"F32"', f'"{dtype}"'.encode()))
    if both:
        change(store, lambda m: m["tensors"]["grid"].update(dtype=dtype))
    with pytest.raises(DataError):
        FeatureBank(FeatureStore.open(store)).grid  # noqa: B018


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA"), reason="needs a limit of memory")
@pytest.mark.parametrize("kind", ["spaces", "empty lists", "one string", "repeated keys", "queries"])
def test_a_huge_manifest_takes_no_memory(kind, store, tmp_path):
    parts = {
        "spaces": b" ",
        "empty lists": b"[],",
        "one string": b"x",
        "repeated keys": b'"a":1,',
        "queries": b'{"qid":"1"},',
    }
    head = {"one string": b'{"x":"', "repeated keys": b"{"}.get(kind, b'{"x":[')
    block = parts[kind] * (2**20 // len(parts[kind]))
    with open(store / "manifest.json", "wb") as file:
        file.write(head)
        for _ in range(270):
            file.write(block)
    code = (
        "import resource as r, sys; r.setrlimit(r.RLIMIT_DATA, (2 << 30,) * 2); sys.path.insert(0, sys.argv[1])\n"
        "from strong_envs.features.errors import DataError\n"
        "from strong_envs.features.store.store import FeatureStore\n"
        "try: FeatureStore.open(sys.argv[2])\n"
        "except DataError as error: print(str(error)[-60:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(store)], capture_output=True, text=True, timeout=120
    )
    assert "are read up to that size" in done.stdout, done.stderr[-500:]


def contents(**changes: object) -> StoreContents:
    given = {
        "name": "s",
        "videos": [StoredVideo("a", 2.0, 2)],
        "queries": [],
        "frames": np.ones((2, 3), np.float32),
        "query_vectors": np.ones((1, 2), np.float32),
    }
    from strong_envs.features.datasets.types import Query

    given["queries"] = [Query("q", "a", "x", ((0.0, 1.0),), extra=changes.pop("query_extra", {}))]
    return StoreContents(**{**given, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": {"x": {1, 2}}},
        {"extra": {"x": np.float32(1)}},
        {"query_extra": {"x": object()}},
        {"query_extra": {"x": "\ud800"}},
        {"name": "\udc80"},
        {"extra": {"deep": json.loads("[" * 100 + "]" * 100)}},
        {"extra": {"large": 10**400}},
        {"backbone": {"name": 3}},
    ],
)
def test_what_could_not_be_read_back_is_never_written(changes, tmp_path):
    with pytest.raises(DataError):
        write_store(tmp_path / "s", contents(**changes))
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_beyond_the_limit_is_never_written(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "MAX_BYTES", 2000)
    with pytest.raises(DataError, match="at most 2,000 are read: divide the data"):
        write_store(tmp_path / "s", contents(extra={"x": "y" * 3000}))
    assert list(tmp_path.iterdir()) == []


def test_extra_fields_of_annotations_reach_the_store_and_come_back(tmp_path):
    odd = {
        "saliency": [[1, 2.5, None]],
        "nested": {"a": {"b": [True]}},
        "text": "caf\u00e9 \U0001f436",
        "nan": float("nan"),
    }
    store = write_store(tmp_path / "s", contents(query_extra=odd))
    again = FeatureStore.open(store.path).queries[0].extra
    assert {k: v for k, v in again.items() if k != "nan"} == {k: v for k, v in odd.items() if k != "nan"}
    shutil.rmtree(store.path)
