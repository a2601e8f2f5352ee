"""Documents say what their result files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_run import finished_run

from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.commands.document import documents, update
from strong_envs.benchmarks.results.tables import ABSENT
from strong_envs.features.errors import DataError

ROOT = Path(__file__).parents[3]
TEXT = """# Title

<!-- table docs/results/run.json metrics=mIoU,Acc@.5 -->
old
<!-- end -->

The mIoU is <!-- number docs/results/run.json system=good metric=mIoU -->?<!-- end -->, they say.

<!-- figure docs/results/run.json kind=profiles file=docs/figures/profiles.svg alt="Performance profiles" -->
<!-- end -->

<!-- about docs/results/run.json -->
<!-- end -->

The end.
"""


@pytest.fixture
def project(ragged_store, tmp_path):
    result = finished_run(ragged_store, tmp_path / "run")
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "run" / "results.json").rename(tmp_path / "docs" / "results" / "run.json")
    (tmp_path / "README.md").write_text(TEXT)
    return tmp_path, result


def test_the_documents_of_this_project_agree_with_their_result_files():
    """No marker means nothing to check; a difference is mended by ``strong-envs document``."""
    assert [line for file in documents(ROOT) for line in update(file, ROOT, write=False)] == []


def test_writing_makes_the_check_pass_and_a_changed_result_makes_it_fail(project, capsys):
    root, result = project
    assert main(["document", "--root", str(root), "--check"]) == 1
    assert (root / "README.md").read_text() == TEXT
    assert "differs from its result file" in capsys.readouterr().err
    assert main(["document", "--root", str(root)]) == 0
    text = (root / "README.md").read_text()
    good = next(row for row in result["rows"] if row["system"] == "good")
    assert f"{100 * good['metrics']['mIoU']:.2f} ± " in text
    assert (
        "| good | whole frames | own rewards | 2 |" in text
        and "![Performance profiles](docs/figures/profiles.svg)" in text
    )
    assert text.startswith("# Title") and text.endswith("The end.\n") and "old" not in text
    assert main(["document", "--root", str(root), "--check"]) == 0
    before = (root / "docs" / "figures" / "profiles.svg").stat().st_mtime_ns
    assert main(["document", "--root", str(root)]) == 0
    assert (root / "docs" / "figures" / "profiles.svg").stat().st_mtime_ns == before
    good["metrics"]["mIoU"] += 0.01
    (root / "docs" / "results" / "run.json").write_text(json.dumps(result))
    assert main(["document", "--root", str(root), "--check", "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["differences"]
    assert len(found) == 3 and any("profiles.svg was not drawn" in line for line in found)


def test_results_of_other_data_stand_beside_in_columns_of_their_own(project):
    root, result = project
    other = json.loads(json.dumps(result))
    for row in other["rows"]:
        row["protocol"]["data"] = "elsewhere"
        row["metrics"]["mIoU"] = 0.125
    other["rows"] = [row for row in other["rows"] if row["system"] != "constant"] + [
        {**other["rows"][0], "system": "not there"}
    ]
    (root / "docs" / "results" / "other.json").write_text(json.dumps(other))
    marker = "<!-- table docs/results/run.json metrics=mIoU,Acc@.5 sort=mIoU beside=far:docs/results/other.json -->"
    (root / "README.md").write_text(f"{marker}\n<!-- end -->\n")
    assert main(["document", "--root", str(root)]) == 0
    header, _, *lines = [line for line in (root / "README.md").read_text().splitlines() if line.startswith("|")]
    assert header == "| system | sees | learns from | seeds | mIoU | Acc@.5 | mIoU (far) |"
    cells = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines}
    assert cells["constant"] == ABSENT and "not there" not in cells
    shown = [float(line.split("|")[5].split("±")[0]) for line in lines]
    assert shown == sorted(shown, reverse=True) and len(set(shown)) > 2
    assert all(value.startswith("12.50") for system, value in cells.items() if system != "constant")


@pytest.mark.parametrize("beside", ["none", "before:docs/results/run.json"])
def test_the_papers_numbers_give_way_to_what_is_named_beside(project, beside):
    root, result = project
    printed = {"system": "constant", "protocol": result["rows"][0]["protocol"], "seeds": None}
    numbers = {"mIoU": 0.5, "Acc@.5": 0.5, "Acc@.7": 0.5}
    paper = {"Charades-STA": [{**printed, "metrics": numbers}]}
    (root / "docs" / "results" / "table1.json").write_text(json.dumps({**result, "paper": paper}))

    def header(words):
        (root / "README.md").write_text(f"<!-- table docs/results/table1.json metrics=mIoU{words} -->\n<!-- end -->\n")
        assert main(["document", "--root", str(root)]) == 0
        return next(line for line in (root / "README.md").read_text().splitlines() if line.startswith("|"))

    assert "mIoU (paper, Charades-STA)" in header("")
    assert "paper" not in header(f" beside={beside}") and ("(before)" in header(f" beside={beside}")) == (
        beside != "none"
    )


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ("<!-- table docs/results/run.json beside=docs/results/run.json --><!-- end -->", "label:path"),
        ("<!-- table docs/results/run.json beside=x:docs/results/run.json beside_metrics=y --><!-- end -->", "ic 'y'"),
        ("<!-- tabel docs/results/run.json --><!-- end -->", "did you mean 'table'"),
        ("<!-- table docs/results/no.json --><!-- end -->", "no such file"),
        ("<!-- table docs/results/run.json -->", "no <!-- end -->"),
        ("<!-- table docs/results/run.json metrics=mIou --><!-- end -->", "no row has the metric"),
        ("<!-- table docs/results/run.json metric=mIoU --><!-- end -->", "did you mean 'metrics'"),
        ("<!-- table docs/results/run.json systems=goood --><!-- end -->", "did you mean 'good'"),
        ("<!-- number docs/results/run.json system=x --><!-- end -->", "a number has system="),
        ("<!-- figure docs/results/run.json kind=x file=a.svg --><!-- end -->", "a figure has kind="),
        ("<!-- figure docs/results/run.json kind=curves file=a.png --><!-- end -->", "ends in .svg"),
        ("<!-- claims docs/results/run.json --><!-- end -->", "table1 and table2"),
    ],
)
def test_a_marker_that_is_wrong_is_named(project, marker, words):
    root, _ = project
    (root / "README.md").write_text(marker)
    with pytest.raises(DataError, match=words):
        update(root / "README.md", root, write=True)


def test_a_result_without_its_origin_is_refused(project):
    root, result = project
    del result["about"]["commit"]
    (root / "docs" / "results" / "run.json").write_text(json.dumps(result))
    with pytest.raises(DataError, match="does not say its commit"):
        update(root / "README.md", root, write=False)


def test_a_sweep_of_two_protocols_has_two_tables(project):
    root, result = project
    points = []
    for value, row in zip((5.0, 10.0), [r for r in result["rows"] if r["system"] in ("good", "random")], strict=True):
        protocol = {**row["protocol"], "z_e": value}
        points.append({**row, "label": f"trl, z_e = {value}", "system": "trl", "value": value, "protocol": protocol})
    sweep = {"parameter": "z_e", "values": [5.0, 10.0], "points": points, "about": result["about"]}
    (root / "docs" / "results" / "sweep.json").write_text(json.dumps(sweep))
    marker = "<!-- {} docs/results/sweep.json {} -->\n<!-- end -->\n"
    page = root / "docs" / "page.md"
    page.write_text(marker.format("table", "metrics=mIoU") + marker.format("figure", "kind=sweep file=docs/f/z.svg"))
    update(page, root, write=True)
    text = page.read_text()
    assert text.count("| system |") == 2 and "trl, z_e = 5.0" in text and "](f/z.svg)" in text
    assert update(page, root, write=False) == []


def test_what_only_looks_like_a_marker_is_left_alone(tmp_path):
    text = "<!-- a comment --> text <!-- end -->\n"
    (tmp_path / "README.md").write_text(text)
    assert update(tmp_path / "README.md", tmp_path, write=True) == []
    assert (tmp_path / "README.md").read_text() == text


def test_a_figure_replaces_only_figures_below_the_root(project):
    root, outside = project[0] / "docs", project[0] / "outside.svg"
    outside.write_text("<svg>mine</svg>")
    inside, latin = root / "mine.svg", root / "latin.svg"
    inside.write_text("<svg>mine</svg>")
    latin.write_bytes(b"<svg>\xe9</svg>")
    page = root / "page.md"
    for file, words in (
        ("../outside.svg", "a path below"),
        (str(outside), "a path below"),
        ("mine.svg", "was not drawn from"),
        ("latin.svg", "was not drawn from"),
    ):
        page.write_text(f"<!-- figure results/run.json kind=curves file={file} --><!-- end -->")
        with pytest.raises(DataError, match=words):
            update(page, root, write=True)
    assert outside.read_text() == inside.read_text() == "<svg>mine</svg>"
    page.write_text("<!-- number results/run.json system='strong --><!-- end -->")
    with pytest.raises(DataError, match="No closing quotation"):
        update(page, root, write=True)
