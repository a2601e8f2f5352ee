"""Episodes on disk: our recorder, and Gymnasium's where its dependency is there."""

from __future__ import annotations

import importlib.util

import cv2
import gymnasium as gym
import pytest

import strong_envs  # noqa: F401 (registers the ids)
from strong_envs.features import DataError
from strong_envs.rendering.recorder import Recorder


def frames_of(path):
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    size = (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return count, size, fps


def test_every_second_episode_becomes_a_file(ragged_store, tmp_path):
    env = gym.make("TemporalMoment-v0", features=ragged_store, render_mode="rgb_array", max_steps=3)
    env = Recorder(env, tmp_path / "new" / "videos", episodes=2)
    for _ in range(4):
        env.reset(seed=0)
        while not any(env.step(4)[2:4]):
            pass
    assert [file.name for file in env.files] == ["episode-000000.mp4", "episode-000002.mp4"]
    assert frames_of(env.files[0]) == (4, (480, 360), 4.0)
    env.reset()
    env.step(4)
    env.close()
    assert len(env.files) == 3 and frames_of(env.files[2])[0] == 2
    assert sorted(path.name for path in (tmp_path / "new" / "videos").iterdir()) == [f.name for f in env.files]


def test_episodes_can_be_chosen_by_a_function(ragged_store, tmp_path):
    env = gym.make("SpatialTrack-v0", features=ragged_store, reward="box_iou", render_mode="rgb_array")
    with Recorder(env, tmp_path, episodes=lambda number: number == 1, name="track", fps=7) as env:
        for _ in range(3):
            env.reset(options={"sample": 2})
            env.step(0)
    assert [file.name for file in env.files] == ["track-000001.mp4"] and frames_of(env.files[0])[2] == 7


def test_what_cannot_be_recorded_is_explained(ragged_store, tmp_path):
    blind = gym.make("TemporalMoment-v0", features=ragged_store)
    with pytest.raises(DataError, match="render_mode='rgb_array'"):
        Recorder(blind, tmp_path)
    env = gym.make("TemporalMoment-v0", features=ragged_store, render_mode="rgb_array")
    for options in ({"episodes": 0}, {"fps": 0}):
        with pytest.raises(DataError, match="must be"):
            Recorder(env, tmp_path, **options)


def test_pictures_pile_up_in_a_list(ragged_store):
    env = gym.make("TemporalMoment-v0", features=ragged_store, render_mode="rgb_array_list")
    env.reset(seed=0)
    env.step(4), env.step(4)
    assert len(env.render()) == 3


@pytest.mark.skipif(importlib.util.find_spec("moviepy") is None, reason="RecordVideo needs moviepy")
def test_gymnasiums_recorder_works(ragged_store, tmp_path):
    env = gym.make("TemporalMoment-v0", features=ragged_store, render_mode="rgb_array", max_steps=3)
    env = gym.wrappers.RecordVideo(env, str(tmp_path), disable_logger=True)
    env.reset(seed=0)
    while not any(env.step(4)[2:4]):
        pass
    env.close()
    assert frames_of(next(tmp_path.glob("*.mp4")))[1] == (480, 360)
