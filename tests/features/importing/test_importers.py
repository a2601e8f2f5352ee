"""Importers: feature files of every supported kind, several streams, text features, and the stores made of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from import_inputs import RNG, annotations, features, kinds, npy_folder

from strong_envs.features.commands.import_features import add_parser
from strong_envs.features.datasets import read
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.importing.feature_files import check_lengths, load_features, load_query_features
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.options import FileOptions, ImportOptions
from strong_envs.features.importing.strong_release import import_authors_file


def npz_folder(folder: Path, arrays: dict[str, np.ndarray], key: str = "features", prefix: str = "") -> Path:
    folder.mkdir(parents=True)
    for video, array in arrays.items():
        np.savez(folder / f"{prefix}{video}.npz", **{key: array})
    return folder


def test_npy_npz_and_h5_give_the_same_rows(tmp_path):
    h5py = pytest.importorskip("h5py")
    arrays = features()
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for video, array in arrays.items():
            file[video] = array
    with h5py.File(tmp_path / "groups.hdf5", "w") as file:
        for video, array in arrays.items():
            file[f"{video}/c3d_features"] = array
    sources = [
        npy_folder(tmp_path / "npy", arrays),
        npz_folder(tmp_path / "npz", arrays),
        npy_folder(tmp_path / "suffixed", arrays, suffix=".avi"),
        tmp_path / "f.h5",
        tmp_path / "groups.hdf5",
    ]
    for source in sources:
        loaded, report = load_features(source, ["a", "b"])
        assert report.kept == 2 and not report.findings
        for video, array in arrays.items():
            np.testing.assert_array_equal(loaded[video], array)
    assert sorted(load_features(sources[0])[0]) == ["a", "b"], "None takes all videos"


def test_shapes_types_and_byte_orders_are_brought_to_float32_rows(tmp_path):
    array = features()["b"].astype(np.float16)
    folder = npy_folder(
        tmp_path / "f",
        {
            "i3d": array[:, None, None, :],
            "batch": array[None],
            "big": array.astype(">f8"),
            "fortran": np.asfortranarray(array),
            "integers": np.arange(60).reshape(10, 6),
        },
    )
    loaded, report = load_features(folder)
    for video in ("i3d", "batch", "big", "fortran"):
        assert loaded[video].dtype == np.float32
        np.testing.assert_array_equal(loaded[video], array.astype(np.float32))
    assert kinds(report)["axes of length one were removed"] == ("doubtful", 2)
    assert kinds(report)["features are integers; read as float32"] == ("doubtful", 1)


def test_broken_videos_are_counted_and_the_others_kept(tmp_path):
    arrays = features({"good": 10})
    bad = arrays["good"].copy()
    bad[3, 2] = np.nan
    zero = arrays["good"].copy()
    zero[:2] = 0
    extra = {"nan": bad, "zero": zero, "huge": np.full((3, 6), 1e300), "narrow": np.ones((3, 4)), "flat": np.ones(6)}
    folder = npy_folder(tmp_path / "f", {**arrays, **extra, "text": np.array([["x"]]), "empty": np.ones((0, 6))})
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:-50])
    order = ["good", "nan", "zero", "huge", "narrow", "flat", "text", "empty", "cut", "absent", "../f/good"]
    loaded, report = load_features(folder, order)
    assert sorted(loaded) == ["good", "zero"] and report.kept == 2
    assert kinds(report) == {
        "a feature file cannot be used": ("dropped", 6),
        "feature rows that are zero throughout": ("doubtful", 1),
        "features of another width than the first video's": ("dropped", 1),
        "a video has no features": ("dropped", 1),
        "an id is a path that leaves its folder": ("dropped", 1),
    }


def test_streams_are_scaled_cut_to_the_shortest_and_joined(tmp_path):
    first, second = features(), features({"a": 19, "b": 10}, 3)
    paths = [npz_folder(tmp_path / "clip", first), npz_folder(tmp_path / "slowfast", second)]
    loaded, report = load_features(paths, ["a", "b"])
    assert loaded["a"].shape == (19, 9) and loaded["b"].shape == (10, 9)
    unit = first["a"][:19] / np.linalg.norm(first["a"][:19], axis=1, keepdims=True)
    np.testing.assert_allclose(loaded["a"][:, :6], unit, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(loaded["a"][:, 6:], axis=1), 1, rtol=1e-5)
    assert kinds(report) == {"streams of different length, cut to the shortest": ("clipped", 1)}
    plain, _ = load_features(paths, ["a"], options=FileOptions(normalise=False))
    np.testing.assert_array_equal(plain["a"][:, :6], first["a"][:19])
    far = npz_folder(tmp_path / "far", features({"a": 10}))
    _, report = load_features([paths[0], far], ["a", "b"])
    assert kinds(report)["streams whose lengths differ a lot; are their strides the same?"] == ("doubtful", 1)
    assert kinds(report)["a video has no features"] == ("dropped", 1)


def test_lengths_are_held_against_durations():
    durations = {f"v{i}": 30.0 + i for i in range(20)}
    rows = {video: round(seconds / 2) for video, seconds in durations.items()}
    report = Report("x")
    assert check_lengths(rows, durations, None, report) == pytest.approx(2.0, rel=0.05) and not report.findings
    assert check_lengths(rows | {"v3": 5}, durations, None, report) is None
    assert kinds(report) == {"feature length does not fit the duration": ("doubtful", 1)}
    report = Report("x")
    assert check_lengths(rows, durations, 1.0, report) == 1.0
    assert kinds(report)["feature length does not fit the duration"] == ("doubtful", 20)
    report = Report("x")
    assert check_lengths(dict.fromkeys(durations, 64), durations, None, report) is None
    assert [f.action for f in report.findings.values()] == ["doubtful"]


def test_query_features_are_tokens_or_sentences(tmp_path):
    folder = npz_folder(tmp_path / "t", {"1": np.ones((7, 4)), "2": np.ones(4)}, "last_hidden_state", "qid")
    np.savez(folder / "qid3.npz", last_hidden_state=np.ones((2, 5)))
    np.savez(folder / "qid4.npz", pooled=np.ones(4))
    loaded, report = load_query_features(folder, ["1", "2", "3", "4", "5"])
    assert loaded["1"].shape == (7, 4) and loaded["2"].shape == (4,) and loaded["1"].dtype == np.float32
    assert report.kept == 2 and report.count("dropped") == 3
    with pytest.raises(DataError, match="no usable text features"):
        load_query_features(folder, ["9"])


def test_import_store_keeps_what_has_features(tmp_path):
    arrays = features()
    folder = npy_folder(tmp_path / "f", arrays)
    store, report = import_store(tmp_path / "store", annotations(), folder)
    assert [q.qid for q in store.queries] == ["1", "2", "3"] and report.kept == 3
    assert store.queries[0].windows == ((0.0, 10.0), (30.0, 40.0)) and store.queries[1].extra == {"event": "roll"}
    np.testing.assert_array_equal(store.tensor("frames"), np.concatenate([arrays["a"], arrays["b"]]))
    assert store.manifest["fps"] == pytest.approx(0.5) and store.tensor("queries").shape[0] == 3
    assert kinds(report) == {
        "a video has no features": ("dropped", 1),
        "a query whose video has no features": ("dropped", 1),
        "a moment is shorter than one feature row": ("doubtful", 1),
    }
    with pytest.raises(DataError, match="exists"):
        import_store(tmp_path / "store", annotations(), folder)
    assert sorted(os.listdir(tmp_path)) == ["f", "store"], "no temporary file stays behind"


def test_import_store_with_text_and_boxes(tmp_path):
    folder = npy_folder(tmp_path / "f", features())
    texts = npz_folder(tmp_path / "t", {"1": np.full((7, 4), 2.0), "2": np.ones(4)}, "last_hidden_state", "qid")
    boxes = np.full((400, 4), np.nan, np.float32)
    boxes[100:] = [0.1, 0.2, 0.3, 0.4]
    found = annotations()
    found.queries[1].extra.update(track="b/7", boxes=np.tile(boxes[200], (60, 1)), first_box_frame=100)
    store, report = import_store(tmp_path / "store", found, folder, ImportOptions(text=texts, boxes={"a": boxes}))
    assert [q.qid for q in store.queries] == ["1", "2"]
    np.testing.assert_array_equal(store.tensor("queries"), [[2] * 4, [1] * 4])
    assert [q.extra["track"] for q in store.queries] == ["a", "b/7"] and "boxes" not in store.queries[1].extra
    first, last = store.tracks["a"]
    rows = store.tensor("boxes")[first:last]
    assert len(rows) == 20 and np.isnan(rows[:5]).all() and np.isfinite(rows[5:]).all()
    first, last = store.tracks["b/7"]
    assert np.isfinite(store.tensor("boxes")[first:last, 0]).tolist() == [False] * 5 + [True] * 3 + [False] * 2
    assert kinds(report)["a query has no text features"] == ("dropped", 1)


def test_import_store_refuses_an_encoder_that_misses_sentences(tmp_path):
    folder = npy_folder(tmp_path / "f", features())
    with pytest.raises(DataError, match=r"one vector a sentence, \(3, Dq\)"):
        import_store(tmp_path / "store", annotations(), folder, ImportOptions(text=lambda texts: np.ones((1, 4))))
    assert not (tmp_path / "store").exists()
    with pytest.raises(DataError, match="none of the 3 annotated videos"):
        import_store(tmp_path / "s", annotations(), npy_folder(tmp_path / "g", features({"z": 3})))


def authors(**changes: object) -> dict:
    record = {"video_info": "AB-C-48-64", "w_vec": RNG.normal(size=(1, 8)), "v_feature": RNG.normal(size=5)}
    return record | {"w_start": np.float64(2.5), "w_end": 4.0, "fps": 24.0} | changes


def test_authors_file_needs_permission_and_is_converted_once(tmp_path):
    file = tmp_path / "feature_all_train.npy"
    records = [authors(), authors(video_info="broken"), authors(w_end=99.0), authors(fps=0), authors(w_vec=np.ones(3))]
    np.save(file, np.array(records, object), allow_pickle=True)
    with pytest.raises(DataError, match="allow_pickle=True"):
        import_authors_file(tmp_path / "store", file, split="train")
    store, report = import_authors_file(tmp_path / "store", file, split="train", allow_pickle=True)
    assert store.videos[0].id == "AB-C-48-64" and store.videos[0].duration == pytest.approx(64 / 24)
    assert store.queries[0].windows[0] == pytest.approx((0.5, 2.0))
    assert store.queries[1].windows[0] == pytest.approx((0.5, 64 / 24))
    assert store.tensor("frames").shape == (1, 5) and store.tensor("queries").shape == (2, 8)
    assert report.count("dropped") == 3 and store.manifest["extra"]["protocol"] == "window"


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def test_pickles_run_nothing(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    np.save(folder / "a.npy", np.array([Payload(tmp_path / "ran")], object), allow_pickle=True)
    with pytest.raises(DataError, match="pickled Python objects"):
        load_features(folder)
    with pytest.raises(DataError, match="asks for posix.mkdir|asks for nt.mkdir"):
        import_authors_file(tmp_path / "store", folder / "a.npy", split="train", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def run(*argv: object) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["import", *map(str, argv)])
    return args.run(args)


def test_import_command(tmp_path, capsys, shared_data):
    found = read(shared_data / "visitors")
    folder = npz_folder(tmp_path / "f", features({"visitors": 70}))
    source, boxes = shared_data / "visitors", shared_data / "visitors" / "boxes.json"
    assert run(source, "--features", folder, "--out", tmp_path / "store", "--boxes", boxes, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"]["kept"] == len(found.queries) == 48 and Path(printed["store"]).is_dir()
    assert run(source, "--features", folder, "--out", tmp_path / "store") == 2
    assert "exists" in capsys.readouterr().err
