"""Both environments as their users meet them: checkers, options, resets, scalar against vector to the last reward."""

from __future__ import annotations

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from random_stores import random_store

import strong_envs
from strong_envs.features import DataError
from strong_envs.temporal.env import TemporalMomentEnv


def critic(observation):
    return observation["local"][:, :1] + torch.arange(7.0) * observation["location"][:, :1]


def attention_box(samples, frames):
    corner = torch.stack(((samples + frames) % 5, (samples + 2 * frames) % 4), -1) * 0.15
    return torch.cat((corner, corner + 0.3), -1)


LEVELS = {"TemporalMoment-v0": {}, "SpatialTrack-v0": {"critic": critic, "window": "random"}}


def test_both_ids_are_registered_with_a_scalar_and_a_vector_environment():
    assert set(strong_envs.IDS) == {"TemporalMoment-v0", "SpatialTrack-v0", "TemporalOneShot-v0", "TemporalLook-v0"}
    for name in strong_envs.IDS:
        assert gym.spec(name).vector_entry_point


def test_make_works_out_of_the_box_and_shows_pixels():
    for name in strong_envs.IDS:
        env = gym.make(name, render_mode="rgb_array")
        env.reset(seed=0)
        observation, _reward, *_ = env.step(env.action_space.sample())
        picture = env.render()
        assert env.observation_space.contains(observation)
        assert picture.shape == (360, 480, 3) and picture.dtype == np.uint8 and picture.std() > 10
        env.close()


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("flatten", [False, True])
def test_checkers_have_nothing_to_say(name, flatten, ragged_store):
    from stable_baselines3.common.env_checker import check_env as sb3_check

    env = gym.make(name, features=ragged_store, flatten=flatten, **LEVELS[name]).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)
        sb3_check(env)


TEMPORAL = [
    {},
    {"iou": "clamped", "phi": 0.0},
    {"iou": "legacy", "invalid": "penalty"},
    {"reward": "read", "step_scale": 2.0, "phi": 0.001, "start": "random"},
    {"reward": "iou_delta", "phi": 0.0, "multi_scale": True},
    {"invalid": "terminate", "global_scope": "moment"},
    {"multi_scale": True, "time_in_observation": True, "max_steps": 7},
    {"context": False, "boxes": "truth", "box_margin": 0.1},
    {"step_scale": 2.0, "boxes": "gaussian", "start": "random"},
    {"boxes": "initial", "spp_levels": (1, 2), "z_e": 7, "initial_span": (0.0, 0.5)},
    {"observation": "index"},
]
SPATIAL = [
    {"critic": critic},
    {"critic": critic, "reward": "signed_q", "window": "random", "box_moves": "symmetric"},
    {"critic": critic, "reward": "q_error", "window": "truth", "surroundings": False, "actions_per_frame": 2},
    {"critic": critic, "same_action": True, "tie_tolerance": 0.01, "z_s": 5, "initial_box": (0.3, 0.3, 0.2, 0.4)},
    {"reward": "attention_box", "attention_box": attention_box, "window": "random", "first_frame_actions": 5},
    {"reward": "box_iou", "window": "random", "context": False},
]


@pytest.mark.parametrize(
    ("name", "options"), [("TemporalMoment-v0", o) for o in TEMPORAL] + [("SpatialTrack-v0", o) for o in SPATIAL]
)
def test_scalar_equals_vector_on_whole_rollouts(name, options, ragged_store):
    count, options = 4, {"features": ragged_store, **options}
    vector = gym.make_vec(name, num_envs=count, autoreset_mode=AutoresetMode.SAME_STEP, **options)
    singles = [gym.make(name, **options).unwrapped for _ in range(count)]
    together, _ = vector.reset(seed=3)
    alone = [env.reset(seed=3 + i)[0] for i, env in enumerate(singles)]
    rng, episodes = np.random.default_rng(0), 0

    def same(batch, one, row):
        for key, value in one.items():
            np.testing.assert_allclose(batch[key][row], value, atol=1e-4)

    for i in range(count):
        same(together, alone[i], i)
    for _ in range(60):
        actions = rng.integers(0, vector.single_action_space.n, count)
        together, reward, terminated, truncated, info = vector.step(actions)
        for i, env in enumerate(singles):
            one, r, done, cut, _ = env.step(int(actions[i]))
            assert (r, done, cut) == (reward[i], terminated[i], truncated[i])
            if done or cut:
                episodes += 1
                assert info["_final_obs"][i] and info["_episode"][i]
                same(info["final_obs"], one, i)
                one, _ = env.reset()
            same(together, one, i)
    assert episodes > 3


@pytest.mark.parametrize("name", LEVELS)
def test_seeds_decide(name, ragged_store):
    def rollout(seed):
        env = gym.make_vec(name, num_envs=3, features=ragged_store, flatten=True, **LEVELS[name])
        parts = [env.reset(seed=seed)[0]]
        for action in range(5):
            parts.append(env.step(np.full(3, action))[0])
        return np.stack(parts)

    assert np.array_equal(rollout(1), rollout(1))
    assert np.array_equal(rollout(1), rollout([1, 2, 3]))
    assert not np.array_equal(rollout(1), rollout(100))


def test_the_three_ways_to_reset(ragged_store):
    def make(mode):
        env = gym.make_vec("TemporalMoment-v0", num_envs=3, features=ragged_store, autoreset_mode=mode)
        assert env.metadata["autoreset_mode"] == mode
        env.reset(seed=0)
        return env

    stop = np.array([6, 0, 0])
    same, following, never = (
        make(mode) for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED)
    )
    *_, info = same.step(stop)
    assert info["_final_obs"].tolist() == [True, False, False] and info["episode"]["l"].tolist() == [1, 0, 0]
    assert same.t.tolist() == [0, 1, 1]
    _, _, terminated, _, info = following.step(stop)
    assert terminated.tolist() == [True, False, False] and "final_obs" not in info
    _, reward, terminated, truncated, _ = following.step(np.array([6, 0, 0]))
    assert reward[0] == 0 and not terminated[0] and not truncated[0] and following.t.tolist() == [0, 2, 2]
    never.step(stop)
    with pytest.raises(gym.error.ResetNeeded, match="reset_mask"):
        never.step(stop)
    before = never.t.clone()
    never.reset(options={"reset_mask": np.array([True, False, False])})
    assert never.t.tolist() == [0, *before[1:].tolist()]
    never.step(np.zeros(3, int))
    assert "autoreset_mode" not in gym.make("TemporalMoment-v0", features=ragged_store).metadata


def test_stop_terminates_and_the_last_move_truncates(ragged_store):
    env = gym.make("TemporalMoment-v0", features=ragged_store, max_steps=3)
    env.reset(seed=0)
    assert env.step(6)[1:4] == (0.0, True, False)
    env.reset()
    env.step(4), env.step(5)
    _, reward, terminated, truncated, _info = env.step(6)
    assert terminated and not truncated and reward == pytest.approx(-0.2)
    env.reset()
    env.step(4), env.step(5)
    assert env.step(4)[2:4] == (False, True)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)


def test_reset_options_and_information(ragged_store):
    env = gym.make("TemporalMoment-v0", features=ragged_store, info="full")
    _, info = env.reset(options={"sample": 4, "span": (0.5, 2.0)})
    assert info["sample"] == 4 and info["span"] == pytest.approx((0.5, 2.0)) and len(info["path"]) == 1
    assert info["qid"] == env.unwrapped.bank.qids[4]
    info = env.step(0)[4]
    assert len(info["path"]) == 2 and 0 <= info["tiou"] <= 1 and not info["invalid_move"]
    for options, words in (
        ({"smaple": 3}, "did you mean 'sample'"),
        ({"sample": 10_000}, "must lie in"),
        ({"span": (3.0, 1.0)}, "0 <= start < end"),
    ):
        with pytest.raises(DataError, match=words):
            env.reset(options=options)
    with pytest.raises(DataError, match="must be an integer in"):
        env.reset(), env.step(7)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("TemporalMoment-v0", {"pih": 0.1}, "did you mean 'phi'"),
        ("TemporalMoment-v0", {"iou": "giou"}, "iou must be one of"),
        ("TemporalMoment-v0", {"reward": "raed"}, "reward must be one of .*did you mean 'read'"),
        ("TemporalMoment-v0", {"reward": "read", "iou": "clamped"}, "needs iou='signed'"),
        ("TemporalMoment-v0", {"phi": 2.0}, "phi must lie in"),
        ("TemporalMoment-v0", {"initial_span": (0.8, 0.2)}, "initial_span"),
        ("TemporalMoment-v0", {"features": "/no/store"}, "no store at"),
        ("SpatialTrack-v0", {"rewrad": "box_iou"}, "did you mean 'reward'"),
        ("SpatialTrack-v0", {"initial_box": (0.9, 0.9, 0.5, 0.5)}, "must lie inside"),
        ("SpatialTrack-v0", {}, "pass critic=.*SpatioTemporalCoupling.*reward='box_iou'"),
    ],
)
def test_wrong_arguments_are_explained(name, arguments, words, ragged_store):
    with pytest.raises(DataError, match=words):
        gym.make(name, **{"features": ragged_store, **arguments})


def test_a_spec_survives_json_and_copies_share_the_bank(ragged_store):
    env = gym.make("TemporalMoment-v0", features=ragged_store)
    assert ragged_store in env.spec.to_json()
    assert copy.deepcopy(env.unwrapped.bank) is env.unwrapped.bank


def test_the_papers_sizes(tmp_path):
    from strong_envs.features import Query, StoreContents, StoredVideo, write_store

    rng = np.random.default_rng(0)
    store = write_store(
        tmp_path / "paper",
        StoreContents(
            name="paper",
            videos=[StoredVideo("v", 6.0, 6)],
            queries=[Query("q", "v", "a sentence", ((1.0, 2.0),))],
            frames=rng.normal(size=(6, 2048)).astype(np.float32),
            query_vectors=rng.normal(size=(1, 4800)).astype(np.float32),
            grid=rng.normal(size=(6, 2, 2, 2048)).astype(np.float16),
        ),
    )
    path = str(store.path)
    temporal = gym.make("TemporalMoment-v0", features=path, context=False, flatten=True)
    assert temporal.observation_space.shape == (8898,)
    observation, _ = temporal.reset(seed=0)
    assert np.array_equal(observation[:4800], store.tensor("queries")[0])
    assert observation[4800:4802].tolist() == [0.25, 0.75]
    spatial = gym.make("SpatialTrack-v0", features=path, critic=critic, context=False, surroundings=False, flatten=True)
    assert spatial.observation_space.shape == (8896,)


def test_videos_from_one_to_five_thousand_frames(tmp_path):
    store = random_store(tmp_path / "long", [1, 5000, 2, 3])
    env = gym.make_vec("TemporalMoment-v0", num_envs=8, features=str(store.path), multi_scale=True, output="torch")
    env.reset(seed=0)
    for step in range(40):
        observation, reward, *_ = env.step(torch.full((8,), step % 19))
        for part in (*observation.values(), reward):
            assert torch.isfinite(part).all()


def test_equal_windows_pay_exactly_nothing():
    """A shift inside the truth keeps the IoU; rounding must not turn that into a reward."""
    bank_env = TemporalMomentEnv("shapes-v0", phi=0.0)
    for sample in range(40):
        bank_env.reset(options={"sample": sample})
        truth = bank_env.task.truth[sample, 0].tolist()
        low, high = int(np.ceil(truth[0])), int(np.floor(truth[1]))
        if high - low >= 3:
            seconds = float(bank_env.task.seconds[sample])
            bank_env.reset(options={"sample": sample, "span": (low * seconds, (low + 2) * seconds)})
            assert bank_env.step(4)[1] == 0.0


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("tracker", ["frozen", "random", "truth", "policy"])
def test_coupling_feeds_boxes_up_and_values_down(vector, tracker, ragged_store):
    def make(name, **options):
        if vector:
            return gym.make_vec(name, num_envs=3, features=ragged_store, **options)
        return gym.make(name, features=ragged_store, **options)

    class Left:
        def predict(self, observation, deterministic=True):
            return np.zeros(len(observation["query"]), np.int64), None

    seen = []

    def live(observation):
        seen.append(len(observation["local"]))
        return critic(observation)

    temporal, spatial = make("TemporalMoment-v0", boxes="initial"), make("SpatialTrack-v0", critic=critic)
    chosen = Left() if tracker == "policy" else tracker
    levels = strong_envs.SpatioTemporalCoupling(temporal, spatial, critic=live, tracker=chosen, localiser=Left())
    _observation, _ = levels.reset(seed=0)
    task = levels.temporal_task
    sample = int(levels.unwrapped.sample[0])
    tracked = task.local.boxes[task.local.rows[sample] : task.local.rows[sample + 1]]
    if tracker == "truth":
        frames = torch.arange(len(tracked))[None]
        assert torch.allclose(tracked, task.bank.true_box(torch.tensor([sample]), frames)[0])
    if tracker == "policy":
        assert tracked[0, 0] == pytest.approx(0.2) and (tracked[1:, 0] <= tracked[:-1, 0]).all()
    for _ in range(25):
        levels.step(np.full(3, 4) if vector else 4) if vector or not _ % 20 else levels.reset()
    levels.spatial.reset(seed=0)
    levels.spatial.step(np.zeros(3, int) if vector else 0)
    assert seen
    with pytest.raises(DataError, match="did you mean 'random'"):
        levels.set_tracker("randm")


def test_levels_of_two_stores_do_not_couple(ragged_store):
    temporal = gym.make("TemporalMoment-v0", features=ragged_store)
    other = gym.make("SpatialTrack-v0", features=ragged_store, split="test", critic=critic)
    with pytest.raises(DataError, match="share one bank"):
        strong_envs.SpatioTemporalCoupling(temporal, other)
