"""The two levels as two agents; skipped where PettingZoo is absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("pettingzoo")

from pettingzoo.test import api_test, parallel_api_test, seed_test

from strong_envs.adapters import pettingzoo as two_levels
from strong_envs.adapters.pettingzoo import SPATIAL, TEMPORAL, TwoLevelsEnv


def make(store, **options):
    return TwoLevelsEnv(store, **{"flatten": True, "spatial": {"reward": "box_iou"}, **options})


@pytest.mark.filterwarnings("ignore::UserWarning")  # names without a number; observations of two sizes
def test_pettingzoos_own_tests(ragged_store):
    api_test(make(ragged_store), num_cycles=100)
    seed_test(lambda: make(ragged_store), num_cycles=50)


def test_the_boxes_of_one_level_are_what_the_other_sees(ragged_store):
    env = make(ragged_store, flatten=False)
    env.reset(seed=0, options={"sample": 4})
    assert env.agent_selection == SPATIAL
    before = env.observe(TEMPORAL)["local"]
    order, track = [], []
    for agent in env.agent_iter():
        _observation, _reward, terminated, truncated, _info = env.last()
        order.append(agent)
        if agent == SPATIAL:
            track = [box for _, box in env.spatial.path]
        env.step(None if terminated or truncated else 0 if agent == SPATIAL else 4)
    turn = order.index(TEMPORAL)
    assert set(order[:turn]) == {SPATIAL} and set(order[turn:]) == {TEMPORAL} and not env.agents
    local = env.temporal.task.local
    placed = local.boxes[local.rows[4] : local.rows[5]]
    assert torch.allclose(placed, torch.tensor(track), atol=1e-6)
    env.reset(options={"sample": 4})
    assert np.allclose(env.observe(TEMPORAL)["local"], before, atol=1e-5)


def test_each_agent_is_paid_by_its_level(ragged_store):
    env = make(ragged_store, temporal={"phi": 0.5})
    env.reset(seed=1)
    alone = env.spatial
    while env.agent_selection == SPATIAL:
        reward = env.last()[1]
        dead = env.terminations[SPATIAL]
        env.step(None if dead else 8)
        assert dead or reward == 0.0
    assert alone.last_reward == 0.0
    env.step(6)
    assert env.terminations[TEMPORAL] and env.rewards[TEMPORAL] == 0.0
    assert env.infos[TEMPORAL]["sample"] == int(env.spatial.walk.sample)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_entry_points_of_pettingzoo(ragged_store):
    options = {"flatten": True, "spatial": {"reward": "box_iou"}}
    api_test(two_levels.env(ragged_store, **options), num_cycles=60)
    parallel_api_test(two_levels.parallel_env(ragged_store, **options), num_cycles=60)
    together = two_levels.parallel_env(ragged_store, **options)
    _, infos = together.reset(seed=0, options={"sample": 4})
    assert set(together.agents) == {SPATIAL, TEMPORAL} == set(infos)
    turns = []
    while together.agents:
        *_, infos = together.step({agent: 6 if agent == TEMPORAL else 0 for agent in together.agents})
        turns += [info["active_agent"] for info in infos.values() if "active_agent" in info]
    assert turns[-1] == TEMPORAL


@pytest.mark.parametrize("flatten", [False, True])
def test_the_state_is_what_both_see(flatten, ragged_store):
    env = make(ragged_store, flatten=flatten)
    env.reset(seed=0)
    first = env.state()
    assert first in env.state_space and first.dtype == np.float32
    env.step(0)
    assert env.state().shape == first.shape and not np.array_equal(env.state(), first)
    if flatten:
        assert np.array_equal(env.state(), np.concatenate([env.observe(SPATIAL), env.observe(TEMPORAL)]))
