"""Rows NAME+boxes: what is made for whole frames, on the boxes of a trained STRONG."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from strong_envs import agents
from strong_envs.agents.inference import WEIGHTS
from strong_envs.agents.training.checkpoint import save_weights
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.commands.paper_tables import pairs_of, with_boxed_rows
from strong_envs.benchmarks.execution.cell import Cell, run_cell
from strong_envs.benchmarks.execution.job import Variant
from strong_envs.benchmarks.execution.learned_boxes import boxes_for, margin_of, takes_boxes, tracker_files
from strong_envs.benchmarks.execution.local_engine import Outcome
from strong_envs.benchmarks.results.paper_numbers import Claim
from strong_envs.features.errors import DataError

SMALL = ["--seeds", "2", "--jobs", "1", "--evaluations", "0", "--validation", "0.3", "--features"]
STRONG = ["rounds=1", "temporal.num_envs=16", "temporal.batch=8", "spatial.num_envs=16"]


def here(cells: list[Cell], folder: Path, jobs: int, **_) -> Outcome:
    return Outcome({cell.key: run_cell(cell, folder) for cell in cells})


def test_every_system_on_whole_frames_that_reads_a_frame_as_one_vector_takes_boxes():
    able = {name for name in agents.names() if takes_boxes(name)}
    published = {"ctrl", "mcn", "acrn", "read", "sm-rl", "tsp-prl"}
    assert published | {"one-shot", "bilinear regression", "sb3-ppo", "sb3-dqn"} <= able
    assert not able & {"strong", "trl", "frame classifier (whole frames)", "blind one-shot", "random policy"}


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("mcn+boxes", None, "needs boxes: --boxes FOLDER"),
        ("strong+boxes", "pretrained", "strong does not look through given boxes"),
        ("mcn+boxes", "nowhere", "nowhere"),
    ],
)
def test_boxes_that_are_missing_are_explained(name, source, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=says):
        boxes_for(name, source)
    assert boxes_for("mcn", source) == ()


def test_the_folder_of_a_training_gives_its_boxes_if_it_is_a_strong(tmp_path):
    shutil.copy(WEIGHTS, tmp_path / "system.safetensors")
    assert tracker_files(str(tmp_path)) == (str(tmp_path / "system.safetensors"),)
    save_weights(tmp_path / "system.safetensors", {}, {"system": "Ctrl"})
    for source in (tmp_path, tmp_path / "system.safetensors"):
        with pytest.raises(DataError, match="is a system of the kind 'Ctrl', not a STRONG"):
            tracker_files(str(source))


def test_seeds_take_turns_and_settings_have_the_last_word():
    variant = Variant("mcn+boxes", "mcn", {"lr": 0.1}, ("pretrained",))
    assert variant.options_for(3) == {"lr": 0.1, "boxes": "pretrained", "box_margin": margin_of("pretrained")}
    assert Variant("mcn+boxes", "mcn", {"box_margin": 0.0}, ("pretrained",)).options_for(0)["box_margin"] == 0.0
    assert Variant("mcn", "mcn", {"lr": 0.1}).options_for(3) == {"lr": 0.1}


def test_claims_are_judged_within_a_kind_and_for_both_forms():
    claim = Claim("STRONG", "MCN", "4.2")
    assert pairs_of(claim, {"STRONG", "MCN"}) == [("STRONG", "MCN", "ours")]
    there = {"STRONG", "MCN", "MCN+boxes", "STRONG (paper)"}
    assert pairs_of(claim, there) == [
        ("STRONG", "MCN", "ours"),
        ("STRONG", "MCN+boxes", "ours"),
        ("STRONG (paper)", "MCN", "paper"),
        ("STRONG (paper)", "MCN+boxes", "paper"),
    ]
    among = pairs_of(Claim("READ", "CTRL", "4.2"), {"READ", "CTRL", "READ+boxes", "CTRL+boxes"})
    assert among == [("READ", "CTRL", "ours"), ("READ+boxes", "CTRL+boxes", "ours")]
    rows = with_boxed_rows(["CTRL", "STRONG", "frame classifier", "nothing of this name"])
    assert rows == ["CTRL", "CTRL+boxes", "STRONG", "frame classifier", "nothing of this name"]


@pytest.mark.slow
def test_a_row_looks_through_the_boxes_of_a_finished_run_seed_by_seed(tmp_path, monkeypatch, ragged_store):
    monkeypatch.setattr("strong_envs.benchmarks.execution.job.run_matrix", here)
    settings = [word for setting in STRONG for word in ("--set", setting)]
    first, second = str(tmp_path / "strong"), str(tmp_path / "boxes")
    assert (
        main(["run", *SMALL, ragged_store, "--systems", "strong", "--budget", "0.001", "--out", first, *settings]) == 0
    )
    files = tracker_files(first)
    assert [Path(file).name.startswith(f"strong-s{seed}-") for seed, file in enumerate(files)] == [True, True]
    with pytest.raises(DataError, match="has no system 'trl'"):
        tracker_files(f"{first}:trl")
    words = [
        "run",
        *SMALL,
        ragged_store,
        "--systems",
        "mcn,mcn+boxes",
        "--budget",
        "0.02",
        "--out",
        second,
        "--boxes",
        first,
    ]
    assert main(words) == 0
    result = json.loads((Path(second) / "results.json").read_text())
    rows = {row["system"]: row for row in result["rows"]}
    assert [rows[name]["sees"] for name in ("mcn", "mcn+boxes")] == ["whole frames", "learned boxes"]
    assert "looks through the boxes of strong-s0-" in rows["mcn+boxes"]["note"]
    cells = [json.loads((Path(second) / "cells" / f"{key}.json").read_text()) for key in result["cells"]["mcn+boxes"]]
    assert [cell["options"]["boxes"] for cell in cells] == list(files)
    assert {cell["options"]["box_margin"] for cell in cells} == {margin_of(files[0])}
