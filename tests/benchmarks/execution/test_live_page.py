"""``live.html``: a page of a running job that reloads itself, with validation scores alone."""

from __future__ import annotations

import argparse

import pytest

from strong_envs.benchmarks import cli
from strong_envs.benchmarks.execution.cell import Cell
from strong_envs.benchmarks.execution.live_page import EVERY, LivePage, page_of
from strong_envs.benchmarks.execution.local_engine import run_matrix
from strong_envs.benchmarks.execution.progress import ProgressBars
from strong_envs.benchmarks.options import add_arguments, held_output
from strong_envs.features.files.atomic import write_text


def test_a_page_of_a_running_job_loads_itself_and_an_ended_one_does_not():
    running = page_of([], 1, 4, ", about 5 min left", ["trl seed 0: temporal <b>"], "")
    assert "http-equiv" in running and "about 5 min left" in running and "temporal &lt;b&gt;" in running
    assert "http-equiv" not in page_of([], 4, 4, "", [], "finished")
    assert "http:" not in running and "https:" not in running


def test_runs_are_shown_with_validation_scores_as_they_end(tmp_path):
    now = [0.0]
    cells = [Cell("trl", seed, "shapes-v0", "hash") for seed in range(2)]
    file = tmp_path / "live.html"
    with ProgressBars(cells, [], 1, show=False, clock=lambda: now[0], page=file) as bars:
        bars.begin(cells[0])
        bars.tick()
        assert "0 of 2" in file.read_text() and "trl seed 0: loading" in file.read_text()
        history = [{"stage": "a", "IoU": 0.25}, {"stage": "b", "IoU": 0.5}]
        bars.end(cells[0], {"history": history, "scores": {"IoU": [0.987]}, "seconds": 1.0})
        bars.tick()
        assert "0 of 2" in file.read_text()  # not older than EVERY
        now[0] += EVERY + 1
        bars.tick()
        text = file.read_text()
        assert "1 of 2" in text and ">50.0<" in text and "polyline" in text and "98.7" not in text
        bars.begin(cells[1])
        bars.end(cells[1], None)
    text = file.read_text()
    assert "2 of 2" in text and "finished" in text and "trl seed 1 (failed)" in text and "refresh" not in text


def test_a_page_that_cannot_be_written_does_not_stop_a_job(tmp_path):
    page = LivePage(tmp_path / "file" / "live.html")
    (tmp_path / "file").write_text("in the way")
    page.write(0, 1, "", [])


def test_a_job_that_ended_before_its_first_run_may_go_on(tmp_path):
    """A folder with live.html and results but without ``cells`` is refused, so the job must make it at once."""
    run_matrix([], tmp_path / "out" / "cells", 1)
    write_text(tmp_path / "out" / "live.html", "of this job")
    args = parsed(["--systems", "trl", "--out", str(tmp_path / "out")])
    with held_output(args) as out:
        assert out == tmp_path / "out"


def parsed(words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("gallery", "files that were finished are kept"),
        ("show", "nothing was written"),
        ("looks", "continues where"),
        ("tune", "continues where"),
    ],
)
def test_ctrl_c_says_what_is_kept(command, words, monkeypatch, capsys):
    def press(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", press)
    assert cli.main([command]) == 130
    assert words in capsys.readouterr().err


def test_a_report_of_a_run_that_goes_on_leads_to_the_live_page(tmp_path, capsys):
    (tmp_path / "live.html").write_text("<!doctype html>")
    assert cli.main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "has not ended" in said and str(tmp_path / "live.html") in said and said.count("\n") == 1
