"""`TemporalOneShot-v0`: one action names the window, its overlap is the reward."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

import strong_envs  # noqa: F401 (registers the ids)
from strong_envs.features import DataError
from strong_envs.temporal.one_shot import TemporalOneShotEnv


@pytest.mark.parametrize("flatten", [False, True])
def test_checkers_have_nothing_to_say(flatten, ragged_store):
    from stable_baselines3.common.env_checker import check_env as sb3_check

    env = TemporalOneShotEnv(ragged_store, flatten=flatten)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The action is a pair of fractions; SB3 would rather have [-1, 1].
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")
        check_env(env, skip_render_check=True)
        sb3_check(env)


def test_the_truth_pays_one_in_either_order(ragged_store):
    env = gym.make("TemporalOneShot-v0", features=ragged_store)
    bank = env.unwrapped.bank
    for sample in range(len(bank)):
        truth = bank.truth[sample, 0].numpy()
        for ends in (truth, truth[::-1]):
            _, info = env.reset(options={"sample": sample})
            assert info["tiou"] == 0 and info["span"].tolist() == [0, 0]
            _, reward, terminated, truncated, info = env.step(ends.astype(np.float32))
            assert reward == pytest.approx(1, abs=1e-4) and terminated and not truncated
            assert info["span"] == pytest.approx(info["true_span"], abs=1e-3)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(truth.astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 11), st.floats(0, 1), st.floats(0, 1))
def test_the_reward_is_the_overlap(ragged_store, sample, a, b):
    env = TemporalOneShotEnv(ragged_store)
    a, b = float(np.float32(a)), float(np.float32(b))
    env.reset(options={"sample": sample})
    shown, reward, *_ = env.step(np.array([a, b], np.float32))
    low, high = min(a, b), max(a, b)
    best = 0.0
    for start, end in env.bank.truth[sample].tolist():
        overlap = max(min(high, end) - max(low, start), 0)
        best = max(best, overlap / (max(high, end) - min(low, start)))
    assert reward == pytest.approx(best, abs=1e-5) and env.observation_space.contains(shown)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_scalar_equals_vector(mode, ragged_store):
    vector = gym.make_vec("TemporalOneShot-v0", num_envs=3, features=ragged_store, autoreset_mode=mode)
    singles = [TemporalOneShotEnv(ragged_store) for _ in range(3)]
    shown, _ = vector.reset(seed=4)
    alone = [env.reset(seed=4 + i)[0] for i, env in enumerate(singles)]
    rng = np.random.default_rng(0)
    for _ in range(6):
        for i in range(3):
            for key in shown:
                np.testing.assert_array_equal(shown[key][i], alone[i][key])
        actions = rng.uniform(0, 1, (3, 2)).astype(np.float32)
        shown, reward, terminated, truncated, info = vector.step(actions)
        assert reward.tolist() == pytest.approx([env.step(a)[1] for env, a in zip(singles, actions, strict=True)])
        assert terminated.all() and not truncated.any()
        alone = [env.reset()[0] for env in singles]
        if mode == AutoresetMode.NEXT_STEP:
            shown, reward, terminated, *_ = vector.step(actions)
            assert not reward.any() and not terminated.any()
        elif mode == AutoresetMode.DISABLED:
            shown, _ = vector.reset(options={"reset_mask": np.ones(3, bool)})
        else:
            assert info["_final_obs"].all() and np.allclose(info["final_info"]["tiou"], reward, atol=1e-6)


def test_the_parts_of_the_video_are_shown(ragged_store):
    env = TemporalOneShotEnv(ragged_store, parts=4, split="test")
    bank = env.bank
    shown, _ = env.reset(options={"sample": 0})
    video = int(bank.video[0])
    rows = bank.frames[bank.offsets[video] : bank.offsets[video + 1]]
    assert len(rows) == 20
    want = torch.stack([rows[5 * k : 5 * k + 5].mean(0) for k in range(4)]).flatten()
    np.testing.assert_allclose(shown["parts"], want, atol=1e-5)


def test_many_answers_of_one_sample_are_paid_at_once(ragged_store):
    env = gym.make_vec("TemporalOneShot-v0", num_envs=2, features=ragged_store)
    windows = torch.rand(5, 8, 2, generator=torch.Generator().manual_seed(0))
    samples = torch.arange(5)[:, None].expand(5, 8)
    pay = env.score(samples, windows)
    single = TemporalOneShotEnv(ragged_store)
    single.reset(options={"sample": 3})
    assert pay.shape == (5, 8) and single.step(windows[3, 7].numpy())[1] == pytest.approx(float(pay[3, 7]), abs=1e-6)


@pytest.mark.parametrize("action", [[0.1, float("nan")], [0.1], 0.5])
def test_actions_that_cannot_be_are_explained(action, ragged_store):
    env = TemporalOneShotEnv(ragged_store)
    env.reset(seed=0)
    with pytest.raises(DataError, match="two numbers in"):
        env.step(np.array(action, np.float32))
    many = gym.make_vec("TemporalOneShot-v0", num_envs=2, features=ragged_store)
    many.reset(seed=0)
    with pytest.raises(DataError, match="actions must"):
        many.step(np.array([action, action], np.float32))
