"""Arguments that nobody should pass: one sentence, and nothing has changed."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from strong_envs.agents.ranges import RANGES
from strong_envs.features import DataError

OPTIONS = {
    "TemporalMoment-v0": {},
    "SpatialTrack-v0": {"reward": "box_iou", "window": "random"},
    "TemporalOneShot-v0": {},
}
HUGE = 10**400


def make(name, store, **options):
    return gym.make(name, features=store, **OPTIONS[name], **options)


def make_vec(name, store, count=3, **options):
    return gym.make_vec(name, num_envs=count, features=store, **OPTIONS[name], **options)


def snapshot(env):
    return {name: part.clone() for name, part in env.unwrapped.snapshot().items()}


def unchanged(env, before):
    return all(torch.equal(before[name], part) for name, part in env.unwrapped.snapshot().items())


NO_ACTIONS = [
    np.array([0.0, 1.0, 2.0]),
    np.array([0, 1, 2], complex),
    np.array(["0", "1", "2"]),
    np.array([0, 1, None], object),
    [0, 1, HUGE],
    np.array([0, 1, 2**64 - 1], np.uint64),
    np.array([0, 1, 2**40]),
    [[0], [1, 2], [3]],
    np.array([0, 1, 2], "datetime64[s]"),
    None,
    "012",
    {"a": 1},
    torch.tensor([0.0, 1.0, 2.0]),
    torch.tensor([0, 1, 99]),
    torch.tensor([0, 1, 2], dtype=torch.complex64),
]


@pytest.mark.parametrize("compiled", ["1", "0"])
@pytest.mark.parametrize("actions", NO_ACTIONS, ids=lambda a: str(a)[:30])
@pytest.mark.parametrize("name", ["TemporalMoment-v0", "SpatialTrack-v0"])
def test_actions_that_are_none_change_nothing(name, actions, compiled, ragged_store, monkeypatch):
    monkeypatch.setenv("STRONG_ENVS_COMPILED", compiled)
    env = make_vec(name, ragged_store)
    env.reset(seed=0)
    before = snapshot(env)
    with pytest.raises(DataError, match="actions must") as caught:
        env.step(actions)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 and unchanged(env, before)


@pytest.mark.parametrize(
    "kind", [np.int8, np.uint8, np.int16, np.uint64, np.int64, bool, torch.int32, torch.bool, list]
)
def test_whole_numbers_of_every_type_are_actions(kind, ragged_store):
    results = []
    for given in (np.array([0, 1, 1]), [0, 1, 1]):
        env = make_vec("TemporalMoment-v0", ragged_store)
        env.reset(seed=0)
        if kind is list:
            actions = list(given)
        else:
            actions = torch.tensor(given).to(kind) if isinstance(kind, torch.dtype) else np.array(given, kind)
        results.append(env.step(actions)[1].tolist())
    assert results[0] == results[1]


@pytest.mark.parametrize("seed", [1.5, 3.0, -1, "0", True, [1], (1, 2, 3.5), float("nan"), {}])
@pytest.mark.parametrize("name", OPTIONS)
def test_seeds_that_are_none_change_nothing(name, seed, ragged_store):
    one, many = make(name, ragged_store), make_vec(name, ragged_store)
    many.reset(seed=5)
    before = snapshot(many)
    with pytest.raises(DataError, match="seed"):
        many.reset(seed=seed)
    assert unchanged(many, before)
    with pytest.raises((DataError, gym.error.Error, TypeError), match="eed"):
        one.reset(seed=seed)
    with pytest.raises(DataError, match="seed"):
        one.unwrapped.reset(seed=seed)


def test_seeds_of_every_whole_type_are_alike(ragged_store):
    many = make_vec("TemporalMoment-v0", ragged_store)
    expected = many.reset(seed=[4, 5, 6])[1]["sample"].tolist()
    for seed in (4, np.int64(4), np.array([4, 5, 6]), torch.tensor([4, 5, 6]), (4, 5, 6), [np.uint8(4), 5, 6]):
        assert many.reset(seed=seed)[1]["sample"].tolist() == expected


@pytest.mark.parametrize(
    "options",
    [
        {"span": (0, HUGE)},
        {"span": (-HUGE, 1.0)},
        {"span": (0.0, float("inf"))},
        {"span": (float("nan"), 1.0)},
        {"span": ("a", "b")},
        {"span": [[0.0, 1.0], [0.0]]},
        {"span": (0j, 1j)},
        {"sample": HUGE},
        {"sample": float("nan")},
        {"sample": [[0]]},
        {"sample": "0"},
        {"sample": 2**63},
        {"reset_mask": np.zeros(3, bool)},
        {"reset_mask": [False] * 3},
        {"reset_mask": "all"},
        {"reset_mask": 3},
    ],
    ids=lambda o: str(o)[:40],
)
@pytest.mark.parametrize("name", ["TemporalMoment-v0", "SpatialTrack-v0"])
def test_options_that_are_none_change_nothing(name, options, ragged_store):
    env = make_vec(name, ragged_store)
    env.reset(seed=5)
    before = snapshot(env)
    with pytest.raises(DataError, match=next(iter(options))) as caught:
        env.reset(seed=9, options=options)
    assert unchanged(env, before) and len(str(caught.value)) < 300
    if "reset_mask" not in options:
        one = make(name, ragged_store).unwrapped
        one.reset(seed=5)
        with pytest.raises(DataError, match=next(iter(options))):
            one.reset(options=options)


@pytest.mark.parametrize("box", [(HUGE, 0.5, 0.1, 0.1), (float("nan"),) * 4, (0.5, 0.5, 0.0, 0.1), "box", (0.5, 0.5)])
def test_boxes_that_are_none_change_nothing(box, ragged_store):
    env = make_vec("SpatialTrack-v0", ragged_store)
    env.reset(seed=5)
    before = snapshot(env)
    with pytest.raises(DataError, match="box"):
        env.reset(options={"box": box})
    assert unchanged(env, before)


@pytest.mark.parametrize("rest", [float("nan"), float("inf"), -1e9, 1e300])
@pytest.mark.parametrize("name", ["TemporalMoment-v0", "SpatialTrack-v0"])
def test_rows_outside_the_mask_may_hold_anything(name, rest, ragged_store):
    """And what the rows inside are given counts as if they were alone."""
    env, same = (make_vec(name, ragged_store, autoreset_mode=AutoresetMode.DISABLED) for _ in range(2))
    mask, sample = np.array([False, True, False]), np.array([10**6, 3, -7])
    spans, boxes = np.full((3, 2), rest), np.full((3, 4), rest)
    spans[1], boxes[1] = (0.2, 0.6), (0.4, 0.5, 0.2, 0.3)
    bank = env.unwrapped.bank
    long = torch.nonzero(bank.n_frames[bank.video] > 20).flatten()[:3].tolist()
    for one in (env, same):
        one.reset(seed=0, options={"sample": long, "span": (0.0, 3.0)})
        one.step(np.zeros(3, int))
    options = {"reset_mask": mask, "sample": sample, "span": spans}
    clean = {
        "reset_mask": mask,
        "sample": np.where(mask, sample, 0),
        "span": np.where(mask[:, None], spans, (0.1, 0.2)),
    }
    if name == "SpatialTrack-v0":
        options["box"], clean["box"] = boxes, np.where(mask[:, None], boxes, 0.5)
    shown, info = env.reset(options=options)
    expected, told = same.reset(options=clean)
    for key in shown:
        assert np.array_equal(shown[key], expected[key]) and np.isfinite(shown[key]).all()
    assert all(np.array_equal(info[key], told[key]) for key in info) and info["sample"][1] == 3
    for _ in range(4):
        a, b = env.step(np.full(3, 3)), same.step(np.full(3, 3))
        assert a[1].tolist() == b[1].tolist() and np.isfinite(a[1]).all()
        if (a[2] | a[3]).any():
            break


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("TemporalMoment-v0", "z_e", HUGE),
        ("TemporalMoment-v0", "z_e", 1e308),
        ("TemporalMoment-v0", "phi", HUGE),
        ("TemporalMoment-v0", "step_scale", HUGE),
        ("TemporalMoment-v0", "max_steps", HUGE),
        ("TemporalMoment-v0", "max_steps", 2**63),
        ("TemporalMoment-v0", "max_steps", float("inf")),
        ("TemporalMoment-v0", "initial_span", (0, HUGE)),
        ("TemporalMoment-v0", "box_margin", HUGE),
        ("TemporalOneShot-v0", "parts", HUGE),
        ("TemporalOneShot-v0", "parts", 0),
        ("TemporalMoment-v0", "max_steps", 2**31 - 1),
        ("TemporalMoment-v0", "max_steps", 100_001),
        ("TemporalMoment-v0", "z_e", 1e6 + 1),
        ("TemporalMoment-v0", "spp_levels", (1, 2**30)),
        ("TemporalOneShot-v0", "parts", 10_001),
        ("SpatialTrack-v0", "actions_per_frame", 10_001),
        ("SpatialTrack-v0", "first_frame_actions", 2**31 - 1),
        ("SpatialTrack-v0", "tie_tolerance", 1e7),
        ("SpatialTrack-v0", "z_s", HUGE),
        ("SpatialTrack-v0", "actions_per_frame", HUGE),
        ("SpatialTrack-v0", "tie_tolerance", float("nan")),
        ("SpatialTrack-v0", "initial_box", (HUGE, 0.5, 0.1, 0.1)),
    ],
)
def test_numbers_beyond_float_are_explained(name, argument, value, ragged_store):
    for build in (make, make_vec):
        with pytest.raises(DataError, match=argument) as caught:
            build(name, ragged_store, **{argument: value})
        assert len(str(caught.value)) < 300


def test_environments_and_systems_have_the_same_ranges(ragged_store):
    """What a setting of a system accepts, `gym.make` accepts too, and nothing more."""
    names = {
        "TemporalMoment-v0": ("max_steps", "z_e", "step_scale", "phi"),
        "SpatialTrack-v0": ("z_s", "actions_per_frame", "first_frame_actions", "tie_tolerance"),
        "TemporalOneShot-v0": ("parts",),
    }
    for env, arguments in names.items():
        for name in arguments:
            high = RANGES[name].high
            whole = name in ("max_steps", "actions_per_frame", "first_frame_actions", "parts")
            make(env, ragged_store, **{name: int(high) if whole else high})
            with pytest.raises(DataError, match=name):
                make(env, ragged_store, **{name: int(high) + 1 if whole else high * 1.01})


@pytest.mark.parametrize("count", [0, -1, 1.5, "3", HUGE, None, 1_000_001, 2**31 - 1])
def test_numbers_of_environments_that_are_none_are_explained(count, ragged_store):
    with pytest.raises((DataError, gym.error.Error), match="num_envs"):
        gym.make_vec("TemporalMoment-v0", num_envs=count, features=ragged_store)


# One answer, out of range, unreadable ------------------------------------------------------------------------------


def test_actions_out_of_range_are_clipped_as_gymnasium_does(ragged_store):
    one = make("TemporalOneShot-v0", ragged_store).unwrapped
    many = make_vec("TemporalOneShot-v0", ragged_store, autoreset_mode=AutoresetMode.DISABLED)
    for wild, tame in (((-0.5, 1.5), (0.0, 1.0)), ((0.2, float("inf")), (0.2, 1.0)), ((7, -3), (1.0, 0.0))):
        paid = []
        for action in (wild, tame):
            one.reset(options={"sample": 3})
            many.reset(seed=0, options={"sample": 3})
            paid.append(one.step(np.array(action, np.float32))[1])
            paid += many.step(np.array([action] * 3))[1].tolist()
        assert len(set(paid)) == 1
    for action in ((float("nan"), 0.5), (0.1,), 0.5, None, "ab", (HUGE, 0.1)):
        one.reset()
        many.reset(seed=0)
        with pytest.raises(DataError, match="action must be two numbers"):
            one.step(action)
        with pytest.raises(DataError, match="actions must be"):
            many.step([action] * 3)


@pytest.mark.parametrize(("iou", "worst"), [("clamped", 0.0), ("legacy", 0.0), ("signed", -1.0)])
def test_an_answer_that_cannot_be_read_scores_nothing_and_is_counted(iou, worst, ragged_store):
    env = make_vec("TemporalOneShot-v0", ragged_store, iou=iou).unwrapped
    windows = torch.rand(4, 8, 2, generator=torch.Generator().manual_seed(0))
    samples = torch.arange(4)[:, None].expand(4, 8)
    clean = env.score(samples, windows)
    assert env.unreadable == 0
    spoilt = windows.clone()
    spoilt[0, 0, 0], spoilt[1, 2], spoilt[3, 7, 1] = float("nan"), float("nan"), float("nan")
    pay = env.score(samples, spoilt)
    bad = torch.zeros(4, 8, dtype=torch.bool)
    bad[0, 0] = bad[1, 2] = bad[3, 7] = True
    assert torch.isfinite(pay).all() and env.unreadable == 3
    assert pay[bad].tolist() == [worst] * 3 and torch.equal(pay[~bad], clean[~bad])
    # What a step clips is clipped here, and what it refuses is what cannot be read.
    wild, tame = torch.tensor([[0.2, float("inf")], [-float("inf"), 1e300]]), torch.tensor([[0.2, 1.0], [0.0, 1.0]])
    assert torch.equal(env.score([0, 3], wild), env.score([0, 3], tame)) and env.unreadable == 3
    # A group whose mean is taken has a mean.
    assert torch.isfinite(pay.mean(1)).all()
    env.score([0, 1], [[None, 0.5], [0.2, 0.4]])
    assert env.unreadable == 4
    # What a language model wrote, as it was parsed: no pair, words, too many numbers, none.
    answers = [[0.1, 0.9], None, "at the end", ["a", "b"], [0.1, 0.2, 0.3], [], [10**400, 1]]
    paid = env.score([0] * 7, answers)
    assert paid.tolist() == [float(env.score([0], [[0.1, 0.9]])), *[worst] * 6] and env.unreadable == 10
    nested = env.score([[0, 0], [0, 0]], [[[0.1, 0.9], None], [[0.1], (0.1, 0.9)]])
    assert nested.tolist() == [[float(paid[0]), worst], [worst, float(paid[0])]] and env.unreadable == 12
    assert torch.equal(env.score([0], [[-5.0, 7.0]]), env.score([0], [[0.0, 1.0]]))
    single = make("TemporalOneShot-v0", ragged_store, iou=iou).unwrapped
    assert torch.equal(single.score(samples, spoilt), pay) and single.unreadable == 3


@pytest.mark.parametrize(
    ("samples", "windows"),
    [
        ([0, 1], [[0.1, 0.2]]),
        ([0], [0.1, 0.2]),
        ([10**6], [[0, 1]]),
        ([-1], [[0, 1]]),
        ([0.5], [[0, 1]]),
        ([0], "ab"),
        ([0, 1], [None]),
        ([0], np.ones((1, 2), complex)),
    ],
)
def test_answers_that_fit_no_sample_are_explained(samples, windows, ragged_store):
    env = make_vec("TemporalOneShot-v0", ragged_store).unwrapped
    with pytest.raises(DataError, match="windows must|sample"):
        env.score(samples, windows)
    assert env.unreadable == 0
