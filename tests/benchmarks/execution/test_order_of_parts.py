"""Nothing reads the test part before the training has ended: what is scored on the way is the validation part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from random_stores import random_store
from safetensors.torch import load_file

from strong_envs import agents, features
from strong_envs.agents.strong.agent import Strong
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.execution.cell import Cell, run_cell
from strong_envs.benchmarks.execution.local_engine import Outcome
from strong_envs.features import FeatureBank
from strong_envs.features.datasets.types import Report
from strong_envs.features.store.subset import StoreView

LENGTHS = [12 + 5 * i for i in range(12)]
STRONG = ["rounds=1", "temporal.num_envs=16", "temporal.batch=8", "spatial.num_envs=16"]
MINE = """
from torch import stack

class Curious:
    '''Takes the whole video, and notes which part it is asked about.'''

    def __init__(self, bank, seed=0, budget=1.0):
        self.trained_on = set(bank.qids)

    def fit(self, report, evaluate):
        for step in range(4):
            report('training', step, 4, {})
        assert (evaluate(self, 'training') or {}).keys() >= {SCORES}
        return self

    def predict(self, bank):
        assert not self.trained_on & set(bank.qids)
        seconds = bank.duration[bank.video]
        return stack((0 * seconds, seconds), 1)
"""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that are opened and predicted, and ``"trained"`` where a training ends, in order."""
    events: list[str] = []

    def noted(kind: type, method: str, before: Callable[..., str | None], after: str | None = None) -> None:
        original = getattr(kind, method)

        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            if (event := before(self, *args, **kwargs)) is not None:
                events.append(event)
            result = original(self, *args, **kwargs)
            if after is not None:
                events.append(after)
            return result

        monkeypatch.setattr(kind, method, wrapper)

    noted(FeatureBank, "__init__", lambda self, store, split=None, *a, **k: f"opened {split}")
    from strong_envs.benchmarks.execution.timed_training import TimedTraining

    noted(TimedTraining, "fit", lambda *a, **k: None, "trained")
    noted(Strong, "fit", lambda *a, **k: None, "trained")
    noted(Strong, "predict", lambda self, bank, *a, **k: f"predicted {bank.split}")
    return events


@pytest.fixture
def fresh(tmp_path: Path) -> str:
    """A store of which no bank is kept from another test, and without a validation part."""
    return str(random_store(tmp_path / "fresh", LENGTHS, seed=len(str(tmp_path))).path)


def here(cells: list[Cell], folder: Path, jobs: int) -> Outcome:
    return Outcome({cell.key: run_cell(cell, folder) for cell in cells})


def check(events: list[str]) -> None:
    ended = max(i for i, event in enumerate(events) if event == "trained")
    before, after = events[:ended], events[ended:]
    assert "opened train" in before and "opened val" in before
    assert not any("test" in event for event in before), before
    assert "opened test" in after


@pytest.mark.parametrize("system", ["trl", "strong", "mcn", "read", "frame classifier", "blind one-shot"])
def test_a_cell_opens_the_test_part_when_its_training_has_ended(
    system: str, fresh: str, tmp_path: Path, opened: list[str]
) -> None:
    data = features.split_validation(fresh).content_hash
    small = {"strong": {"rounds": 1, "temporal": {"num_envs": 16, "batch": 8}, "spatial": {"num_envs": 16}}}
    options = small.get(system, {})
    cell = Cell(system, 0, fresh, data, budget=0.001, options=options, evaluations=2, validation=0.1)
    result = run_cell(cell, tmp_path / "cells")
    check(opened)
    assert result["stages_split"] == "val" and result["trace"] and "IoU" in result["history"][-1]
    test = {q.qid for q in features.open_store(fresh).queries if q.split == "test"}
    assert set(result["queries"]) == test


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["converge", "--evaluations", "2", "--rounds", "1"],
        ["sweep", "gamma", "--values", "0.1,0.2"],
        ["table1"],
    ],
    ids=lambda words: words[0],
)
def test_a_job_opens_the_test_part_when_all_trainings_have_ended(
    words: list[str], fresh: str, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def together(cells: list[Cell], folder: Path, jobs: int) -> Outcome:
        outcome = here(cells, folder, jobs)
        opened.append("all done")
        return outcome

    monkeypatch.setattr("strong_envs.benchmarks.execution.job.run_matrix", together)
    name = "TRL" if words == ["table1"] else "trl"
    arguments = [*words, "--features", fresh, "--systems", name, "--seeds", "1", "--budget", "0.001"]
    assert main([*arguments, "--set", "temporal.num_envs=16", "--out", str(tmp_path / "out"), "--json"]) == 0
    first = opened.index("trained")
    assert not any("test" in event for event in opened[:first])
    if words[0] == "sweep":
        # Values are compared on validation: the test part chooses nothing.
        assert not any("test" in event for event in opened)
        result = json.loads((tmp_path / "out" / "gamma" / "sweep.json").read_text())
        assert {point["protocol"]["test"] for point in result["points"]} == {"val"}
        assert set(result["per_query"]["IoU"]) == {point["label"] for point in result["points"]}
        return
    check(opened[: opened.index("all done")])
    file = next((tmp_path / "out").rglob("results.json"), None)
    if file is not None:
        result = json.loads(file.read_text())
        assert result["validation"]["split"] == "val"
        references = {row["reference"]: row for row in result["validation"]["references"]}
        assert references["whole"]["protocol"] == {**result["protocol"], "test": "val"}
        assert references["whole"]["queries"] == 2


def test_a_tuning_never_opens_the_test_part(
    fresh: str, tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed")
    monkeypatch.setattr("strong_envs.benchmarks.tuning.command.run_matrix", lambda *args, **_: here(*args))
    words = ["tune", "--features", fresh, "--systems", "mcn,blind one-shot", "--trials", "2", "--budget", "0.001"]
    assert main([*words, "--jobs", "1", "--out", str(tmp_path / "out")]) == 0
    assert opened.count("trained") == 4 and "opened val" in opened
    assert not any("test" in event for event in opened), opened
    file = json.loads((tmp_path / "out" / "tuned.json").read_text())
    assert file["protocol"]["test"] == "val" and len(file["systems"]["mcn"]["trials"]) == 2


def with_other_truth(store: features.FeatureStore) -> features.FeatureStore:
    """The same store, with the moments of the test part mirrored in time."""
    length = {video.id: video.duration for video in store.videos}
    queries = [
        replace(q, windows=tuple((length[q.video] - end, length[q.video] - start) for start, end in q.windows))
        if q.split == "test"
        else q
        for q in store.queries
    ]
    ends = list(accumulate(video.n_frames for video in store.videos))
    spans = [(end - video.n_frames, end) for end, video in zip(ends, store.videos, strict=True)]
    report = Report("another truth")
    return StoreView(store, "other truth", store.videos, spans, queries, range(len(queries)), store.tracks, report, {})


QUICK = ["mcn", "blind one-shot", "sm-rl", "frame classifier", "bilinear regression"]
LONG = [n for n, spec in agents.REGISTRY.items() if spec.needs_training and not spec.upper_bound and n not in QUICK]


@pytest.mark.parametrize("system", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_another_truth_of_the_test_part_changes_no_weight_no_curve_and_no_answer(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = features.split_validation(str(random_store(tmp_path / "store", LENGTHS, seed=3).path), share=0.3)
    data = agents.incompatibility(system, features.load(store, "train"))
    if data is not None:
        pytest.skip(data)
    small = {"temporal": {"num_envs": 16, "batch": 8}, "rounds": 1, "spatial": {"num_envs": 16}}
    options = small if agents.find(system).factory is Strong else {}
    options = {name: part for name, part in options.items() if name != "spatial" or "strong" in system}
    results = []
    for number, one in enumerate((store, with_other_truth(store))):
        monkeypatch.setattr(Cell, "store", lambda self, one=one: one)
        cell = Cell(system, 0, "data", "hash", budget=0.001, options=options, evaluations=2)
        results.append(run_cell(cell, tmp_path / str(number)))
        results[-1]["weights"] = load_file(str(tmp_path / str(number) / f"{cell.key}.safetensors"))
    first, second = results
    assert first["scores"] != second["scores"]  # the rows differ,
    assert first["spans"] == second["spans"]  # and nothing else does
    assert [point["IoU"] for point in first["trace"]] == [point["IoU"] for point in second["trace"]]
    assert first["weights"].keys() == second["weights"].keys()
    assert all(first["weights"][name].equal(second["weights"][name]) for name in first["weights"])


def test_train_and_train_pretrained_score_validation_as_they_learn(
    fresh: str, tmp_path: Path, opened: list[str]
) -> None:
    settings = [word for setting in STRONG for word in ("--set", setting)]
    out = str(tmp_path / "run")
    assert main(["train", "--features", fresh, "--system", "strong", "--budget", "0.001", "--out", out, *settings]) == 0
    check(opened)
    opened.clear()
    out = str(tmp_path / "shipped.safetensors")
    words = ["train-pretrained", "--features", fresh, "--budget", "0.001", "--out", out]
    assert main([*words, *settings]) == 0
    trained = opened.index("trained")
    assert "predicted val" in opened[:trained] and not any("test" in event for event in opened[:trained])
    assert "predicted test" in opened[trained:]


def test_without_a_validation_part_everything_trains_and_there_are_no_curves(
    fresh: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "curious_all.py").write_text(MINE.replace("{SCORES}", "set()"))
    (tmp_path / "curious_rest.py").write_text(MINE.replace("{SCORES}", "{'IoU', 'seconds'}"))
    monkeypatch.setattr("strong_envs.benchmarks.execution.job.run_matrix", here)
    base = ["run", "--features", fresh, "--seeds", "1", "--json", "--systems"]
    assert main([*base, "curious_all:Curious", "--validation", "0", "--out", str(tmp_path / "a")]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*base, "curious_rest:Curious", "--out", str(tmp_path / "b")]) == 0
    carved = json.loads(capsys.readouterr().out)
    assert "validation" not in plain and "validation carved" in carved["protocol"]["data"]
    assert plain["per_query"]["queries"] == carved["per_query"]["queries"]
    for words, message in (
        (["converge", *base[1:], "trl", "--validation", "0", "--evaluations", "2"], "raise --validation"),
        ([*base, "trl", "--validation", "1"], "from 0 to below 1; got 1"),
        ([*base, "trl", "--validation", "0", "--test", "val"], "has no split 'val'"),
    ):
        assert main([*words, "--out", str(tmp_path / "c")]) == 2
        assert message in capsys.readouterr().err
