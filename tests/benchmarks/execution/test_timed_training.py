"""The course of a cell: a kill in its middle loses little, scores on the way disturb nothing, scoring takes no time."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from strong_envs import features
from strong_envs.benchmarks.execution.cell import Cell, run_cell
from strong_envs.benchmarks.execution.predictions import PREDICTION
from strong_envs.benchmarks.execution.timed_training import TimedTraining
from strong_envs.features.errors import DataError

SMALL = {"temporal": {"num_envs": 16, "batch": 8}, "spatial": {"num_envs": 16}, "rounds": 1}


TEMPORAL = {"temporal": SMALL["temporal"]}


def stop(stage, done, *_):
    """Not at the first report: nothing is stored before it."""
    if done:
        raise OSError("no power")


def cell_of(store: str, system: str = "strong", **changes) -> Cell:
    options = changes.pop("options", SMALL if system == "strong" else {})
    data = features.split_validation(store).content_hash
    return Cell(system, 0, store, data, budget=0.001, options=options, validation=0.1, **changes)


def timeless(trace: list[dict]) -> list[dict]:
    return [{name: value for name, value in point.items() if name != "seconds"} for point in trace]


@pytest.mark.slow
def test_a_cell_killed_in_its_middle_goes_on_and_ends_as_if_it_had_not_been(ragged_store, tmp_path):
    cell = cell_of(ragged_store, evaluations=8)
    whole = run_cell(cell, tmp_path / "whole")

    def power_cut(stage, done, total, scalars):
        if stage == "round 1, temporal":
            stop(stage, done)

    folder = tmp_path / "cut"
    with pytest.raises(OSError, match="no power"):
        run_cell(cell, folder, power_cut, checkpoint_every=1e-9)
    assert not (folder / f"{cell.key}.json").exists()
    stages = []
    again = run_cell(cell, folder, lambda stage, *_: stages.append(stage))
    assert set(stages) == {"round 1, temporal"} and len(stages) < 7
    assert again["spans"] == whole["spans"] and again["scores"] == whole["scores"]
    assert timeless(again["trace"]) == timeless(whole["trace"]) and len(again["trace"]) >= 5
    assert [h["stage"] for h in again["history"]] == ["pre-training", "round 1"]
    name = f"{cell.key}{PREDICTION}"
    assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    seconds = [point["seconds"] for point in again["trace"]]
    assert seconds == sorted(seconds) and again["seconds"] >= seconds[-1]
    assert {file.name for file in folder.iterdir()} == {file.name for file in (tmp_path / "whole").iterdir()}


def test_a_checkpoint_of_other_code_or_none_at_all_starts_anew(ragged_store, tmp_path, monkeypatch):
    cell = cell_of(ragged_store, "trl", options=TEMPORAL)
    fresh: list[int] = []
    run_cell(cell, tmp_path / "fresh", lambda stage, done, *_: fresh.append(done))

    for spoil in (
        lambda: monkeypatch.setattr("strong_envs.benchmarks.execution.provenance.commit", lambda: "another"),
        None,
    ):
        folder = tmp_path / str(spoil is None)
        with pytest.raises(OSError):
            run_cell(cell, folder, stop, checkpoint_every=1e-9)
        if spoil:
            spoil()
        else:
            (folder / f"{cell.key}.checkpoint.safetensors").write_bytes(b"half of a file")
        steps = []
        run_cell(cell, folder, lambda stage, done, *_, steps=steps: steps.append(done))
        assert steps == fresh


@pytest.mark.parametrize("system", ["sb3-dqn", "mcn", "trl", "sm-rl", "frame classifier", "tsp-prl"])
def test_scores_on_the_way_change_no_training(system, ragged_store, tmp_path):
    if system.startswith("sb3") and importlib.util.find_spec("stable_baselines3") is None:
        pytest.skip("Stable-Baselines3 is not installed")
    options = {
        "trl": TEMPORAL,
        "sb3-dqn": {"steps": 1600, "num_envs": 8, "settings": {"learning_starts": 64, "gradient_steps": 1}},
    }.get(system, {})
    options |= {"tsp-prl": {"steps": 2_000, "num_envs": 4}, "sm-rl": {"steps": 110, "batch": 8}}.get(system, {})
    short = {"sb3-dqn": 1.0, "mcn": 0.1, "sm-rl": 1.0, "frame classifier": 0.08, "tsp-prl": 1.0}
    budget = short.get(system, 0.001)
    base = dataclasses.replace(cell_of(ragged_store, system), budget=budget, options=options)
    made = [base, dataclasses.replace(base, evaluations=3)]
    plain, watched = (run_cell(cell, tmp_path) for cell in made)
    assert made[0].key != made[1].key and "trace" not in plain
    assert plain["spans"] == watched["spans"]
    assert len(watched["trace"]) >= 3 and all(0 <= point["IoU"] <= 1 for point in watched["trace"])


def test_the_clock_stands_still_while_a_system_is_scored(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("strong_envs.benchmarks.execution.timed_training.time.perf_counter", lambda: now[0])

    def score(system):
        now[0] += 100.0
        return None, {"IoU": np.array([0.25, 0.75])}

    class System:
        def fit(self, report, evaluate):
            for step in range(1, 5):
                now[0] += 1.0
                report("training", step, 4, {})
            self.history = [{"stage": "training", **evaluate(self, "training")}]

    training, system = TimedTraining(tmp_path / "x", score, evaluations=4), System()
    training.fit(system)
    assert [point["seconds"] for point in training.trace] == [1, 2, 3, 4] and training.clock.seconds == 4
    assert system.history == [{"stage": "training", "IoU": 0.5, "seconds": 4}]


def test_a_later_stage_is_scored_a_quarter_as_often_as_the_first(tmp_path):
    class System:
        def fit(self, report, evaluate):
            for stage in ("alone", "round 1, spatial", "round 1, temporal"):
                for step in range(9):
                    report(stage, step, 8, {})
                if stage != "round 1, spatial":
                    evaluate(self, stage)

    training = TimedTraining(tmp_path / "x", lambda system: (None, {"IoU": np.zeros(1)}), evaluations=8)
    training.fit(System())
    scored = [(point["stage"], point["done"] / point["total"]) for point in training.trace]
    assert [share for stage, share in scored if stage == "alone"] == [i / 8 for i in range(9)]
    assert [share for stage, share in scored if stage == "round 1, spatial"] == [0.5]
    assert [share for stage, share in scored if stage == "round 1, temporal"] == [0.5, 1]


def test_a_checkpoint_that_does_not_fit_names_its_file(ragged_store, tmp_path, monkeypatch):
    from strong_envs.agents.strong.agent import Strong

    cell = cell_of(ragged_store, "trl", options=TEMPORAL)

    with pytest.raises(OSError):
        run_cell(cell, tmp_path, stop, checkpoint_every=1e-9)
    monkeypatch.setattr(Strong, "identity", lambda self: {"other": 1})
    with pytest.raises(DataError, match=r"another training.*delete .*checkpoint\.safetensors"):
        run_cell(cell, tmp_path)


@pytest.mark.slow
def test_converge_draws_systems_of_two_kinds_on_true_boxes_over_seconds(ragged_store, tmp_path, monkeypatch, capsys):
    pytest.importorskip("stable_baselines3")
    from strong_envs.benchmarks.cli import main
    from strong_envs.benchmarks.execution.local_engine import Outcome

    def here(cells, folder, jobs):
        return Outcome({cell.key: run_cell(cell, folder) for cell in cells})

    monkeypatch.setattr("strong_envs.benchmarks.execution.job.run_matrix", here)
    arguments = ["converge", "--features", ragged_store, "--systems", "GT boxes,sb3-ppo", "--set", "boxes=truth"]
    arguments += ["--set", "box_margin=0.05", "--seeds", "1", "--budget", "0.01", "--evaluations", "2", "--json"]
    assert main([*arguments, "--set", "temporal.batch=32", "--out", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["traces"]) == {"GT boxes", "sb3-ppo"}
    rows = {row["system"]: row for row in result["rows"]}
    assert rows["sb3-ppo"]["note"].startswith("trained and scored on true boxes")
    assert "true boxes" not in rows["GT boxes"].get("note", "")
    cell = json.loads((tmp_path / "cells" / f"{result['cells']['sb3-ppo'][0]}.json").read_text())
    assert cell["options"] == {"boxes": "truth", "box_margin": 0.05}
    assert (tmp_path / "seconds.png").stat().st_size > 0
    assert main([*arguments, "--evaluations", "-1", "--out", str(tmp_path)]) == 2


SLOW = """
import os, time
from pathlib import Path

class Slow:
    def __init__(self, bank, seed=0, budget=1.0):
        pass
    def fit(self, report=None, evaluate=None):
        Path('pid').write_text(str(os.getpid()))
        for step in range(4000):
            report('training', step, 4000, {})
            time.sleep(0.05)
        return self
    def predict(self, bank):
        return [[0.0, t] for t in bank.duration[bank.video].tolist()]
"""


@pytest.mark.slow
def test_a_worker_whose_run_was_killed_ends_too(ragged_store, tmp_path):
    import os
    import subprocess
    import sys
    import time
    from pathlib import Path

    def until(condition, seconds=120.0):
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert condition()

    def alive(pid):
        try:
            return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return False

    if not Path("/proc/self/status").exists():
        pytest.skip("this test looks into /proc")
    (tmp_path / "slow_agent_of_a_test.py").write_text(SLOW)
    command = [sys.executable, "-m", "strong_envs", "run", "--features", ragged_store]
    command += ["--systems", "slow_agent_of_a_test:Slow", "--seeds", "1", "--jobs", "1", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, **quiet)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    worker = int((tmp_path / "pid").read_text())
    assert alive(worker)
    run.kill()
    run.wait()
    until(lambda: not alive(worker), 30)
    assert not list(tmp_path.glob("out/cells/slow*.json"))
