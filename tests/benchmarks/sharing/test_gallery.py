"""``strong-envs gallery``: every registered environment gets a GIF, as small as it has to be, that shows an episode."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import strong_envs
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.sharing import gallery
from strong_envs.benchmarks.sharing.gallery import MOST_BYTES
from strong_envs.demonstrations import DEMONSTRATIONS, at_random, demonstration, look_ahead, name_the_truth
from strong_envs.features import DataError
from strong_envs.rendering.gif import write_gif


def test_the_command_writes_a_gif_of_every_environment(tmp_path, capsys):
    assert main(["gallery", "--episodes", "1", "--out", str(tmp_path), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert [entry["id"] for entry in written] == list(strong_envs.IDS)
    for entry in written:
        with Image.open(entry["file"]) as gif:
            assert gif.size == (480, 360) and gif.n_frames >= 2 and gif.info["loop"] == 0
        assert entry["bytes"] < MOST_BYTES


def test_the_checked_in_gifs_are_small_and_one_an_environment():
    from pathlib import Path

    folder = Path(__file__).parents[3] / "docs" / "gallery"
    assert {file.stem for file in folder.glob("*.gif")} == set(strong_envs.IDS)
    assert all(file.stat().st_size < 500_000 for file in folder.glob("*.gif"))


def test_a_gif_that_is_too_large_replaces_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_BYTES", 1000)
    (tmp_path / "TemporalOneShot-v0.gif").write_bytes(b"old")
    words = ["gallery", "--env", "TemporalOneShot-v0", "--episodes", "1", "--out", str(tmp_path)]
    assert main(words) == 2
    assert "more than 1,000; take fewer --episodes" in capsys.readouterr().err
    assert (tmp_path / "TemporalOneShot-v0.gif").read_bytes() == b"old"


def test_bad_arguments_are_one_sentence(tmp_path, capsys):
    assert main(["gallery", "--episodes", "0", "--out", str(tmp_path)]) == 2
    assert "--episodes must be 1 or more" in capsys.readouterr().err
    assert main(["gallery", "--env", "TemporalMoment-v1", "--out", str(tmp_path)]) == 2
    assert "did you mean 'TemporalMoment-v0'" in capsys.readouterr().err


def test_looking_ahead_ends_near_the_truth():
    policy, arguments = demonstration("TemporalMoment-v0")
    env = gym.make("TemporalMoment-v0", **arguments)
    for seed in range(5):
        _, info = env.reset(seed=seed)
        before, ended = float(info["tiou"]), False
        while not ended:
            *_, terminated, truncated, info = env.step(policy(env, info))
            ended = terminated or truncated
        assert info["tiou"] >= max(before, 0.6)


def test_the_true_window_is_paid_in_full():
    env = gym.make("TemporalOneShot-v0")
    _, info = env.reset(seed=1)
    assert env.step(name_the_truth(env, info))[1] == pytest.approx(1.0)


def test_an_environment_without_a_demonstration_is_acted_at_random():
    assert demonstration("Other-v0") == (at_random, {})
    env = gym.make("TemporalMoment-v0")
    _, info = env.reset(seed=0)
    env.action_space.seed(0)
    drawn = {at_random(env, info) for _ in range(60)}
    assert drawn == set(np.flatnonzero(env.unwrapped.action_masks()))
    assert set(strong_envs.IDS) <= set(DEMONSTRATIONS)


def test_looking_ahead_needs_discrete_actions():
    env = gym.make("TemporalOneShot-v0")
    _, info = env.reset(seed=0)
    with pytest.raises(DataError, match="needs discrete actions"):
        look_ahead(env, info)


def test_gifs_keep_colours_and_times(tmp_path):
    red, blue = (np.full((20, 30, 3), colour, np.uint8) for colour in ((200, 40, 40), (40, 40, 200)))
    red[3:6, 3:6] = (255, 255, 255)
    file = write_gif(tmp_path / "two.gif", [red, blue], [0.5, 1.0])
    with Image.open(file) as gif:
        assert gif.info["duration"] == 500
        first = np.asarray(gif.convert("RGB")).astype(int)
        gif.seek(1)
        assert gif.info["duration"] == 1000
        second = np.asarray(gif.convert("RGB")).astype(int)
    assert abs(first - red).max() < 10 and abs(second - blue).max() < 10


@pytest.mark.parametrize(
    ("pictures", "seconds", "words"),
    [
        ([], 0.1, "no pictures"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], 0.1, "of one size"),
        ([np.zeros((4, 4, 3), np.uint8)], [0.1, 0.2], "one for each of 1 pictures; got 2"),
        ([np.zeros((4, 4, 3), np.uint8)], 0.0, "seconds must be a number above 0"),
    ],
)
def test_what_cannot_be_a_gif_is_refused(pictures, seconds, words, tmp_path):
    with pytest.raises(DataError, match=words):
        write_gif(tmp_path / "no.gif", pictures, seconds)
    assert not list(tmp_path.iterdir())
