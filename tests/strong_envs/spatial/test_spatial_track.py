"""`SpatialTrack-v0` against loops over frames, and its promises under any sequence of actions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from strong_envs import features
from strong_envs.core import boxes
from strong_envs.features import DataError, Query, StoreContents, StoredVideo, write_store
from strong_envs.spatial.env import SpatialTrackEnv


def critic(observation):
    local = observation["local"]
    return torch.stack([local[:, k % local.shape[1]] * (k + 1) for k in range(7)], 1)


def box_mean(bank, sample, frame, box):
    row = bank.offsets[bank.video[sample]] + frame
    corners = boxes.corners(torch.as_tensor(box, dtype=torch.float64))[None].to(torch.float32)
    return bank.frame_box_features(row[None], corners)[0]


def test_the_reward_is_equation_11_computed_by_hand(ragged_store):
    """Q_w: boxes so far, the updated box from this frame on. Q_o: the same with the box as it was."""
    env = SpatialTrackEnv(ragged_store, critic=critic, window="initial", context=False)
    bank, rng = env.bank, np.random.default_rng(0)
    signs = set()
    for sample in (2, 4, 6, 8):
        env.reset(seed=0, options={"sample": sample})
        walk = env.walk
        first, last, box = int(walk.first), int(walk.last), (0.5, 0.5, 0.5, 0.5)
        chosen = []
        for frame in range(first, last):
            action = int(rng.integers(0, 9))
            _, reward, terminated, truncated, info = env.step(action)
            corner = np.array(info["box"])
            updated = tuple(np.concatenate([(corner[:2] + corner[2:]) / 2, corner[2:] - corner[:2]]))

            def value(box, frame=frame, sample=sample, last=last, chosen=tuple(chosen)):
                rows = [box_mean(bank, sample, f, b) for f, b in chosen]
                rows += [box_mean(bank, sample, f, box) for f in range(frame, last)]
                return float(critic({"local": torch.stack(rows).mean(0)[None]}).max())

            gain = value(updated) - value(box)
            if abs(gain) > 1e-4 or updated == box:
                assert reward == (0 if updated == box else np.sign(gain))
                signs.add(reward)
            box = updated
            chosen.append((frame, box))
            assert terminated == (frame == last - 1) and not truncated
    assert signs == {-1.0, 0.0, 1.0}


def test_what_is_shown_is_the_box_of_the_current_frame(ragged_store):
    env = SpatialTrackEnv(ragged_store, reward="box_iou", window="whole")
    bank = env.bank
    shown, _ = env.reset(seed=0, options={"sample": 6, "box": (0.4, 0.6, 0.3, 0.2)})
    np.testing.assert_allclose(shown["box"], (0.4, 0.6, 0.3, 0.2), atol=1e-6)
    for frame in range(1, 6):
        shown, *_ = env.step(1)
        box = (0.4 + 0.05 * frame, 0.6, 0.3, 0.2)
        np.testing.assert_allclose(shown["box"], box, atol=1e-6)
        np.testing.assert_allclose(shown["inside"], box_mean(bank, 6, frame, box), atol=1e-5)
        around = shown["around"].reshape(5, -1)
        np.testing.assert_allclose(around[2], box_mean(bank, 6, frame, (min(box[0] + 0.3, 1), 0.6, 0.3, 0.2)), atol=2)
        np.testing.assert_allclose(around[0], box_mean(bank, 6, frame, (box[0], 0.6, 0.6, 0.4)), atol=1e-4)


def test_true_boxes_pay_for_nearing_them(ragged_store):
    env = SpatialTrackEnv(ragged_store, reward="box_iou", window="whole")
    bank = env.bank
    env.reset(seed=0, options={"sample": 6})
    before = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    for frame in range(8):
        true = bank.true_box(torch.tensor([6]), torch.tensor([frame]))
        *_, info = env.step([5, 0, 2, 5][frame % 4])
        after = torch.tensor([info["box"]], dtype=torch.float32)
        gain = float(boxes.box_iou(after, true) - boxes.box_iou(before, true))
        if abs(gain) > 1e-4:
            assert env.last_reward == np.sign(gain)
        assert info["box_iou"] == pytest.approx(float(boxes.box_iou(after, true)), abs=1e-5)
        before = after


@settings(max_examples=25, deadline=None)
@given(
    actions=st.lists(st.integers(0, 10), min_size=1, max_size=30),
    sample=st.integers(0, 11),
    centre=st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
    size=st.tuples(st.floats(0.01, 0.4), st.floats(0.01, 0.4)),
)
def test_no_sequence_of_actions_breaks_an_episode(ragged_store, actions, sample, centre, size):
    env = SpatialTrackEnv(ragged_store, reward="box_iou", window="whole", box_moves="symmetric")
    env.reset(seed=0, options={"sample": sample, "box": (*centre, *size)})
    frames = int(env.task.temporal.n_frames[sample])
    for step, action in enumerate(actions):
        shown, reward, terminated, truncated, info = env.step(action)
        x1, y1, x2, y2 = info["box"]
        assert -1e-9 <= x1 < x2 <= 1 + 1e-9 and -1e-9 <= y1 < y2 <= 1 + 1e-9
        assert 0 <= info["frame"] <= frames and math.isfinite(reward) and reward in (-1, 0, 1)
        assert env.observation_space.contains(shown)
        assert terminated == (step == frames - 1) and not truncated
        if terminated:
            break


def test_more_than_one_action_a_frame(ragged_store):
    env = SpatialTrackEnv(ragged_store, reward="box_iou", window="whole", actions_per_frame=2, first_frame_actions=3)
    env.reset(seed=0, options={"sample": 2})
    count = int(env.task.temporal.n_frames[2])
    assert count == 2
    frames = []
    for step in range(3 + 2 * (count - 1)):
        *_, terminated, _, info = env.step(8)
        frames.append(info["frame"])
        assert terminated == (step == 3 + 2 * (count - 1) - 1)
    assert frames == [0, 0, 1, 1, 2]


def test_the_checker_accepts_index_observations(ragged_store):
    env = SpatialTrackEnv(ragged_store, reward="box_iou", observation="index")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bxo": (0.5, 0.5, 0.1, 0.1)}, "did you mean 'box'"),
        ({"box": (0.9, 0.9, 0.5, 0.5)}, "inside"),
        ({"box": (0.5, 0.5, float("nan"), 0.5)}, "inside"),
        ({"box": (0.5, 0.5)}, "box"),
        ({"span": (2.0, 1.0)}, "start < end"),
        ({"sample": 99}, "must lie in"),
    ],
)
def test_reset_options_that_cannot_be_are_explained(options, words, ragged_store):
    with pytest.raises(DataError, match=words):
        SpatialTrackEnv(ragged_store, reward="box_iou").reset(options=options)


def test_an_episode_that_ended_wants_a_reset(ragged_store):
    import gymnasium as gym

    env = SpatialTrackEnv(ragged_store, reward="box_iou", window="whole")
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(options={"sample": 0})
    assert env.step(0)[2]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)


def test_stores_without_what_it_takes_are_explained(tmp_path):
    rng = np.random.default_rng(0)
    common = dict(
        videos=[StoredVideo("v", 6.0, 6)],
        queries=[Query("q", "v", "a sentence", ((1.0, 2.0),))],
        frames=rng.normal(size=(6, 8)).astype(np.float32),
        query_vectors=rng.normal(size=(1, 4)).astype(np.float32),
    )
    bare = write_store(tmp_path / "bare", StoreContents(name="bare", **common))
    with pytest.raises(DataError, match="no spatial grid"):
        SpatialTrackEnv(str(bare.path), critic=critic)
    grid = rng.normal(size=(6, 2, 2, 8)).astype(np.float32)
    unboxed = write_store(tmp_path / "unboxed", StoreContents(name="unboxed", grid=grid, **common))
    with pytest.raises(DataError, match="needs a true box track"):
        SpatialTrackEnv(str(unboxed.path), reward="box_iou")
    with pytest.raises(DataError, match="critic=callable"):
        SpatialTrackEnv(str(unboxed.path))
    with pytest.raises(DataError, match="attention_box"):
        SpatialTrackEnv(str(unboxed.path), reward="attention_box")
    assert features.load(str(unboxed.path)).has_boxes is False


def test_out_of_the_box_the_shipped_critic_pays():
    env = SpatialTrackEnv()
    env.reset(seed=0)
    paid = []
    for action in (0, 5, 1, 4, 8):
        _, reward, terminated, *_ = env.step(action)
        paid.append(reward)
        if terminated:
            break
    assert set(paid) <= {-1.0, 0.0, 1.0} and any(paid)
