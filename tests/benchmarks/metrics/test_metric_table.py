"""The table of metrics: one entry makes a column, in the tables of finished runs too."""

from __future__ import annotations

import json

import numpy as np
import pytest
from finished_run import finished_run, prediction_of

from strong_envs import features
from strong_envs.benchmarks.metrics import catalogue, columns
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth, spans_of
from strong_envs.benchmarks.metrics.metric import METRICS, Metric, register
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.results.rows import scores_of
from strong_envs.benchmarks.results.tables import columns_of, format_number, markdown_table
from strong_envs.features.errors import DataError


@pytest.fixture
def table():
    """The table of metrics, put back after the test."""
    before = dict(METRICS)
    yield METRICS
    METRICS.clear()
    METRICS.update(before)


def middle_error(prediction, truth):
    return abs(spans_of(prediction).mean(1) - truth.windows[:, 0].mean(1))


def test_a_metric_added_later_has_its_column_in_the_table_of_a_finished_run(ragged_store, tmp_path, table):
    first = finished_run(ragged_store, tmp_path)
    kept = {file: file.read_bytes() for file in (tmp_path / "cells").iterdir()}
    assert not any("middle error" in row["metrics"] for row in first["rows"])

    register(Metric("middle error", middle_error, "distance of the middles in seconds", percent=False))
    again = collected(ragged_store, tmp_path)

    assert kept == {file: file.read_bytes() for file in (tmp_path / "cells").iterdir()}
    rows = {row["system"]: row for row in again["rows"]}
    bank = features.load(ragged_store, "test")
    wanted = [middle_error(prediction_of(bank, "good", seed), GroundTruth.of_bank(bank)).mean() for seed in (0, 1)]
    assert rows["good"]["metrics"]["middle error"] == pytest.approx(np.mean(wanted))
    low, high = rows["good"]["intervals"]["middle error"]
    assert low <= rows["good"]["metrics"]["middle error"] <= high
    # Baselines that ignore the video have it too, and nothing else of a row has changed.
    assert rows["constant"]["metrics"]["middle error"] > 0
    for old in first["rows"]:
        new = rows[old["system"]]
        assert {k: v for k, v in new["metrics"].items() if k != "middle error"} == old["metrics"]
    text = markdown_table(again["rows"], legend=True)
    assert "middle error" in text.splitlines()[0] and "middle error: distance of the middles in seconds" in text


def collected(store, folder):
    """The result of a finished run, computed from its stored cells alone."""
    from strong_envs.benchmarks.execution.cell import Cell, read_cell
    from strong_envs.benchmarks.execution.job import Job
    from strong_envs.benchmarks.results.collect import collect

    about = json.loads((folder / "results.json").read_text())
    job = job_of(Job, Cell, read_cell, store, folder, about)
    return collect(job)


def job_of(job, cell, read_cell, path, folder, about):
    import argparse

    from strong_envs.benchmarks.protocols import Protocol

    store = features.open_store(path)
    cells = {
        label: [cell("trl", seed, path, store.content_hash, options={"label": label}) for seed in range(len(keys))]
        for label, keys in about["cells"].items()
    }
    args = argparse.Namespace(**{**about["about"]["settings"], "out": str(folder)})
    made = job(args, store, Protocol.from_dict(about["protocol"]), cells, {})
    made.outcome.results = {c.key: read_cell(folder / "cells", c) for found in cells.values() for c in found}
    assert [[c.key for c in found] for found in cells.values()] == list(about["cells"].values())
    return made


def test_a_metric_at_thresholds_has_a_column_for_each_of_the_protocol(ragged_store, table):
    def longer(prediction, truth, m, comparison):
        shares = (spans_of(prediction)[:, 1] - spans_of(prediction)[:, 0]) / truth.durations
        return shares >= m

    register(Metric("long@{m}", longer, "share of predictions longer than m of the video", detail=(0.25,), drop=1))
    bank = features.load(ragged_store, "test")
    found = score(prediction_of(bank, "random", 0), bank, (0.25, 0.5))
    assert found["long@.25"].sum() >= found["long@.5"].sum() and found["long@.5"].dtype == np.float64
    rows = [{"metrics": {"long@.5": 0.25, "long@.25": 0.5, "mIoU": 0.1, "of another release": 3.0}}]
    assert columns_of(rows) == ["mIoU", "long@.5", "of another release"]
    assert columns.drop_rank("long@.5") == 1 and columns.is_percent("long@.5")
    assert format_number("long@.5", 0.25) == "25.00" and format_number("of another release", 3.0) == "3"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (lambda prediction, truth: 0.5, r"must return \(4,\) values"),
        (lambda prediction, truth: np.full(len(truth.durations), np.nan), "4 numbers not finite"),
    ],
)
def test_a_metric_without_one_finite_number_a_query_is_refused(ragged_store, table, values, words):
    register(Metric("broken", values, "not a metric"))
    bank = features.load(ragged_store, "test")
    with pytest.raises(DataError, match=words):
        score(prediction_of(bank, "good", 0), bank)


def test_names_are_unique_and_every_metric_has_a_legend(table):
    with pytest.raises(DataError, match="a metric 'mIoU' already"):
        register(Metric("mIoU", middle_error, ""))
    assert all(entry.legend and not entry.legend.endswith(".") for entry in METRICS.values())
    lines = columns.legend_of(["Acc@.5", "Acc@.7", "R@5 IoU=.5", "m_vIoU"])
    assert [line.partition(":")[0] for line in lines] == ["Acc@m", "R@5 IoU=m", "m_vIoU"]
    assert "R@1 IoU=m" in lines[0]


def test_columns_stand_in_one_order_whatever_the_rows_begin_with():
    rows = [{"metrics": {"steps": 1.0, "Acc@.7": 0.1, "Acc@.5": 0.2}}, {"metrics": {"m_vIoU": 0.1, "mIoU": 0.3}}]
    assert columns_of(rows) == ["mIoU", "Acc@.5", "Acc@.7", "m_vIoU", "steps"]
    assert catalogue.RECALL_AT == (1, 5)


def test_scores_come_from_the_stored_predictions_and_not_from_what_the_cell_says(ragged_store, tmp_path):
    result = finished_run(ragged_store, tmp_path)
    bank = features.load(ragged_store, "test")
    key = result["cells"]["good"][0]
    stored = json.loads((tmp_path / "cells" / f"{key}.json").read_text())
    stored["scores"] = {"IoU": [0.0] * len(bank), "older": [1.0] * len(bank)}
    from strong_envs.benchmarks.protocols import Protocol

    protocol = Protocol.from_dict(result["protocol"])
    found = scores_of(stored, tmp_path / "cells", GroundTruth.of_bank(bank), protocol)
    wanted = score(prediction_of(bank, "good", 0), bank)
    assert found["IoU"].tolist() == wanted["IoU"].tolist() and found["m_vIoU"].tolist() == wanted["m_vIoU"].tolist()
    assert found["older"].tolist() == [1.0] * len(bank)
