"""Windows cut out of videos, and the split that leaks: what is paired with what, and that it says its name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_stores import random_store

from strong_envs import features
from strong_envs.benchmarks.protocols import FULL_VIDEO, Protocol, content_hashes, differences
from strong_envs.features import DataError, FeatureBank, FeatureStore, Query, StoreContents, StoredVideo, write_store
from strong_envs.features.search_windows import WindowRule, apply, cut_windows, searched, window_rows
from strong_envs.temporal.env import TemporalMomentVectorEnv

RULE = {"sizes": (8, 16, 32), "fps": 2.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FeatureStore:
    return random_store(tmp_path_factory.mktemp("s") / "s", [30, 41, 60, 50, 9, 70, 33, 45], windows=2)


def test_windows_of_the_paper():
    video = StoredVideo("v", 30.0, 90)  # 3 rows a second, 900 source frames
    rule = WindowRule(fps=30.0)
    rows = window_rows(video, rule)
    lengths = sorted({b - a for a, b in rows})
    assert all(any(abs(n - size / 10) <= 1 for size in rule.sizes) for n in lengths)
    big = [(a, b) for a, b in rows if b - a in (51, 52)]
    assert [a for a, _ in big] == [0, 10, 20, 31, 39]  # starts every 102 frames, then one that ends with the video
    assert rows[0] == (0, 6) and max(b for _, b in rows) == 90 and len(set(rows)) == len(rows)
    for short, want in ((StoredVideo("s", 1.0, 3), [(0, 3)]), (StoredVideo("s", 64 / 30, 7), [(0, 7)])):
        assert window_rows(short, rule) == want
    own = StoredVideo("v", 30.0, 90, extra={"source_fps": 30.0})
    assert window_rows(own, WindowRule()) == rows
    with pytest.raises(DataError, match="has no known frame rate: pass fps="):
        window_rows(video, WindowRule())


@pytest.mark.parametrize("memory", ["device", "map"])
def test_a_window_is_a_video_of_its_own(store, memory):
    view = cut_windows(store, WindowRule(**RULE))
    bank, whole = FeatureBank(view, memory=memory), FeatureBank(store)
    names, by_qid = [v.id for v in whole.videos], {q.qid: (i, q) for i, q in enumerate(store.queries)}
    assert len(bank) == view.report.kept > 8
    for i, query in enumerate(bank.queries):
        source, original = by_qid[query.extra["source_qid"]]
        video = names.index(original.video)
        duration, count = float(whole.duration[video]), int(whole.n_frames[video])
        start, end = query.extra["window"]
        a, b = round(start * count / duration), round(end * count / duration)
        base = int(whole.offsets[video])
        assert torch.equal(bank.query[i], whole.query[source])
        mine = slice(*bank.offsets[bank.video[i] + torch.arange(2)].tolist())
        for tensor in ("frames", "grid"):
            assert torch.equal(getattr(bank, tensor)[mine], getattr(whole, tensor)[base + a : base + b])
        at = torch.arange(b - a)[None]
        got, want = bank.true_box(torch.tensor([i]), at), whole.true_box(torch.tensor([source]), at + a)
        assert torch.equal(got, want)
        held = [(max(s, start), min(e, end)) for s, e in original.windows if min(e, end) > max(s, start)]
        assert sum(e - s for s, e in held) >= 0.5 * sum(e - s for s, e in original.windows) - 1e-6
        assert np.allclose(query.windows, np.array(held) - start)
        assert all(0 <= s < e <= view.videos[0].duration * 99 for s, e in query.windows)
        assert float(bank.truth[i].max()) <= 1 + 1e-6
    left = [f.kind for f in view.report.findings.values() if f.action == "dropped"]
    assert left in ([], ["no window holds 50 % of the moment"])
    assert len(bank) + view.report.count("dropped") == len(store.queries)
    env = TemporalMomentVectorEnv(3, bank)
    env.reset(seed=0)
    for _ in range(25):
        env.step(np.array([0, 3, 6]))


def test_the_draw_depends_on_seed_and_query_only(store):
    def pairs(view: FeatureStore) -> list[tuple[str, str]]:
        return [(q.extra["source_qid"], q.video) for q in view.queries]

    one, again, other = (cut_windows(store, WindowRule(**RULE, seed=s)) for s in (0, 0, 1))
    assert pairs(one) == pairs(again) != pairs(other)
    assert one.content_hash == again.content_hash != other.content_hash
    every = cut_windows(store, WindowRule(**RULE, per_query=None))
    assert set(pairs(one)) < set(pairs(every)) and len({q.qid for q in every.queries}) == len(every.queries)
    assert {q.split for q in every.queries} == {"train", "test"}


def test_windows_without_the_moment_are_for_tests_only(store):
    view = cut_windows(store, WindowRule(**RULE, empty=("test",)))
    bank = FeatureBank(view, "test")
    expected = sum(
        len(window_rows(v, WindowRule(**RULE)))
        for q in store.queries
        for v in store.videos
        if q.split == "test" and v.id == q.video
    )
    assert len(bank) == expected > len(FeatureBank(store, "test"))
    outside = ((bank.truth[..., 1] <= 0) | (bank.truth[..., 0] >= 1)).all(1)
    assert outside.any() and not outside.all()
    env = TemporalMomentVectorEnv(int(outside.sum()), bank, reveal_truth=True)
    env.reset(seed=0, options={"sample": outside.nonzero()[:, 0].numpy()})
    for action in (0, 3, 2, 4):
        info = env.step(np.full(env.num_envs, action))[4]
        assert (info["tiou"] == 0).all()
    with pytest.raises(DataError, match="never 'train'"):
        WindowRule(empty=("train",))


def test_the_name_of_a_protocol_stands_in_every_result(store):
    view = apply(store, "window", **RULE)
    assert searched(store) == FULL_VIDEO and apply(store) is store
    assert searched(view) == str(WindowRule(**RULE)) and "80 % overlap" in searched(view) and "window" in view.name
    full, cut = (Protocol("x", "s", window=searched(s), hashes=content_hashes(s)) for s in (store, view))
    assert set(differences(full, cut)) == {"window", "hashes"}
    features.register("windows-for-test", lambda: view)
    assert features.load("windows-for-test", "test").store is view
    for protocol, options, words in (
        ("windows", {}, "did you mean 'window'"),
        ("window", {"size": 3}, "fields of WindowRule"),
        ("full video", {"fps": 3}, "takes no options"),
        ("window", {"sizes": ()}, "whole numbers"),
        ("window", {"overlap": 1.0}, "overlap lies in"),
        ("window", {"per_query": 0}, "at least 1"),
        ("window", {"fps": -1.0}, "positive"),
    ):
        with pytest.raises(DataError, match=words):
            apply(store, protocol, **options)


def test_a_moment_longer_than_all_windows_is_reported(tmp_path):
    common = {"frames": np.ones((20, 2), np.float32), "query_vectors": np.ones((2, 2), np.float32)}
    queries = [Query("a", "v", "x", ((0.0, 20.0),)), Query("b", "v", "x", ((2.0, 4.0),))]
    store = write_store(
        tmp_path / "s", StoreContents(name="s", videos=[StoredVideo("v", 20.0, 20)], queries=queries, **common)
    )
    view = apply(store, "window", sizes=(5,), fps=1.0)
    assert [q.qid for q in view.queries] == ["b"] and view.report.count("dropped") == 1
    with pytest.raises(DataError, match="no query is left"):
        apply(store, "window", sizes=(1,), fps=1.0, share=1.0)


def test_windows_of_joined_stores(store, tmp_path):
    joined = features.join(store, random_store(tmp_path / "t", [25, 31], seed=3))
    view = apply(joined, "window", **RULE)
    here, there = FeatureBank(view), FeatureBank(view, memory="map")
    assert torch.equal(here.frames, there.frames[:]) and torch.equal(here.grid, there.grid[:])
    assert {q.extra["source_video"].split("/")[0] for q in view.queries} >= {"s", "t"}


def test_the_split_of_pairs_says_that_it_leaks(store):
    view = apply(store, "random_pairs_leaky", seed=1)
    assert view.splits == ["random_pairs_leaky_test", "random_pairs_leaky_train"]
    train, test = (FeatureBank(view, name) for name in view.splits[::-1])
    assert len(train) == round(0.8 * len(store.queries)) and len(train) + len(test) == len(store.queries)
    shared = {v.id for v in train.videos} & {v.id for v in test.videos}
    leaks = view.report.findings["a test query whose video is in the train split", "doubtful"]
    assert shared and leaks.count == sum(q.video in shared for q in test.queries)
    assert {q.extra["official_split"] for q in view.queries} == {"train", "test"}
    official = FeatureBank(store, "test")
    assert torch.equal(official.frames, FeatureBank(store, "test").frames)
    with pytest.raises(DataError, match="has no split 'test'"):
        FeatureBank(view, "test")
    with pytest.raises(DataError, match="between 0 and 1"):
        apply(store, "random_pairs_leaky", share=1.0)
