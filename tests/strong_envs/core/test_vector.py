"""The vector environments: the three ways to reset, masks, seeds, statistics, output, and videos of any length."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from random_stores import random_store

import strong_envs
from strong_envs.features import DataError

SPATIAL = {"reward": "box_iou", "window": "random"}
LEVELS = {"TemporalMoment-v0": {"max_steps": 6}, "SpatialTrack-v0": SPATIAL}
MODES = (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED)


def make(name, store, count=3, **options):
    return gym.make_vec(name, num_envs=count, features=store, **{**LEVELS[name], **options})


def rows(observation, i):
    return {key: value[i] for key, value in observation.items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], atol=1e-4)


@pytest.mark.parametrize("observation", ["features", "index"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LEVELS)
def test_every_way_to_reset_equals_the_scalar_environment(name, mode, observation, ragged_store):
    """Four environments, rollouts over several episodes, each against a scalar one that is reset by hand."""
    count = 4
    vector = make(name, ragged_store, count, autoreset_mode=mode, observation=observation)
    singles = [
        gym.make(name, features=ragged_store, observation=observation, **LEVELS[name]).unwrapped for _ in range(count)
    ]
    shown, _ = vector.reset(seed=[11, 5, 7, 8])
    alone = [env.reset(seed=seed)[0] for env, seed in zip(singles, [11, 5, 7, 8], strict=True)]
    ended = np.zeros(count, bool)
    rng, episodes = np.random.default_rng(1), 0
    for _ in range(25):
        actions = rng.integers(0, vector.single_action_space.n, count)
        if mode == AutoresetMode.DISABLED and ended.any():
            shown, _ = vector.reset(options={"reset_mask": ended})
            for i in np.flatnonzero(ended):
                alone[i] = singles[i].reset()[0]
            ended = np.zeros(count, bool)
            for i in range(count):
                assert_same(rows(shown, i), alone[i])
        shown, reward, terminated, truncated, info = vector.step(actions)
        for i, env in enumerate(singles):
            if mode == AutoresetMode.NEXT_STEP and ended[i]:
                assert (reward[i], terminated[i], truncated[i]) == (0, False, False)
                ended[i] = False
                alone[i] = env.reset()[0]
            else:
                alone[i], r, done, cut, _ = env.step(int(actions[i]))
                assert (r, done, cut) == (reward[i], terminated[i], truncated[i])
                episodes += done or cut
                if mode == AutoresetMode.SAME_STEP and (done or cut):
                    assert_same(rows(info["final_obs"], i), alone[i])
                    alone[i] = env.reset()[0]
                else:
                    ended[i] = done or cut
            assert_same(rows(shown, i), alone[i])
    assert episodes > 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LEVELS)
def test_videos_from_one_to_five_thousand_frames(name, mode, tmp_path):
    """The longest video at the end of the store, so that one row too far would be noticed."""
    store = random_store(tmp_path / "long", [1, 2, 3, 40, 5000])
    env = make(name, str(store.path), 10, autoreset_mode=mode, output="torch")
    env.reset(seed=0, options={"sample": np.arange(10) % len(env.bank)})
    if name == "SpatialTrack-v0":
        duration = env.bank.duration[env.bank.video].numpy()
        frames = env.bank.n_frames[env.bank.video].numpy()
        tail = np.stack([duration * np.maximum(frames - 3, 0) / frames, duration], 1)
        sample = np.arange(10) % len(env.bank)
        env.reset(options={"sample": sample, "span": tail[sample]})
    done = torch.zeros(10, dtype=torch.bool)
    for step in range(12):
        if mode == AutoresetMode.DISABLED and done.any():
            env.reset(options={"reset_mask": done.numpy()})
        shown, reward, terminated, truncated, _ = env.step(np.full(10, step % 5))
        done = terminated | truncated
        for part in (*shown.values(), reward):
            assert torch.isfinite(part).all()


def test_a_mask_leaves_the_others_alone(ragged_store):
    env = make("TemporalMoment-v0", ragged_store, autoreset_mode=AutoresetMode.DISABLED)
    _before, _ = env.reset(seed=0)
    env.step(np.array([4, 0, 2]))
    samples, start = env.sample.clone(), env.start.clone()
    mask = np.array([False, True, False])
    after, info = env.reset(seed=[None, 9, None], options={"reset_mask": mask, "sample": 1, "span": (0.1, 0.2)})
    assert env.sample.tolist() == [samples[0], 1, samples[2]]
    assert env.start[[0, 2]].tolist() == start[[0, 2]].tolist() and env.t.tolist() == [1, 0, 1]
    assert info["span"][1] == pytest.approx((0.1, 0.2))
    assert env.observation_space.contains(after)


def test_a_seed_of_none_in_a_list_keeps_the_generator(ragged_store):
    kept, fresh = (make("TemporalMoment-v0", ragged_store) for _ in range(2))
    kept.reset(seed=[1, 2, 3])
    fresh.reset(seed=[1, 2, 3])
    kept.reset(seed=[None, None, 50])
    fresh.reset()
    assert kept.sample[:2].tolist() == fresh.sample[:2].tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"smaple": 1}, "did you mean 'sample'"),
        ({"reset_mask": [True, False]}, "3 bools"),
        ({"reset_mask": np.array([1, 0, 0])}, "3 bools"),
        ({"sample": [0, 1]}, "sample.*3"),
        ({"sample": 1.5}, "sample.*whole number"),
        ({"sample": -1}, "must lie in"),
        ({"span": (1.0, 0.5)}, "start < end"),
        ({"span": (0.0, float("nan"))}, "start < end"),
        ({"span": [1.0, 2.0, 3.0]}, "span.*must be"),
    ],
)
def test_reset_options_that_cannot_be_are_explained(options, words, ragged_store):
    env = make("TemporalMoment-v0", ragged_store)
    env.reset(seed=0)
    before = env.sample.clone(), env.start.clone(), env.t.clone()
    with pytest.raises(DataError, match=words):
        env.reset(options=options)
    assert all(torch.equal(x, y) for x, y in zip(before, (env.sample, env.start, env.t), strict=True))
    with pytest.raises(DataError, match="seed.*3"):
        env.reset(seed=[1, 2])


@pytest.mark.parametrize(
    ("actions", "words"),
    [([0, 1], "shape"), ([0, 1, 7], "lie in"), ([0, -1, 2], "lie in"), ([0.5, 1.0, 2.0], "integers"), (3, "shape")],
)
def test_actions_that_cannot_be_are_explained(actions, words, ragged_store):
    env = make("TemporalMoment-v0", ragged_store)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(np.zeros(3, int))
    env.reset(seed=0)
    with pytest.raises(DataError, match=words):
        env.step(np.array(actions))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output": "jax"}, "output must be one of"),
        ({"observation": "indices"}, "observation must be one of"),
        ({"observation": "index", "flatten": True}, "no flat form"),
        ({"autoreset_mode": "sometimes"}, "autoreset_mode must be one of"),
        ({"render_mode": "sepia"}, "render_mode"),
    ],
)
def test_arguments_that_cannot_be_are_explained(options, words, ragged_store):
    with pytest.raises(DataError, match=words):
        make("TemporalMoment-v0", ragged_store, **options)


@pytest.mark.parametrize("name", LEVELS)
def test_episode_statistics_add_up(name, ragged_store):
    env = make(name, ragged_store, 5, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    totals, lengths, rng, seen = np.zeros(5), np.zeros(5, int), np.random.default_rng(0), 0
    for _ in range(30):
        _, reward, terminated, truncated, info = env.step(rng.integers(0, env.single_action_space.n, 5))
        totals, lengths = totals + reward, lengths + 1
        done = terminated | truncated
        assert ("episode" in info) == done.any()
        if done.any():
            assert info["_episode"].tolist() == done.tolist() == info["_final_obs"].tolist()
            np.testing.assert_allclose(info["episode"]["r"], np.where(done, totals, 0), atol=1e-5)
            assert info["episode"]["l"].tolist() == np.where(done, lengths, 0).tolist()
            assert (info["episode"]["t"][done] > 0).all()
            for value in info["final_obs"].values():
                assert value.shape[0] == 5 and np.isfinite(value).all()
            assert {"tiou", "span"} <= info["final_info"].keys() or "box" in info["final_info"]
        totals, lengths, seen = np.where(done, 0, totals), np.where(done, 0, lengths), seen + done.sum()
    assert seen > 5


def test_what_was_returned_is_the_callers(ragged_store):
    """Writing into an observation, or stepping on, changes nothing that was handed out or held inside."""
    for observation in ("features", "index"):
        one, two = (make("TemporalMoment-v0", ragged_store, observation=observation) for _ in range(2))
        shown, _ = one.reset(seed=0)
        kept = {key: value.copy() for key, value in two.reset(seed=0)[0].items()}
        for action in (4, 5, 0, 1, 4):
            for value in shown.values():
                value[...] = 0
            # Nobody holds what was written into, so an environment that reuses memory would show it.
            del shown, value
            shown, *_ = one.step(np.full(3, action))
            other, *_ = two.step(np.full(3, action))
            assert_same(shown, other)
        fresh, _ = two.reset(seed=0)
        assert_same(fresh, kept)


def test_torch_output_is_the_same_numbers(ragged_store):
    plain, tensors = (make("TemporalMoment-v0", ragged_store, output=output) for output in ("numpy", "torch"))
    plain.reset(seed=0), tensors.reset(seed=0)
    for action in (0, 4, 6):
        a, b = plain.step(np.full(3, action)), tensors.step(torch.full((3,), action))
        assert all(isinstance(part, torch.Tensor) for part in (*b[0].values(), *b[1:4]))
        assert_same(a[0], {key: value.numpy() for key, value in b[0].items()})
        assert [x.tolist() for x in a[1:4]] == [x.tolist() for x in b[1:4]]


def test_observations_lie_in_their_space(ragged_store):
    for name, options in LEVELS.items():
        for extra in ({}, {"flatten": True}, {"observation": "index"}):
            env = gym.make_vec(name, num_envs=3, features=ragged_store, **{**options, **extra})
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert env.observation_space.contains(env.reset(seed=0)[0])
                for action in range(8):
                    shown, *_ = env.step(np.full(3, min(action, env.single_action_space.n - 1)))
                    assert env.observation_space.contains(shown)


def test_gymnasiums_vector_wrappers_work(ragged_store):
    from gymnasium.wrappers.vector import FlattenObservation, RecordEpisodeStatistics, TransformReward

    # Gymnasium's observation wrappers do not take SAME_STEP.
    env = make("TemporalMoment-v0", ragged_store, max_steps=2, autoreset_mode=AutoresetMode.NEXT_STEP)
    env = FlattenObservation(TransformReward(RecordEpisodeStatistics(env, stats_key="statistics"), lambda r: 2 * r))
    shown, _ = env.reset(seed=0)
    assert env.observation_space.contains(shown)
    env.step(np.zeros(3, int))
    shown, _reward, _, truncated, info = env.step(np.zeros(3, int))
    assert truncated.all() and info["statistics"]["l"].tolist() == info["episode"]["l"].tolist() == [2, 2, 2]
    np.testing.assert_allclose(info["statistics"]["r"], info["episode"]["r"], atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    actions=st.lists(st.lists(st.integers(0, 18), min_size=4, max_size=4), min_size=1, max_size=25),
    seed=st.integers(0, 1000),
    mode=st.sampled_from(MODES[:2]),
)
def test_no_sequence_of_actions_breaks_a_batch(ragged_store, actions, seed, mode):
    env = make("TemporalMoment-v0", ragged_store, 4, multi_scale=True, autoreset_mode=mode, flatten=True)
    env.reset(seed=seed)
    for action in actions:
        shown, reward, terminated, truncated, info = env.step(np.array(action))
        duration = env.bank.duration[env.bank.video[env.sample]].numpy()
        assert np.isfinite(shown).all() and np.isfinite(reward).all() and not (terminated & truncated).any()
        assert (info["span"][:, 0] >= 0).all() and (info["span"][:, 0] < info["span"][:, 1]).all()
        assert (info["span"][:, 1] <= duration + 1e-9).all() and (info["tiou"] >= 0).all() and (info["tiou"] <= 1).all()
        assert env.observation_space.contains(shown)


@pytest.mark.parametrize("name", LEVELS)
def test_a_flat_observation_is_the_parts_in_a_row(name, ragged_store):
    parts, flat = (make(name, ragged_store, flatten=flatten) for flatten in (False, True))
    scalar = gym.make(name, features=ragged_store, flatten=True, **LEVELS[name])
    shown, row = parts.reset(seed=2)[0], flat.reset(seed=2)[0]
    one = scalar.reset(seed=2)[0]
    for action in (0, 2, 3, 1):
        np.testing.assert_allclose(row, np.concatenate(list(shown.values()), 1), atol=1e-6)
        np.testing.assert_allclose(row[0], one, atol=1e-5)
        shown, *_ = parts.step(np.full(3, action))
        row, _, terminated, truncated, _ = flat.step(np.full(3, action))
        one, *_ = scalar.step(action)
        if (terminated | truncated)[0]:
            one, _ = scalar.reset()


@pytest.mark.parametrize("name", strong_envs.IDS)
def test_the_pages_of_the_vector_environments_name_their_arguments(name):
    import importlib
    import inspect

    own, own_cls = strong_envs.IDS[name][0].split(":")
    module, cls = strong_envs.IDS[name][1].split(":")
    vector = getattr(importlib.import_module(f"strong_envs.{module}"), cls)
    shared = importlib.import_module("strong_envs.temporal.env").TemporalMomentVectorEnv
    scalar = getattr(importlib.import_module(f"strong_envs.{own}"), own_cls)
    page = vector.__doc__ + shared.__doc__ + scalar.__doc__
    for argument in inspect.signature(vector.__init__).parameters:
        if argument not in ("self", "arguments", "max_episode_steps"):
            assert f"`{argument}" in page, argument
