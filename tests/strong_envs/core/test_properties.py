"""No sequence of actions leaves the video or the frame, inverts a window, or yields a number that is not finite.

Here whole batches with automatic resets; tests/test_temporal_moment.py, test_spatial_track.py and test_vector.py have
the same of single episodes and of the temporal level.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from strong_envs.temporal.one_shot import TemporalOneShotEnv

COUNT = 4
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP]
end = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.5, 1.0]))


def all_finite(value):
    if isinstance(value, dict):
        return all(all_finite(part) for part in value.values())
    return np.isfinite(value).all()


def critic(observation):
    """Values that depend on the box, on the window and, by their size, on rounding."""
    signs = torch.tensor([1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.0])
    return observation["local"][:, :1] * signs + 100 * observation["location"][:, :1]


def attention_box(samples, frames):
    """A box that jumps."""
    low = 0.6 * (frames % 2).to(torch.float32)[:, None].expand(-1, 2)
    return torch.cat((low, low + 0.3), -1)


@settings(max_examples=25, deadline=None)
@given(
    actions=st.lists(st.lists(st.integers(0, 10), min_size=COUNT, max_size=COUNT), min_size=1, max_size=25),
    seed=st.integers(0, 1000),
    mode=st.sampled_from(MODES),
    window=st.sampled_from(["initial", "truth", "random", "whole"]),
    reward=st.sampled_from(["q_value", "signed_q", "q_error", "attention_box", "box_iou"]),
    moves=st.sampled_from([1, 3]),
)
def test_batches_of_the_spatial_level(ragged_store, actions, seed, mode, window, reward, moves):
    env = gym.make_vec(
        "SpatialTrack-v0", num_envs=COUNT, features=ragged_store, critic=critic, attention_box=attention_box,
        window=window,
        reward=reward, box_moves="symmetric", actions_per_frame=moves, autoreset_mode=mode, flatten=True,
    )  # fmt: skip
    env.reset(seed=seed)
    for action in actions:
        shown, paid, _terminated, truncated, info = env.step(np.array(action))
        low, high = info["box"][:, :2], info["box"][:, 2:]
        assert (low >= -1e-9).all() and (low < high).all() and (high <= 1 + 1e-9).all()
        walk, duration = env.unwrapped.walk, env.unwrapped.bank.duration[env.unwrapped.bank.video[env.unwrapped.sample]]
        assert (walk.first < walk.last).all() and (walk.first <= walk.frame).all() and (walk.frame <= walk.last).all()
        start, stop = info["window"].T
        assert (start >= 0).all() and (start < stop).all() and (stop <= duration.numpy() + 1e-9).all()
        assert all_finite(info) and np.isin(paid, (-1, 0, 1)).all() and not truncated.any()
        assert env.observation_space.contains(shown)
        assert (info["box_iou"] >= 0).all() and (info["coverage"] <= 1 + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(
    actions=st.lists(st.lists(st.tuples(end, end), min_size=COUNT, max_size=COUNT), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    mode=st.sampled_from(MODES),
    iou=st.sampled_from(["signed", "clamped", "legacy"]),
)
def test_batches_of_one_shot(ragged_store, actions, seed, mode, iou):
    env = gym.make_vec(
        "TemporalOneShot-v0", num_envs=COUNT, features=ragged_store, autoreset_mode=mode, iou=iou, flatten=True
    )
    shown, _ = env.reset(seed=seed)
    for action in actions:
        given = np.array(action, np.float32)
        bank = env.unwrapped.bank
        duration = bank.duration[bank.video[env.unwrapped.sample]].numpy()
        shown, paid, terminated, truncated, info = env.step(given)
        assert np.isfinite(paid).all() and (abs(paid) <= 1 + 1e-6).all() and not truncated.any()
        assert env.observation_space.contains(shown)
        told = info.get("final_info")
        if told is not None:
            assert terminated.all() and (told["tiou"] >= 0).all() and (told["tiou"] <= 1).all()
            start, stop = told["span"].T
            assert (start >= 0).all() and (start <= stop).all() and (stop <= duration + 1e-9).all()
            assert all_finite(info["final_obs"]) and all_finite(told)


@settings(max_examples=40, deadline=None)
@given(action=st.tuples(end, end), sample=st.integers(0, 11), parts=st.integers(1, 20))
def test_one_answer(ragged_store, action, sample, parts):
    env = TemporalOneShotEnv(ragged_store, parts=parts)
    shown, info = env.reset(seed=0, options={"sample": sample})
    assert env.observation_space.contains(shown) and info["span"].tolist() == [0, 0]
    shown, reward, terminated, truncated, info = env.step(np.array(action, np.float32))
    start, stop = info["span"]
    assert 0 <= start <= stop <= float(env.bank.duration[env.bank.video[sample]]) + 1e-9
    assert 0 <= reward <= 1 and terminated and not truncated and env.observation_space.contains(shown)
