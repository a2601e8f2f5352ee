"""Every row says what its system sees and learns from, also where a setting changes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_run import finished_run

from strong_envs import agents
from strong_envs.agents.references.heuristics import REFERENCES
from strong_envs.agents.registry import LEARNS_FROM, SEES, SEES_BOXES, SystemSpec, information
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.results.tables import console_table, markdown_table, table_cells
from strong_envs.features.errors import DataError
from strong_envs.local_features import SOURCES


@pytest.mark.parametrize("name", agents.names())
def test_every_system_says_what_it_sees_and_learns_from(name: str) -> None:
    spec = agents.find(name)
    assert spec.sees in SEES and spec.learns_from in LEARNS_FROM
    # What is said agrees with what the system needs and is given.
    assert (spec.sees == "GT boxes") == spec.upper_bound
    assert (spec.sees == "objects") == spec.needs_objects
    assert not spec.needs_grid or spec.sees in ("grid", "learned boxes", "GT boxes")
    assert spec.needs_frames == (spec.sees not in ("nothing", "sentences"))
    assert spec.needs_training == (spec.learns_from != "nothing")


def test_settings_change_what_a_system_sees_and_learns_from() -> None:
    assert information("ctrl") == {"sees": "whole frames", "learns_from": "window labels"}
    assert information("ctrl", {"boxes": "truth"})["sees"] == "GT boxes"
    assert information("ctrl", {"boxes": "pretrained"})["sees"] == "learned boxes"
    assert information("mcn", {"boxes": "results/strong.safetensors"})["sees"] == "learned boxes"
    assert information("sb3-dqn", {"boxes": "gaussian"})["sees"] == "grid"
    assert information("blind", {"boxes": "truth"})["sees"] == "sentences"
    assert information("strong", {"learns_from": "all rewards"})["learns_from"] == "all rewards"
    assert set(SOURCES) <= set(SEES_BOXES)
    assert information("collections:OrderedDict") == {"sees": "", "learns_from": ""}


@pytest.mark.parametrize(("field", "value", "says"), [
    ("sees", "the grid", "sees of the system 'x' must be one of .* got 'the grid'"),
    ("learns_from", "frame label", "learns_from .* did you mean 'frame labels'"),
])  # fmt: skip
def test_other_words_are_refused(field: str, value: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        SystemSpec("x", dict, "nothing", **{field: value})


def test_rows_and_tables_have_both_columns(ragged_store: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    result = finished_run(ragged_store, tmp_path)
    rows = {row["system"]: row for row in result["rows"]}
    assert (rows["good"]["sees"], rows["good"]["learns_from"]) == ("whole frames", "own rewards")
    assert {
        kind.label: (rows[kind.label]["sees"], rows[kind.label]["learns_from"]) for kind in REFERENCES.values()
    } == {
        "full video": ("nothing", "nothing"),
        "initial window": ("nothing", "nothing"),
        "constant": ("nothing", "window labels"),
        "random window": ("nothing", "nothing"),
        "query only (kNN)": ("sentences", "window labels"),
        "oracle": ("GT windows", "nothing"),
    }
    cells = table_cells(result["rows"])
    assert cells.header[:4] == ["system", "sees", "learns from", "seeds"]
    assert next(line for line in cells.body if line[0] == "good")[1:3] == ["whole frames", "own rewards"]
    text = markdown_table(result["rows"]).splitlines()
    assert text[1].startswith("| --- | --- | --- | ---: |") and text[0].count("|") == text[2].count("|")
    assert [str(column.header) for column in console_table(result["rows"]).columns][:3] == [
        "system",
        "sees",
        "learns from",
    ]
    # Files of earlier releases say nothing, and nothing is made up for them.
    old = [{k: v for k, v in row.items() if k not in ("sees", "learns_from")} for row in result["rows"]]
    assert table_cells(old).header[:2] == ["system", "seeds"]
    file = str(tmp_path / "results.json")
    assert main(["compare", file, file, "--a", "good", "--b", "oracle"]) == 0
    told = capsys.readouterr().out
    assert "good: sees whole frames, learns from own rewards" in told and "oracle: sees GT windows" in told
    other = {
        **result,
        "rows": [{**row, "protocol": {**row["protocol"], "data": "b", "hashes": {}}} for row in result["rows"]],
    }
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert main(["aggregate", file, str(tmp_path / "other.json")]) == 0
    assert "query only (kNN): sees sentences, learns from window labels" in capsys.readouterr().out


def test_run_lists_the_systems(capsys: pytest.CaptureFixture) -> None:
    assert main(["run", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["system", "sees", "learns", "from"]
    listed = {line[: lines[0].index("sees")].strip(): line for line in lines[1:]}
    assert list(listed) == agents.names() and "window labels" in listed["ctrl"] and "whole frames" in listed["ctrl"]
