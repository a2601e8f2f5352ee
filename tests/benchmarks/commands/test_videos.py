"""Videos of held-out queries that a seed draws: of a finished run, and of a saved system."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from finished_run import finished_run, prediction_of

from strong_envs import agents, features
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.commands.videos import drawn, strip
from strong_envs.rendering.viewer import CHOSEN_COLOUR, TRUE_COLOUR, Viewer


@pytest.fixture(scope="module")
def finished(ragged_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    finished_run(ragged_store, folder)
    return folder


def test_a_seed_draws_the_queries_and_each_gets_its_video_and_strip(finished, ragged_store, tmp_path, capsys):
    arguments = ["videos", str(finished), "--system", "good", "--count", "2", "--draw", "3", "--out", str(tmp_path)]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "videos.json").read_text())
    bank = features.load(ragged_store, "test")
    assert [v["query"] for v in told["videos"]] == [bank.qids[i] for i in drawn(bank, 2, 3)]
    for video in told["videos"]:
        sample = bank.qids.index(video["query"])
        mp4, png = (tmp_path / name for name in video["files"])
        clip = cv2.VideoCapture(str(mp4))
        assert int(clip.get(cv2.CAP_PROP_FRAME_COUNT)) == int(bank.n_frames[bank.video[sample]])
        assert cv2.imread(str(png)).shape[1] > 1000
        assert 0 <= video["coverage"] <= 1 and video["answer"][0] <= video["answer"][1]
    assert len({tuple(drawn(bank, 2, seed)) for seed in range(20)}) > 1
    strips = [cv2.imread(str(tmp_path / video["files"][1])) for video in told["videos"]]
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[1] == sum(strip.shape[1] // 2 for strip in strips), "both side by side, at half their size"
    half = cv2.resize(strips[1], (strips[1].shape[1] // 2, strips[1].shape[0] // 2), interpolation=cv2.INTER_AREA)
    assert (sheet[: half.shape[0], -half.shape[1] :] == half).all()


def test_a_strip_shows_both_boxes_only_of_a_system_that_tracks(ragged_store):
    bank = features.load(ragged_store, "test")
    viewer, frames = Viewer(bank), slice(64, 64 + 170)

    def colours(label):
        picture = strip(viewer, bank, prediction_of(bank, label, 0), 0, "")
        return {tuple(c) for c in np.unique(picture[frames].reshape(-1, 3), axis=0).tolist()}

    assert {TRUE_COLOUR, CHOSEN_COLOUR} <= colours("good")
    assert CHOSEN_COLOUR not in colours("random")


def test_a_saved_system_is_asked_about_a_store(ragged_store, tmp_path, capsys):
    system = agents.make("trl", features.load(ragged_store, "train"), budget=0.001)
    system.save(str(tmp_path / "trl.safetensors"))
    arguments = ["videos", str(tmp_path / "trl.safetensors"), "--features", ragged_store, "--count", "1"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "1 of 4 queries, seed 0" in capsys.readouterr().out
    for wrong, words in ((["--count", "0"], "must be 1 or more"), (["--test", "tset"], "has no split 'tset'")):
        assert main([*arguments, *wrong, "--out", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err
    assert main(["videos", str(tmp_path / "nothing")]) == 2
    assert "holds no results.json" in capsys.readouterr().err
