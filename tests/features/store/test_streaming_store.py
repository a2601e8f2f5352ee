"""Stores that are written piece by piece, and their detector features: same bytes, bounded memory, clear refusals."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from import_inputs import annotations, features, kinds, npy_folder
from safetensors.numpy import save_file
from video_files import SMALL, annotate

from strong_envs.features import DataError, FeatureStore, Query, StoreContents, StoredVideo, write_store
from strong_envs.features.commands.import_features import add_parser
from strong_envs.features.extraction.options import ExtractOptions
from strong_envs.features.extraction.pipeline import extract
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.options import ImportOptions
from strong_envs.features.store import tensor_file
from strong_envs.features.store.tensor_file import Finite, RowBlocks, map_tensor, write_tensor

RNG = np.random.default_rng(0)


def common(rows: int) -> dict:
    return {
        "name": "s",
        "videos": [StoredVideo("a", float(rows), rows)],
        "queries": [Query("q", "a", "x", ((0.0, 1.0),))],
        "query_vectors": np.ones((1, 2), np.float32),
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 3), (7, 2, 3, 4), (3, 1, 1)])
def test_a_tensor_file_has_the_bytes_of_the_safetensors_package(shape, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", 64)
    values = RNG.normal(size=shape).astype(dtype)
    save_file({"grid": values}, str(tmp_path / "theirs"))
    entries = [write_tensor(tmp_path / "ours", "grid", values)]
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    blocks = (part for part in (values[:1], values[1:1], values[1:]))
    entries.append(write_tensor(tmp_path / "blocks", "grid", RowBlocks(shape, dtype, blocks)))
    assert (tmp_path / "blocks").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert entries[0] == entries[1] and entries[0]["sha256"] == tensor_file.sha256(tmp_path / "ours")
    assert entries[0]["range"] == [float(values.min()), float(values.max())]
    mapped = map_tensor(tmp_path / "ours", "grid")
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable and np.array_equal(mapped, values)


def test_writing_holds_a_block_not_the_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", 1 << 18)
    shape = (2000, 7, 7, 32)  # 12.5 MB
    blocks = (np.full((10, *shape[1:]), k, np.float32) for k in range(200))
    tracemalloc.start()
    frames = np.zeros((2000, 32), np.float32)
    store = write_store(
        tmp_path / "s", StoreContents(frames=frames, grid=RowBlocks(shape, "float32", blocks), **common(2000))
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
    assert store.shape("grid") == shape and store.range("grid") == (0.0, 199.0)
    assert (store.maps("grid")[0][1995] == 199).all()
    store.verify()


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([np.ones((3, 2))], "hold 3 rows, declared were 4"),
        ([np.ones((3, 2)), np.ones((2, 2))], "at least 5 rows"),
        ([np.ones((4, 3))], r"rows of shape \(3,\)"),
        ([np.ones((3, 2)), np.full((1, 2), np.inf)], "1 of 4 rows, the first in row 3"),
    ],
)
def test_blocks_that_do_not_fit_leave_nothing(blocks, words, tmp_path):
    with pytest.raises(DataError, match=words):
        write_store(tmp_path / "s", StoreContents(frames=RowBlocks((4, 2), "float32", blocks), **common(4)))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="int64; a store holds"):
        write_store(tmp_path / "s", StoreContents(frames=np.ones((4, 2), np.int64), **common(4)))


def test_the_finite_check_counts_across_blocks_and_lets_empty_boxes_be():
    check = Finite("boxes")
    check.add(np.full((3, 4), np.nan, np.float32))
    check.add(np.array([[0, 0, 1, 1]], np.float32))
    assert check.done() == [0.0, 1.0]
    check.add(np.array([[0, 0, np.nan, 1]], np.float32))
    with pytest.raises(DataError, match="boxes .* 1 of 5 rows, the first in row 4"):
        check.done()
    empty = Finite("boxes")
    empty.add(np.full((3, 4), np.nan, np.float32))
    assert empty.done() == [0.0, 0.0]


def test_objects_are_part_of_a_store(tmp_path):
    objects = RNG.normal(size=(4, 3, 5)).astype(np.float16)
    store = write_store(tmp_path / "s", StoreContents(frames=np.ones((4, 2), np.float32), objects=objects, **common(4)))
    assert store.has("objects") and store.shape("objects") == (4, 3, 5)
    assert store.manifest["dims"]["objects"] == [3, 5] and np.array_equal(store.tensor("objects"), objects)
    for wrong, words in ((objects[:3], "objects has 3 rows"), (objects[:, 0], "objects must have 3 dim")):
        with pytest.raises(DataError, match=words):
            write_store(tmp_path / "t", StoreContents(frames=np.ones((4, 2), np.float32), objects=wrong, **common(4)))


def test_objects_of_files_are_imported_with_every_misfit_counted(tmp_path):
    arrays = {"a": RNG.normal(size=(20, 3, 4)), "b": RNG.normal(size=(20, 2, 4)), "c": RNG.normal(size=(4, 3, 4))}
    folder = npy_folder(tmp_path / "o", {k: v.astype(np.float32) for k, v in arrays.items()})
    rows = npy_folder(tmp_path / "f", features({"a": 20, "b": 10, "c": 3}))
    lines: list[str] = []
    store, report = import_store(tmp_path / "s", annotations(), rows, ImportOptions(objects=folder, say=lines.append))
    found = store.tensor("objects")
    assert found.shape == (33, 3, 4) and np.array_equal(found[:20], arrays["a"].astype(np.float32))
    assert np.array_equal(found[20:30, :2], arrays["b"][1::2].astype(np.float32)) and not found[20:30, 2].any()
    changed = {k: v for k, v in kinds(report).items() if "objects" in k}
    assert changed == {
        "objects at another rate than the features": ("doubtful", 2),
        "fewer objects a row than in the first video": ("doubtful", 1),
    }
    taken = sum(entry["shape"][0] * np.prod(entry["shape"][1:]) for entry in store.manifest["tensors"].values()) * 4
    assert f"({int(taken)} bytes)" in lines[0]
    np.save(folder / "b.npy", np.full((10, 3, 4), np.nan, np.float32))
    (folder / "c.npy").unlink()
    store, report = import_store(tmp_path / "t", annotations(), rows, ImportOptions(objects=folder))
    assert [v.id for v in store.videos] == ["a"]
    assert kinds(report)["a part of a video cannot be used"] == ("dropped", 2)


def test_the_import_command_takes_objects(tmp_path, capsys):
    import argparse

    (tmp_path / "x.jsonl").write_text(
        '{"qid": 1, "query": "a cat", "duration": 10.0, "vid": "a", "relevant_windows": [[0, 4]]}\n'
    )
    npy_folder(tmp_path / "f", features({"a": 5}))
    npy_folder(tmp_path / "o", {"a": np.ones((5, 2, 3), np.float32)})
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(dest="command"))
    words = [str(tmp_path / "x.jsonl"), "--features", str(tmp_path / "f"), "--objects", str(tmp_path / "o")]
    args = parser.parse_args(["import", *words, "--out", str(tmp_path / "s")])
    assert args.run(args) == 0 and "the store will take" in capsys.readouterr().err
    assert FeatureStore.open(tmp_path / "s").shape("objects") == (5, 2, 3)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_detector_of_the_user_sees_whole_frames(clips, tmp_path, workers):
    name = "detector_of_a_user:brightness"
    store, _ = extract(
        [clips],
        annotate({"v0": 4.0, "v1": 6.0}),
        tmp_path / "s",
        ExtractOptions(
            fps=1.0,
            objects=name,
            workers=workers,
            **SMALL,
        ),
    )
    found = store.tensor("objects").astype(np.float32)
    assert found.shape == (10, 2, 2) and (found[:, 1] == (48, 64)).all()
    red = store.tensor("frames")[:, 0].astype(np.float32) * 255
    assert np.abs(found[:, 0, 0] - red).max() < 2
    assert store.manifest["extra"]["extract"]["objects"]["objects"] == 2


def test_a_detector_that_changes_its_mind_is_reported(clips, tmp_path):
    with pytest.raises(DataError, match=r"must return \(4, 1, 3\)"):
        extract(
            [clips],
            annotate({"v0": 4.0}),
            tmp_path / "s",
            ExtractOptions(fps=1.0, objects="detector_of_a_user:uneven", **SMALL),
        )
    with pytest.raises(DataError, match="no function that can be imported"):
        extract(
            [clips], annotate({"v0": 4.0}), tmp_path / "t", ExtractOptions(objects="detector_of_a_user:absent", **SMALL)
        )
