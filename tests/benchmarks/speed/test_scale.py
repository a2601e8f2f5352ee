"""``strong-envs scale`` runs at a tiny size; its store is valid and its growth is fitted right."""

from __future__ import annotations

import argparse
import json
import subprocess

import numpy as np
import pytest

from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.speed import scale
from strong_envs.features import DataError

TINY = ["--dim", "6", "--words", "4", "--grid", "2", "2", "3", "--envs", "3", "--seconds", "0.05"]


def test_the_command_measures_in_a_process_of_its_own(tmp_path, capsys):
    words = ["scale", *TINY, "--shares", "0.0003", "--memory", "map", "--folder", str(tmp_path), "--json"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "scale.json").read_text())
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (row,) = result["rows"]
    assert (row["queries"], row["videos"], row["rows"]) == (5, 2, 180)
    assert row["load_s"] > 0 and row["steps_per_s"] > 0 and row["boxes_per_s"] > 0 and row["peak_bytes"] > 0
    scale.show(result)
    assert "needs two sizes or more" in capsys.readouterr().out


def test_growth_is_fitted_over_sizes_for_both_ways_to_hold_a_bank(tmp_path, capsys, monkeypatch):
    opened = []

    def run(command, **_):
        given = json.loads(command[-1])
        opened.append(given[1])
        return subprocess.CompletedProcess(command, 0, json.dumps(scale.measure_store(*given)), "")

    # The real thing is run above; each of these would import torch anew.
    monkeypatch.setattr(scale.subprocess, "run", run)
    words = ["scale", *TINY, "--shares", "0.0003", "0.0006", "--folder", str(tmp_path)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "scale.json").read_text())
    assert opened == ["device", "map"] * 2
    assert [row["rows"] for row in result["rows"]] == [180, 180, 360, 360]
    for memory in ("device", "map"):
        assert 0.5 < result["growth"][memory]["store_bytes"] <= 1
    assert "how each grows" in capsys.readouterr().out


def test_a_store_is_measured_in_this_process(tmp_path):
    store = scale.write_synthetic(tmp_path / "s", 0.0005, 6, 4, None)
    assert store.shape("frames") == (270, 6) and len(store.queries) == 8
    frames = store.tensor("frames")
    assert len(np.unique(frames, axis=0)) == len(frames)
    found = scale.measure_store(str(store.path), "device", "float16", 2, 0.01)
    assert found["steps_per_s"] > 0 and found["boxes_per_s"] is None


def test_what_does_not_fit_is_left_out_and_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scale, "_fits", lambda *_: False)
    assert main(["scale", *TINY, "--shares", "0.0003", "--memory", "device", "--folder", str(tmp_path)]) == 0
    assert "would not fit" in capsys.readouterr().out


def test_growth_is_the_slope_of_the_logarithms():
    assert scale.exponent([1, 10, 100], [2, 200, 20_000]) == pytest.approx(2)
    assert scale.exponent([1, 10], [None, 3]) is None


@pytest.mark.parametrize("wrong", [["--grid", "2", "2"], ["--dim", "0"], ["--shares", "-1"]])
def test_wrong_sizes_are_refused(wrong):
    parser = argparse.ArgumentParser()
    scale.add_parser(parser.add_subparsers())
    args = parser.parse_args(["scale", *wrong])
    with pytest.raises(DataError):
        args.run(args)
