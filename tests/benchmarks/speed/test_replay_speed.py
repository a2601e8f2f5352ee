"""``strong-envs replay`` runs, and refuses to time what does not agree. No test asserts a time."""

from __future__ import annotations

import json

import pytest

from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.speed import harness as harness
from strong_envs.benchmarks.speed import replay as replay_speed


@pytest.mark.parametrize("compiled", ["1", "0"])
def test_the_command_runs_and_writes(compiled, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STRONG_ENVS_COMPILED", compiled)
    assert main(["replay", "--quick", "--json", "--out", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "replay.json").read_text())
    harness.show(result)
    printed = capsys.readouterr().out
    assert "largest error" in printed and "A base costs" in printed
    # 38 bytes a transition, whatever the features; two observations of 130 numbers take the other 1,060.
    assert result["targets"][0]["ours"] == pytest.approx(1e6 / 38)
    assert result["targets"][0]["other"] == pytest.approx(1e6 / (2 * 4 * 130 + 20))
    assert result["largest errors"]["the first layer"]["kept parts"] <= 1e-4


def test_wrong_observations_are_not_timed(monkeypatch):
    class Wrong(replay_speed.TemporalMomentVectorEnv):
        def observe_moves(self, state, reached):
            return super().observe_moves(reached, state)

    monkeypatch.setattr(replay_speed, "TemporalMomentVectorEnv", Wrong)
    with pytest.raises(AssertionError, match="index replay are off by"):
        replay_speed.measure(True)


def test_a_wrong_layer_is_not_timed(monkeypatch):
    class Wrong(replay_speed.KeptParts):
        def step(self, observation, base):
            return super().step(observation, base) + 1e-3

    monkeypatch.setattr(replay_speed, "KeptParts", Wrong)
    with pytest.raises(AssertionError, match="first layer with kept parts is off by"):
        replay_speed.measure(True)
