"""`TemporalLook-v0`: looks, zooms and answers; nothing of an unseen frame reaches an agent; what a look costs."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from random_stores import random_store

from strong_envs import features
from strong_envs.adapters.sb3 import vec_env
from strong_envs.features import DataError
from strong_envs.looks import dynamics
from strong_envs.looks.policies import even_rows, oracle_action, random_action
from strong_envs.looks.task import make_look_task
from strong_envs.looks.vector_env import TemporalLookVectorEnv
from strong_envs.rendering.viewer import SEEN_COLOUR, TRUE_COLOUR
from strong_envs.testing import check

FIRST_ANSWER = 20


def rolled(bank, steps=40, count=8, **options):
    """All that random agents see of a bank: observations, rewards and numeric information, and the rows looked at."""
    env = gym.make_vec("TemporalLook-v0", num_envs=count, features=bank, max_looks=6, **options).unwrapped
    env.action_space.seed(0)
    seen, rows = [env.reset(seed=0)], set()
    for _ in range(steps):
        seen.append(env.step(env.action_space.sample()))
        looked = env.rows != dynamics.NO_ROW
        video = env.bank.video[env.sample][:, None].expand_as(env.rows)[looked]
        rows |= set((env.bank.offsets[video] + env.rows[looked]).tolist())
    return seen, sorted(rows)


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a if key != "t")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b)


class Rows:
    """A sensor that reads one number of a row's features, as a classifier would."""

    def __init__(self, bank):
        self.bank = bank

    def __call__(self, samples, rows):
        return self.bank.frames[self.bank.offsets[self.bank.video[samples]] + rows, :2]


def middle(state):
    """An answerer: a tenth around the mean of the rows looked at."""
    at = state["rows"].clamp(min=0).to(torch.float64).mean(-1) / 60
    return torch.stack((at - 0.05, at + 0.05), -1)


@pytest.mark.parametrize("case", ["frame", "grid", "sensor", "box", "gain", "flat"])
def test_nothing_of_an_unseen_frame_reaches_an_agent(case, ragged_store):
    store = features.open_store(ragged_store)
    for draw in range(3):
        banks = [features.FeatureBank(store, "train") for _ in range(2)]
        options = [
            {
                "frame": {},
                "grid": {"shows": "grid"},
                "sensor": {"sensor": Rows(bank)},
                "box": {"actions": "box"},
                "gain": {"answerer": middle, "feedback": "gain", "look_cost": 0.01},
                "flat": {"flatten": True},
            }[case]
            for bank in banks
        ]
        first, rows = rolled(banks[0], **options[0])
        generator = torch.Generator().manual_seed(draw)
        unseen = torch.ones(len(banks[1].frames), dtype=torch.bool)
        unseen[rows] = False
        assert 0 < len(rows) < len(unseen)
        for tensor in (banks[1].frames, banks[1].grid):
            noise = torch.randn(tensor[unseen].shape, generator=generator) * 100
            tensor[unseen] = noise
        assert equal(first, rolled(banks[1], **options[1])[0])
        # The test can fail: what was looked at does reach the agent.
        if case not in ("gain",):
            banks[1].frames[rows] += 1
            banks[1].grid[rows] += 1
            assert not equal(first, rolled(banks[1], **options[1])[0])


def test_a_look_fills_a_slot_with_the_features_of_one_frame(ragged_store):
    env = gym.make("TemporalLook-v0", features=ragged_store, max_looks=4).unwrapped
    sample = int((env.bank.n_frames[env.bank.video] == 60).nonzero()[0])
    observation, info = env.reset(seed=0, options={"sample": sample})
    assert not observation["mask"].any() and not observation["feature"].any() and info["looks"] == 0
    observation, reward, *_, info = env.step(5)  # the middle of the sixth of 16 parts of 60 rows is row 20
    row = int(5.5 / 16 * 60)
    base = int(env.bank.offsets[env.bank.video[sample]])
    np.testing.assert_array_equal(observation["feature"][: env.bank.frame_dim], env.bank.frames[base + row])
    assert observation["mask"].tolist() == [1, 0, 0, 0] and observation["budget"] == 0.75
    assert observation["position"][0] == pytest.approx((row + 0.5) / 60) and reward == 0
    assert (info["looks"], info["frames_read"], bool(info["invalid_move"])) == (1, 1, False)
    again, _, terminated, truncated, info = env.step(5)
    assert info["invalid_move"] and info["looks"] == 1 and not (terminated or truncated)
    assert not env.action_masks()[5] and all(np.array_equal(again[key], observation[key]) for key in again)


def test_zooms_and_answers_are_relative_to_the_range(ragged_store):
    env = gym.make("TemporalLook-v0", features=ragged_store, zoom=True, positions=4).unwrapped
    sample = int((env.bank.n_frames[env.bank.video] == 61).nonzero()[0])
    ranges = []
    env.reset(options={"sample": sample})
    for action in (6, 5, 4, 7, 7, 7, 7):
        observation, *_, info = env.step(action)
        ranges.append(observation["range"].tolist())
    assert ranges[:3] == [[0.5, 1.0], [0.625, 0.875], [0.625, 0.75]]
    assert ranges[3:] == [[0.5625, 0.8125], [0.4375, 0.9375], [0.0, 1.0], [0.0, 1.0]] and info["invalid_move"]
    env.step(6)
    truth = env.bank.truth[sample, 0]
    *_, reward, terminated, _, info = env.step(8 + 1)  # the first two of four parts of the second half
    assert terminated and info["span"].tolist() == pytest.approx([0.5 * 30.75, 0.75 * 30.75])
    shared = max(0.0, min(0.75, float(truth[1])) - max(0.5, float(truth[0])))
    hull = max(0.75, float(truth[1])) - min(0.5, float(truth[0]))
    assert reward == pytest.approx(shared / hull, abs=1e-6) == pytest.approx(float(info["tiou"]), abs=1e-6)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)


def test_without_looks_only_answers_are_left(ragged_store):
    env = gym.make("TemporalLook-v0", features=ragged_store, max_looks=2).unwrapped
    env.reset(options={"sample": 9})
    env.step(16)
    env.step(0)
    env.step(9)
    mask = env.action_masks()
    assert not mask[:FIRST_ANSWER].any() and mask[FIRST_ANSWER:].all() and mask.sum() == 136
    *_, terminated, truncated, info = env.step(3)
    assert terminated and not truncated and info["invalid_move"]
    assert info["span"][0] == 0 and info["span"][1] == pytest.approx(0.5 * float(env.bank.duration[env.bank.video[9]]))


def test_frames_read_counts_each_frame_once():
    rows = torch.tensor([[0, 1, 5, -1], [7, 3, 5, 4], [-1, -1, -1, -1], [9, 0, 8, 2]])
    for neighbours in range(4):
        for one, counted in zip(rows.tolist(), dynamics.frames_read(rows, neighbours).tolist(), strict=True):
            frames = {frame for row in one if row >= 0 for frame in range(max(row - neighbours, 0), row + 1)}
            assert counted == len(frames)


def test_a_look_at_the_drawn_world_costs_the_frame_before_it_too():
    env = gym.make("TemporalLook-v0", look_cost=0.01).unwrapped
    env.reset(seed=0)
    paid = [env.step(action)[1] for action in (0, 8, 8)]
    assert paid == pytest.approx([-0.02, -0.02, 0.0]) and env.task.neighbours == 1
    one = gym.make("TemporalLook-v0", look_cost=0.01, neighbours=0).unwrapped
    one.reset(seed=0)
    assert one.step(0)[1] == pytest.approx(-0.01)


def test_feedback_of_answers_alone_pays_one_number_and_tells_no_truth(ragged_store):
    env = gym.make("TemporalLook-v0", features=ragged_store, feedback="answer", look_cost=0.5, info="full").unwrapped
    env.reset(seed=0)
    told = [env.step(action) for action in (0, 16, 7, FIRST_ANSWER + 15)]
    assert [reward for _, reward, *_ in told[:-1]] == [0, 0, 0] and 0 <= told[-1][1] <= 1
    assert not {"tiou", "true_span", "true_spans"} & {key for *_, info in told for key in info}


def test_gains_add_up_to_the_answer(ragged_store):
    options = {"features": ragged_store, "answerer": middle, "max_looks": 5}
    full, gain = (gym.make_vec("TemporalLook-v0", 6, feedback=kind, **options).unwrapped for kind in ("full", "gain"))
    full.reset(seed=3)
    gain.reset(seed=3)
    totals = np.zeros((2, 6))
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        actions = random_action(full.task, full.state(), generator).numpy()
        for i, env in enumerate((full, gain)):
            *_, info = env.step(actions)
            if "episode" in info:
                totals[i] += np.where(info["_episode"], info["episode"]["r"], 0)
    assert totals[0].sum() > 0
    np.testing.assert_allclose(totals[0], totals[1], atol=1e-5)
    with pytest.raises(DataError, match="answerer"):
        gym.make("TemporalLook-v0", features=ragged_store, feedback="gain")


@pytest.mark.parametrize(
    "options", [{}, {"flatten": True}, {"zoom": False, "positions": 30}, {"actions": "box"}, {"shows": "grid"}]
)
def test_checkers_have_nothing_to_say(options, ragged_store):
    sb3_check = pytest.importorskip("stable_baselines3.common.env_checker").check_env
    env = gym.make("TemporalLook-v0", features=ragged_store, **options).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized Box")
        check_env(env, skip_render_check=True)
        sb3_check(env)
    assert "scalar and vector agree" in check("TemporalLook-v0", features=ragged_store, steps=60, **options)


def test_box_actions_look_and_answer(ragged_store):
    env = gym.make("TemporalLook-v0", features=ragged_store, actions="box").unwrapped
    sample = int((env.bank.n_frames[env.bank.video] == 60).nonzero()[0])
    env.reset(options={"sample": sample})
    observation, *_ = env.step(np.array([0.2, 0.51, 0, 0], np.float32))
    assert observation["position"][0] == pytest.approx(30.5 / 60)
    *_, terminated, _, info = env.step(np.array([0.7, 0, 0.75, 0.25], np.float32))
    duration = float(env.bank.duration[env.bank.video[sample]])
    assert terminated and info["span"].tolist() == pytest.approx([0.25 * duration, 0.75 * duration])
    env.reset()
    for wrong in (np.array([0.1, np.nan, 0, 0]), np.zeros(3), "look"):
        with pytest.raises(DataError, match="four numbers"):
            env.step(wrong)


def test_the_oracle_is_far_above_random_answers():
    task = make_look_task("shapes-v0")
    returns = []
    for policy in ("oracle", "random"):
        env, generator = TemporalLookVectorEnv.of(task, 64), torch.Generator().manual_seed(0)
        env.reset(seed=0)
        paid = []
        for _ in range(20):
            state = env.state()
            action = oracle_action(task, state) if policy == "oracle" else random_action(task, state, generator)
            info = env.step(action)[-1]
            if "episode" in info:
                paid += info["episode"]["r"][info["_episode"]].tolist()
        returns.append(np.mean(paid))
    assert returns[0] > 0.9 and returns[1] < 0.4


def test_the_oracle_with_an_answerer_looks_at_the_moment(ragged_store):
    env = gym.make("TemporalLook-v0", features=ragged_store, answerer=middle, max_looks=3).unwrapped
    sample = int((env.bank.n_frames[env.bank.video] == 61).nonzero()[0])
    env.reset(options={"sample": sample})
    action = int(oracle_action(env.task, env._one.state())[0])
    assert abs((action + 0.5) / 16 - float(env.bank.truth[sample, 0].mean())) <= 0.5 / 16 + 1e-6


def test_even_rows_cover_a_video_evenly():
    assert even_rows(torch.tensor([60, 3]), 4).tolist() == [[7, 22, 37, 52], [0, 1, 1, 2]]


def test_masked_banks_can_be_searched(ragged_store):
    bank = features.load(ragged_store, "test").masked()
    task = make_look_task(bank)
    state = task.act(task.initial(torch.tensor([0])), torch.tensor([4])).state
    assert task.observe(state)["mask"].sum() == 1


def test_what_was_seen_lights_up(ragged_store):
    env = gym.make("TemporalLook-v0", features=ragged_store, render_mode="rgb_array")
    env.reset(seed=0, options={"sample": 9})

    def lit(picture):
        return (np.abs(picture[270:292].astype(int) - SEEN_COLOUR).max(-1) < 12).any(0).sum()

    counts = [lit(env.render())]
    for action in (2, 9, 14):
        env.step(action)
        counts.append(lit(env.render()))
    assert counts[0] < counts[1] < counts[2] < counts[3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"positions": 1}, "positions"),
        ({"max_looks": 0}, "max_looks"),
        ({"look_cost": -1}, "look_cost"),
        ({"zoom": 1}, "zoom"),
        ({"feedback": "gians"}, "did you mean 'gain'"),
        ({"neighbours": -1}, "neighbours"),
        ({"sensor": 3}, "sensor"),
        ({"sensor": lambda samples, rows: rows.float()}, "sensor must return"),
        ({"actions": "box", "answerer": middle}, "answerer"),
        ({"lookcost": 1}, "did you mean 'look_cost'"),
        ({"flatten": "yes"}, "flatten must be True or False, got 'yes'"),
        ({"positions": 5000}, "4,096"),
        ({"sensor": lambda samples, rows: [1.0]}, "sensor must return a tensor .*, got list"),
        ({"sensor": lambda samples, rows: torch.zeros(len(rows), 0)}, "sensor must return a tensor .*, got"),
        ({"sensor": lambda samples, rows: torch.full((len(rows), 1), torch.nan)}, "without NaN"),
    ],
)
def test_arguments_that_nobody_should_pass_are_explained(options, words, ragged_store):
    with pytest.raises(DataError, match=words):
        gym.make("TemporalLook-v0", features=ragged_store, **options)


def test_whole_numbers_may_be_floats(ragged_store):
    env = gym.make(
        "TemporalLook-v0", features=ragged_store, positions=4.0, max_looks=3.0, neighbours=1.0, max_steps=9.0
    )
    assert env.action_space.n == 4 + 4 + 10 and env.spec.max_episode_steps == 9
    assert env.reset(seed=0)[0]["mask"].shape == (3,)


@pytest.mark.parametrize(
    ("answer", "words"),
    [(None, "got NoneType"), (torch.zeros(3), "got \\(3,\\)"), (torch.full((1, 2), torch.nan), "got NaN")],
)
def test_an_answerer_that_names_no_window_is_explained(answer, words, ragged_store):
    env = gym.make("TemporalLook-v0", features=ragged_store, answerer=lambda state: answer)
    env.reset(seed=0)
    with pytest.raises(DataError, match=f"answerer must return a tensor \\(1, 2\\) of fractions of the video, {words}"):
        env.step(env.action_space.n - 1)


def test_what_a_sensor_returns_stays_in_the_observation_space(ragged_store):
    env = gym.make("TemporalLook-v0", features=ragged_store, sensor=lambda s, r: torch.full((len(r), 1), torch.inf))
    env.reset(seed=0)
    observation = env.step(3)[0]
    assert env.observation_space.contains(observation) and observation["feature"][0] == 65_504


def test_a_look_that_reads_no_new_frame_is_paid_what_it_gains(ragged_store):
    options = {"features": ragged_store, "answerer": middle, "zoom": False, "positions": 60, "neighbours": 1}
    env = gym.make("TemporalLook-v0", feedback="gain", **options).unwrapped
    sample = int((env.bank.n_frames[env.bank.video] == 60).nonzero()[0])
    env.reset(options={"sample": sample})
    total = 0.0
    for row in (30, 1, 0):
        _, reward, *_, info = env.step(row)
        total += reward
        window = middle({"rows": env._one.rows})
        assert total == pytest.approx(float(env.task.iou(torch.tensor([sample]), window.clamp(0, 1))), abs=1e-6)
    assert info["frames_read"] == 4 and info["looks"] == 3 and not info["invalid_move"]


def test_cells_of_a_store_without_them_are_explained(tmp_path):
    store = str(random_store(tmp_path / "plain", [30, 40], grid=False).path)
    with pytest.raises(DataError, match="shows='frame'"):
        gym.make("TemporalLook-v0", features=store, shows="grid")


def test_videos_of_more_rows_than_answers_can_have_are_searched_with_an_answerer(ragged_store):
    task = make_look_task(ragged_store, answerer=middle, positions=6000, zoom=False)
    assert task.n_actions == 6001
    state = task.act(task.initial(torch.tensor([0])), torch.tensor([5999])).state
    assert int(state["rows"][0, 0]) == int(task.n_frames[0]) - 1


def test_masks_reach_maskable_ppo(ragged_store):
    contrib = pytest.importorskip("sb3_contrib")
    env = vec_env("TemporalLook-v0", 4, features=ragged_store, flatten=True, max_looks=3, positions=5)
    model = contrib.MaskablePPO("MlpPolicy", env, n_steps=8, batch_size=16, policy_kwargs={"net_arch": [8]}, seed=0)
    model.learn(64)
    observation = env.reset()
    actions, _ = model.predict(observation, action_masks=np.stack(env.env_method("action_masks")))
    assert np.stack(env.env_method("action_masks"))[np.arange(4), actions].all()


def test_a_snapshot_goes_on_where_it_was_taken(tmp_path):
    store = str(random_store(tmp_path / "plain", [30, 40, 50]).path)
    one, two = (gym.make_vec("TemporalLook-v0", 4, features=store).unwrapped for _ in range(2))
    one.action_space.seed(0)
    one.reset(seed=0)
    for _ in range(3):
        one.step(one.action_space.sample())
    two.reset(seed=9)
    two.restore(one.snapshot())
    for _ in range(10):
        actions = one.action_space.sample()
        assert equal(one.step(actions)[:4], two.step(actions)[:4])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("TemporalLook-v0", {"split": "test"}),
        ("TemporalLook-v0", {"feedback": "answer"}),
        ("TemporalMoment-v0", {"split": "test"}),
        ("SpatialTrack-v0", {"split": "test"}),
    ],
)
def test_pictures_keep_the_truth_back_where_info_does(name, arguments):
    def green(**more):
        env = gym.make(name, render_mode="rgb_array", **arguments, **more)
        env.reset(options={"sample": 0})
        picture = env.render()
        env.close()
        return int((np.abs(picture.astype(int) - TRUE_COLOUR).max(-1) < 12).sum())

    assert green(reveal_truth=True) > 100 and green() == 0
