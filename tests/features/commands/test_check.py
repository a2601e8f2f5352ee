"""The check command: what it says about data of each kind, what it advises, and its exit codes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from strong_envs.features.commands.check import add_parser, check, exit_code, format_items
from strong_envs.features.datasets.advice import ADVICE, advice
from strong_envs.features.datasets.types import Query
from strong_envs.features.store.store import StoreContents, StoredVideo, write_store

CLEAN = {"v_x": {"duration": 60.0, "timestamps": [[0, 20]], "sentences": ["a dog"]}}
DROPS = {"v_x": {"duration": 60.0, "timestamps": [[0, 20], [30, 30]], "sentences": ["a dog", "b"]}}
CLIPS = {"v_x": {"duration": 60.0, "timestamps": [[0, 70]], "sentences": ["a dog"]}}


def run(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["check", *map(str, argv)])
    return args.run(args)


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("data", "code"), [(CLEAN, 0), (CLIPS, 0), (DROPS, 1)])
def test_exit_code_counts_loss_and_not_clipping(data, code, tmp_path, capsys):
    assert run(write(tmp_path / "train.json", data)) == code
    assert "ActivityNet Captions (test=val_2)" in capsys.readouterr().out


def test_text_names_the_trap_an_example_and_what_to_do(tmp_path, capsys):
    run(write(tmp_path / "train.json", DROPS))
    out = capsys.readouterr().out
    assert "1 dropped  start is not before end" in out and "[30, 30]" in out
    assert f"-> {ADVICE['start is not before end']}" in out and "queries: 1" in out


def test_json_is_for_machines(tmp_path, capsys):
    assert run(write(tmp_path / "train.json", DROPS), "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    item = printed["items"][0]
    assert printed["exit_code"] == 1 and item["readable"] and item["facts"]["splits"] == {"train": 1}
    assert item["findings"][0]["count"] == 1 and item["findings"][0]["advice"]


def test_nothing_readable(tmp_path, capsys):
    assert run(tmp_path / "absent") == 2
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "sub").mkdir()
    assert run(tmp_path) == 2
    out = capsys.readouterr().out
    assert "check one of its folders: sub" in out and "charades_sta" in out
    write(tmp_path / "train.json", CLEAN)
    (tmp_path / "train.json").write_bytes((tmp_path / "train.json").read_bytes()[:-9])
    assert run(tmp_path / "train.json") == 2


def test_one_broken_file_does_not_hide_the_others(tmp_path, capsys):
    write(tmp_path / "train.json", CLEAN)
    broken = write(tmp_path / "val_1.json", CLEAN)
    broken.write_bytes(broken.read_bytes()[:-5])
    (tmp_path / "val_2.json").write_bytes(b"")
    write(tmp_path / "settings.json", {"a": 1})
    items = check(tmp_path)
    assert exit_code(items) == 1 and run(tmp_path) == 1
    states = {Path(item.path).name: item.error is None for item in items}
    assert states == {"train.json": True, "val_1.json": False, "val_2.json": False, "settings.json": True}
    assert "2 parts cannot be read" in capsys.readouterr().out


def features(folder: Path, **rows: np.ndarray) -> Path:
    folder.mkdir()
    for video, array in rows.items():
        np.savez(folder / f"{video}.npz", features=array)
    return folder


def test_feature_folders_alone_and_against_annotations(tmp_path, capsys):
    good = np.ones((30, 4), np.float32)
    folder = features(tmp_path / "f", v_x=good, v_y=good)
    assert run(folder) == 0
    assert "dimensions: 4" in capsys.readouterr().out
    truth = write(tmp_path / "train.json", {**CLEAN, "v_z": CLEAN["v_x"]})
    assert run(folder, "--annotations", truth) == 1
    out = capsys.readouterr().out
    assert "v_z is not in f" in out and "seconds per row: 2.0" in out
    np.savez(folder / "v_w.npz", features=np.full((3, 4), np.nan))
    assert run(folder) == 1
    assert "NaN or infinite values in 3 of 3 rows" in capsys.readouterr().out


def test_h5_npy_and_pickles(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["v"] = np.ones((3, 2))
    np.save(tmp_path / "v.npy", np.ones((3, 2)))
    np.save(tmp_path / "feature_all_train.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert run(tmp_path / "f.h5") == 0 and run(tmp_path / "v.npy") == 0
    capsys.readouterr()
    assert run(tmp_path / "feature_all_train.npy") == 2
    assert "allow_pickle" in capsys.readouterr().out
    assert run(tmp_path) == 1, "the folder's other parts are fine"


def test_text_features_are_found_under_their_own_key(tmp_path, capsys):
    (tmp_path / "t").mkdir()
    np.savez(tmp_path / "t" / "qid1.npz", last_hidden_state=np.ones((7, 4)))
    assert run(tmp_path / "t") == 0
    assert "key: last_hidden_state" in capsys.readouterr().out


def test_stores_whole_and_damaged(tmp_path, capsys):
    video, query = StoredVideo("a", 10.0, 5), Query("1", "a", "a dog", ((1.0, 2.0),))
    path = tmp_path / "store"
    frames, vectors = np.ones((5, 4), np.float32), np.ones((1, 3), np.float32)
    write_store(path, StoreContents(name="tiny", videos=[video], queries=[query], frames=frames, query_vectors=vectors))
    assert run(path) == 0
    assert "name: tiny" in capsys.readouterr().out
    file = path / "frames.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert run(path) == 2
    assert "hash" in capsys.readouterr().out
    file.unlink()
    assert run(path) == 2


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    data = {"v_x": {**CLEAN["v_x"], "timestamps": [[5, 5], [1, 2]], "sentences": ["x", "y"]}, "\x1b[2J": CLEAN["v_x"]}
    items = check(write(tmp_path / "train.json", data))
    assert exit_code(items) == 1 and "\x1b" not in format_items(items)


def test_every_kind_of_finding_has_advice():
    import re

    root = Path(__file__).parents[3] / "features"
    files = [f for room in ("datasets", "importing", "extraction") for f in (root / room).rglob("*.py")]
    source = "\n".join(f.read_text() for f in files)
    pattern = r'(?:\.add|\.drop)\(\s*f?"([^"]+)"|kind = (?:problem or )?f?"([^"]+)"|return f?"(an id [^"]+)"'
    kinds = {next(k for k in found if k) for found in re.findall(pattern, source)}
    assert len(kinds) > 45
    assert [k for k in kinds if advice(k) == "Look at the examples."] == []


def test_real_data(shared_data, capsys):
    assert run(shared_data / "charades_sta") == 1
    out = capsys.readouterr().out
    assert "test 3,720, train 12,404" in out and "4 entries would be dropped" in out
    assert run(shared_data / "tacos") == 0
    assert "test 4,001, train 9,790, val 4,436" in capsys.readouterr().out
    assert run(shared_data / "visitors") == 0
    out = capsys.readouterr().out
    assert "queries: 48" in out and "frames with a box: 1,098" in out
