"""Result files of one protocol become one, and nothing else does."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from strong_envs.benchmarks.cli import main

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.fixture(scope="module")
def table():
    return json.loads((RESULTS / "table1.json").read_text())


def only(result, *systems):
    """The part of a result file that a run of these systems alone would have written; references stay."""
    part = copy.deepcopy(result)
    part["rows"] = [row for row in part["rows"] if row.get("reference") or row["system"] in systems]
    left = {row["system"] for row in part["rows"]}
    part["per_query"]["IoU"] = {name: runs for name, runs in part["per_query"]["IoU"].items() if name in left}
    for name in ("curves", "traces", "cells"):
        part[name] = {label: value for label, value in part[name].items() if label in left}
    part["claims"] = []
    return part


def written(folder, *results):
    files = []
    for at, result in enumerate(results):
        files.append(folder / f"part{at}.json")
        files[-1].write_text(json.dumps(result))
    return [str(file) for file in files]


def test_a_table_in_parts_is_the_table(table, tmp_path, capsys):
    learned = [row["system"] for row in table["rows"] if not row.get("reference")]
    # STRONG first: the rows of the whole have the order of the table all the same.
    files = written(tmp_path, only(table, *learned[-3:]), only(table, *learned[:-3]))
    assert main(["merge", *files, "--out", str(tmp_path / "whole.json")]) == 0
    whole = json.loads((tmp_path / "whole.json").read_text())
    assert [row["system"] for row in whole["rows"]] == [row["system"] for row in table["rows"]]
    assert whole["rows"] == table["rows"]
    assert whole["claims"] == table["claims"]
    for part in ("per_query", "curves", "traces", "cells", "tuned", "validation", "protocol", "paper"):
        assert whole[part] == table[part], part
    assert [part["commit"] for part in whole["about"]["parts"]] == [table["about"]["commit"]] * 2
    assert main(["recompute", str(tmp_path / "whole.json")]) == 0
    capsys.readouterr()


def test_a_row_without_numbers_gives_way(table, tmp_path, capsys):
    absent = only(table, "CTRL")
    absent["rows"].append({"system": "STRONG", "protocol": table["protocol"], "metrics": {}, "caveat": "absent"})
    files = written(tmp_path, absent, only(table, "STRONG"))
    assert main(["merge", *files, "--out", str(tmp_path / "whole.json")]) == 0
    whole = json.loads((tmp_path / "whole.json").read_text())
    (row,) = [row for row in whole["rows"] if row["system"] == "STRONG"]
    assert row["metrics"]["mIoU"] > 0.8
    assert any(c["better"] == "STRONG" and c["worse"] == "CTRL" and c["verdict"] == "holds" for c in whole["claims"])
    capsys.readouterr()


def test_rounding_on_another_machine_makes_no_difference(table, tmp_path, capsys):
    part = only(table, "CTRL")
    part["validation"]["references"][0]["intervals"]["mIoU"][0] *= 1 + 1e-15
    part["per_query"]["IoU"]["constant"][0][0] += 1e-17
    files = written(tmp_path, only(table, "MCN"), part)
    assert main(["merge", *files, "--out", str(tmp_path / "whole.json")]) == 0
    part["validation"]["references"][0]["intervals"]["mIoU"][0] += 1e-6
    files = written(tmp_path, only(table, "MCN"), part)
    assert main(["merge", *files, "--out", str(tmp_path / "other.json")]) == 2
    assert "differ in 'validation'" in capsys.readouterr().err


def other_numbers(part):
    part["per_query"]["IoU"]["CTRL"][0][0] = 0.5


def other_rules(part):
    part["protocol"]["comparison"] = ">"


def other_queries(part):
    part["per_query"]["queries"][0] = "another"


def other_tuning(part):
    part["tuned"]["trials"] = 1


def other_table(part):
    part["table"] = 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_numbers, "both have 'CTRL', with other numbers"),
        (other_rules, "they differ in comparison"),
        (other_queries, "were scored on other queries (queries differ)"),
        (other_tuning, "differ in 'tuned'"),
        (other_table, "differ in 'table'"),
    ],
)
def test_what_cannot_be_one_file_is_refused(change, says, table, tmp_path, capsys):
    part = only(table, "CTRL")
    change(part)
    files = written(tmp_path, only(table, "CTRL"), part)
    assert main(["merge", *files, "--out", str(tmp_path / "whole.json")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "whole.json").exists()


def test_nothing_is_replaced_and_one_file_is_not_enough(table, tmp_path, capsys):
    files = written(tmp_path, only(table, "CTRL"), only(table, "MCN"))
    (tmp_path / "there.json").write_text("mine")
    assert main(["merge", *files, "--out", str(tmp_path / "there.json")]) == 2
    assert "exists" in capsys.readouterr().err and (tmp_path / "there.json").read_text() == "mine"
    assert main(["merge", files[0], "--out", str(tmp_path / "new.json")]) == 2
    assert "two or more" in capsys.readouterr().err
