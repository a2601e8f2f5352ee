"""``strong-envs train`` and its log: rows, going on without doubles, Ctrl-C, and what is said to bad input."""

from __future__ import annotations

import csv
import json
import signal
import sys
import types

import pytest
import torch

from strong_envs import agents, features
from strong_envs.agents.cli import held_out
from strong_envs.agents.training.checkpoint import load_weights
from strong_envs.agents.training.logs import COLUMNS, Logger
from strong_envs.benchmarks.cli import main
from strong_envs.features.errors import DataError

SMALL = [
    "rounds=1",
    "pretrain_steps=2560",
    "spatial_steps=1280",
    "temporal_steps=2560",
    "spatial.warmup=128",
    "spatial.num_envs=32",
    "spatial.updates=1",
    "temporal.hidden=(16,)",
    "temporal.width=8",
    "cells.hidden=8",
    "cells.queries=4",
]


def command(store, out, *more):
    settings = [word for setting in SMALL for word in ("--set", setting)]
    return ["train", "--features", store, "--out", str(out), *settings, *more]


def rows_of(folder):
    with open(folder / "log.csv", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames) == COLUMNS
    return rows


@pytest.fixture
def press(monkeypatch):
    """Presses Ctrl-C in the given report of a training."""

    def at(count):
        from strong_envs.agents.cli import TrainingProgress

        original, seen = TrainingProgress.report, []

        def report(self, stage, step, total, scalars):
            original(self, stage, step, total, scalars)
            seen.append(stage)
            if len(seen) == count:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(TrainingProgress, "report", report)

    return at


@pytest.fixture(scope="module")
def whole_run(ragged_store, tmp_path_factory):
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(command(ragged_store, out)) == 0
    return out


def test_a_run_leaves_a_system_a_log_and_a_result(whole_run, ragged_store, capsys):
    assert sorted(p.name for p in whole_run.iterdir() if "tfevents" not in p.name) == [
        ".lock",
        "README.md",
        "log.csv",
        "result.json",
        "run.json",
        "system.card.json",
        "system.safetensors",
    ]
    rows = rows_of(whole_run)
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    assert stages == ["temporal alone", "round 1, spatial", "round 1, temporal"]
    steps = [int(row["steps"]) for row in rows]
    assert steps == sorted(steps)
    evaluated = [row for row in rows if row["mIoU"]]
    assert len(evaluated) == 4 + 1 + 4 + 1
    result = json.loads((whole_run / "result.json").read_text())
    bank = features.load(ragged_store, "test")
    system = agents.find("strong").factory.load(str(whole_run / "system.safetensors"), bank)
    assert result["mIoU"] == pytest.approx(held_out(system, bank), abs=1e-6)
    assert float(evaluated[-1]["mIoU"]) == pytest.approx(result["history"][-1]["mIoU"], abs=1e-6)
    assert result["history"][-1]["mIoU"] == pytest.approx(
        held_out(system, features.load(ragged_store, "val")), abs=1e-6
    )
    assert system.predict(bank).boxes is not None and sum(p.numel() for p in system.parameters()) > 1000
    assert main(command(ragged_store, whole_run, "--resume")) == 0
    assert "has ended" in capsys.readouterr().out


@pytest.mark.parametrize("count", [3, 9])
def test_ctrl_c_and_going_on_gives_the_same_run(count, whole_run, ragged_store, tmp_path, press, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context():
        press(count)
        assert main(command(ragged_store, out)) == 130
    monkeypatch.undo()
    assert f"strong-envs train --out {out} --resume" in capsys.readouterr().err
    assert (out / "checkpoint.safetensors").is_file()
    # Rows that came after the checkpoint, as a kill would leave them, are cut off.
    with open(out / "log.csv", "a") as file:
        file.write("round 9,1,1,99999999,0,,,,,,,,,\n")
    assert main(["train", "--out", str(out), "--resume"]) == 0
    for name in ("stage", "step", "steps", "return", "critic_loss", "mIoU"):
        assert [row[name] for row in rows_of(out)] == [row[name] for row in rows_of(whole_run)], name
    wanted, got = (load_weights(folder / "system.safetensors")[0] for folder in (whole_run, out))
    assert wanted.keys() == got.keys() and all(torch.equal(wanted[name], got[name]) for name in wanted)


def test_bad_input_is_one_sentence_and_2(whole_run, ragged_store, tmp_path, capsys):
    def said(*words):
        assert main(["train", *words]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    new = str(tmp_path / "new")
    assert "holds a run" in said("--out", str(whole_run))
    assert "no run in" in said("--out", new, "--resume")
    assert "did you mean 'strong'" in said("--out", new, "--system", "strnog", "--features", ragged_store)
    assert "no setting 'rouns'" in said("--out", new, "--set", "rouns=3", "--features", ragged_store).replace(
        "no system of this job has a setting", "no setting"
    )
    assert "rounds must be of type int" in said("--out", new, "--set", "rounds=many", "--features", ragged_store)
    assert "network must be one of" in said("--out", new, "--set", "network=x", "--features", ragged_store)
    assert "budget must be a number in (0, 1,000,000], got 0.0" in said(
        "--out", new, "--budget", "0", "--features", ragged_store
    )
    assert "cannot be used" in said("--out", new, "--device", "abacus", "--features", ragged_store)
    assert "registered key" in said("--out", new, "--features", "nowhere")
    assert "no split 'dev'" in said("--out", new, "--features", ragged_store, "--test", "dev")
    (whole_run / "result.json").rename(whole_run / "result.bak")
    try:
        assert "has --seed 0, not 3" in said("--out", str(whole_run), "--seed", "3", "--resume")
    finally:
        (whole_run / "result.bak").rename(whole_run / "result.json")
    assert not (tmp_path / "new").exists()


def test_other_systems_train_without_checkpoints(ragged_store, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train", "--system", "random policy", "--features", ragged_store, "--out", str(out)]
    # It has nothing to save, and nothing to learn.
    assert main(words) == 0
    assert "mIoU" in capsys.readouterr().out
    assert not (out / "checkpoint.safetensors").exists()


def test_rows_are_cut_to_what_the_checkpoint_knows(tmp_path):
    log = Logger(tmp_path, tensorboard=False)
    log.report("a", 10, 20, {"return": 1.0, "strange": 2.5})
    log.report("a", 20, 20, {"return": 2.0})
    state = log.state()
    log.report("b", 5, 10, {"return": float("nan")})
    log.close()
    log = Logger(tmp_path, state, tensorboard=False)
    log.report("b", 5, 10, {"return": 3.0})
    log.close()
    rows = rows_of(tmp_path)
    found = [(row["stage"], row["steps"], row["return"]) for row in rows]
    assert found == [("a", "10", "1"), ("a", "20", "2"), ("b", "25", "3")]
    assert rows[0]["other"] == "strange=2.5"
    (tmp_path / "log.csv").write_text("something else\n")
    with pytest.raises(DataError, match="not the log"):
        Logger(tmp_path, state, tensorboard=False)


def test_event_files_get_every_scalar(tmp_path, monkeypatch):
    """TensorBoard itself is optional: a stand-in hears what it would be told."""
    told, made = [], []

    class Writer:
        def __init__(self, folder, purge_step=None):
            made.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def close(self):
            made.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    log = Logger(tmp_path)
    log.report("a", 10, 20, {"return": 1.0})
    log.report("b", 4, 8, {"mIoU": 0.5})
    state = log.state()
    log.close()
    assert ("a/return", 1.0, 10) in told and ("b/mIoU", 0.5, 24) in told and ("mIoU", 0.5, 24) in told
    Logger(tmp_path, state).close()
    assert made == [(str(tmp_path), None), "closed", (str(tmp_path), 25), "closed"]


def test_without_tensorboard_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    Logger(tmp_path).close()
    assert capsys.readouterr().err.count("tensorboard is not installed") == 1


@pytest.mark.parametrize("name", ["system.safetensors", "checkpoint.safetensors", "result.json", "log.csv"])
def test_a_new_run_replaces_no_file(name, ragged_store, tmp_path, capsys):
    (tmp_path / name).write_text("mine")
    assert main(command(ragged_store, tmp_path)) == 2
    assert f"has {name}, which a run would replace" in capsys.readouterr().err
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "mine")]


def test_a_run_file_that_names_an_encoder_to_import_is_not_resumed(tmp_path, monkeypatch, capsys):
    (tmp_path / "spy_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "run"
    out.mkdir()
    for name in ("dotted:spy_module:encode", "sentence-transformers:model"):
        stored = {"features": f"queries:notes.jsonl?text={name}", "train": "train", "test": "test", "system": "trl"}
        more = {"seed": 0, "budget": 1.0, "set": [], "device": "cpu"}
        (out / "run.json").write_text(json.dumps(stored | more))
        assert main(["train", "--out", str(out), "--resume"]) == 2
        assert "names code to run" in capsys.readouterr().err
    assert "spy_module" not in sys.modules
