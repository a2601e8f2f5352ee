"""The table of sizes says what stores and banks really take."""

from __future__ import annotations

import json

import pytest
import torch
from random_stores import random_store

from strong_envs.benchmarks.cli import main
from strong_envs.features import FeatureBank
from strong_envs.features.commands.sizes import of_store, planned


def test_a_plan_is_what_a_store_of_that_shape_takes(tmp_path):
    store = random_store(tmp_path / "s", [6, 6, 6])
    found = of_store(store)
    row = planned(3, 3.0, [2.0], [6], (4, 5), "float32")[0]
    assert row["rows"] == 18 and row["store"] == sum(found["tensors"][n]["bytes"] for n in ("frames", "grid"))
    bank = FeatureBank(store)
    held = [bank.frames, bank.frame_means.prefix, bank.grid, bank.grid_prefix[0]]
    assert row["bank"] == sum(x.numel() * x.element_size() for x in held)
    others = sum(found["tensors"][n]["bytes"] for n in ("queries", "boxes"))
    assert found["bank"] == row["bank"] + others
    mapped = FeatureBank(store, memory="map").frame_means.mean
    assert row["mapped"] == mapped.numel() * 4 and found["mapped"] == row["mapped"] + others
    assert found["files"] == sum(f.stat().st_size for f in store.path.iterdir())
    assert isinstance(bank.frames, torch.Tensor)


def test_the_command_prints_both_tables(tmp_path, capsys):
    assert main(["sizes", "--fps", "2", "--channels", "1280", "64"]) == 0
    printed = capsys.readouterr().out
    assert "6,672 videos of 30.6 s" in printed and "52.1 GB" in printed  # 406,992 rows of 50 x 1280 float16
    store = random_store(tmp_path / "s", [6, 4])
    assert main(["sizes", str(store.path)]) == 0
    assert "10 x 4 x 5 x 6" in capsys.readouterr().out
    assert main(["sizes", str(store.path), "--speed", "--json"]) == 0
    rates = json.loads(capsys.readouterr().out)["rows_per_s"]
    assert set(rates) == {"frames", "grid"} and all(v > 0 for one in rates.values() for v in one.values())


@pytest.mark.parametrize("wrong", [["--speed"], ["--grid", "7"], ["--channels", "0"], ["--fps", "0"]])
def test_wrong_plans_are_refused(wrong, capsys):
    assert main(["sizes", *wrong]) == 2
    assert "error:" in capsys.readouterr().err
