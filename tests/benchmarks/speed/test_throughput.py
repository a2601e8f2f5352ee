"""``strong-envs throughput`` runs; what it compares must agree before it is timed. No test asserts a time."""

from __future__ import annotations

import json

import numpy as np
import pytest

from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.speed import throughput
from strong_envs.benchmarks.speed.numpy_env import PlainMoment


@pytest.mark.slow
def test_the_command_runs_draws_and_writes(tmp_path, capsys):
    assert main(["throughput", "--quick", "--json", "--out", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "throughput.json").read_text())
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
    names = " ".join(row["name"] for row in result["targets"])
    for name in ("full observation", "reused buffer", "plain gather", "state only", "spatial pyramid"):
        assert name in names
    for row in result["targets"]:
        assert row["ratio"] > 0 and len(row["ratios"]) == 2
        assert row["met"] is (None if row["wanted"] is None else row["ratio"] >= row["wanted"])
    assert result["first_step"]["total"] > result["first_step"]["import torch"] > 0
    assert set(result["growth"]) == {"envs", "frames", "size"} and result["machine"]["torch"]
    throughput.show(result)
    printed = capsys.readouterr().out
    assert "first step" in printed and "required" in printed


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_implementations_that_disagree_are_not_timed(what, tmp_path):
    bank = throughput.bank_of(tmp_path, 2, 10, 8, 8)
    ours = throughput.vector(bank, 1)

    class Wrong(PlainMoment):
        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=seed)
            return observation[None], info

        def step(self, action):
            observation, reward, *rest = super().step(int(action[0]))
            return observation[None] + (what == "observation"), [reward + (what == "reward")], *rest

    with pytest.raises(AssertionError, match="wrong"):
        throughput.assert_equal_rollouts(ours, {"wrong": Wrong(bank)}, np.zeros((2, 1), int))
