"""What other libraries rely on: information of fixed shape, equal spaces, masks of actions, limits, pictures."""

from __future__ import annotations

import copy
import pickle
import warnings

import gymnasium as gym
import gymnasium.wrappers.vector as vector_wrappers
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from random_stores import random_store

import strong_envs
from strong_envs.adapters.sb3 import vec_env
from strong_envs.features import DataError

OPTIONS = {
    "TemporalMoment-v0": {"max_steps": 5},
    "SpatialTrack-v0": {"reward": "box_iou", "window": "random"},
    "TemporalOneShot-v0": {},
    "TemporalLook-v0": {},
}
IDS = tuple(OPTIONS)


def make(name, store, **options):
    return gym.make(name, features=store, **OPTIONS[name], **options)


def make_vec(name, store, count=3, **options):
    return gym.make_vec(name, num_envs=count, features=store, **OPTIONS[name], **options)


def acting(env, steps, seed=0):
    """``info`` of resets and steps, with random actions."""
    env.action_space.seed(seed)
    infos = [env.reset(seed=seed)[1]]
    for _ in range(steps):
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        infos.append(info)
        if (np.any(terminated) and isinstance(env, gym.Env)) or (np.any(truncated) and isinstance(env, gym.Env)):
            infos.append(env.reset()[1])
    return infos


def test_every_id_is_tried_here():
    assert set(IDS) == set(strong_envs.IDS)


@pytest.mark.parametrize("observation", ["features", "index"])
@pytest.mark.parametrize("name", IDS)
def test_information_has_one_shape_and_dtype_from_reset_on(name, observation, ragged_store):
    infos = acting(make(name, ragged_store, observation=observation), 25)
    first = infos[0]
    for info in infos:
        assert info.keys() == first.keys()
        for key, value in info.items():
            assert isinstance(value, np.ndarray) and value.dtype != object, key
            assert (value.shape, value.dtype) == (first[key].shape, first[key].dtype), key
            assert np.isfinite(value).all(), key
    # What was told is the caller's: a later step does not change it, nor does writing into it.
    kept = copy.deepcopy(infos)
    for info in infos:
        for value in info.values():
            value[...] = 0
    assert str(acting(make(name, ragged_store, observation=observation), 25)) == str(kept)


@pytest.mark.parametrize("name", IDS)
def test_texts_are_told_on_request(name, ragged_store):
    env = make(name, ragged_store, info="full")
    bank = env.unwrapped.bank
    for info in acting(env, 12):
        sample = int(info["sample"])
        assert (info["qid"], info["text"]) == (bank.qids[sample], bank.texts[sample])
        windows = np.array(bank.queries[sample].windows)
        np.testing.assert_allclose(info["true_spans"][: len(windows)], windows)
        assert info["true_spans"].shape == (bank.truth.shape[1], 2)
    if name != "TemporalOneShot-v0":
        assert isinstance(info["path"], list)
    many = make_vec(name, ragged_store, info="full", autoreset_mode=AutoresetMode.SAME_STEP)
    for info in acting(many, 12):
        for told, mask in ((info, "_sample"), (info.get("final_info"), "_sample")):
            if told is not None:
                assert [bank.texts[i] for i in told["sample"][told[mask]]] == told["text"][told[mask]].tolist()
    assert acting(make(name, ragged_store, info="light"), 3)[-1] == {}
    with pytest.raises(DataError, match="did you mean 'full'"):
        make(name, ragged_store, info="ful")


@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", IDS)
def test_every_key_of_a_vector_environment_has_its_mask(name, mode, output, ragged_store):
    env = make_vec(name, ragged_store, autoreset_mode=mode, output=output)
    _, info = env.reset(seed=0)
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in info.items()}
    ended = np.zeros(3, bool)
    env.action_space.seed(0)
    for _ in range(12):
        if mode == AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        ended = np.asarray(terminated) | np.asarray(truncated)
        for told in (info, info.get("final_info", {})):
            for key in told:
                assert key.startswith("_") or np.asarray(told[f"_{key}"]).dtype == bool, key
        now = {key: value for key, value in info.items() if key in shapes}
        assert {key: (tuple(value.shape), value.dtype) for key, value in now.items()} == shapes
        if "final_info" in info:
            assert np.asarray(info["final_info"]["_sample"]).tolist() == ended.tolist()


def test_equal_runs_tell_equal_things(ragged_store):
    for name in IDS:
        one, two = (acting(make_vec(name, ragged_store), 8) for _ in range(2))
        for a, b in zip(one, two, strict=True):
            for key in a:
                if key not in ("episode", "final_obs", "final_info"):
                    assert np.array_equal(a[key], b[key]), key


@pytest.fixture(scope="module")
def two_stores(tmp_path_factory):
    """Two stores of equal sizes, one with numbers ten times as large, more samples and longer videos."""
    folder = tmp_path_factory.mktemp("two")
    return [
        str(random_store(folder / "small", [3, 9, 12], seed=0).path),
        str(random_store(folder / "large", [80, 5, 7, 200, 41], seed=1, windows=3).path),
    ]


@pytest.mark.parametrize("options", [{}, {"flatten": True}, {"observation": "index"}])
@pytest.mark.parametrize("name", IDS)
def test_stores_of_equal_sizes_have_equal_spaces(name, options, two_stores):
    one, two = (make(name, store, **options) for store in two_stores)
    assert one.observation_space == two.observation_space and one.action_space == two.action_space
    many = SyncVectorEnv([lambda store=store: make(name, store, **options) for store in two_stores])
    infos = acting(many, 15)
    assert infos[-1]["sample"].shape == (2,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert many.observation_space.contains(many.reset(seed=1)[0])


def test_a_model_trained_on_one_store_goes_on_with_another(two_stores, tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    options = {"flatten": True, "max_steps": 4}
    env, other = (vec_env("TemporalMoment-v0", 2, features=store, **options) for store in two_stores)
    model = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, policy_kwargs={"net_arch": [8]}).learn(16)
    model.save(tmp_path / "model")
    moved = sb3.PPO.load(tmp_path / "model", env=other)
    moved.learn(16)
    model.set_env(other)
    assert moved.predict(other.reset())[0].shape == (2,)


def test_numbers_beyond_float16_widen_the_space(tmp_path):
    from strong_envs.features import Query, StoreContents, StoredVideo, write_store

    contents = StoreContents(
        name="huge",
        videos=[StoredVideo("v", 4.0, 4)],
        queries=[Query("q", "v", "a sentence", ((1.0, 2.0),), "train")],
        frames=np.linspace(-1e6, 1e6, 12, dtype=np.float32).reshape(4, 3),
        query_vectors=np.ones((1, 2), np.float32),
    )
    env = gym.make("TemporalMoment-v0", features=str(write_store(tmp_path / "huge", contents).path))
    assert env.observation_space.contains(env.reset(seed=0)[0])


@pytest.mark.parametrize("options", [{}, {"multi_scale": True}, {"start": "random", "step_scale": 3.0}])
def test_the_mask_of_the_temporal_level_says_what_moves(options, ragged_store):
    env = gym.make("TemporalMoment-v0", features=ragged_store, **options).unwrapped
    many = gym.make_vec("TemporalMoment-v0", num_envs=4, features=ragged_store, **options).unwrapped
    env.reset(seed=3)
    many.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        mask = env.action_masks()
        assert mask.dtype == bool and mask.shape == (env.action_space.n,) and mask[6]
        assert np.array_equal(many.action_masks()[0], mask)
        action = int(rng.integers(0, 6))
        *_, truncated, info = env.step(action)
        assert info["invalid_move"] == (not mask[action])
        assert info["action_mask"].dtype == np.int8 and np.array_equal(info["action_mask"], env.action_masks())
        env.action_space.sample(info["action_mask"])
        if truncated:
            env.reset(seed=3)
            many.reset(seed=3)
        else:
            told = many.step(np.full(4, action))[4]
            assert np.array_equal(told["action_mask"], many.action_masks())


@pytest.mark.parametrize("moves", ["paper", "symmetric"])
def test_the_mask_of_the_spatial_level_says_what_changes(moves, ragged_store):
    env = make("SpatialTrack-v0", ragged_store, box_moves=moves, z_s=2).unwrapped
    env.reset(seed=0)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        mask = env.action_masks()
        assert mask.shape == (env.action_space.n,) and mask[8]
        action = int(rng.integers(0, env.action_space.n))
        *_, terminated, _, info = env.step(action)
        seen.add(bool(mask[action]))
        assert action == 8 or info["invalid_move"] == (not mask[action])
        if terminated:
            env.reset()
    assert seen == {True, False}


def test_masks_reach_maskable_ppo(ragged_store):
    contrib = pytest.importorskip("sb3_contrib")
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

    env = vec_env("TemporalMoment-v0", 4, features=ragged_store, flatten=True)
    env.reset()
    assert is_masking_supported(env) and get_action_masks(env).shape == (4, 7)
    contrib.MaskablePPO("MlpPolicy", env, n_steps=8, batch_size=16, policy_kwargs={"net_arch": [8]}).learn(32)
    single = gym.make("TemporalMoment-v0", features=ragged_store, flatten=True)
    contrib.MaskablePPO("MlpPolicy", single, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [8]}).learn(16)


def test_each_row_is_asked_for_itself(ragged_store):
    env = vec_env("TemporalMoment-v0", 3, features=ragged_store)
    env.reset()
    masks = env.env_method("action_masks")
    assert len(masks) == 3 and all(mask.shape == (7,) for mask in masks)
    assert np.array_equal(env.env_method("action_masks", indices=[2])[0], masks[2])
    assert [int(one) for one in env.get_attr("sample")] == env.env.unwrapped.sample.tolist()
    assert int(env.get_attr("sample", indices=1)[0]) == int(env.env.unwrapped.sample[1])
    assert env.get_attr("num_envs") == [3, 3, 3] and env.get_attr("task")[0] is env.env.unwrapped.task


def test_the_adapter_is_one_class_that_can_be_pickled(ragged_store):
    first, second = (vec_env("TemporalMoment-v0", 2, features=ragged_store, flatten=True) for _ in range(2))
    assert type(first) is type(second)
    first.seed(0)
    first.reset()
    again = pickle.loads(pickle.dumps(first))
    actions = np.array([0, 4])
    assert np.array_equal(first.step(actions)[0], again.step(actions)[0])


def test_an_evaluation_beside_training_warns_of_nothing(ragged_store, tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.callbacks import EvalCallback

    env, other = (vec_env("TemporalMoment-v0", 2, features=ragged_store, flatten=True, max_steps=4) for _ in range(2))
    model = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [8]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(16, callback=EvalCallback(other, n_eval_episodes=2, eval_freq=4, verbose=0))


@pytest.mark.parametrize("name", IDS)
def test_vector_environments_show_pictures(name, ragged_store):
    env = make_vec(name, ragged_store, render_mode="rgb_array")
    with pytest.raises(gym.error.ResetNeeded):
        env.render()
    env.reset(seed=0)
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    pictures = env.render()
    assert len(pictures) == 3 and all(p.shape == (360, 480, 3) and p.dtype == np.uint8 for p in pictures)
    one = make(name, ragged_store, render_mode="rgb_array")
    one.reset(seed=0)
    env.reset(seed=0)
    assert np.array_equal(env.render()[0], one.render())
    images = vec_env(name, 2, features=ragged_store, render_mode="rgb_array", **OPTIONS[name])
    images.reset()
    assert images.render_mode == "rgb_array" and images.render().shape[2] == 3
    env.close()


def test_gymnasium_records_vector_environments(ragged_store, tmp_path):
    pytest.importorskip("moviepy")
    env = make_vec("TemporalMoment-v0", ragged_store, render_mode="rgb_array")
    env = vector_wrappers.RecordVideo(env, str(tmp_path), episode_trigger=lambda i: True)
    env.reset(seed=0)
    for _ in range(8):
        env.step(np.zeros(3, int))
    env.close()
    assert list(tmp_path.glob("*.mp4"))


@pytest.mark.parametrize("name", IDS)
def test_the_specification_knows_the_longest_episode(name, ragged_store):
    env = make(name, ragged_store)
    limit = env.spec.max_episode_steps
    assert limit == env.unwrapped.max_steps == make_vec(name, ragged_store).spec.max_episode_steps
    timed = gym.wrappers.TimeAwareObservation(make(name, ragged_store))
    assert timed.observation_space.contains(timed.reset(seed=0)[0])
    # The environment truncates by itself: Gymnasium adds no limit of its own.
    assert "TimeLimit" not in str(env)
    env.action_space.seed(0)
    length, longest = 0, 0
    env.reset(seed=0)
    for _ in range(200):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        length += 1
        longest = max(longest, length)
        if terminated or truncated:
            length = 0
            env.reset()
    assert longest <= limit
    assert gym.make(env.spec).spec.max_episode_steps == limit


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", IDS)
def test_a_limit_of_the_vector_environment_truncates(name, mode, ragged_store):
    options = {**OPTIONS[name], **({"window": "whole"} if name == "SpatialTrack-v0" else {})}
    options.pop("max_steps", None)
    env = gym.make_vec(name, num_envs=4, features=ragged_store, max_episode_steps=3, autoreset_mode=mode, **options)
    assert env.spec.max_episode_steps in (1, 3)
    long = torch.nonzero(env.unwrapped.bank.n_frames[env.unwrapped.bank.video] > 5).flatten()[:4].tolist()
    env.reset(seed=0, options={"sample": long})
    stay = np.zeros((4, 2), np.float32) if name == "TemporalOneShot-v0" else np.zeros(4, int)
    ends = [env.step(stay)[2:4] for _ in range(1 if name == "TemporalOneShot-v0" else 3)]
    terminated, truncated = ends[-1]
    assert (terminated | truncated).all() and not (terminated & truncated).any()
    assert truncated.any() == (name != "TemporalOneShot-v0")
    for wrong in (0, -1, 1.5, "five", 10**30):
        with pytest.raises(DataError, match="max_episode_steps"):
            gym.make_vec(name, num_envs=2, features=ragged_store, max_episode_steps=wrong, **options)


OBSERVATION_WRAPPERS = {
    "FlattenObservation": lambda env: vector_wrappers.FlattenObservation(env),
    "RescaleObservation": lambda env: vector_wrappers.RescaleObservation(env, 0.0, 1.0),
    "NormalizeObservation": lambda env: vector_wrappers.NormalizeObservation(env),
    "ReshapeObservation": lambda env: vector_wrappers.ReshapeObservation(env, (1, *env.single_observation_space.shape)),
    "DtypeObservation": lambda env: vector_wrappers.DtypeObservation(env, np.float64),
    "TransformObservation": lambda env: vector_wrappers.TransformObservation(env, lambda observation: observation),
    "NormalizeReward": lambda env: vector_wrappers.NormalizeReward(env),
    "DictInfoToList": lambda env: vector_wrappers.DictInfoToList(env),
}


@pytest.mark.parametrize("wrapper", OBSERVATION_WRAPPERS)
@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_vector_wrappers_take_the_default_reset(name, wrapper, ragged_store):
    env = OBSERVATION_WRAPPERS[wrapper](make_vec(name, ragged_store, flatten=True))
    env.reset(seed=0)
    for _ in range(12):
        env.step(env.action_space.sample())


@pytest.mark.parametrize("device", ["cuda:99", "banana", None, 3, "meta", "cpu:x", ""])
@pytest.mark.parametrize("name", IDS)
def test_a_device_that_cannot_be_had_is_one_sentence(name, device, ragged_store):
    for build in (make, make_vec):
        with pytest.raises(DataError, match="device") as caught:
            build(name, ragged_store, device=device)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a device")
@pytest.mark.parametrize("device", ["cuda", "mps", "xla"])
def test_an_absent_device_is_one_sentence(device, ragged_store):
    with pytest.raises(DataError, match=f"device '{device}'"):
        gym.make("TemporalMoment-v0", features=ragged_store, device=device)
