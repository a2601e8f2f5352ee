"""Files from strangers: a reader returns sound data and counts what it left, or raises one DataError."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import FUZZ, array_bytes, assert_sound, only_data_errors, spoilt_bytes, spoilt_trees
from hypothesis import given
from hypothesis import strategies as st

from strong_envs.features.commands.check import check, exit_code, format_items
from strong_envs.features.datasets import READERS, parsing, read, read_boxes
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.importing import untrusted_arrays as safe_arrays
from strong_envs.features.importing.feature_files import load_features, load_query_features
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.strong_release import read_authors_file

RECORD = {"timestamps": [[1, 30], [2.5, 40]], "sentences": ["a dog", "a cat"]}
HC = {"bbox": [[1, 1, 2, 2], [2, 2, 3, 3]], "st_time": 1.5, "ed_time": 9.0, "img_num": 200, "st_frame": 3}
BOXES = {"vid": "v", "num_frames": 4, "box_format": "xyxy normalised to [0,1]", "frames": {"1": [0.1, 0.2, 0.3, 0.4]}}
STG = {
    "vid": "9",
    "fps": 25,
    "frame_count": 100,
    "used_segment": {"begin_fid": 0, "end_fid": 99},
    "temporal_gt": {"begin_fid": 5, "end_fid": 90},
    "captions": [{"description": "a dog", "target_id": 0}],
    "questions": [{"description": "who?", "target_id": 1}],
}
QV = {"qid": 1, "query": "a dog", "duration": 60, "vid": "v", "relevant_windows": [[1, 9], [20, 30]], "split": "val"}
SAMPLES: dict[str, object] = {
    "activitynet_captions": {"v_1": {**RECORD, "duration": 60.5}, "v_2": {**RECORD, "duration": 50}},
    "charades_cd": {"AAAAA": {**RECORD, "video_duration": 60.5}},
    "tacos": {"s1.avi": {**RECORD, "fps": 29.4, "num_frames": 900}},
    "didemo": [{"description": "a dog", "video": "v", "times": [[0, 1], [0, 0]], "num_segments": 6}],
    "hc_stvg": {"1_v.mp4": {**HC, "caption": "a dog", "width": 64, "height": 48}},
    "vidstg": [STG],
    "qvhighlights": [QV, {**QV, "qid": "2", "event": "run"}],
    "charades_sta": "AAAAA 0.0 6.9##a dog\nAAAAA 2 9##a cat\n",
    "tacos_tall": "s1.avi_252_452:a dog#a cat\ns1.avi_1_99:a cow\n",
}


def as_text(name: str, tree: object) -> str:
    if isinstance(tree, str):
        return tree
    return "\n".join(map(json.dumps, tree)) if name == "qvhighlights" and isinstance(tree, list) else json.dumps(tree)


def read_bytes(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = name in ("charades_sta", "tacos_tall")
        file = Path(folder) / f"train.{'txt' if text else 'jsonl' if name == 'qvhighlights' else 'json'}"
        file.write_bytes(data)
        options = {
            "charades_sta": {"durations": {"AAAAA": 8.5}},
            "tacos_tall": {"info": {"s1": (29.4, 900)}},
            "vidstg": {"vidor": folder},
        }.get(name, {})
        reader = READERS["tacos" if name == "tacos_tall" else name]
        found = only_data_errors(reader, file, **options)
        if found is not None:
            assert_sound(found)
        only_data_errors(read, file)
        items = only_data_errors(check, folder)
        if items is not None:
            assert exit_code(items) in (0, 1, 2) and format_items(items).replace("\n", "").isprintable()


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_read_unspoilt(name, tmp_path):
    read_bytes(name, as_text(name, SAMPLES[name]).encode())


@pytest.mark.parametrize("name", [n for n in SAMPLES if not isinstance(SAMPLES[n], str)])
@FUZZ
@given(data=st.data())
def test_readers_survive_spoilt_json(name, data):
    tree = data.draw(spoilt_trees(SAMPLES[name]))
    read_bytes(name, as_text(name, tree).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", SAMPLES)
@FUZZ
@given(data=st.data())
def test_readers_survive_spoilt_bytes(name, data):
    read_bytes(name, data.draw(spoilt_bytes(as_text(name, SAMPLES[name]).encode())))


@FUZZ
@given(data=st.data())
def test_boxes_survive_spoilt_files(data):
    tree = data.draw(spoilt_trees(BOXES))
    raw = data.draw(st.one_of(st.just(json.dumps(tree).encode()), spoilt_bytes(json.dumps(BOXES).encode())))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "boxes.json"
        file.write_bytes(raw)
        for report in (None, Report("boxes")):
            for rows in (only_data_errors(read_boxes, file, report) or {}).values():
                assert rows.shape[1] == 4 and not (rows > 1).any() and not (rows < 0).any()


@pytest.mark.parametrize("kind", ["npy", "npz", "h5"])
@FUZZ
@given(data=st.data())
def test_feature_files_survive_spoilt_bytes(kind, data):
    raw = data.draw(spoilt_bytes(array_bytes(kind)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"v.{kind}"
        file.write_bytes(raw)
        for function, ids in ((load_features, None), (load_features, ["v", "../v"]), (load_query_features, ["v"])):
            loaded = only_data_errors(function, file, ids)
            for rows in loaded[0].values() if loaded else ():
                assert rows.dtype == np.float32 and np.isfinite(rows).all() and rows.size
        assert exit_code(check(file)) in (0, 1, 2)


@FUZZ
@given(data=st.data())
def test_pickles_survive_spoilt_bytes(data):
    records = np.array([{"video_info": "A-0-64", "w_vec": np.ones(4), "fps": 24.0}], object)
    buffer = io.BytesIO()
    np.save(buffer, records, allow_pickle=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "feature_all_train.npy"
        file.write_bytes(data.draw(spoilt_bytes(buffer.getvalue())))
        only_data_errors(read_authors_file, file, allow_pickle=True)


def npy(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x93NUMPY",
        b"not an array at all",
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000)}"),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}", bytes(16)),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 0)}"),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2.0)}", bytes(16)),
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}", pickle.dumps([1])),
        npy(b"{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1)}", bytes(8)),
        npy(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 1)}", bytes(4)),
        npy(b"{'descr': '<f4', 'fortran_order': False}", bytes(16)),
        npy(b"__import__('os').system('true')", bytes(16)),
        npy(b"(" * 3000, bytes(16)),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}", bytes(16), b"\x09\x00"),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{}",
    ],
)
def test_npy_headers_are_checked_before_memory_is_taken(raw, tmp_path):
    (tmp_path / "v.npy").write_bytes(raw)
    with pytest.raises(DataError):
        safe_arrays.read_npy(tmp_path / "v.npy")
    np.save(tmp_path / "good.npy", np.ones((3, 2), np.float32))
    loaded, report = load_features(tmp_path)
    assert list(loaded) == ["good"] and report.count("dropped") == 1


def test_zip_bombs_are_refused_by_their_stated_size(tmp_path, monkeypatch):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**18, 64)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", header.getvalue() + bytes(2**26))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**17
    monkeypatch.setattr(safe_arrays, "MAX_ARRAY_BYTES", 2**24)
    with pytest.raises(DataError, match="unpacks to"):
        safe_arrays.read_npz(tmp_path / "bomb.npz", "features")
    # The same archive lying about its size in both places: no more than the stated size is unpacked.
    stated = struct.pack("<I", 2**26 + len(header.getvalue()))
    raw = (tmp_path / "bomb.npz").read_bytes().replace(stated, struct.pack("<I", 200))
    (tmp_path / "liar.npz").write_bytes(raw)
    with pytest.raises(DataError):
        safe_arrays.read_npz(tmp_path / "liar.npz", "features")


def test_h5_links_and_strange_data_are_not_followed(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["v"] = np.ones((3, 2))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["good"] = np.ones((3, 2))
        file["external"] = h5py.ExternalLink("other.h5", "v")
        file["soft"] = h5py.SoftLink("/good")
        file["text"] = ["a", "b"]
        file.create_dataset("absurd", shape=(10**9, 10**6), dtype="f4", chunks=(1, 1024))
        layout = h5py.VirtualLayout(shape=(3, 2), dtype="f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "v", shape=(3, 2))
        file.create_virtual_dataset("virtual", layout)
        file.create_group("empty")
    loaded, report = load_features(tmp_path / "f.h5")
    assert list(loaded) == ["good"] and report.count("dropped") == 6


@pytest.mark.parametrize("raw", [b"", b"\x89HDF\r\n\x1a\n", b"plain text", bytes(1000)])
@pytest.mark.parametrize("suffix", ["h5", "npz", "npy", "json", "jsonl"])
def test_wrong_magic_and_empty_files_are_one_clear_error(raw, suffix, tmp_path):
    file = tmp_path / f"v.{suffix}"
    file.write_bytes(raw)
    with pytest.raises(DataError, match="v"):
        load_features(file) if suffix in ("h5", "npz", "npy") else read(file, format="qvhighlights")
    assert exit_code(check(file)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"v_1": {"duration": 9, "timestamps": [[', "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"v_1": ' + b"9" * 6000 + b"}", "6,000 digits"),
        (b'{"v_1": "\xff\xfe"}', "not UTF-8: byte 9 is 0xff"),
        ('{"v_1": {}}'.encode("utf-16"), "not UTF-8"),
        (b"[1, 2]", "not an object keyed by video id"),
        (b'{"v_1": {"duration": 1e999, "timestamps": [[1, 2]], "sentences": ["x"]}}', "duration is not a positive"),
        (b'{"v_1": {"duration": 9, "timestamps": [[NaN, 2]], "sentences": ["x"]}}', "not a finite number"),
        (b'{"../x": {"duration": 9, "timestamps": [[1, 2]], "sentences": ["x"]}}', "leaves its folder"),
        (b'{"v": {"duration": 9, "timestamps": {"a": 1}, "sentences": "x"}}', "lacks its timestamps"),
        (b'{"v": {"duration": "9", "timestamps": [[1, 2]], "sentences": ["x"]}}', "is a number in quotation marks"),
        (b'{"v": {"duration": 9, "timestamps": [[1, 2]], "sentences": ["\\ud800"]}}', "not valid Unicode"),
    ],
)
def test_errors_say_what_is_wrong(text, message, tmp_path):
    (tmp_path / "train.json").write_bytes(text)
    with pytest.raises(DataError, match=message):
        READERS["activitynet_captions"](tmp_path / "train.json")


def test_the_good_lines_of_a_broken_file_are_kept(tmp_path):
    row = json.dumps({"qid": 1, "query": "x", "duration": 9, "vid": "v", "relevant_windows": [[1, 2]]}).encode()
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + row + b'\n{"qid"\n"\xff\xfe"\n[]\n\n' + row[:-3])
    found = read(tmp_path / "train.jsonl")
    assert len(found.queries) == 1 and found.report.count("dropped") == 4


def test_keys_written_twice_are_counted(tmp_path):
    record = '{"duration": 9, "timestamps": [[1, 2]], "sentences": ["x"]}'
    (tmp_path / "train.json").write_text(f'{{"v": {record}, "v": {record}}}')
    found = read(tmp_path / "train.json")
    assert len(found.queries) == 1 and found.report.count("doubtful") == 1


def test_sizes_are_bounded(tmp_path, monkeypatch):
    file = tmp_path / "train.jsonl"
    row = json.dumps({"qid": 1, "query": "x", "duration": 9, "vid": "v", "relevant_windows": [[1, 2]]})
    file.write_text(row + "\n" + "y" * 500 + "\n" + row.replace('"qid": 1', '"qid": 2'))
    monkeypatch.setattr(parsing, "MAX_LINE_BYTES", 200)
    found = read(file)
    assert [q.qid for q in found.queries] == ["1", "2"] and found.report.count("dropped") == 1
    monkeypatch.setattr(parsing, "MAX_LINES_BYTES", 100)
    with pytest.raises(DataError, match="up to 100 bytes"):
        read(file)


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path / "folder.json", tmp_path / "absent.json", "a\0b", "/dev/zero"):
        for reader in (*READERS.values(), read_boxes, read):
            with pytest.raises(DataError):
                reader(path)
        with pytest.raises(DataError):
            load_features(path)


def test_ids_cannot_lead_out_of_a_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    np.save(tmp_path / "secret.npy", np.ones((3, 2)))
    np.save(tmp_path / "inside" / "v.npy", np.ones((3, 2)))
    rows = [{"qid": i, "query": "x", "duration": 9, "relevant_windows": [[1, 5]]} for i in range(4)]
    for row, video in zip(rows, ["v", "../secret", str(tmp_path / "secret"), "..\\secret"], strict=True):
        row["vid"] = video
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(tmp_path / "train.jsonl")
    assert list(found.videos) == ["v"] and found.report.count("dropped") == 3
    store, _ = import_store(tmp_path / "store", found, tmp_path / "inside")
    assert [v.id for v in store.videos] == ["v"]
    _, report = load_features(tmp_path / "inside", ["v", "../secret", str(tmp_path / "secret")])
    assert report.kept == 1 and report.count("dropped") == 2
