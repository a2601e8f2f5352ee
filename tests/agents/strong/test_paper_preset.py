"""STRONG to the letter of the paper: each deviation is an option of its own, and the preset takes none of them."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from random_stores import random_store

from strong_envs import features
from strong_envs.agents.strong.agent import Strong, make_level
from strong_envs.agents.strong.args import level_args
from strong_envs.agents.strong.attention import AttentionTask
from strong_envs.agents.strong.cell_attention.attention import (
    AttendedFeatures,
    AttendedTask,
    CellAttention,
    CellAttentionArgs,
)
from strong_envs.agents.strong.presets import changed_args, strong_args
from strong_envs.core import boxes as box_ops
from strong_envs.core import spans
from strong_envs.features.bank.pooling import box_weights
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures
from strong_envs.rollout import track
from strong_envs.spatial.env import SpatialTrackVectorEnv
from strong_envs.spatial.task import SpatialConfig, SpatialTask
from strong_envs.temporal.task import TemporalConfig, TemporalTask

PYRAMID = (1, 2, 4)
SMALL = {"num_envs": 16, "batch": 16, "warmup": 32}
SMALL_DDPG = {**SMALL, "actor_hidden": (16, 8), "critic_hidden": (16, 8)}


def tiny(**changes):
    """The preset with some changes, small enough to be trained in a test."""
    base = strong_args("paper", **{name: changes.pop(name) for name in ("boxes",) if name in changes})
    steps = {"rounds": 1, "pretrain_steps": 160, "spatial_steps": 160, "temporal_steps": 160}
    for level in ("temporal", "spatial"):
        own = changes.get(level, {})
        changes[level] = {**(SMALL if "algorithm" in own else SMALL_DDPG), **own}
    return changed_args(base, {**steps, **changes})


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "short"
    return features.load(str(random_store(folder, [1, 4, 7, 12, 20, 20, 26]).path), "train")


def pyramid_by_hand(bank, row, corners):
    """The largest of the means of 1, 4 and 16 equal bins of a box."""
    height, width, _ = bank.grid_shape
    low, size = corners[:2], corners[2:] - corners[:2]
    means = []
    for level in PYRAMID:
        for j in range(level):
            for i in range(level):
                cut = torch.tensor([i, j, i + 1, j + 1]) / level
                edges = torch.cat((low + cut[:2] * size, low + cut[2:] * size))
                means.append(box_weights(edges, height, width) @ bank.grid[row].flatten(0, 1).to(torch.float32))
    return torch.stack(means)


@pytest.mark.parametrize("reduce", ["max", "concat"])
@pytest.mark.parametrize("inheritance", ["previous", "none"])
def test_a_trial_pools_the_pyramid_in_every_frame_of_the_window(bank, reduce, inheritance):
    local = LocalFeatures(bank, "initial", PYRAMID, reduce)
    temporal = TemporalTask(bank, local, TemporalConfig())
    config = SpatialConfig(inheritance=inheritance, surroundings=False)
    seen = []

    def critic(observation):
        seen.append(observation["local"])
        return torch.zeros(len(observation["query"]), temporal.n_actions)

    task = SpatialTask(temporal, config, critic)
    samples = torch.arange(len(bank))
    start, end = torch.full((2, len(bank)), 4.0, dtype=torch.float64)
    box = torch.tensor([box_ops.INITIAL_BOX], dtype=torch.float64).expand(len(bank), 4)
    walk = task.begin(samples, start, end + 9, box)
    placed = [{} for _ in samples]
    for step in range(4):
        action = (samples + step) % 8
        moved, _ = box_ops.move(walk.box, action, task.table)
        frame = torch.minimum(walk.frame, walk.last - 1)
        walk, _, _, _ = task.step(walk, action)
        for sample in samples.tolist():
            boxes, now = placed[sample], int(frame[sample])
            boxes[now] = box_ops.corners(moved[sample]).to(torch.float32)
            wanted = []
            for k in range(int(walk.first[sample]), int(walk.last[sample])):
                later = boxes[now] if inheritance == "previous" else box_ops.corners(box[sample]).to(torch.float32)
                corners = boxes.get(k, later) if k <= now else later
                bins = pyramid_by_hand(bank, int(bank.offsets[bank.video[sample]]) + k, corners)
                wanted.append(bins.amax(0) if reduce == "max" else bins.flatten())
            assert torch.allclose(seen[-1][sample], torch.stack(wanted).mean(0), atol=1e-4)


@pytest.mark.parametrize("kind", ["pyramid", "margin", "attention"])
def test_what_the_critic_is_asked_is_what_the_temporal_level_then_observes(bank, kind):
    """The boxes of a walk, as they are tried in its last frame and as the temporal level sees them afterwards."""
    config = TemporalConfig(context=False)
    attention = CellAttention(bank, CellAttentionArgs())

    def made(boxes):
        if kind == "attention":
            return AttendedTask(bank, AttendedFeatures(bank, attention, boxes), config)
        levels, margin = (PYRAMID, 0.0) if kind == "pyramid" else ((1,), 0.1)
        return TemporalTask(
            bank, LocalFeatures(bank, "initial" if boxes is None else boxes, levels, "max", margin), config
        )

    asked = []
    temporal = made(None)

    def critic(observation):
        asked.append(observation["local"])
        return torch.zeros(len(observation["query"]), temporal.n_actions)

    task = SpatialTask(temporal, SpatialConfig(surroundings=False), critic)
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(int(temporal.local.rows[-1]), 1)
    zero = torch.zeros(1, dtype=torch.float64)
    seen = {}
    for sample in (2, len(bank) - 1):
        box = torch.tensor([box_ops.INITIAL_BOX], dtype=torch.float64)
        walk = task.begin(torch.tensor([sample]), zero, zero + 20, box)
        for frame in range(min(int(temporal.n_frames[sample]), 60)):
            walk, _, _, _ = task.step(walk, torch.tensor([frame % 7]))
            row = int(temporal.local.rows[sample]) + frame
            boxes[row:] = box_ops.corners(walk.placed).to(torch.float32)
        boxes[int(temporal.local.rows[sample + 1]) :] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        seen[sample] = asked[-1][0]
    for sample, local in seen.items():
        wanted = made(boxes).observe(torch.tensor([sample]), zero, zero + 20, torch.tensor([0]))["local"][0]
        assert torch.allclose(local, wanted, atol=1e-2 if kind == "attention" else 1e-4)
        assert not torch.allclose(
            local, temporal.observe(torch.tensor([sample]), zero, zero + 20, torch.tensor([0]))["local"][0], atol=1e-2
        )


@pytest.mark.parametrize("inheritance", ["previous", "none"])
def test_a_trial_is_the_same_by_frames_and_by_sums_of_windows(bank, inheritance):
    temporal = TemporalTask(bank, LocalFeatures(bank, "initial", margin=0.1), TemporalConfig())
    task = SpatialTask(
        temporal,
        SpatialConfig(inheritance=inheritance, surroundings=False),
        lambda seen: torch.zeros(len(seen["query"]), 7),
    )
    samples = torch.arange(len(bank))
    start, end = torch.full((2, len(bank)), 4.0, dtype=torch.float64)
    box = torch.tensor([box_ops.INITIAL_BOX], dtype=torch.float64).expand(len(bank), 4)
    walk = task.begin(samples, start, end + 9, box)
    for step in range(3):
        walk, _, _, _ = task.step(walk, (samples + step) % 7)
    tried, _ = box_ops.move(walk.box, samples % 7, task.table)
    a, c = temporal.windows(walk.sample, walk.start, walk.end)
    by_sums = task.trial(walk, tried)
    assert a.shape[1] <= bank.max_frames, "fewer windows than frames: their sums are read"
    assert torch.allclose(task._trial_by_frame(walk, tried, a, c), by_sums, atol=1e-4)


def test_eq_11_depends_on_the_box_under_attention(bank):
    """An attention that weighs frames reads the boxes that are tried, or Eq. 11 would always pay 0."""
    for stretches in (None, 20):
        system = Strong.of(bank, replace(strong_args("paper"), attention_stretches=stretches))
        env = SpatialTrackVectorEnv.of(system._spatial_task(system.task, None), 64)
        env.reset(seed=0)
        paid = set()
        for k in range(6):
            _, reward, _, _, _ = env.step(torch.full((64,), k))
            paid |= set(reward.tolist())
        assert {-1.0, 1.0} <= paid


def test_attention_over_all_frames_is_the_equation(bank):
    task = AttentionTask(bank, LocalFeatures(bank, "initial"), TemporalConfig(global_scope="moment"), None, False)
    level = make_level(task, level_args("paper"))
    samples = torch.arange(len(bank))
    start, end = torch.full((len(bank),), 3.0, dtype=torch.float64), torch.full((len(bank),), 11.0, dtype=torch.float64)
    observation = task.observe(samples, start, end, torch.zeros_like(samples))
    out = level.inputs(observation)
    first, last = spans.frame_window(start, end, 20.0, task.n_frames)
    dim = task.local.dim
    for sample in samples.tolist():
        base = int(bank.offsets[bank.video[sample]])
        rows = slice(base + int(first[sample]), base + int(last[sample]))
        boxes = box_ops.corners(torch.tensor([box_ops.INITIAL_BOX])).expand(rows.stop - rows.start, 4)
        inside = bank.frame_box_features(torch.arange(rows.start, rows.stop), boxes)
        for kind, frames in enumerate((inside, bank.frames[rows].to(torch.float32))):
            hidden = torch.relu(level.inputs.said[kind](bank.query[sample]) + level.inputs.seen[kind](frames))
            weights = level.inputs.score[kind](hidden)[:, 0].softmax(0)
            at = level.inputs.base.size + kind * dim
            assert torch.allclose(out[sample, at : at + dim], weights @ frames, atol=1e-4)


@pytest.mark.parametrize("timed", [False, True])
def test_stretches_of_one_frame_are_all_frames(bank, timed):
    """In a video of as many frames as there are stretches both forms weigh the same frames."""
    sample = torch.tensor([len(bank) - 1])
    count = int(bank.n_frames[bank.video][sample])
    tasks = [
        AttentionTask(bank, LocalFeatures(bank, "initial"), TemporalConfig(), stretches, timed)
        for stretches in (count, None)
    ]
    level = make_level(tasks[0], level_args("paper"))
    start, end = torch.tensor([0.0], dtype=torch.float64), torch.tensor([20.0], dtype=torch.float64)
    parts = [level.inputs(task.observe(sample, start, end, torch.tensor([0]))) for task in tasks]
    assert torch.allclose(*parts, atol=1e-4)


def test_the_scope_of_the_global_attention_is_the_video_or_the_window(bank):
    samples = torch.arange(len(bank))
    start, end = torch.full((len(bank),), 3.0, dtype=torch.float64), torch.full((len(bank),), 11.0, dtype=torch.float64)
    for count in (None, 20):
        taken = {}
        for scope in ("video", "moment"):
            task = AttentionTask(
                bank, LocalFeatures(bank, "initial"), TemporalConfig(global_scope=scope), count, timed=False
            )
            taken[scope] = task.observe(samples, start, end, torch.zeros_like(samples))["taken"].sum(1)
        frames = task.n_frames.to(torch.float32) if count is None else torch.full((len(bank),), 20.0)
        assert torch.equal(taken["video"][:, 1], frames)
        assert torch.equal(taken["moment"][:, 1], taken["moment"][:, 0])
        assert torch.equal(taken["video"][:, 0], taken["moment"][:, 0])


def test_the_tracker_walks_from_the_left_end_of_its_window_and_stays_within(bank):
    temporal = TemporalTask(bank, LocalFeatures(bank, "initial"), TemporalConfig())
    task = SpatialTask(temporal, SpatialConfig(reward="box_iou"), None)
    count = len(bank)
    start, end = torch.full((count,), 6.0, dtype=torch.float64), torch.full((count,), 12.0, dtype=torch.float64)
    first, last = spans.frame_window(start, end, 20.0, temporal.n_frames)
    scenes = {}

    def right(observation):
        scenes["seen"] = observation["scene"]
        return torch.ones(len(observation["query"]), dtype=torch.int64)

    step = 1 / 20
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])
    initial = box_ops.corners(torch.tensor(box_ops.INITIAL_BOX))
    found = {o: track(task, right, windows=(start, end), outside=o) for o in ("whole", "initial", "nearest")}
    assert torch.allclose(scenes["seen"], bank.frame_means(torch.arange(count), first, last), atol=1e-5)
    rows = temporal.local.rows
    for sample in range(count):
        a, b = int(first[sample]), int(last[sample])
        for outside, boxes in found.items():
            own = boxes[rows[sample] : rows[sample + 1]]
            for k in range(len(own)):
                if outside != "nearest" and not a <= k < b:
                    assert torch.equal(own[k], whole if outside == "whole" else initial)
                    continue
                moves = min(max(min(k, b - 1) - a, 0) + 1, 5)  # the frame's border ends the walk after five moves
                assert own[k, 0] == pytest.approx(0.25 + moves * step, abs=1e-5)
    with pytest.raises(DataError, match="outside must be one of"):
        track(task, right, windows=(start, end), outside="previous")


def test_training_walks_in_the_windows_that_the_temporal_level_localises(bank):
    args = tiny()
    system = Strong.of(bank, args)
    system.temporal.act = lambda o: torch.where(  # the left end goes left once for every two queries
        (o["location"][:, 0] > 0.22) & (o["query"][:, 0] > bank.query[:, 0].median()), 1, spans.STOP
    )
    env = system._spatial_env(system._spatial_task(system.task, None))
    env.reset(seed=1)
    start, end = system._localised(system.task)
    assert set(start.tolist()) == {4.0, 5.0} and set(end.tolist()) == {15.0}
    assert torch.equal(env.track.start, start[env.sample]) and torch.equal(env.track.end, end[env.sample])
    whole = Strong.of(bank, replace(args, tracked_window="video"))
    env = whole._spatial_env(whole._spatial_task(whole.task, None))
    env.reset(seed=1)
    assert set(env.track.start.tolist()) == {5.0}, "without it spatial_env.window decides"


def test_raw_inputs_reach_the_networks_as_they_are(bank):
    for network, standardise in (("plain", False), ("plain", True), ("matching", False)):
        task = TemporalTask(bank, LocalFeatures(bank, "initial"), TemporalConfig())
        level = make_level(task, level_args("paper", standardise=standardise, network=network))
        state = task.random_states(64, torch.Generator().manual_seed(0))
        observation = task.observe(*(state[name] for name in ("sample", "start", "end", "t")))
        observation = {name: 30 * part for name, part in observation.items()}
        level.fit_inputs(observation)
        if network == "plain":
            joined = torch.cat([part.flatten(1) for part in observation.values()], 1)
            assert torch.equal(level.inputs(observation), joined) == (not standardise)
        else:
            assert torch.equal(level.inputs.query(observation["query"]), observation["query"])


@pytest.mark.parametrize("algorithm", ["ddpg", "dqn"])
def test_all_initial_weights_are_gaussian(bank, algorithm):
    task = AttentionTask(bank, LocalFeatures(bank, "initial"), TemporalConfig(), None, False)
    args = level_args(algorithm=algorithm, network="plain", weights_std=0.1)
    level = make_level(task, args)
    for name, weight in level.named_parameters():
        if weight.numel() > 500:
            assert float(weight.detach().std()) == pytest.approx(0.1, rel=0.15), name
    sources, targets = (dict(level.named_parameters()) for _ in range(2))
    for name, weight in targets.items():
        if name.startswith("target_"):
            assert torch.equal(weight, sources[name.removeprefix("target_")])


def test_the_preset_takes_none_of_the_deviations(bank):
    args = strong_args("paper")
    assert args.ramp == 1 and args.random_boxes == 0 and args.select == "last" and not args.exploring_starts
    assert (args.spp_levels, args.spp_reduce, args.attention_stretches) == (PYRAMID, "max", None)
    assert args.tracked_window == "localised" and args.learns_from == "own rewards"
    env = args.temporal_env
    assert (env.reward, env.iou, env.phi, env.multi_scale, env.context) == ("iou_sign", "signed", 0.1, False, False)
    assert args.spatial_env.reward == "q_value" and not args.spatial_env.surroundings and args.spatial_env.appearance
    assert args.spatial_env.actions_per_frame == args.spatial_env.first_frame_actions == 1
    for level in (args.temporal, args.spatial):
        assert (level.algorithm, level.critic, level.objective) == ("ddpg", "joined", "softmax")
        assert (level.actor_hidden, level.critic_hidden) == ((500, 128), (1024, 512, 300))
        assert (level.lr_actor, level.lr_critic, level.batch) == (0.01, 0.01, 128)
        assert (level.gamma, level.tau, level.entropy) == (0.2, 0.02, 0)
        assert not level.decay and not level.standardise and level.weights_std == 0.1 and not level.weight_decay
    system = Strong.of(bank, args)
    assert system.temporal.inputs.size == bank.query_dim + 2 + 2 * bank.frame_dim  # Eq. 1: 8,898 in the paper
    assert system.spatial.inputs.size == bank.query_dim + 2 * bank.frame_dim  # Eq. 10: 8,896


def test_it_trains_predicts_and_survives_saving(bank, tmp_path):
    system = Strong.of(bank, tiny(rounds=2)).fit()
    prediction = system.predict(bank)
    assert prediction.boxes.isfinite().all() and prediction.boxes.shape == (int(bank.n_frames[bank.video].sum()), 4)
    system.save(str(tmp_path / "paper.safetensors"))
    again = Strong.load(str(tmp_path / "paper.safetensors"), bank)
    assert asdict(again.args) == asdict(system.args)
    repeated = again.predict(bank)
    assert torch.equal(prediction.spans, repeated.spans) and torch.equal(prediction.boxes, repeated.boxes)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "none"},
        {"attention": "none", "spp_reduce": "concat"},
        {"attention_stretches": 20},
        {"spp_levels": (1,)},
        {"tracked_window": "video"},
        {"outside_boxes": "nearest"},
        {"attention": "none", "blind": True},
        {"attention": "none", "temporal": {"network": "matching"}},
        {"attention": "none", **{level: {"algorithm": "dqn", "network": "plain"} for level in ("temporal", "spatial")}},
        {"boxes": "frame"},
        {"boxes": "cells"},
    ],
    ids=str,
)  # fmt: skip
def test_each_option_goes_without_the_others(bank, changes, tmp_path):
    system = Strong.of(bank, tiny(**changes)).fit()
    spans_before = system.predict(bank).spans
    system.save(str(tmp_path / "one.safetensors"))
    assert torch.equal(Strong.load(str(tmp_path / "one.safetensors"), bank).predict(bank).spans, spans_before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spp_reduce": "mean"}, "spp_reduce must be one of"),
        ({"tracked_window": "moment"}, "tracked_window must be one of"),
        ({"outside_boxes": "none"}, "outside_boxes must be one of"),
        ({"spp_levels": (0,)}, "spp_levels"),
    ],
)
def test_wrong_values_are_explained(changes, words):
    with pytest.raises(DataError, match=words):
        strong_args("paper", **changes)
    with pytest.raises(DataError, match="pools no pyramid"):
        strong_args(spp_levels=(1, 2))
