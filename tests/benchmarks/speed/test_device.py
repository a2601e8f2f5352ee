"""The command that measures an accelerator: stages, what is kept of an interrupted run, and refusals."""

from __future__ import annotations

import json

import pytest

from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.speed import device


def test_a_stage_that_fails_is_made_up_for_by_the_next_run(tmp_path, monkeypatch, capsys):
    out, calls = tmp_path / "device.json", []

    def works(setting):
        calls.append("works")
        return {"device": str(setting.device)}

    def fails(setting):
        calls.append("fails")
        raise RuntimeError("out of memory")

    monkeypatch.setattr(device, "STAGES", {"one": works, "two": fails})
    arguments = ["device", "--device", "cpu", "--quick", "--out", str(out)]
    assert main(arguments) == 1 and "two failed: out of memory" in capsys.readouterr().err
    assert list(json.loads(out.read_text())["stages"]) == ["one"]
    monkeypatch.setattr(device, "STAGES", {"one": works, "two": works})
    assert main(arguments) == 0
    assert calls == ["works", "fails", "works"], "the first stage is not measured again"
    held = json.loads(out.read_text())
    assert held["device"] == "cpu" and held["quick"] and set(held["stages"]) == {"one", "two"}


def test_other_files_and_unknown_stages_are_refused(tmp_path, capsys):
    out = tmp_path / "device.json"
    assert main(["device", "--stages", "stpes", "--out", str(out)]) == 2
    assert "no stage is called 'stpes'" in capsys.readouterr().err
    out.write_text('{"stages": {}, "device": "cuda:7"}')
    assert main(["device", "--device", "cpu", "--quick", "--out", str(out)]) == 2
    assert "of another machine" in capsys.readouterr().err
    assert json.loads(out.read_text())["device"] == "cuda:7", "what was there is kept"


@pytest.mark.slow
def test_every_stage_runs_on_a_processor(tmp_path):
    out = tmp_path / "device.json"
    assert main(["device", "--device", "cpu", "--quick", "--out", str(out)]) == 0
    stages = json.loads(out.read_text())["stages"]
    assert set(stages) == set(device.STAGES)
    assert stages["precision"]["spread of mIoU"] < 0.01
    assert all(row["ratio"] > 0 for rows in (stages["steps"][name] for name in device.MAKERS) for row in rows)
