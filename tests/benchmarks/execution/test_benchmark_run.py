"""The main job: cells that are kept, failures that stay alone, and a result file with its reference rows."""

from __future__ import annotations

import json

import pytest

from strong_envs import features
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.execution.cell import Cell, read_cell, run_cell
from strong_envs.benchmarks.execution.local_engine import run_matrix
from strong_envs.benchmarks.metrics.score import score


def cell(store: str, system: str = "random policy", seed: int = 0) -> Cell:
    return Cell(system, seed, store, features.open_store(store).content_hash)


@pytest.mark.slow
def test_a_finished_cell_is_never_computed_again(ragged_store, tmp_path):
    todo = [cell(ragged_store, seed=seed) for seed in (0, 1)]
    first = run_matrix(todo[:1], tmp_path, 1, show=False)
    stamp = (tmp_path / f"{todo[0].key}.json").stat().st_mtime_ns
    second = run_matrix(todo, tmp_path, 2, show=False)
    assert (tmp_path / f"{todo[0].key}.json").stat().st_mtime_ns == stamp
    assert len(second.results) == 2
    assert second.results[todo[0].key] == first.results[todo[0].key]


@pytest.mark.slow
def test_a_failing_cell_is_named_and_the_others_finish(ragged_store, tmp_path, monkeypatch):
    code = "class Broken:\n    def __init__(self, bank, **kwargs):\n        raise OSError('no')\n"
    (tmp_path / "outsider.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    todo = [cell(ragged_store, "outsider:Broken"), cell(ragged_store)]
    outcome = run_matrix(todo, tmp_path / "cells", 1, show=False)
    assert list(outcome.results) == [todo[1].key]
    assert outcome.failed == {todo[0].key: "the system 'outsider:Broken' cannot be made: OSError: no"}


def test_the_key_changes_with_what_the_numbers_depend_on(ragged_store):
    base = cell(ragged_store)
    assert base.key == cell(ragged_store).key
    assert len({base.key, cell(ragged_store, seed=1).key, cell(ragged_store, "blind").key}) == 3


def test_scores_of_the_truth_are_perfect(ragged_store):
    import torch

    from strong_envs.agents import Prediction
    from strong_envs.local_features import LocalFeatures

    bank = features.load(ragged_store, "test")
    spans = bank.truth[:, 0] * bank.duration[bank.video][:, None]
    boxes = LocalFeatures(bank, "truth").boxes
    scores = score(Prediction(spans, torch.zeros(len(bank)), None, boxes), bank)
    for name in ("IoU", "m_vIoU", "coverage"):
        assert scores[name] == pytest.approx(1.0, abs=1e-5), name


@pytest.mark.slow
def test_run_writes_everything_and_resumes(ragged_store, tmp_path, capsys):
    arguments = ["run", "--features", ragged_store, "--systems", "random policy,trl", "--seeds", "1", "--jobs", "1"]
    arguments += ["--budget", "0.002", "--thresholds", ".25,0.5", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    out = tmp_path / "out"
    result = json.loads((out / "results.json").read_text())
    systems = [row["system"] for row in result["rows"]]
    rows = {row["system"]: row for row in result["rows"]}
    assert {"Acc@.25", "Acc@.5", "ms/query"} <= set(rows["trl"]["metrics"]) and "Acc@.25" in rows["constant"]["metrics"]
    assert "Acc@.3" not in rows["trl"]["metrics"] and result["protocol"]["thresholds"] == [0.25, 0.5]
    assert {"full video", "initial window", "constant", "random window", "oracle", "trl"} <= set(systems)
    assert result["protocol"]["window"] == "full video"
    assert {"versions", "machine", "command", "date"} <= set(result["about"])
    for name in ("table.md", "curve.png", "episode.png", "episode.mp4"):
        assert (out / name).stat().st_size > 0, name
    stamps = {f.name: f.stat().st_mtime_ns for f in (out / "cells").glob("*.json")}
    assert main(arguments) == 0
    assert stamps == {f.name: f.stat().st_mtime_ns for f in (out / "cells").glob("*.json")}
    capsys.readouterr()


def test_an_outsiders_agent_gets_its_row(ragged_store, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from strong_envs.agents import Prediction\n"
        "class Half:\n"
        "    'the first half of every video'\n"
        "    history = []\n"
        "    def __init__(self, bank, seed=0, budget=1.0): pass\n"
        "    def fit(self, report=None, evaluate=None): return self\n"
        "    def predict(self, bank):\n"
        "        end = bank.duration[bank.video] / 2\n"
        "        return Prediction(torch.stack((0 * end, end), -1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = cell(ragged_store, "mine:Half")
    run_cell(mine, tmp_path / "cells")
    stored = read_cell(tmp_path / "cells", mine)
    assert len(stored["scores"]["IoU"]) == len(features.load(ragged_store, "test"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--features", "/no/such/store"], "no store at"),
        (["run", "--features", "shapes-v1"], "did you mean 'shapes-v0'"),
        (["run", "--features", "shapes-v0", "--systems", "strnog"], "did you mean"),
        (
            ["run", "--features", "shapes-v0", "--systems", "strong", "--set", "frame_scores=yes"],
            "must be of type bool",
        ),
        (["run", "--features", "shapes-v0", "--seeds", "0"], "must be positive"),
        (["run", "--features", "shapes-v0", "--thresholds", "50"], "lie in [0, 1]"),
        (["run", "--features", "shapes-v0", "--thresholds", "half"], "such as .3,.5,.7"),
        (["references", "/no/such/file"], "/no/such/file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_a_broken_store_is_one_sentence(ragged_store, tmp_path, capsys):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(ragged_store, broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["tensors"]["frames"]["shape"][0] += 1
    (broken / "manifest.json").write_text(json.dumps(manifest))
    assert main(["run", "--features", str(broken)]) == 2
    assert "the manifest says" in capsys.readouterr().err
