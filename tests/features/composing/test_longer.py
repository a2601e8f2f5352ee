"""Long videos are views of a store: the rows of their clips by index, one true window a query, no copy."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from strong_envs import features
from strong_envs.features import DataError
from strong_envs.features.bank.mapped import MappedRows
from strong_envs.features.composing.longer import lengthen
from strong_envs.features.registry import LONG_VIDEOS
from strong_envs.features.video_io import open_frames
from strong_envs.looks.task import load_rows

VIDEOS = {"train": 4, "val": 2, "test": 3}


@pytest.fixture(scope="module")
def base():
    return features.open_store("shapes-v0")


@pytest.fixture(scope="module")
def long(base):
    return lengthen(base, clips=5, videos=VIDEOS, queries=2)


def about(query):
    return query.extra["colour"], query.extra["shape"], query.extra["event"]


def test_a_query_has_one_true_window_with_the_rows_of_its_clip(base, long):
    first_row = dict(zip((v.id for v in base.videos), range(0, 60 * len(base.videos), 60), strict=True))
    starts = dict(zip((v.id for v in long.videos), range(0, 300 * len(long.videos), 300), strict=True))
    old = {query.qid: query for query in base.queries}
    by_video = {video.id: video for video in long.videos}
    for query in long.queries:
        source = old[query.extra["source_qid"]]
        assert (query.text, about(query), query.split) == (source.text, about(source), source.split)
        (start, end), (a, b) = query.windows[0], source.windows[0]
        rows = slice(*(starts[query.video] + round(10 * t) for t in (start, end)))
        there = slice(*(first_row[source.video] + round(10 * t) for t in (a, b)))
        assert np.array_equal(long.tensor("grid", rows.start, rows.stop), base.tensor("grid", there.start, there.stop))
        names = [source["id"] for source in by_video[query.video].extra["composed"]["sources"]]
        shown = [q for q in base.queries if q.video in names and about(q) == about(query)]
        assert len(shown) == 1 and shown[0].qid == source.qid
    assert {v: sum(q.split == v for q in long.queries) for v in VIDEOS} == {v: 2 * n for v, n in VIDEOS.items()}


def test_parts_share_no_clip_and_a_longer_list_begins_with_a_shorter(base, long):
    parts = {}
    for query in long.queries:
        video = next(v for v in long.videos if v.id == query.video)
        for source in video.extra["composed"]["sources"]:
            assert parts.setdefault(source["id"], query.split) == query.split
    more = lengthen(base, clips=5, videos={"train": 5}, queries=2)
    assert [q.windows for q in more.queries[:8]] == [q.windows for q in long.queries[:8]]
    other = lengthen(base, clips=5, videos={"train": 4}, queries=2, seed=1)
    assert [q.windows for q in other.queries] != [q.windows for q in long.queries[:8]]


def test_pixels_are_those_of_the_clips(base, long):
    video = next(v for v in long.videos if v.id == long.queries[0].video)
    recipe = video.extra["composed"]
    seen = open_frames(video)(65)
    source = recipe["sources"][recipe["pieces"][1][3]]
    other = next(v for v in base.videos if v.id == source["id"])
    assert np.array_equal(seen, open_frames(other)(5))


def test_environments_read_rows_by_index_and_copy_none(long):
    bank = features.load(long, "train", memory="map")
    assert isinstance(bank.frames, MappedRows) and len(bank.frames) == 4 * 300
    env = gym.make("TemporalLook-v0", features=bank, shows="grid").unwrapped
    env.reset(options={"sample": 1})
    observation, *_ = env.step(3)
    row = int(3.5 / 16 * 300)
    at = int(bank.offsets[bank.video[1]]) + row
    expected = torch.from_numpy(long.tensor("grid", at, at + 1).astype(np.float32)).flatten()
    np.testing.assert_array_equal(observation["feature"][: len(expected)], expected)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "frames"), [("shapes-v0-long", 600), ("shapes-v0-long-6000", 6000)])
def test_the_long_builds_have_short_moments(key, frames):
    bank = load_rows(key, "test")
    assert isinstance(bank.frames, MappedRows) and set(bank.n_frames.tolist()) == {frames}
    assert len(bank) == 4 * LONG_VIDEOS[key.removeprefix("shapes-v0")]["test"]
    assert float((bank.truth[..., 1] - bank.truth[..., 0]).max()) < 0.05


def test_any_store_with_a_rate_can_be_made_longer_by_name():
    name = "long:shapes-v0?clips=3&queries=1&train=2&val=1&test=1"
    store = features.open_store(name)
    assert features.open_store(name) is store and [v.n_frames for v in store.videos] == [180] * 4
    for wrong, words in (
        ("long:", "names no store"),
        ("long:shapes-v0?clip=3", "options of long:"),
        ("long:shapes-v0?clips=x", "options of long:"),
        ("long:shapes-v0?clips=1", "2 or more clips"),
    ):
        with pytest.raises(DataError, match=words):
            features.open_store(wrong)


def test_a_store_without_a_rate_is_refused(ragged_store):
    with pytest.raises(DataError, match="no rate"):
        lengthen(features.open_store(ragged_store))
