"""Where results go: checked before any work, held by one process, and one sentence for what cannot be written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from finished_run import finished_run

from strong_envs import features
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.execution import local_engine
from strong_envs.features.errors import DataError
from strong_envs.features.files import atomic

ROOT = Path(__file__).parents[3]
TINY = ["--seeds", "1", "--jobs", "1", "--systems", "random policy"]
TRAINING = [["run", *TINY], ["converge", *TINY], ["table1", *TINY], ["table2", *TINY], ["sweep", "z_e", *TINY]]
MEASURING = [[name, "--quick"] for name in ("throughput", "pooling", "replay")] + [["scale", "--shares", "0.0003"]]


@pytest.fixture(scope="module")
def finished(ragged_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    finished_run(ragged_store, folder)
    return folder


@pytest.fixture
def no_work(monkeypatch):
    """Opening a store or measuring anything is an error of the test."""

    def never(*_args, **_options):
        raise AssertionError("work was done before the output was checked")

    monkeypatch.setattr(features, "open_store", never)
    monkeypatch.setattr(features, "load", never)
    from strong_envs.benchmarks.speed import pooling, replay, scale, throughput

    for module, name in ((pooling, "Scene"), (replay, "bank_of"), (throughput, "bank_of"), (scale, "write_synthetic")):
        monkeypatch.setattr(module, name, never)


@pytest.mark.parametrize("command", [*TRAINING, ["train"], ["extract", "v", "--annotations", "a"], ["import", "a"]])
def test_an_empty_output_is_not_the_current_folder(command, no_work, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--out", ""]) == 2
    assert "--out is empty" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [["--seeds", "-1"], ["--seeds", "0"], ["--budget", "inf"], ["--budget", "-1"]])
@pytest.mark.parametrize("command", [["run"], ["converge"], ["table1"], ["sweep", "z_e"]])
def test_quick_does_not_hide_numbers_that_cannot_be(command, given, no_work, tmp_path, capsys):
    assert main([*command, "--quick", *given, "--out", str(tmp_path / "out")]) == 2
    assert f"{given[0]} must be positive" in capsys.readouterr().err


def places(tmp_path: Path) -> list[tuple[str, str]]:
    (tmp_path / "file").write_text("mine")
    return [
        (str(tmp_path / "file"), "is a file"),
        (str(tmp_path / "file" / "below"), "which is a file"),
        (str(tmp_path / ("n" * 300)), "too long"),
    ]


@pytest.mark.parametrize("command", [*TRAINING, *MEASURING, ["videos", "pretrained"]], ids=lambda words: words[0])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(command, no_work, tmp_path, capsys):
    for place, words in places(tmp_path):
        assert main([*command, "--out", place]) == 2, place
        error = capsys.readouterr().err
        assert words in error and error.startswith("error: ") and error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_read_only_or_full_place_is_refused_before_the_work(no_work, tmp_path, capsys, monkeypatch):
    for number in (errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EDQUOT):

        def fails(*_args, number=number, **_options):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("tempfile.mkstemp", fails)
        for command in (TRAINING[0], MEASURING[0]):
            assert main([*command, "--out", str(tmp_path / "out")]) == 2
            assert os.strerror(number) in capsys.readouterr().err


def test_the_page_and_the_pictures_of_a_run_are_checked_too(finished, tmp_path, capsys, monkeypatch):
    from strong_envs.benchmarks.commands import report

    monkeypatch.setattr(report, "page", lambda *_: pytest.fail("work was done before the output was checked"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for command, words in (
        (["report", str(finished), "--out", str(tmp_path / "folder")], "is a folder; a file is needed"),
        (["report", str(finished), "--out", str(tmp_path / "file" / "x.html")], "which is a file"),
        (["episode", str(finished), "--out", str(tmp_path / "file")], "is a file; a folder is needed"),
        (["videos", str(finished), "--out", str(tmp_path / "file")], "is a file; a folder is needed"),
    ):
        assert main(command) == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_fills_up_later_is_one_sentence(finished, tmp_path, capsys, monkeypatch):
    """What was there before stays."""
    for command, name in (
        (["report", str(finished), "--episodes", "0", "--out", str(tmp_path / "r.html")], "r.html"),
        (["videos", str(finished), "--system", "random", "--count", "1", "--out", str(tmp_path)], "videos.json"),
    ):
        (tmp_path / name).write_text("<!doctype html>old")

        def full(*_args):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(atomic.os, "fsync", full)
            assert main(command) == 2
        error = capsys.readouterr().err
        assert "No space left on device" in error and "Traceback" not in error and error.count("\n") == 1
        assert (tmp_path / name).read_text() == "<!doctype html>old"
        assert not [file for file in tmp_path.iterdir() if "staging" in file.name]


FULL = """
import errno, os
from strong_envs.features.files import atomic

def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

class Fills:
    'a system after which the disk is full'
    history = []
    def __init__(self, bank, seed=0, budget=1.0):
        if seed == 1:
            atomic.os.fsync = full
    def fit(self, report=None, evaluate=None):
        return self
    def predict(self, bank):
        return [[0.0, t] for t in bank.duration[bank.video].tolist()]
"""


@pytest.mark.slow
def test_a_full_disk_stops_the_other_cells_and_keeps_those_that_are_stored(ragged_store, tmp_path, monkeypatch, capsys):
    (tmp_path / "full_disk_of_a_test.py").write_text(FULL)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["run", "--features", ragged_store, "--systems", "full_disk_of_a_test:Fills", "--seeds", "4"]
    assert main([*command, "--jobs", "1", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: cannot write ") and "No space left on device" in error
    assert error.endswith("finished training runs are stored, make room and run the same command again")
    assert [file.name.split("-s")[1][0] for file in (tmp_path / "out" / "cells").glob("*.json")] == ["0"]


def test_only_storage_stops_a_matrix():
    assert local_engine.no_storage(OSError(errno.ENOSPC, "x"))
    wrapped = DataError("cannot write")
    wrapped.__cause__ = OSError(errno.EROFS, "x")
    assert local_engine.no_storage(wrapped)
    for other in (None, OSError(errno.ENOENT, "x"), OSError("no"), DataError("x"), ValueError()):
        assert not local_engine.no_storage(other)


SLOW = """
import os, time
from pathlib import Path

class Slow:
    'waits'
    history = []
    def __init__(self, bank, seed=0, budget=1.0):
        Path(f'made-{seed}-{os.getpid()}').touch()
    def fit(self, report=None, evaluate=None):
        while not Path('go').exists():
            time.sleep(0.05)
        return self
    def predict(self, bank):
        return [[0.0, t] for t in bank.duration[bank.video].tolist()]
"""


@pytest.mark.slow
def test_two_runs_into_one_folder_compute_no_cell_twice(ragged_store, tmp_path):
    (tmp_path / "slow_of_a_test.py").write_text(SLOW)
    command = [sys.executable, "-m", "strong_envs", "run", "--features", ragged_store, "--systems"]
    command += ["slow_of_a_test:Slow", "--seeds", "2", "--jobs", "2", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {
        "cwd": tmp_path,
        "env": environment,
        "stderr": subprocess.PIPE,
        "stdout": subprocess.DEVNULL,
        "text": True,
    }
    first = subprocess.Popen(command, **options)
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("made-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        second = subprocess.run(command, **options, timeout=120)
        assert second.returncode == 2
        assert f"in use: process {first.pid} on " in second.stderr and "strong-envs run" in second.stderr
        assert second.stderr.count("\n") == 1
        assert len(list(tmp_path.glob("made-*"))) == 2
    finally:
        (tmp_path / "go").touch()
        first.communicate(timeout=120)
    assert first.returncode == 0
    assert (
        len(json.loads((tmp_path / "out" / "results.json").read_text())["per_query"]["IoU"]["slow_of_a_test:Slow"]) == 2
    )
    third = subprocess.run(command, **options, timeout=120)
    assert third.returncode == 0 and len(list(tmp_path.glob("made-*"))) == 2
