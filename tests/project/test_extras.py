"""Extras with the library itself, where a test beside the code uses a stand-in."""

from __future__ import annotations

import csv

import pytest

from strong_envs.benchmarks.cli import main


@pytest.mark.slow
def test_tensorboard_reads_what_a_training_logs(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    words = ["--features", "shapes-v0", "--system", "ctrl", "--budget", "0.02", "--out", str(run)]
    assert main(["train", *words]) == 0
    events = EventAccumulator(str(run)).Reload()
    with open(run / "log.csv", encoding="utf-8", newline="") as file:
        written = [float(row["mIoU"]) for row in csv.DictReader(file) if row["mIoU"]]
    assert written and [event.value for event in events.Scalars("training/mIoU")] == pytest.approx(written, abs=1e-6)
    assert all(events.Scalars(tag) for tag in events.Tags()["scalars"])
