"""Rows against durations: arrays stored the other way round, far too many rows, and far too few."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from import_inputs import npy_folder

from strong_envs.features.commands.check import check, exit_code
from strong_envs.features.commands.import_features import add_parser
from strong_envs.features.datasets.types import Annotations, Query, Report, Video
from strong_envs.features.errors import DataError
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.lengths import check_lengths
from strong_envs.features.importing.options import ImportOptions
from strong_envs.features.store.store import FeatureStore

RNG = np.random.default_rng(0)


def videos_of(durations: dict[str, float]) -> Annotations:
    queries = [Query(v, v, f"query of {v}", ((0.0, d / 2),)) for v, d in durations.items()]
    return Annotations("made up", {v: Video(v, d) for v, d in durations.items()}, queries, Report("made up"))


def kinds(report: Report) -> set[str]:
    return {f.kind for f in report.findings.values()}


def transposed(folder: Path, lengths: dict[str, int], channels: int) -> Path:
    return npy_folder(folder, {v: RNG.normal(size=(channels, n)).astype(np.float32) for v, n in lengths.items()})


@pytest.mark.parametrize("channels", [512, 1024, 77])
@pytest.mark.parametrize("dtype", ["npy", "h5"])
def test_arrays_of_channels_by_rows_are_refused_with_the_option_that_reads_them(channels, dtype, tmp_path):
    lengths, durations = {"a": 75, "b": 40, "c": 110}, {"a": 150.0, "b": 80.0, "c": 220.0}
    folder = transposed(tmp_path / "f", lengths, channels)
    if dtype == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "f.h5", "w") as file:
            for video in lengths:
                file[video] = np.load(folder / f"{video}.npy")
        folder = tmp_path / "f.h5"
    with pytest.raises(DataError, match=r"\(channels, rows\).*--transposed"):
        import_store(tmp_path / "s", videos_of(durations), folder)
    assert not (tmp_path / "s").exists()
    store, report = import_store(tmp_path / "s", videos_of(durations), folder, ImportOptions(transposed=True))
    assert [v.n_frames for v in store.videos] == [75, 40, 110] and store.shape("frames")[1] == channels
    assert store.manifest["fps"] == 0.5 and not report.findings


def test_one_transposed_array_is_doubtful_and_right_ones_are_not(tmp_path):
    _, report = import_store(tmp_path / "s", videos_of({"a": 150.0}), transposed(tmp_path / "f", {"a": 75}, 512))
    assert "an array looks transposed" in kinds(report)
    for name, shape in (("long", (2000, 512)), ("short", (30, 2048)), ("square", (512, 512)), ("pooled", (1, 512))):
        folder = npy_folder(tmp_path / name, {"a": RNG.normal(size=shape).astype(np.float32)})
        _, report = import_store(tmp_path / f"s-{name}", videos_of({"a": shape[0] / 2}), folder)
        assert "an array looks transposed" not in kinds(report), name


@pytest.mark.parametrize("shape", [(512, 128), (1024, 256), (2048, 128)])
def test_channels_by_a_fixed_number_of_rows_are_doubtful(shape, tmp_path):
    folder = npy_folder(tmp_path / "f", {v: RNG.normal(size=shape).astype(np.float32) for v in "abc"})
    durations = {"a": 10.0, "b": 25.0, "c": 70.0}
    _, report = import_store(tmp_path / "s", videos_of(durations), folder)
    assert "an array looks transposed" in kinds(report)
    store, report = import_store(tmp_path / "t", videos_of(durations), folder, ImportOptions(transposed=True))
    assert "an array looks transposed" not in kinds(report) and [v.n_frames for v in store.videos] == [shape[1]] * 3
    # Videos of one length, and one video, say nothing about it.
    _, report = import_store(tmp_path / "u", videos_of(dict.fromkeys("abc", 256.0)), folder)
    assert "an array looks transposed" not in kinds(report)
    _, report = import_store(tmp_path / "v", videos_of({"a": 256.0}), folder)
    assert "an array looks transposed" not in kinds(report)


def test_features_of_a_fixed_number_of_rows_are_not_taken_for_transposed(tmp_path):
    folder = npy_folder(tmp_path / "f", {v: RNG.normal(size=(64, 500)).astype(np.float32) for v in "abc"})
    store, report = import_store(tmp_path / "s", videos_of({"a": 10.0, "b": 25.0, "c": 70.0}), folder)
    assert [v.n_frames for v in store.videos] == [64, 64, 64]
    assert kinds(report) == {"every video has the same number of rows: features resampled to a fixed length"}


@pytest.mark.parametrize(
    ("rows", "duration", "kind"),
    [
        (2_000_000, 9.0, "more feature rows than a video has frames"),
        (3000, 9.0, "more feature rows than a video has frames"),
        (1, 150.0, "one feature row covers more than a minute"),
        (270, 9.0, None),
        (1, 9.0, None),
    ],
)
def test_rows_that_contradict_the_duration_are_doubtful(rows, duration, kind):
    report = Report("rows")
    check_lengths({"a": rows}, {"a": duration}, None, report)
    assert kinds(report) == ({kind} if kind else set())


def test_check_says_so_with_the_command_line(tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text(
        '{"qid": 1, "query": "a dog", "duration": 150, "vid": "a", "relevant_windows": [[0, 9]]}\n'
        '{"qid": 2, "query": "a cat", "duration": 80, "vid": "b", "relevant_windows": [[0, 9]]}\n'
    )
    folder = transposed(tmp_path / "f", {"a": 75, "b": 40}, 512)
    items = check(folder, annotations=tmp_path / "train.jsonl")
    assert exit_code(items) == 2 and "--transposed" in str(items[0].error)
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    words = ["import", str(tmp_path / "train.jsonl"), "--features", str(folder), "--out", str(tmp_path / "s")]
    args = parser.parse_args(words)
    assert args.run(args) == 2 and "--transposed" in capsys.readouterr().err
    args = parser.parse_args([*words, "--transposed", "--name", "my data"])
    assert args.run(args) == 0 and FeatureStore.open(tmp_path / "s").name == "my data"
