"""A row is recomputed from a checked-in result file alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from strong_envs.benchmarks.cli import main

RESULTS = Path(__file__).parents[3] / "docs" / "results"


def test_every_row_of_the_paper_tables_follows_from_its_file(capsys):
    for name in ("table1.json", "table2.json"):
        assert main(["recompute", str(RESULTS / name)]) == 0
    said = capsys.readouterr().out
    assert "STRONG: mIoU, low" in said and "constant: Acc@.5" in said and "DIFFERS" not in said


def test_a_number_that_does_not_follow_is_named(tmp_path, capsys):
    result = json.loads((RESULTS / "table1.json").read_text())
    row = next(row for row in result["rows"] if row["system"] == "STRONG")
    row["metrics"]["mIoU"] += 0.01
    row["metrics"]["Acc@.5"] += 0.01
    file = tmp_path / "results.json"
    file.write_text(json.dumps(result))
    assert main(["recompute", str(file), "--system", "STRONG", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["differs"] == ["mIoU", "Acc@.5"]


def test_a_row_without_miou_is_refused(tmp_path, capsys):
    result = json.loads((RESULTS / "table1.json").read_text())
    result["rows"][0]["metrics"] = {}
    (tmp_path / "results.json").write_text(json.dumps(result))
    assert main(["recompute", str(tmp_path / "results.json")]) == 2
    assert "has no mIoU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "words", "says"),
    [
        ("full_feedback/levels/easy.json", [], "does not hold the IoU of every query"),
        ("table1.json", ["--system", "STRONGER"], "has no queries of 'STRONGER'; did you mean 'STRONG'"),
        ("full_feedback/gamma.json", [], "it has no"),
    ],
)
def test_what_cannot_be_recomputed_is_explained(file, words, says, capsys):
    assert main(["recompute", str(RESULTS / file), *words]) == 2
    assert says in capsys.readouterr().err
