"""The walk from the letter of the paper to the default STRONG."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from strong_envs.agents.strong import paper_walk
from strong_envs.agents.strong.args import strong_args, system_args
from strong_envs.agents.strong.paper_walk import CHANGES, differences, options_of, walk
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.commands.document import update

TINY = ["--seeds", "2", "--budget", "0.0001", "--jobs", "1"]


def test_the_walk_leads_from_the_letter_to_the_default_and_every_row_is_a_step():
    rows = walk()
    assert rows[0][1] == strong_args("paper")
    left = differences(rows[-1][1], strong_args())
    assert not left, f"the default has fields that no row of the walk changes: {left}"
    assert len({change.label for change in CHANGES}) == len(CHANGES)
    for (_, before), (change, after) in pairwise(rows):
        named = {name.partition("=")[0].replace("levels.", "") for name in change.fields}
        changed = {name.removeprefix("temporal.").removeprefix("spatial.") for name in differences(before, after)}
        assert changed, f"{change.label} changes nothing"
        if "algorithm" not in named:  # another algorithm has other fields
            assert changed <= named | {name.rpartition(".")[2] for name in named}, change.label


def test_options_are_all_arguments_of_a_row():
    for change, args in walk():
        options = json.loads(json.dumps(options_of(args)))
        for part in options.values():
            if isinstance(part, dict):
                part.update({k: tuple(v) for k, v in part.items() if isinstance(v, list)})
        options["spp_levels"] = tuple(options["spp_levels"])
        made = system_args(**options)
        assert made == args, change.label


@pytest.mark.slow
def test_every_row_trains(ragged_store, tmp_path, capsys):
    assert main(["walk", "--features", ragged_store, *TINY, "--out", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["system"] for row in rows] == [change.label for change in CHANGES]
    assert all(row["seeds"] == 2 and "m_vIoU" in row["metrics"] for row in rows)


def test_a_walk_is_resumed_and_becomes_a_table_of_a_document(ragged_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper_walk, "CHANGES", CHANGES[:2])
    out = tmp_path / "docs" / "results"
    arguments = ["walk", "--features", ragged_store, *TINY, "--out", str(out)]
    assert main(arguments) == 0
    assert "+ standardised inputs" in capsys.readouterr().out
    cells = sorted((out / "cells").glob("strong-*.json"))
    times = [cell.stat().st_mtime_ns for cell in cells]
    result = json.loads((out / "results.json").read_text())
    assert main(arguments) == 0
    assert [cell.stat().st_mtime_ns for cell in cells] == times and len(cells) == 4
    first, second = result["rows"]
    assert first["learns_from"] == second["learns_from"] == "own rewards" and first["sees"] == "learned boxes"
    assert second["changed"] == {"temporal.standardise": [False, True], "spatial.standardise": [False, True]}
    step = second["metrics"]["mIoU"] - first["metrics"]["mIoU"]
    assert second["change"]["difference"] == pytest.approx(step, abs=1e-4)
    assert second["change"]["low"] <= second["change"]["difference"] <= second["change"]["high"]
    page = tmp_path / "README.md"
    page.write_text("<!-- walk docs/results/results.json -->\n<!-- end -->\n")
    assert update(page, tmp_path, write=True)
    text = page.read_text()
    assert "| + standardised inputs | inputs have mean 0" in text and f"{100 * step:+.2f} [" in text
    assert not update(page, tmp_path, write=False)


@pytest.mark.parametrize("option", [["--set", "gamma=0.5"], ["--systems", "trl"], ["--multi-scale"]])
def test_the_rows_are_fixed(option, tmp_path, capsys):
    assert main(["walk", *option, *TINY, "--out", str(tmp_path)]) == 2
    assert "the rows of the walk are fixed" in capsys.readouterr().err
