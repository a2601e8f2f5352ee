"""Both levels linked: boxes go up, values come down; either level can be frozen, random, or given by the truth."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from strong_envs import SpatioTemporalCoupling
from strong_envs.features import DataError
from strong_envs.policies import as_policy


def critic(observation):
    return observation["local"][:, :1] * torch.arange(1.0, 8.0)


def pair(store, vector=False, **spatial):
    options = {"critic": critic, **spatial}
    if vector:
        make = lambda name, **o: gym.make_vec(name, num_envs=3, features=store, **o)  # noqa: E731
    else:
        make = lambda name, **o: gym.make(name, features=store, **o)  # noqa: E731
    return make("TemporalMoment-v0", boxes="initial"), make("SpatialTrack-v0", **options)


class Always:
    """A policy with `predict`, as in Stable-Baselines3; remembers how often it was asked."""

    def __init__(self, action):
        self.action, self.asked = action, 0

    def predict(self, observation, deterministic=True):
        self.asked += 1
        return np.full(len(observation["query"]), self.action), None


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize(("tracker", "boxes"), [("frozen", "initial"), ("truth", "truth")])
def test_given_boxes_show_what_the_same_source_shows(tracker, boxes, vector, ragged_store):
    levels = SpatioTemporalCoupling(*pair(ragged_store, vector), tracker=tracker)
    make = (
        (lambda **o: gym.make_vec("TemporalMoment-v0", num_envs=3, **o))
        if vector
        else (lambda **o: gym.make("TemporalMoment-v0", **o))
    )
    plain = make(features=ragged_store, boxes=boxes)
    actions = np.array([4, 0, 3]) if vector else 4
    shown, other = levels.reset(seed=5)[0], plain.reset(seed=5)[0]
    for _ in range(4):
        for key in other:
            np.testing.assert_allclose(shown[key], other[key], atol=1e-4)
        a, b = levels.step(actions), plain.step(actions)
        shown, other = a[0], b[0]
        np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("vector", [False, True])
def test_the_localiser_chooses_the_window(vector, ragged_store):
    def window(localiser):
        levels = SpatioTemporalCoupling(*pair(ragged_store, vector), localiser=localiser)
        options = {"sample": [4, 5, 6] if vector else 4}
        info = levels.spatial.reset(seed=0, options=options)[1]
        return np.atleast_2d(info["window"])[0], levels.temporal_task

    truth, task = window("truth")
    duration = float(task.bank.duration[task.bank.video[4]])
    np.testing.assert_allclose(truth, task.bank.truth[4, 0] * duration, atol=1e-6)
    np.testing.assert_allclose(window("frozen")[0], [duration / 4, 3 * duration / 4])
    # Twenty moves of the start backward: the first five move, the others are refused.
    np.testing.assert_allclose(window(Always(1))[0], [0, 3 * duration / 4], atol=1e-6)
    random = window("random")[0]
    assert 0 <= random[0] < random[1] <= duration


def test_a_policy_is_asked_once_a_sample_until_it_is_replaced(ragged_store):
    levels = SpatioTemporalCoupling(*pair(ragged_store), tracker=(tracker := Always(1)))
    levels.reset(options={"sample": 6})
    asked = tracker.asked
    assert asked == int(levels.temporal_task.n_frames[6])
    first = levels.temporal_task.local.boxes.clone()
    levels.reset(options={"sample": 6})
    assert tracker.asked == asked
    levels.set_tracker(Always(0))
    levels.reset(options={"sample": 6})
    assert not torch.equal(first, levels.temporal_task.local.boxes)
    rows = levels.temporal_task.local.rows
    others = torch.ones(len(first), dtype=torch.bool)
    others[rows[6] : rows[7]] = False
    assert torch.equal(first[others], levels.temporal_task.local.boxes[others])


def test_the_live_critic_pays(ragged_store):
    temporal, spatial = pair(ragged_store)
    levels = SpatioTemporalCoupling(temporal, spatial, critic=critic)

    def rewards():
        levels.spatial.reset(seed=0, options={"sample": 8})
        return [levels.spatial.step(1)[1] for _ in range(8)]

    paid = rewards()
    levels.set_critic(lambda observation: -critic(observation).flip(-1) + 100)
    assert any(paid) and rewards() != paid
    levels.set_critic(lambda observation: torch.zeros(len(observation["query"]), 7))
    assert not any(rewards())
    levels.set_critic(lambda observation: torch.zeros(len(observation["query"]), 3))
    with pytest.raises(DataError, match="the critic must return"):
        rewards()


def test_coupling_needs_no_critic_of_its_own(ragged_store):
    temporal, spatial = pair(ragged_store)
    levels = SpatioTemporalCoupling(temporal, spatial)
    levels.spatial.reset(seed=0)
    assert levels.spatial.step(0)[1] in (-1, 0, 1)


@pytest.mark.parametrize("name", ["tracker", "localiser"])
def test_a_name_that_is_none_is_refused(name, ragged_store):
    with pytest.raises(DataError, match=f"{name} must be one of"):
        SpatioTemporalCoupling(*pair(ragged_store), **{name: "oracle"})


def test_a_pyramid_does_not_couple(ragged_store):
    temporal = gym.make("TemporalMoment-v0", features=ragged_store, boxes="initial", spp_levels=(1, 2))
    with pytest.raises(DataError, match="spp_levels"):
        SpatioTemporalCoupling(temporal, pair(ragged_store)[1])


def test_any_policy_is_a_function_of_tensors():
    observation = {"query": torch.zeros(4, 3), "location": torch.zeros(4, 2)}

    class Flat(Always):
        observation_space = gym.spaces.Box(-1, 1, (5,))

        def predict(self, observation, deterministic=True):
            assert observation.shape == (4, 5) and isinstance(observation, np.ndarray)
            return np.full(4, 2), None

    class Acts:
        def act(self, observation):
            return torch.full((4,), 3)

    assert as_policy(Always(1), 7)(observation).tolist() == [1] * 4
    assert as_policy(Flat(0), 7)(observation).tolist() == [2] * 4
    assert as_policy(Acts(), 7)(observation).tolist() == [3] * 4
    assert as_policy(lambda o: torch.zeros(len(o["query"]), dtype=torch.int64), 7)(observation).tolist() == [0] * 4
    drawn = as_policy("random", 7)(observation)
    assert drawn.shape == (4,) and ((drawn >= 0) & (drawn < 7)).all()
    with pytest.raises(DataError, match="callable or have act"):
        as_policy(3, 7)


def test_a_policy_of_stable_baselines_walks_both_levels(ragged_store):
    sb3 = pytest.importorskip("stable_baselines3")
    from strong_envs.adapters.sb3 import vec_env

    env = vec_env("SpatialTrack-v0", 2, features=ragged_store, reward="box_iou", flatten=True)
    tracker = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=16, policy_kwargs={"net_arch": [8]}, seed=0)
    levels = SpatioTemporalCoupling(*pair(ragged_store), tracker=tracker)
    shown, _ = levels.reset(seed=0)
    assert levels.observation_space.contains(shown)
