"""The walk from the letter of the paper to the default STRONG."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from strong_envs.agents.strong import paper_walk
from strong_envs.agents.strong.paper_walk import CHANGES, differences, options_of, taken_back, walk
from strong_envs.agents.strong.presets import strong_args, system_args
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


def test_every_change_can_be_taken_back_from_the_default():
    rows = taken_back()
    assert rows[0][1] == strong_args() and len(rows) == len(CHANGES)
    assert len({change.label for change, _ in rows}) == len(rows)
    letter, default = strong_args("paper"), strong_args()
    for change, args in rows[1:]:
        assert options_of(replace(args)) == options_of(args)  # its parts go together
        named = {name.partition("=")[0].replace("levels.", "") for name in change.fields}
        for name, (before, after) in differences(default, args).items():
            assert {name, name.removeprefix("temporal.").removeprefix("spatial.")} & named or "algorithm" in named, name
            letters = differences(default, letter).get(name)
            assert letters is None or after in (letters[1], "none") or None in (before, after, letters[1]), name
            assert after != "none" or "- means of frames" not in change.label, "the letter attends to frames"
    alone = {change.label: set(differences(default, args)) for change, args in rows}
    assert alone["- matching"] == {"temporal.network"} and alone["- context"] == {"temporal_env.context"}
    # Without attention over cells there is no box of it that the spatial level could be paid by.
    means = dict((change.label, args) for change, args in rows)["- attention over cells - attention_box"]
    assert means.attention == "none", "the row above it in the walk has means"
    # The attention over frames gives way to means, and means to the attention over cells: one goes with the other.
    frames = dict((change.label, args) for change, args in rows)[
        "- means of frames - attention over cells - attention_box"
    ]
    assert frames.attention == "frames" and frames.temporal.network == "matching"


def test_a_walk_back_compares_every_row_with_the_default(ragged_store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        paper_walk, "CHANGES", [c for c in CHANGES if c.label in ("the letter", "+ matching", "+ context")]
    )
    assert main(["walk", "--back", "--features", ragged_store, *TINY, "--out", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["system"] for row in rows] == ["default", "- context", "- matching"]
    for row in rows[1:]:
        step = row["metrics"]["mIoU"] - rows[0]["metrics"]["mIoU"]
        assert row["change"]["difference"] == pytest.approx(step, abs=1e-4)
    assert "| mIoU minus default |" in (tmp_path / "table.md").read_text()


@pytest.mark.slow
def test_every_row_trains(ragged_store, tmp_path, capsys):
    arguments = ["walk", "--features", ragged_store, *TINY, "--seeds", "1", "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["system"] for row in rows] == [change.label for change in CHANGES]
    assert all(row["seeds"] == 1 and "m_vIoU" in row["metrics"] for row in rows)


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
