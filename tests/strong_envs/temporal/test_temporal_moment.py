"""`TemporalMoment-v0` against a second implementation in plain Python, and its promises under any actions."""

from __future__ import annotations

import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from strong_envs import features
from strong_envs.features import DataError
from strong_envs.temporal.env import TemporalMomentEnv


def by_hand(span, truths, action, t, *, phi=0.1, total=20, invalid="refuse"):
    """One move in whole steps, written from the paper: new span, reward, terminated."""
    change = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (0, 0)][action]
    new = (span[0] + change[0], span[1] + change[1])
    if invalid == "clip":
        new = (max(new[0], 0), min(new[1], total))
    valid = 0 <= new[0] < new[1] <= total
    new = new if valid else span

    def iou(w):
        return max((min(w[1], b) - max(w[0], a)) / (max(w[1], b) - min(w[0], a)) for a, b in truths)

    gain = iou(new) - iou(span)
    reward = (gain > 0) - (gain < 0) - phi * t - (invalid == "penalty" and not valid)
    return new, reward, action == 6 or (invalid == "terminate" and not valid)


@pytest.mark.parametrize("invalid", ["refuse", "penalty", "terminate", "clip"])
def test_every_step_is_the_papers(invalid, ragged_store):
    env = gym.make("strong_envs:TemporalMoment-v0", features=ragged_store, invalid=invalid).unwrapped
    env.action_space.seed(1)
    for episode in range(12):
        env.reset(seed=episode)
        sample = int(env.sample)
        truths = [tuple(w) for w in env.task.truth[sample].tolist()]
        seconds = env.bank.duration[env.bank.video[sample]].item() / 20
        span = (5.0, 15.0)
        for t in range(20):
            action = env.action_space.sample()
            span, reward, done = by_hand(span, truths, int(action), t, invalid=invalid)
            _, got, terminated, truncated, info = env.step(action)
            assert got == pytest.approx(reward, abs=1e-6) and terminated == done
            assert truncated == (t == 19 and not done)
            assert info["span"] == pytest.approx([x * seconds for x in span])
            if done:
                break


def test_an_observation_is_means_of_frames(ragged_store):
    env = TemporalMomentEnv(ragged_store, time_in_observation=True, global_scope="moment")
    bank = env.bank
    for sample in range(len(bank)):
        shown, _ = env.reset(options={"sample": sample})
        for action in (1, 1, 4, 3, 3, 3):
            shown, *_ = env.step(action)
        video = int(bank.video[sample])
        rows = bank.frames[bank.offsets[video] : bank.offsets[video + 1]].numpy()
        n = len(rows)
        first, last = math.floor(float(env.start) * n / 20), math.ceil(float(env.end) * n / 20)
        third, reach = math.ceil((last - first) / 3), math.ceil(2 * n / 20)

        def mean(a, b, rows=rows):
            return rows[a:b].mean(0) if b > a else np.zeros(rows.shape[1])

        np.testing.assert_allclose(shown["query"], bank.query[sample])
        np.testing.assert_allclose(shown["location"], [float(env.start) / 20, float(env.end) / 20], atol=1e-6)
        np.testing.assert_allclose(shown["local"], mean(first, last), atol=1e-4)
        np.testing.assert_allclose(shown["global"], mean(first, last), atol=1e-4)
        parts = [(first, first + third), (last - third, last), (max(first - reach, 0), first), (last, last + reach)]
        want = np.concatenate([mean(a, min(b, n)) for a, b in parts])
        np.testing.assert_allclose(shown["context"], want, atol=1e-4)
        assert shown["time"].tolist() == pytest.approx([6 / 20])


@settings(max_examples=40, deadline=None)
@given(
    actions=st.lists(st.integers(0, 18), min_size=1, max_size=25),
    sample=st.integers(0, 11),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    invalid=st.sampled_from(["refuse", "penalty"]),
)
def test_no_sequence_of_actions_breaks_an_episode(ragged_store, actions, sample, ends, invalid):
    env = TemporalMomentEnv(ragged_store, multi_scale=True, invalid=invalid, max_steps=25, time_in_observation=True)
    duration = env.bank.duration[env.bank.video[sample]].item()
    low, high = sorted(ends)
    span = (low * duration, min(high, 1.0) * duration) if high - low > 1e-3 else (0.0, duration)
    env.reset(options={"sample": sample, "span": span})
    for action in actions:
        shown, reward, terminated, truncated, info = env.step(action)
        start, end = info["span"]
        assert 0 <= start < end <= duration + 1e-9
        assert 0 <= info["tiou"] <= 1 and math.isfinite(reward) and isinstance(reward, float)
        assert env.observation_space.contains(shown)
        if terminated or truncated:
            break


def test_the_checker_accepts_index_observations(ragged_store):
    env = TemporalMomentEnv(ragged_store, observation="index")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)


def test_other_splits_and_other_seeds_give_other_episodes(ragged_store):
    env = TemporalMomentEnv(ragged_store)

    def draws(seed):
        return [int(env.reset(seed=seed)[1]["sample"]), *(int(env.reset()[1]["sample"]) for _ in range(9))]

    assert draws(1) == draws(1) != draws(2)
    assert len(set(draws(1))) > 3
    assert TemporalMomentEnv(ragged_store, split="test").bank.queries[0].split == "test"
    with pytest.raises(DataError, match="split"):
        TemporalMomentEnv(ragged_store, split="dev")


def test_exploring_starts_cover_the_video(ragged_store):
    env = TemporalMomentEnv(ragged_store, start="random")
    spans = {(float(env.start), float(env.end)) for _ in range(60) if env.reset(seed=None)}
    assert len(spans) > 20 and all(0 <= a < b <= 20 and a == int(a) and b == int(b) for a, b in spans)


def test_a_bank_can_be_given_and_is_shared(ragged_store):
    bank = features.load(ragged_store, "train")
    one, two = gym.make("TemporalMoment-v0", features=bank), gym.make_vec("TemporalMoment-v0", 2, features=bank)
    assert one.unwrapped.bank is two.bank is bank


def test_features_in_half_precision_work(tmp_path):
    rng = np.random.default_rng(0)
    store = features.write_store(
        tmp_path / "half",
        features.StoreContents(
            name="half",
            videos=[features.StoredVideo("v", 6.0, 6)],
            queries=[features.Query("q", "v", "a sentence", ((1.0, 2.0),))],
            frames=rng.normal(size=(6, 8)).astype(np.float16),
            query_vectors=rng.normal(size=(1, 4)).astype(np.float32),
        ),
    )
    env = TemporalMomentEnv(str(store.path))
    shown, _ = env.reset(seed=0)
    assert env.observation_space.contains(shown)
    with pytest.raises(DataError, match="no spatial grid"):
        TemporalMomentEnv(str(store.path), boxes="initial").reset()


def test_wrappers_of_gymnasium_work(ragged_store):
    from gymnasium.wrappers import FilterObservation, FlattenObservation, RecordEpisodeStatistics, TimeLimit

    env = gym.make("TemporalMoment-v0", features=ragged_store, max_episode_steps=3)
    env = RecordEpisodeStatistics(FlattenObservation(FilterObservation(env, ["location", "local"])))
    shown, _ = env.reset(seed=0)
    assert shown.shape == env.observation_space.shape == (2 + 6,)
    for _ in range(3):
        *_, truncated, info = env.step(4)
    assert truncated and info["episode"]["l"] == 3
    assert isinstance(gym.make("TemporalMoment-v0", max_episode_steps=3, features=ragged_store), TimeLimit)
