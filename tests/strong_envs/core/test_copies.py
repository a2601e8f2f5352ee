"""Environments that are copied, pickled, or made by libraries that try keywords."""

from __future__ import annotations

import copy
import json
import pickle

import gymnasium as gym
import numpy as np
import pytest

import strong_envs
from strong_envs.features import DataError

WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda env: pickle.loads(pickle.dumps(env))}
OPTIONS = {
    "TemporalMoment-v0": {},
    "SpatialTrack-v0": {"reward": "box_iou"},
    "TemporalOneShot-v0": {},
    "TemporalLook-v0": {},
}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", strong_envs.IDS)
def test_a_copy_of_a_vector_environment_goes_its_own_way(name, way, ragged_store):
    env = gym.make_vec(name, num_envs=3, features=ragged_store, **OPTIONS[name])
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.sample())
    twin = WAYS[way](env)
    for step in range(30):
        actions = env.action_space.sample()
        first, second = env.step(actions), twin.step(actions)
        assert_same(first[0], second[0])
        assert_same(env.unwrapped.state(), twin.unwrapped.state())
        for a, b in zip(first[1:4], second[1:4], strict=True):
            assert np.array_equal(a, b)
        if step == 10:
            for one in (env, twin):
                one.reset(options={"reset_mask": np.array([True, False, True])})
    here = {key: part.numpy().copy() for key, part in env.unwrapped.state().items()}
    twin.step(twin.action_space.sample())
    assert_same(here, env.unwrapped.state())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", strong_envs.IDS)
def test_a_copy_of_an_environment_goes_its_own_way(name, way, ragged_store):
    env = gym.make(name, features=ragged_store, **OPTIONS[name])
    env.action_space.seed(0)
    env.reset(seed=0)
    twin = WAYS[way](env)
    for _ in range(12):
        action = env.action_space.sample()
        first, second = env.step(action), twin.step(action)
        assert_same(first[0], second[0])
        assert first[1:4] == second[1:4]
        if first[2] or first[3]:
            assert_same(env.reset()[0], twin.reset()[0])


@pytest.mark.parametrize("name", strong_envs.IDS)
def test_a_spec_makes_the_environment_again(name, ragged_store):
    env = gym.make(name, features=ragged_store, **OPTIONS[name])
    assert json.loads(env.spec.to_json())["kwargs"]["features"] == ragged_store
    again = gym.make(copy.deepcopy(env.spec))
    assert again.unwrapped.bank is env.unwrapped.bank
    assert_same(again.reset(seed=5)[0], env.reset(seed=5)[0])


@pytest.mark.parametrize("name", strong_envs.IDS)
def test_an_unknown_keyword_is_a_type_error_too(name, ragged_store):
    """TorchRL passes ``frameskip`` and goes on without it after a TypeError of these words."""
    for make in (gym.make, gym.make_vec):
        with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'"):
            make(name, features=ragged_store, frameskip=1, **OPTIONS[name])
    wrong, meant = ("show", "shows") if name == "TemporalLook-v0" else ("boxs", "boxes")
    with pytest.raises(DataError, match=f"did you mean '{meant}'"):
        gym.make(name, features=ragged_store, **{wrong: "frame"}, **OPTIONS[name])
