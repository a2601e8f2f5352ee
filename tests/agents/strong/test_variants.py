"""The paper's variants: each differs from its neighbour in the part that its name says, and in nothing else."""

from __future__ import annotations

from dataclasses import asdict, fields

import numpy as np
import pytest
import torch

from strong_envs import agents, features
from strong_envs.agents.strong.levels.ddpg import DDPGArgs
from strong_envs.agents.strong.levels.dqn import DQNArgs
from strong_envs.agents.strong.variants import STAND_INS
from strong_envs.benchmarks.commands.paper_tables import registered
from strong_envs.core import boxes
from strong_envs.features import DataError, FeatureBank, Query, StoreContents, StoredVideo, write_store
from strong_envs.local_features import CELLS, LocalFeatures, mean_of_largest, mean_of_objects
from strong_envs.rollout import track
from strong_envs.spatial.env import SpatialTrackEnv, make_spatial_task
from strong_envs.spatial.task import SpatialConfig
from strong_envs.temporal.env import TemporalMomentEnv

OF_ONE_ALGORITHM = {f.name for f in fields(DDPGArgs)} ^ {f.name for f in fields(DQNArgs)} | {"algorithm", "updates"}
DDPG_PARTS = {f"{level}.{name}" for level in ("temporal", "spatial") for name in OF_ONE_ALGORITHM}
NEIGHBOURS = {
    # Its validation curve is flat after fewer steps; see `SHORT`.
    "blind": ("trl", {"blind", "pretrain_steps"}),
    "trl+attention": ("trl", {"attention", "temporal.rise"}),
    "strong": ("trl+attention", {"boxes", "box_margin", "pretrain_steps", "random_boxes"}),
    "trl": ("trl+gau", {"boxes"}),
    "trl+local": ("trl", {"boxes"}),
    "trl+cells": ("trl", {"boxes"}),
    # Without inheritance every frame has the moves of a first one.
    "trl+dis": ("strong", {"spatial_env.inheritance", "spatial_env.actions_per_frame"}),
    "trl+fix": ("strong", {"spatial_env.inheritance"}),
    "strong (ddpg)": ("strong", DDPG_PARTS | {"spatial.num_envs"}),
    "strong (frame labels)": ("strong", {"learns_from", "attention", "box_margin", "random_boxes"}),
    "strong+frame scores": ("strong (frame labels)", {"frame_scores", "frame_attention.change"}),
    "strong+posterior": (
        "strong+frame scores",
        {"score_observation", "average_folds", "temporal.gamma", "temporal_env.iou", "frame_attention.objective"},
    ),
    "strong+posterior (own rewards)": ("strong+posterior", {"learns_from"}),
    "attention boxes": ("strong", {"boxes"}),
    "static attention box": ("attention boxes", {"boxes"}),
}


@pytest.fixture(scope="module")
def object_store(tmp_path_factory) -> str:
    """Three videos with three detected objects a row, one of them absent in every other row, and a grid."""
    rng = np.random.default_rng(0)
    objects = rng.normal(size=(30, 3, 5)).astype(np.float32)
    objects[::2, 2] = 0
    objects[4] = 0
    videos = [StoredVideo(f"v{i}", 10.0, 10) for i in range(3)]
    queries = [Query(f"q{i}", f"v{i}", f"sentence {i}", ((2.0, 6.0),), "train") for i in range(3)]
    return str(
        write_store(
            tmp_path_factory.mktemp("objects") / "store",
            StoreContents(
                name="objects",
                videos=videos,
                queries=queries,
                frames=rng.normal(size=(30, 4)).astype(np.float32),
                query_vectors=rng.normal(size=(3, 6)).astype(np.float32),
                grid=rng.normal(size=(30, 3, 4, 4)).astype(np.float32),
                objects=objects,
            ),
        ).path
    )


def flattened(values: dict, prefix: str = "") -> dict:
    found = {}
    for name, value in values.items():
        found |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_variant_differs_in_the_part_that_its_name_says(name, object_store):
    bank = features.load(object_store, "train")
    neighbour, parts = NEIGHBOURS[name]
    options = {"spatial_env": {"z_s": 7.0}, "budget": 0.01}
    mine, other = (flattened(asdict(agents.make(n, bank, **options).args)) for n in (name, neighbour))
    # How long the temporal level trains in one go follows from having a spatial level; both spend as much on it.
    changed = {field for field in mine.keys() | other.keys() if mine.get(field) != other.get(field)}
    assert changed == parts
    assert mine["spatial_env.z_s"] == other["spatial_env.z_s"] == 7.0


def test_the_papers_names_and_ours():
    assert registered("STRONG") == "strong" and registered("TRL+gau") == "trl+gau"
    for name, other in STAND_INS.items():
        assert agents.find(name).needs_objects and not agents.find(other).needs_objects


# Boxes that are not inherited, and one box for all ------------------------------------------------------------------


def by_query(observation):
    """An action that follows from the frame's own content, never `stop`."""
    return (observation["inside"].sum(1) * 1e3).long() % 4


@pytest.mark.parametrize("first", [1, 3])
def test_boxes_follow_their_rule_through_a_video(first, ragged_store):
    found = {}
    for rule in ("previous", "none", "first"):
        task = make_spatial_task(
            ragged_store, reward="box_iou", inheritance=rule, actions_per_frame=2, first_frame_actions=first
        )
        found[rule] = track(task, by_query, torch.tensor([6]))
    start = boxes.corners(torch.tensor(boxes.INITIAL_BOX))
    step = 1 / 20 + 1e-6
    assert torch.equal(found["first"], found["previous"][:1].expand_as(found["first"]))
    assert torch.equal(found["none"][0], found["previous"][0])
    # Two moves reach no further than two steps from b0, whatever came before; the chain does.
    assert (found["none"][1:] - start).abs().max() <= 2 * step
    assert (found["previous"] - start).abs().max() > 2 * step
    assert len(torch.unique(found["none"], dim=0)) > 1


def test_a_frame_begins_with_b0_where_nothing_is_inherited(ragged_store):
    env = SpatialTrackEnv(ragged_store, reward="box_iou", window="whole", inheritance="none", actions_per_frame=2)
    env.reset(seed=0, options={"sample": 6})
    moved = [env.step(1)[4]["box"] for _ in range(5)]
    # The first frame has one action here, the others two; what was placed is told, what follows begins anew.
    assert [round(box[0], 6) for box in moved] == [0.3, 0.3, 0.35, 0.3, 0.35]
    assert env.walk.box[0].tolist() == list(boxes.INITIAL_BOX)


def test_one_box_ends_the_episode_with_the_first_frame(ragged_store):
    env = SpatialTrackEnv(ragged_store, reward="box_iou", window="whole", inheritance="first", first_frame_actions=3)
    env.reset(seed=0, options={"sample": 6})
    ended = [env.step(1)[2] for _ in range(3)]
    assert ended == [False, False, True]
    assert env.walk.frame.tolist() == env.walk.first.tolist()


def test_equation_11_values_a_box_in_the_frames_that_will_have_it(ragged_store):
    """The critic is shown f_o itself, which is compared with a loop over frames for every rule."""

    def critic(observation):
        return observation["local"][:, :1] * torch.arange(1.0, 8.0)

    for rule in ("previous", "none", "first"):
        env = SpatialTrackEnv(
            ragged_store, critic=critic, context=False, inheritance=rule, first_frame_actions=2, actions_per_frame=2
        )
        bank, sample = env.bank, 6
        env.reset(seed=0, options={"sample": sample})
        first, last = int(env.walk.first), int(env.walk.last)
        placed: dict[int, list[float]] = {}
        b0 = boxes.corners(torch.tensor(boxes.INITIAL_BOX)).tolist()
        ended = False
        for action in (1, 4, 3, 1, 0, 6) * 3:
            frame = int(env.walk.frame)
            ended = env.step(action)[2]
            placed[frame] = env.path[-1][1]
            now = placed[frame]
            after = b0 if rule == "none" else now
            rows = [placed.get(f, after) if f <= frame else after for f in range(first, last)]
            at = bank.offsets[bank.video[sample]] + torch.arange(first, last)
            mean = bank.frame_box_features(at, torch.tensor(rows)).mean(0)[0]
            value = float((mean * torch.arange(1.0, 8.0)).max())
            assert float(env.walk.score[0]) == pytest.approx(value, abs=1e-4), (rule, frame)
            if ended:
                break
        assert ended == (rule == "first")


def test_an_unknown_rule_is_refused():
    with pytest.raises(DataError, match="did you mean 'previous'"):
        SpatialConfig(inheritance="previuos")


# Objects ------------------------------------------------------------------------------------------------------------


def test_objects_are_averaged_and_absent_ones_left_out(object_store):
    bank = features.load(object_store, "train")
    local = LocalFeatures(bank, "objects")
    rows = bank.store.tensor("objects")
    expected = np.stack([r[(r != 0).any(1)].mean(0) if r.any() else np.zeros(5) for r in rows])
    np.testing.assert_allclose(mean_of_objects(bank.objects).numpy(), expected, atol=1e-6)
    got = local.means(torch.tensor([1]), torch.tensor([2]), torch.tensor([7]))[0]
    np.testing.assert_allclose(got.numpy(), expected[12:17].mean(0), atol=1e-5)
    low, high = local.range
    assert local.dim == 5 and low <= expected.min() and high >= expected.max()
    mapped = LocalFeatures(FeatureBank(bank.store, "train", memory="map"), "objects")
    np.testing.assert_allclose(mapped.means(*(torch.tensor([x]) for x in (1, 2, 7)))[0], got, atol=1e-5)


def test_the_largest_cells_stand_in_for_objects(object_store):
    bank = features.load(object_store, "train")
    cells = bank.grid.flatten(1, 2).numpy()
    order = np.argsort(-np.linalg.norm(cells, axis=-1), axis=1)[:, :CELLS]
    expected = np.take_along_axis(cells, order[..., None], 1).mean(1)
    np.testing.assert_allclose(mean_of_largest(bank.grid, CELLS).numpy(), expected, atol=1e-6)
    env = TemporalMomentEnv(object_store, boxes="cells")
    assert env.observation_space.contains(env.reset(seed=0)[0])
    env = TemporalMomentEnv(object_store, boxes="objects")
    shown = env.reset(seed=0)[0]
    assert env.observation_space.contains(shown) and shown["local"].shape == (5,)


def test_samples_that_nobody_placed_keep_what_they_had(ragged_store):
    bank = features.load(ragged_store, "train")
    samples = torch.arange(len(bank))
    zeros, count = torch.zeros(len(bank), dtype=torch.int64), bank.n_frames[bank.video]
    for source in ("initial", "frame", "truth"):
        local = LocalFeatures(bank, source, margin=0.05 if source == "initial" else 0.0)
        before = local.means(samples, zeros, count).clone()
        corners = torch.tensor([0.0, 0.1, 0.3, 0.4]).expand(int(count[7]), 4)
        local.set_boxes(torch.tensor([7]), corners)
        after = local.means(samples, zeros, count)
        moved = (after - before).abs().amax(-1) > 1e-4
        assert moved.tolist() == [i == 7 for i in range(len(bank))], source


def test_objects_know_no_box(object_store, ragged_store):
    bank = features.load(object_store, "train")
    with pytest.raises(DataError, match="no box to divide"):
        LocalFeatures(bank, "objects", levels=(1, 2))
    with pytest.raises(DataError, match="which no box changes"):
        LocalFeatures(bank, "cells").set_boxes(torch.tensor([0]), torch.zeros(10, 4))
    plain = features.load(ragged_store, "train")
    with pytest.raises(DataError, match="a fixed Gaussian over each frame, which no box changes"):
        LocalFeatures(plain, "gaussian").set_boxes(torch.tensor([0]), torch.zeros(1, 4))
    with pytest.raises(DataError, match="no detector features"):
        LocalFeatures(plain, "objects")
    assert "needs detector features" in agents.incompatibility("trl+local", plain)


@pytest.mark.parametrize(
    ("name", "options", "rise"),
    [
        ("trl", {}, 0.05),
        ("trl", {"attention": "cells"}, 0.3),
        ("strong", {"attention": "none", "spatial_env": SpatialConfig(reward="q_value")}, 0.3),
        (
            "strong (paper)",
            {
                "attention": "cells",
                "spp_levels": (1,),
                "temporal": {"algorithm": "dqn"},
                "temporal_env": {"global_scope": "video"},
            },
            0.3,
        ),
    ],
)
def test_an_attention_is_checked_together_with_what_is_given_beside_it(name, options, rise, object_store):
    assert agents.make(name, features.load(object_store, "train"), **options).args.temporal.rise == rise
