"""The adapter for Stable-Baselines3: what its algorithms rely on, and four of them on it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from strong_envs.adapters.sb3 import BoxActions, BoxActionsVector, vec_env
from strong_envs.features import DataError

sb3 = pytest.importorskip("stable_baselines3")


@pytest.mark.parametrize("flatten", [False, True])
def test_rollouts_are_those_of_the_vector_environment(flatten, ragged_store):
    options = {"features": ragged_store, "flatten": flatten, "max_steps": 5}
    adapter = vec_env("TemporalMoment-v0", 3, **options)
    plain = gym.make_vec("TemporalMoment-v0", num_envs=3, autoreset_mode=AutoresetMode.SAME_STEP, **options)
    adapter.seed(7)
    shown, other = adapter.reset(), plain.reset(seed=7)[0]
    rng, kept, ended = np.random.default_rng(0), [], {"stop": 0, "limit": 0}

    def same(a, b):
        for key in a if isinstance(a, dict) else [...]:
            np.testing.assert_array_equal(a[key], b[key])

    def row(batch, i):
        return {key: value[i] for key, value in batch.items()} if isinstance(batch, dict) else batch[i]

    same(shown, other)
    for _ in range(30):
        actions = rng.integers(0, 7, 3)
        shown, reward, done, infos = adapter.step(actions)
        other, r, terminated, truncated, info = plain.step(actions)
        same(shown, other)
        assert reward.tolist() == r.tolist() and done.tolist() == (terminated | truncated).tolist()
        assert isinstance(infos, list) and len(infos) == 3
        for i in range(3):
            assert ("terminal_observation" in infos[i]) == bool(done[i])
            if done[i]:
                same(infos[i]["terminal_observation"], row(info["final_obs"], i))
                assert infos[i]["TimeLimit.truncated"] == (truncated[i] and not terminated[i])
                assert infos[i]["episode"]["l"] == info["episode"]["l"][i]
                assert infos[i]["tiou"] == info["final_info"]["tiou"][i]
                kept.append((infos[i]["terminal_observation"], row(info["final_obs"], i)))
                ended["limit" if infos[i]["TimeLimit.truncated"] else "stop"] += 1
    assert min(ended.values()) > 1
    for mine, original in kept:
        same(mine, original)


def test_it_answers_what_sb3_asks(ragged_store):
    from stable_baselines3.common.monitor import Monitor

    env = vec_env("TemporalMoment-v0", 4, features=ragged_store)
    assert env.env_is_wrapped(Monitor) == [True] * 4
    assert env.env_is_wrapped(BoxActionsVector) == [False] * 4
    assert env.get_attr("num_envs", indices=[0, 2]) == [4, 4]
    assert env.get_attr("render_mode") == [None] * 4
    env.set_attr("label", "x")
    assert env.get_attr("label") == ["x"] * 4
    with pytest.raises(AttributeError, match="no 'colour'"):
        env.get_attr("colour")
    env.set_options({"sample": 2})
    env.reset()
    assert [int(one) for one in env.get_attr("sample")] == [2] * 4
    env.reset()
    env.seed(3)
    first = env.reset()["query"]
    env.seed(3)
    np.testing.assert_array_equal(env.reset()["query"], first)
    env.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"autoreset_mode": AutoresetMode.NEXT_STEP}, "SAME_STEP"),
        ({"output": "torch"}, "output='numpy'"),
        ({"observation": "index"}, "indices"),
    ],
)
def test_environments_that_do_not_fit_are_explained(options, words, ragged_store):
    with pytest.raises(DataError, match=words):
        vec_env("TemporalMoment-v0", 2, features=ragged_store, **options)


def test_box_actions_take_the_largest(ragged_store):
    env = BoxActions(gym.make("TemporalMoment-v0", features=ragged_store))
    env.reset(seed=0)
    assert env.step(np.eye(7, dtype=np.float32)[6])[2]
    with pytest.raises(DataError, match="7 finite numbers"):
        env.action(np.zeros(6))
    many = BoxActionsVector(gym.make_vec("TemporalMoment-v0", num_envs=2, features=ragged_store))
    many.reset(seed=0)
    assert many.action_space.shape == (2, 7)
    assert many.step(np.eye(7, dtype=np.float32)[[6, 0]])[2].tolist() == [True, False]
    with pytest.raises(DataError, match="finite"):
        many.step(np.full((2, 7), np.nan))
    with pytest.raises(DataError, match="Discrete"):
        BoxActions(gym.make("TemporalOneShot-v0", features=ragged_store))


@pytest.mark.parametrize(
    ("name", "policy", "options"),
    [
        ("PPO", "MultiInputPolicy", {"n_steps": 8, "batch_size": 16}),
        ("A2C", "MlpPolicy", {}),
        ("DQN", "MlpPolicy", {"learning_starts": 8, "buffer_size": 200}),
        ("DDPG", "MlpPolicy", {"learning_starts": 8, "buffer_size": 200, "box_actions": True}),
    ],
)
def test_algorithms_train(name, policy, options, ragged_store):
    box, flatten = options.pop("box_actions", False), policy == "MlpPolicy"
    env = vec_env("TemporalMoment-v0", 4, box_actions=box, features=ragged_store, flatten=flatten, max_steps=4)
    model = getattr(sb3, name)(policy, env, seed=0, policy_kwargs={"net_arch": [8]}, **options)
    assert model.get_env() is env
    model.learn(64)
    assert model.num_timesteps >= 64 and len(model.ep_info_buffer) > 0
    assert model.predict(env.reset(), deterministic=True)[0].shape[0] == 4
