"""Every option of every environment, one at a time: scalar equals vector on videos from 1 to 5,000 frames."""

from __future__ import annotations

import inspect
from dataclasses import fields

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from random_stores import random_store

from strong_envs import local_features
from strong_envs.core import boxes, rewards, spans
from strong_envs.features import FeatureBank, open_store
from strong_envs.spatial import task as spatial_task
from strong_envs.spatial.env import SpatialTrackEnv, make_spatial_task
from strong_envs.spatial.task import SpatialConfig
from strong_envs.temporal import task as temporal_task
from strong_envs.temporal.env import TemporalMomentEnv
from strong_envs.temporal.task import TemporalConfig, make_task

LENGTHS = [1, 5000, 2, 40, 3, 61, 7, 20]
LONG = 2
"""The first sample of the video of 5,000 frames, in the training split."""


def critic(observation):
    """Values that depend on the box and the window."""
    return observation["local"][:, :1] * torch.arange(1.0, 8.0) + observation["location"][:, :1]


def attention_box(samples, frames):
    corner = torch.stack(((samples + frames) % 5, (samples + 2 * frames) % 4), -1) * 0.15
    return torch.cat((corner, corner + 0.3), -1)


TEMPORAL = {
    "split": ["test"],
    "boxes": [*local_features.SOURCES[1:], torch.tensor([[0.1, 0.2, 0.7, 0.9]]).repeat(12, 1)],
    "spp_levels": [(1, 2, 4)],
    "spp_reduce": ["max"],
    "box_margin": [0.15],
    "phi": [0.0, 0.037],
    "max_steps": [1, 7],
    "z_e": [3, 7.3],
    "step_scale": [0.37, 3.0],
    "multi_scale": [True],
    "iou": [kind for kind in spans.IOU_KINDS if kind != "signed"],
    "reward": [kind for kind in rewards.TEMPORAL_REWARDS if kind != "iou_sign"],
    "invalid": [kind for kind in temporal_task.INVALID if kind != "refuse"],
    "global_scope": ["moment"],
    "initial_span": [(0.0, 1.0), (0.9, 0.95)],
    "start": ["random"],
    "context": [False],
    "time_in_observation": [True],
    "flatten": [True],
    "observation": ["index"],
    "info": ["full"],
    "reveal_truth": [False],
}
SPATIAL = {
    "attention_box": [attention_box],
    "reward": [kind for kind in rewards.SPATIAL_REWARDS if kind != "q_value"],
    "z_s": [3, 7.3],
    "box_moves": ["symmetric"],
    "actions_per_frame": [3],
    "first_frame_actions": [4],
    "inheritance": [kind for kind in spatial_task.INHERITANCE if kind != "previous"],
    "initial_box": [(0.3, 0.6, 0.2, 0.4)],
    "window": [kind for kind in spatial_task.WINDOWS if kind != "initial"],
    "tie_tolerance": [0.0, 0.3],
    "same_action": [True],
    "appearance": [False],
    "surroundings": [False],
    "flatten": [True],
    "info": ["full"],
    "reveal_truth": [False],
    "payment": ["change"],
    "observation": ["index"],
    # Of the temporal level, which shapes what the critic sees
    "context": [False],
    "global_scope": ["moment"],
}
NEEDS = {
    "spp_levels": {"boxes": "initial"},
    "spp_reduce": {"boxes": "initial", "spp_levels": (1, 2)},
    "box_margin": {"boxes": "truth"},
    "attention_box": {"attention_box": attention_box},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Path of a store with videos from 1 to 5,000 frames, with grids, true boxes and detected objects."""
    return str(random_store(tmp_path_factory.mktemp("stores") / "long", LENGTHS, objects=True).path)


def cases(options):
    for name, values in options.items():
        for value in values:
            more = NEEDS.get(value if value == "attention_box" else name, {})
            yield pytest.param({**more, name: value}, id=f"{name}={getattr(value, '__name__', str(value))[:24]}")


@pytest.mark.parametrize("options", [pytest.param({}, id="default"), *cases(TEMPORAL)])
def test_temporal(options, store):
    task = make_task(store, options.get("split", "train"))
    assert {1, 5000} <= set(task.n_frames.tolist()) or "split" in options
    rollouts("TemporalMoment-v0", {"features": store, **options}, {"sample": [LONG, 0, 5, 8]}, 45)


@pytest.mark.parametrize("options", [pytest.param({}, id="default"), *cases(SPATIAL)])
def test_spatial(options, store):
    # Episodes are as long as their windows: the first looks at the last frames of the longest video.
    duration = float(make_task(store).bank.duration[1])
    spans_given = np.array([[duration - 15, duration], [0, 0.5], [0.2, 0.7], [3, 9]])
    first = {"sample": [LONG, 0, 4, 8], "span": spans_given}
    rollouts("SpatialTrack-v0", {"features": store, "critic": critic, **options}, first, 45)


def rollouts(name, options, first, steps):
    """Four environments side by side, each against a scalar one: observation, reward, flags and information."""
    count = 4
    vector = gym.make_vec(name, num_envs=count, autoreset_mode=AutoresetMode.SAME_STEP, **options)
    singles = [gym.make(name, **options).unwrapped for _ in range(count)]
    if options.get("split") == "test":
        first = {}
    together, info = vector.reset(seed=3, options=first)
    alone, told = [], []
    for i, env in enumerate(singles):
        observation, one = env.reset(seed=3 + i, options={key: value[i] for key, value in first.items()})
        alone.append(observation)
        told.append(one)
    rng, episodes, paid = np.random.default_rng(0), 0, set()
    compare(together, alone, info, told)
    for _ in range(steps):
        actions = rng.integers(0, vector.single_action_space.n, count)
        together, reward, terminated, truncated, info = vector.step(actions)
        for i, env in enumerate(singles):
            alone[i], r, done, cut, told[i] = env.step(int(actions[i]))
            assert (r, done, cut) == (reward[i], terminated[i], truncated[i])
            paid.add(r)
            if done or cut:
                episodes += 1
                assert info["_final_obs"][i] and info["_final_info"][i]
                assert all(value[i] for key, value in info["final_info"].items() if key.startswith("_"))
                final = {key: value[i] for key, value in info["final_info"].items()}
                same_row(pick(info["final_obs"], i), alone[i])
                same_info(final, told[i])
                alone[i], told[i] = env.reset()
        compare(together, alone, info, told)
    assert episodes > 3 and len(paid) > 1


def compare(together, alone, info, told):
    for i, (one, tells) in enumerate(zip(alone, told, strict=True)):
        same_row(pick(together, i), one)
        assert all(info[f"_{key}"].all() for key in info if key in tells)
        same_info({key: info[key][i] for key in info if key in tells}, tells)


def pick(batch, i):
    return {key: value[i] for key, value in batch.items()} if isinstance(batch, dict) else batch[i]


def same_row(row, one):
    if not isinstance(one, dict):
        row, one = {"flat": row}, {"flat": one}
    assert row.keys() == one.keys()
    for key, value in one.items():
        assert row[key].dtype == value.dtype, key
        np.testing.assert_allclose(row[key], value, atol=1e-4, err_msg=key)


def same_info(row, one):
    assert {"sample", "invalid_move"} <= row.keys()
    assert {key for key in row if not key.startswith("_")} == one.keys() - {"path"}
    for key, value in one.items():
        if isinstance(value, (str, list)):
            assert key == "path" or value == row[key]
        else:
            assert isinstance(value, np.ndarray) and (value.shape, value.dtype) == (row[key].shape, row[key].dtype), key
            np.testing.assert_allclose(value, row[key], atol=1e-6, err_msg=key)


def arguments(cls, task, configs):
    """Names of all arguments that an environment takes."""
    found = {field.name for config in configs for field in fields(config)}
    for function in (cls.__init__, *task):
        signature = inspect.signature(function).parameters.values()
        found |= {one.name for one in signature if one.kind is not inspect.Parameter.VAR_KEYWORD}
    return found - {"self", "features", "device", "render_mode"}


def test_no_option_is_left_out():
    """A new argument, or a new value of one with names, fails here until it has its rollout."""
    temporal = arguments(TemporalMomentEnv, [make_task], [TemporalConfig])
    assert temporal == TEMPORAL.keys()
    spatial = arguments(SpatialTrackEnv, [make_spatial_task], [SpatialConfig])
    assert spatial - {"critic", "temporal"} == SPATIAL.keys() - {"context", "global_scope", "observation"}
    assert set(boxes.BOX_MOVES) == {"paper", *SPATIAL["box_moves"]}
    assert set(temporal_task.SCOPES) == {"video", *TEMPORAL["global_scope"]}
    assert set(temporal_task.STARTS) == {"initial", *TEMPORAL["start"]}


def test_the_same_rollouts_from_a_bank_in_half_precision(store):
    bank = FeatureBank(open_store(store), "train", dtype="float16")
    rollouts("TemporalMoment-v0", {"features": bank}, {"sample": [LONG, 0, 5, 8]}, 45)
