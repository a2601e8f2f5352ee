"""``strong-envs looks``: table, figure, areas, resuming, and its page in the report."""

from __future__ import annotations

import json
import shutil

import pytest
from random_stores import random_store

from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.looks.command import contents_of, looks_of, rows_of, time_left
from strong_envs.benchmarks.looks.result import area, needed
from strong_envs.benchmarks.looks.world import Budgets, World
from strong_envs.features import DataError
from strong_envs.features.registry import open_store

PARTS = ("train", "val")


@pytest.mark.slow
def test_the_command_writes_a_frontier_and_goes_on_where_it_stopped(tmp_path, capsys):
    out = tmp_path / "looks"
    words = [
        "looks",
        "--quick",
        "--features",
        "long:shapes-v0?clips=2&queries=1&train=6&val=3&test=5",
        "--looks",
        "2,4",
    ]
    words += ["--rows", "even looks,uncertainty search,look policy", "--out", str(out), "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    (world,) = result["worlds"]
    names = ["even looks", "uncertainty search", "look policy", "all frames"]
    assert [row["system"] for row in world["rows"]] == names and world["frames"] == 120
    for row in world["rows"][:-1]:
        assert [p["looks"] for p in row["points"]] == [2, 4]
        assert all(p["mIoU"]["low"] <= p["mIoU"]["mean"] <= p["mIoU"]["high"] for p in row["points"])
        assert row["area"] == pytest.approx(sum(p["mIoU"]["mean"] for p in row["points"]) / 2)
        assert all(p["looks"] < p["frames"] <= 2 * p["looks"] for p in row["points"])
    assert {d["b"] for d in world["differences"]} == {"even looks", "uncertainty search"}
    assert all((out / name).is_file() for name in ("looks.json", "looks.md", "looks.png", "search.png"))
    cells = sorted((out / "cells").iterdir())
    before = {file: file.stat().st_mtime_ns for file in cells}
    cells[0].unlink()
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)["worlds"][0]
    assert again["rows"] == world["rows"] or "train_seconds" in str(again["rows"])
    assert all(file.stat().st_mtime_ns == before[file] for file in cells[1:])
    # The picture is that of the stores that were asked for last, also where others were before.
    before = (out / "search.png").read_bytes()
    assert main([word.replace("clips=2", "clips=3") for word in words]) == 0
    assert (out / "search.png").read_bytes() != before
    assert main(words) == 0 and (out / "search.png").read_bytes() == before
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "uncertainty search" in page and page.count("data:image/png") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--looks", "2,x"], "--looks"),
        (["--looks", "²"], "--looks"),
        (["--rows", "even"], "--rows"),
        (["--rows", ","], "--rows"),
        (["--features", "shapes-v0,nothing-there"], "'nothing-there'"),
        (["--features", "long:shapes-v0?clips=2&queries=1&train=2&val=2&test=0"], "no part 'test'"),
        (["--seeds", "0"], "--seeds"),
        (["--features", ","], "--features"),
        (["--budget", "-1"], "--budget"),
    ],
)
def test_bad_input_is_one_sentence(words, said, tmp_path, capsys):
    assert main(["looks", *words, "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_agents_are_trained_on_features_of_the_same_sizes(tmp_path, capsys):
    other = str(random_store(tmp_path / "other", [30] * 12).path)
    assert main(["looks", "--features", "shapes-v0", "--train-on", other, "--out", str(tmp_path / "x")]) == 2
    assert "other features" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_results_of_other_features_at_the_same_path_are_not_taken_up(tmp_path):
    path = tmp_path / "trained"
    random_store(path, [30] * 12)
    before = contents_of("shapes-v0", str(path))
    assert contents_of("shapes-v0", str(path)) == before != contents_of("shapes-v0", None)
    shutil.rmtree(path)
    random_store(path, [30] * 13)
    assert contents_of("shapes-v0", str(path))[0] == before[0] and contents_of("shapes-v0", str(path)) != before


def test_choices_are_not_made_on_videos_that_were_trained_on(tmp_path):
    store = str(random_store(tmp_path / "plain", [20] * 24).path)
    assert "val" not in open_store(store).splits
    for name in (store, "long:shapes-v0?clips=2&queries=1&train=6&val=0&test=2"):
        world = World(name, (2,), Budgets())
        clips, train, val = ({query.video for query in bank.queries} for bank in (world.clips, *map(world.bank, PARTS)))
        assert val and not val & train and not val & clips


def test_numbers_of_looks_suit_the_length_of_the_videos():
    assert looks_of(None, 60)[-1] == 48 and looks_of(None, 600)[-1] == 120 and looks_of("8, 4,4", 60) == (4, 8)
    assert looks_of(None, 2) == (1,)
    assert looks_of(None, 20) == (2, 3, 4, 6, 8, 10, 12, 16)
    with pytest.raises(DataError, match="whole numbers"):
        looks_of("0", 60)
    assert rows_of("even looks, even looks") == ["even looks"]


def test_area_is_the_mean_height_on_the_logarithmic_axis():
    assert area([2, 4, 16], [0.0, 1.0, 1.0]) == pytest.approx((0.5 + 2) / 3)
    assert area([2], [0.5]) is None


def test_looks_that_are_needed_are_interpolated():
    points = [{"looks": k, "frames": 2.0 * k, "mIoU": {"mean": v}} for k, v in ((2, 0.2), (8, 0.6), (16, 0.9))]
    found = needed(points, 0.4, 100)
    assert found["looks"] == pytest.approx(4.0) and found["frames"] == pytest.approx(8.0)
    assert found["share_of_frames"] == pytest.approx(0.08)
    assert needed(points, 0.1, 100)["looks"] == pytest.approx(2) and needed(points, 0.95, 100) is None


def test_the_time_left_is_told_from_finished_cells_of_each_row():
    taken = {"even looks": [1.0, 3.0], "look policy": [240.0]}
    assert time_left([("look policy", 1), ("look policy", 2)], taken) == ", about 8 min left"
    # A row that has not run yet is taken for the mean of those that have.
    assert time_left([("SM-RL", 0)], taken) == ", about 2 min left"
    assert time_left([("even looks", 2)], taken) == ", less than a minute left"
    assert time_left([], taken) == ""
