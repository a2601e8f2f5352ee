"""Libraries of the field themselves, where a test beside the code uses a stand-in or none."""

from __future__ import annotations

import csv

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import strong_envs
from strong_envs.benchmarks.cli import main

IDS = list(strong_envs.IDS)


def act(env: gym.Env, episodes: int) -> None:
    """Whole episodes of random actions."""
    env.action_space.seed(0)
    for episode in range(episodes):
        env.reset(seed=episode)
        ended = False
        while not ended:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            ended = terminated or truncated


@pytest.mark.parametrize("name", IDS)
def test_minari_records_episodes_with_their_information(name, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="minari is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    recorder = minari.DataCollector(gym.make(name), record_infos=True)
    act(recorder, 3)
    dataset = recorder.create_dataset(f"{name.lower().removesuffix('-v0')}/random-v0", algorithm_name="random")
    episodes = list(dataset.iterate_episodes())
    assert len(episodes) == dataset.total_episodes == 3
    for episode in episodes:
        assert len(episode.rewards) and {len(x) for x in episode.infos.values()} == {len(episode.rewards) + 1}
        assert all(isinstance(values, np.ndarray) for values in episode.infos.values())


@pytest.mark.parametrize("name", IDS)
def test_tianshou_stores_and_samples_transitions(name):
    data = pytest.importorskip("tianshou.data", reason="tianshou is not installed")
    env, buffer = gym.make(name), data.ReplayBuffer(64)
    env.action_space.seed(0)
    observation, info = env.reset(seed=0)
    for _ in range(40):
        action = env.action_space.sample()
        following, reward, terminated, truncated, info = env.step(action)
        ends = {"terminated": terminated, "truncated": truncated}
        buffer.add(data.Batch(obs=observation, act=action, rew=reward, obs_next=following, info=info, **ends))
        observation, info = env.reset() if terminated or truncated else (following, info)
    sampled, _ = buffer.sample(16)
    assert len(sampled) == 16 and set(sampled.info.keys()) >= set(info)
    assert all(value.shape[0] == 16 and value.dtype != object for value in sampled.info.values())


@pytest.mark.parametrize("name", IDS)
def test_torchrl_agrees_with_its_specification(name):
    envs = pytest.importorskip("torchrl.envs", reason="torchrl is not installed")
    from torchrl.envs.utils import check_env_specs

    check_env_specs(envs.GymWrapper(gym.make(name)))
    many = gym.make_vec(name, num_envs=3, autoreset_mode=AutoresetMode.DISABLED)
    many = envs.GymWrapper(many)
    check_env_specs(many)
    assert many.rollout(5, break_when_any_done=False).shape == (3, 5)


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
