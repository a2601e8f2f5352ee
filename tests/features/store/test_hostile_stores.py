"""Stores, detector files, duration tables and word vectors from strangers: sound data, or one `DataError`."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import FUZZ, array_bytes, assert_sound, only_data_errors, spoilt_bytes, spoilt_trees
from hypothesis import given
from hypothesis import strategies as st
from random_stores import random_store

from strong_envs import features
from strong_envs.features import FeatureBank
from strong_envs.features.commands.check import check, exit_code, format_items
from strong_envs.features.datasets import READERS, read
from strong_envs.features.datasets.types import Report
from strong_envs.features.encoders import text
from strong_envs.features.importing.detections import ObjectFiles
from strong_envs.features.importing.importer import import_store
from strong_envs.features.video_io import Decoder
from strong_envs.rendering.viewer import write_video

TENSORS = ("frames", "queries", "grid", "boxes")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return random_store(tmp_path_factory.mktemp("hostile") / "sound", [3, 1, 5, 2]).path


def use(path: Path) -> None:
    """What a user does first: open, read a bank, look; all of it works or none of it."""
    assert exit_code(items := check(path)) in (0, 1, 2) and format_items(items).replace("\n", "").isprintable()
    store = only_data_errors(features.open_store, path)
    if store is None:
        return
    bank = only_data_errors(FeatureBank, store, None)
    if bank is not None:
        assert len(bank.query) == len(bank) and int(bank.offsets[-1]) == len(bank.frames)


@FUZZ
@given(data=st.data())
def test_stores_survive_a_spoilt_manifest(sound, data):
    manifest = json.loads((sound / "manifest.json").read_text())
    tree = data.draw(spoilt_trees(manifest))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        shutil.copytree(sound, path)
        (path / "manifest.json").write_text(json.dumps(tree), encoding="utf-8", errors="surrogatepass")
        use(path)


@pytest.mark.parametrize("name", [*TENSORS, "manifest"])
@FUZZ
@given(data=st.data())
def test_stores_survive_spoilt_bytes(name, sound, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        shutil.copytree(sound, path)
        file = path / (f"{name}.safetensors" if name != "manifest" else "manifest.json")
        file.write_bytes(data.draw(spoilt_bytes(file.read_bytes())))
        use(path)


@pytest.mark.parametrize("name", ["frames", "manifest"])
def test_a_store_without_one_of_its_files_is_one_sentence(name, sound, tmp_path):
    shutil.copytree(sound, tmp_path / "store")
    (tmp_path / "store" / ("manifest.json" if name == "manifest" else f"{name}.safetensors")).unlink()
    assert only_data_errors(features.open_store, tmp_path / "store") is None
    assert exit_code(check(tmp_path / "store")) == 2


@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
@FUZZ
@given(data=st.data())
def test_detector_files_survive_spoilt_bytes(kind, data):
    array, buffer = np.arange(24, dtype=np.float32).reshape(4, 3, 2) + 1, io.BytesIO()
    if kind == "npy":
        np.save(buffer, array)
    elif kind == "npz":
        np.savez_compressed(buffer, features=array)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(buffer, "w") as file:
            file["v"] = array
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("o.h5" if kind == "h5" else f"v.{kind}")
        path.write_bytes(data.draw(spoilt_bytes(buffer.getvalue())))

        def objects() -> np.ndarray:
            files = ObjectFiles(path if kind == "h5" else folder)
            try:
                return files.read("v", 4, Report("objects"))
            finally:
                files.close()

        found = only_data_errors(objects)
        assert found is None or (found.shape[0] == 4 and np.isfinite(found).all())


@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
@FUZZ
@given(data=st.data())
def test_an_import_of_spoilt_features_keeps_the_good_remainder(kind, data):
    rows = [
        {"qid": i, "query": "a dog", "duration": 9, "vid": vid, "relevant_windows": [[1, 5]]}
        for i, vid in enumerate(("v", "good"))
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (root / "f").mkdir()
        (root / "f" / f"v.{kind}").write_bytes(data.draw(spoilt_bytes(array_bytes(kind))))
        where = root / "f" / f"v.{kind}"
        if kind != "h5":
            where = root / "f"
            one = np.ones((5, 3), np.float32)
            np.save(where / "good.npy", one) if kind == "npy" else np.savez(where / "good.npz", features=one)
        done = only_data_errors(import_store, root / "store", read(root / "train.jsonl"), features=where)
        if done is None:
            assert not (root / "store").exists()
        else:
            store, report = done
            assert report.kept == len(store.queries) and np.isfinite(store.tensor("frames")).all()
            assert kind == "h5" or "good" in {video.id for video in store.videos}


@FUZZ
@given(data=st.data())
def test_duration_tables_survive_spoilt_bytes(data):
    table = b"id,subject,length,actions\nAAAAA,X,30.5,c1 0 9\nBBBBB,Y,12,\n"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "charades_sta_train.txt"
        file.write_text("AAAAA 0.0 6.9##a dog\nBBBBB 2 9##a cat\n")
        (Path(folder) / "Charades_v1_train.csv").write_bytes(data.draw(spoilt_bytes(table)))
        found = only_data_errors(READERS["charades_sta"], file)
        if found is not None:
            assert_sound(found)
        assert exit_code(check(folder)) in (0, 1, 2)


@FUZZ
@given(data=st.data())
def test_word_vectors_survive_spoilt_bytes(data):
    words = b"dog 0.1 0.2 -0.3\ncat 1 2 3\na 0.5 0.5 0.5\n"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "glove.txt"
        file.write_bytes(data.draw(spoilt_bytes(words)))

        def vectors() -> np.ndarray:
            return text.load(f"glove:{file}").encode(["a dog", "a cat"])

        found = only_data_errors(vectors)
        assert found is None or (len(found) == 2 and np.isfinite(found).all())


@pytest.fixture(scope="module")
def video_bytes(tmp_path_factory):
    pictures = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(12)]
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", pictures, 6.0).read_bytes()


@FUZZ
@given(data=st.data())
def test_videos_survive_spoilt_bytes(data, video_bytes):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "v.mp4"
        file.write_bytes(data.draw(spoilt_bytes(video_bytes)))

        def decoded() -> list:
            decoder = Decoder(file)
            try:
                return [decoder.at(second) for second in (0.1, 0.9, 1.9)]
            finally:
                decoder.close()

        for picture in only_data_errors(decoded) or ():
            assert picture is None or (picture.dtype == np.uint8 and picture.ndim == 3)
