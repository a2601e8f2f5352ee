"""The matrix on a local Ray cluster with two workers: same cells, same numbers, lost workers made good."""

from __future__ import annotations

import pytest

from strong_envs import features
from strong_envs.benchmarks.execution.cell import Cell, code_hash
from strong_envs.benchmarks.execution.local_engine import run_matrix

TIMED = ("seconds", "seconds_per_query", "history")


def cell(store: str, system: str, seed: int = 0, budget: float = 1.0) -> Cell:
    return Cell(system, seed, store, features.open_store(store).content_hash, budget=budget, code=code_hash(system))


@pytest.fixture(scope="module")
def engine():
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from strong_envs.benchmarks.execution import ray_engine

    return ray_engine


def test_ray_gives_the_numbers_of_a_local_run_and_computes_nothing_twice(engine, ragged_store, tmp_path):
    todo = [cell(ragged_store, "random policy", seed) for seed in (0, 1)] + [cell(ragged_store, "trl", 0, 0.001)]
    local = run_matrix(todo, tmp_path / "local", 1, show=False)
    spread = engine.run_matrix_on_ray(todo, tmp_path / "ray", 2, show=False)
    assert not spread.failed and set(spread.results) == set(local.results) == {c.key for c in todo}
    for key, result in local.results.items():
        other = spread.results[key]
        assert {k: v for k, v in result.items() if k not in TIMED} == {k: v for k, v in other.items() if k not in TIMED}
        names = {f.name for f in (tmp_path / "local").glob(f"{key}*")}
        assert names == {f.name for f in (tmp_path / "ray").glob(f"{key}*")}
        for name in names:
            if name.endswith("prediction.safetensors"):
                assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()
    stamps = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "ray").iterdir()}
    engine.run_matrix_on_ray(todo, tmp_path / "ray", 2, show=False)
    assert stamps == {f.name: f.stat().st_mtime_ns for f in (tmp_path / "ray").iterdir()}


AGENT = """
import os
from pathlib import Path

class Dies:
    def __init__(self, bank, seed=0, budget=1.0):
        marker = Path({marker!r})
        if not marker.exists():
            marker.touch()
            os._exit(1)
    def fit(self, report=None, evaluate=None):
        return self
    def predict(self, bank):
        return [[0.0, t] for t in bank.duration[bank.video].tolist()]

class Fails(Dies):
    def __init__(self, bank, seed=0, budget=1.0):
        raise OSError("no")
"""


def test_a_lost_worker_is_made_good_and_a_failure_stays_alone(engine, ragged_store, tmp_path, monkeypatch):
    (tmp_path / "mortal_agents.py").write_text(AGENT.format(marker=str(tmp_path / "died")))
    monkeypatch.syspath_prepend(str(tmp_path))
    todo = [cell(ragged_store, "mortal_agents:Dies"), cell(ragged_store, "mortal_agents:Fails")]
    outcome = engine.run_matrix_on_ray(todo, tmp_path / "cells", 2, show=False)
    assert (tmp_path / "died").exists()
    assert list(outcome.results) == [todo[0].key]
    assert outcome.failed == {todo[1].key: "OSError: no"}
    assert not (tmp_path / "cells" / f"{todo[1].key}.json").exists()


def test_without_ray_there_is_one_sentence(ragged_store, monkeypatch, capsys, tmp_path):
    import sys

    from strong_envs.benchmarks.cli import main

    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["run", "--features", ragged_store, "--systems", "random policy", "--seeds", "1", "--engine", "ray"]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert "pip install 'strong-envs[ray]'" in capsys.readouterr().err
