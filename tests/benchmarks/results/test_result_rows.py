"""What a reviewer looks for in the table: discounted recall, interquartile means, caveats, and runs that failed."""

from __future__ import annotations

import argparse
import io
import json

import numpy as np
import pytest

from strong_envs import features
from strong_envs.agents import Prediction
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.execution.cell import Cell, protocol_of
from strong_envs.benchmarks.metrics import definitions as metrics
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.metrics.statistics import interquartile_mean
from strong_envs.benchmarks.results.collect import chosen_metrics
from strong_envs.benchmarks.results.rows import system_row
from strong_envs.benchmarks.results.tables import columns_of, print_table
from strong_envs.features.errors import DataError

AGENT = """
class Sometimes:
    'fails with an odd seed'
    def __init__(self, bank, seed=0, budget=1.0):
        if seed % 2:
            raise OSError(f'no luck with {seed}')
    def fit(self, report=None, evaluate=None):
        return self
    def predict(self, bank):
        return [[0.0, t / 2] for t in bank.duration[bank.video].tolist()]

class Never(Sometimes):
    def __init__(self, bank, seed=0, budget=1.0):
        raise ValueError('not today')
"""


@pytest.fixture(scope="module")
def bank(ragged_store):
    return features.load(ragged_store, "test")


def row_of(bank, runs, comparison=">="):
    protocol = protocol_of(bank.store, Cell("trl", 0, "", ""), comparison)
    stored = [{"system": "trl", "seconds": 1.0, "videos": [query.video for query in bank.queries]} for _ in runs]
    return system_row("trl", stored, [score(p, bank, protocol.thresholds, comparison) for p in runs], protocol)


def shifted(bank, share):
    import torch

    length = bank.duration[bank.video]
    window = bank.truth[:, 0] * length[:, None] + (share * length)[:, None]
    return Prediction(torch.minimum(window, length[:, None]))


def test_discounted_recall_is_in_the_row_and_shown_when_asked_for(bank):
    found = shifted(bank, 0.05)
    row = row_of(bank, [found])
    length = bank.duration[bank.video].numpy()
    every = (bank.truth * bank.duration[bank.video][:, None, None]).numpy()
    wanted = metrics.discounted_recall(found.spans.numpy()[:, None], every, length, 1, 0.5).mean()
    assert 0 < wanted < row["metrics"]["Acc@.5"]
    assert row["metrics"]["dR@1 IoU=.5"] == pytest.approx(wanted)
    assert "dR@1 IoU=.5" in row["intervals"] and not any(name.startswith("dR") for name in columns_of([row]))


def test_an_answer_outside_the_video_is_no_error(bank):
    late = shifted(bank, 0.0)
    late.spans = late.spans + 10 * bank.duration.max()
    scores = score(late, bank)
    assert not scores["IoU"].any() and not scores["dR@1 IoU=.3"].any()
    assert (scores["IoU signed"] < 0).all() and (scores["IoU legacy"] > 0).all()


def test_interquartile_means_stand_beside_means_from_four_runs_on(bank):
    runs = [shifted(bank, share) for share in (0.0, 0.05, 0.1, 0.6)]
    assert "mIoU (IQM)" not in row_of(bank, runs[:3])["metrics"]
    row = row_of(bank, runs)
    each = [score(run, bank)["IoU"].mean() for run in runs]
    assert row["metrics"]["mIoU (IQM)"] == pytest.approx(interquartile_mean(each))
    assert row["metrics"]["mIoU (IQM)"] != pytest.approx(np.mean(each))
    low, high = row["intervals"]["mIoU (IQM)"]
    assert low < row["metrics"]["mIoU (IQM)"] < high


def test_names_and_reasons_are_printed_as_they_are(bank):
    """A terminal's markup and emoji are made of what systems are called: ``my:Boom: failed``, ``[red]``."""
    from rich.console import Console

    row = {**row_of(bank, [shifted(bank, 0.0)]), "system": "my:Boom:", "caveat": "[red]x[/]: :smile:"}
    console = Console(width=300, record=True, file=io.StringIO(), force_terminal=True)
    print_table([row], title="[bold]data :tada:", console=console)
    text = console.export_text()
    assert "my:Boom:" in text and "[bold]data :tada:" in text and "[red]x[/]: :smile:" in text


@pytest.mark.slow
def test_failed_runs_are_in_the_table_with_their_reason(ragged_store, tmp_path, monkeypatch):
    (tmp_path / "lucky_agents_of_a_test.py").write_text(AGENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ["lucky_agents_of_a_test:Sometimes", "lucky_agents_of_a_test:Never"]
    arguments = ["run", "--features", ragged_store, "--systems", ",".join(names), "--seeds", "2", "--jobs", "2"]
    arguments += ["--out", str(tmp_path / "out")]
    assert main([*arguments, "--metrics", "mIoU,dR@1 IoU=.5"]) == 1
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.startswith("| system | sees | learns from | seeds | mIoU | dR@1 IoU=.5 |")
    cannot = "the system '{}' cannot be made: {}"
    assert f"{names[1]}: failed: {cannot.format(names[1], 'ValueError: not today')}" in text
    assert f"{names[0]}: 1 of 2 runs failed: {cannot.format(names[0], 'OSError: no luck with 1')}." in text
    # The intervals of a single run that is left carry the caveat of one seed.
    assert f"{names[0]}: 1 seed: the interval covers the choice of queries only" in text
    rows = {row["system"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())["rows"]}
    assert rows[names[0]]["seeds"] == 1 and rows[names[1]]["metrics"] == {}
    assert main(["report", str(tmp_path / "out"), "--episodes", "1"]) == 0
    with pytest.raises(DataError, match="no row has the metric 'dR@1'"):
        chosen_metrics(argparse.Namespace(metrics="dR@1"), {"rows": list(rows.values())})
