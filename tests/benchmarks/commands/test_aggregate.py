"""Several data sets summed up: interquartile means over all runs, and refusals where that would mean nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from finished_run import finished_run
from random_stores import random_store

from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.commands.aggregate import aggregate
from strong_envs.benchmarks.commands.compare import read_scored
from strong_envs.benchmarks.metrics.statistics import interquartile_mean
from strong_envs.benchmarks.results.files import write_json
from strong_envs.features.errors import DataError


@pytest.fixture(scope="module")
def two(ragged_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    other = str(random_store(folder / "other", [30, 31, 32, 33, 34, 35, 36, 37], seed=5).path)
    finished_run(ragged_store, folder / "a")
    finished_run(other, folder / "b")
    return [folder / name / "results.json" for name in "ab"]


def test_runs_of_all_data_sets_are_summed_up_together(two):
    files = [read_scored(file) for file in two]
    rows = {row["system"]: row for row in aggregate(files)}
    runs = np.concatenate([held["good"].iou.mean(1) for held in files])
    assert rows["good"]["iqm"] == pytest.approx(interquartile_mean(runs))
    assert rows["good"]["low"] <= rows["good"]["iqm"] <= rows["good"]["high"]
    assert rows["good"]["runs"] == [2, 2] and "2 seeds" in rows["good"]["caveat"]
    assert rows["constant"]["caveat"] is None and set(rows["good"]["means"]) == {"ragged", "other"}
    assert list(rows).index("good") < list(rows).index("random")


def test_what_cannot_be_summed_up_is_refused(two, tmp_path, capsys):
    other_rules = json.loads(two[1].read_text())
    for row in other_rules["rows"]:
        row["protocol"]["iou"] = "legacy"
    write_json(tmp_path / "legacy.json", other_rules)
    a, b = map(str, two)
    for files, words in (
        ([a], "two result files or more"),
        ([a, a], "the same data stands in two files"),
        ([a, str(tmp_path / "legacy.json")], "they differ in iou"),
        ([a, b, "--metric", "Acc@.55"], "no metric"),
    ):
        assert main(["aggregate", *files]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    for files, words in (
        ([str(two[0].parent), b], f"'{two[0].parent}' is a folder; give '{a}'"),
        ([str(two[0].parent.parent), b], f"is a folder; give '{a}'"),
        ([str(tmp_path / "empty"), b], "empty' is a folder; no results.json lies in it"),
        (["", b], "the path of the result file is empty"),
    ):
        for command in ("aggregate", "compare"):
            assert main([command, *files]) == 2
            error = capsys.readouterr().err
            assert words in error and error.count("\n") == 1
    with pytest.raises(DataError, match="share no system"):
        aggregate([{"x": read_scored(a)["good"]}, {"y": read_scored(b)["good"]}])
    assert main(["aggregate", a, b, "--metric", "Acc@.5"]) == 0
    assert "good" in capsys.readouterr().out
    assert main(["aggregate", a, b, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) >= 7
