"""``strong-envs pooling`` runs, and refuses to time what does not agree. No test asserts a time."""

from __future__ import annotations

import json

import pytest

from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.speed import harness as harness
from strong_envs.benchmarks.speed import pooling as pooling_speed


@pytest.mark.parametrize("compiled", ["1", "0"])
def test_the_command_runs_and_writes(compiled, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STRONG_ENVS_COMPILED", compiled)
    assert main(["pooling", "--quick", "--json", "--out", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "pooling.json").read_text())
    names = [row["name"] for row in result["targets"]]
    harness.show(result)
    assert "largest error" in capsys.readouterr().out
    assert any("eager" in name for name in names) and sum("attention" in name for name in names) == 3
    assert any("compiled" in name for name in names) == pooling_speed.pooling_numba.available()
    assert max(result["largest errors"]["attention, by spread"].values()) <= 1e-5


@pytest.mark.parametrize("name", ["torch_pyramid", "WindowAttention"])
def test_wrong_results_are_not_timed(name, monkeypatch):
    right = getattr(pooling_speed, name)

    class Wrong(pooling_speed.WindowAttention):
        def __call__(self, *args):
            return super().__call__(*args) + 1e-3

    wrong = Wrong if name == "WindowAttention" else lambda *args: right(*args) + 1e-3
    monkeypatch.setattr(pooling_speed, name, wrong)
    with pytest.raises(AssertionError, match="is off by"):
        pooling_speed.measure(True)
