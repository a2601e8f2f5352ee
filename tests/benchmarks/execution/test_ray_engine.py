"""The matrix on a local Ray cluster with two workers: same cells, same numbers, lost workers made good."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_lost_worker_is_made_good_and_a_failure_stays_alone(engine, ragged_store, tmp_path, monkeypatch):
    (tmp_path / "mortal_agents.py").write_text(AGENT.format(marker=str(tmp_path / "died")))
    monkeypatch.syspath_prepend(str(tmp_path))
    todo = [cell(ragged_store, "mortal_agents:Dies"), cell(ragged_store, "mortal_agents:Fails")]
    outcome = engine.run_matrix_on_ray(todo, tmp_path / "cells", 2, show=False)
    assert (tmp_path / "died").exists()
    assert list(outcome.results) == [todo[0].key]
    assert outcome.failed == {todo[1].key: "the system 'mortal_agents:Fails' cannot be made: OSError: no"}
    assert not (tmp_path / "cells" / f"{todo[1].key}.json").exists()


def test_without_ray_there_is_one_sentence(ragged_store, monkeypatch, capsys, tmp_path):
    import sys

    from strong_envs.benchmarks.cli import main

    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["run", "--features", ragged_store, "--systems", "random policy", "--seeds", "1", "--engine", "ray"]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert "pip install 'strong-envs[ray]'" in capsys.readouterr().err


# Checkpoints and lost nodes -----------------------------------------------------------------------------------------

WATCHED = """
import time
from pathlib import Path

from strong_envs import agents

class Watched:
    'trl, which writes down where each training began; a first attempt waits half way for the file GO'
    def __init__(self, bank, seed=0, budget=1.0):
        self.seed = seed
        level = {{'num_envs': 16, 'batch': 8}}
        self.inner = agents.make('trl', bank, seed=seed, budget=budget, learns_from='all rewards', temporal=level)
    @property
    def history(self):
        return self.inner.history
    def fit(self, report=None, evaluate=None, checkpoint=None):
        begun = []
        def slowly(stage, done, total, scalars):
            if not begun:
                begun.append(done)
                with open({log!r}, 'a') as log:
                    log.write(f'{{self.seed}} {{done}}\\n')
            report(stage, done, total, scalars)
            time.sleep(0.2)
            waited = 0
            while begun[0] == 0 and done >= total / 2 and not Path({go!r}).exists() and waited < 120:
                time.sleep(0.1)
                waited += 0.1
        self.inner.fit(slowly, evaluate, checkpoint=checkpoint)
        return self
    def predict(self, bank):
        return self.inner.predict(bank)
"""


def same_numbers(one: dict, other: dict) -> bool:
    names = [name for name in one if name not in TIMED]
    return [one[name] for name in names] == [other[name] for name in names]


@pytest.fixture
def watched(tmp_path, monkeypatch, ragged_store):
    """Cells of a slow agent, what a local run gives, and the file with the places where trainings began."""
    log, go = tmp_path / "began", tmp_path / "go"
    (tmp_path / "watched_of_a_test.py").write_text(WATCHED.format(log=str(log), go=str(go)))
    monkeypatch.syspath_prepend(str(tmp_path))
    path = os.pathsep.join([str(tmp_path), *(os.path.abspath(entry) for entry in sys.path)])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    todo = [cell(ragged_store, "watched_of_a_test:Watched", seed, 0.0005) for seed in (0, 1, 2)]
    go.touch()
    local = run_matrix(todo, tmp_path / "local", 2, show=False)
    assert len(local.results) == 3
    log.unlink()
    go.unlink()
    return todo, local, log


@pytest.mark.slow
def test_a_node_lost_in_the_middle_loses_no_cell_and_changes_no_number(engine, watched, tmp_path):
    import ray
    from ray.cluster_utils import Cluster

    todo, local, log = watched
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    # Ray connects a driver to any node of its machine; what is kept lies there, so that the other node is lost.
    far = next(node for node in nodes if node.node_id != ray.get_runtime_context().get_node_id())
    folder, lost = tmp_path / "ray", []

    def lose() -> None:
        """One of the two, once both of its cells have been stored on the way."""
        deadline = time.monotonic() + 200
        while len(list(folder.glob("*.checkpoint.safetensors"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        lost.extend(path.name for path in folder.glob("*.checkpoint.safetensors"))
        cluster.remove_node(far, allow_graceful=False)
        (tmp_path / "go").touch()

    try:
        thread = threading.Thread(target=lose, daemon=True)
        thread.start()
        spread = engine.run_matrix_on_ray(todo, folder, 2, show=False, checkpoint_every=0.05)
        thread.join(10)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert len(lost) == 2 and not spread.failed and set(spread.results) == {c.key for c in todo}
    for key, result in local.results.items():
        assert same_numbers(result, spread.results[key])
        name = f"{key}.prediction.safetensors"
        assert (folder / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    began = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    # Three first attempts, and the lost cell again from its checkpoint.
    assert len(began) == 4 and sum(done > 0 for _, done in began) == 1
    assert not list(folder.glob("*.checkpoint.safetensors")) and not list(folder.glob("*.stages.safetensors"))


@pytest.mark.slow
def test_a_run_that_was_stopped_continues_from_its_checkpoints_on_ray_and_locally(engine, watched, tmp_path):
    todo, local, log = watched
    folder = tmp_path / "ray"

    def interrupt() -> None:
        deadline = time.monotonic() + 200
        while not list(folder.glob("*.checkpoint.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.05)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    stopped = engine.run_matrix_on_ray(todo[:1], folder, 1, show=False, checkpoint_every=0.05)
    assert stopped.interrupted and not stopped.results and list(folder.glob("*.checkpoint.safetensors"))
    again = engine.run_matrix_on_ray(todo[:1], folder, 1, show=False)
    assert same_numbers(local.results[todo[0].key], again.results[todo[0].key])
    began = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    assert began[0] == (0, 0) and began[1][1] > 0 and len(began) == 2
