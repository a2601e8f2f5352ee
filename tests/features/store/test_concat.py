"""Several stores as one: nothing lost, nothing mixed up, and stores that do not fit are refused by name."""

from __future__ import annotations

from dataclasses import asdict, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from random_stores import random_store

import strong_envs  # noqa: F401 (registers the ids)
from strong_envs import features
from strong_envs.features import DataError, FeatureStore, Query, StoreContents, StoredVideo, write_store


@pytest.fixture
def pair(tmp_path) -> list[FeatureStore]:
    return [random_store(tmp_path / "a", [4, 9, 5, 7]), random_store(tmp_path / "b", [3, 8, 6, 10, 2], seed=1)]


def parts_of(bank: features.FeatureBank, sample: int) -> dict[str, torch.Tensor]:
    rows = slice(*(int(bank.offsets[bank.video[sample] + i]) for i in (0, 1)))
    at = torch.arange(int(bank.n_frames[bank.video[sample]]))[None]
    return {
        "query": bank.query[sample],
        "truth": bank.truth[sample],
        "frames": bank.frames[rows],
        "grid": bank.grid[rows],
        "box": bank.true_box(torch.tensor([sample]), at)[0],
    }


@pytest.mark.parametrize("memory", ["device", "map"])
@pytest.mark.parametrize("split", ["train", "test", None])
def test_every_sample_keeps_its_features_truth_and_boxes(pair, split, memory):
    bank = features.load([str(s.path) for s in pair], split, memory=memory)
    single = [features.load(str(s.path), split) for s in pair]
    assert len(bank) == sum(map(len, single)) and len(bank.videos) == sum(len(b.videos) for b in single)
    assert len(set(bank.qids)) == len(bank) and len({v.id for v in bank.videos}) == len(bank.videos)
    sample = 0
    for part in single:
        for i in range(len(part)):
            got, want = parts_of(bank, sample), parts_of(part, i)
            for name in want:
                assert torch.equal(got[name], want[name]), (sample, name)
            query = bank.queries[sample]
            assert query.extra.get("source_qid", query.qid) == part.qids[i] and query.text == part.texts[i]
            sample += 1
    samples, last = torch.arange(len(bank)), bank.n_frames[bank.video]
    got = bank.frame_means(samples, last // 2, last)
    for part in single:
        last = part.n_frames[part.video]
        want = part.frame_means(torch.arange(len(part)), last // 2, last)
        assert torch.allclose(got[: len(part)], want, atol=1e-5)
        got = got[len(part) :]
    assert features.load([str(s.path) for s in pair], split, memory=memory) is bank


def test_a_joined_store_has_the_interface_of_one(pair):
    store = features.join(*pair)
    assert store.name == "a + b" and store.splits == ["test", "train"] and store.shape("frames") == (54, 6)
    whole = np.concatenate([s.tensor("frames") for s in pair])
    for start, stop in ((0, None), (3, 30), (25, 25), (40, 54), (20, 99)):
        assert np.array_equal(store.tensor("frames", start, stop), whole[start:stop])
    assert store.range("frames") == (float(whole.min()), float(whole.max()))
    assert store.content_hash not in {s.content_hash for s in pair}
    assert store.content_hash != features.join(*pair[::-1]).content_hash
    store.verify()
    findings = {f.kind: f.count for f in store.report.findings.values()}
    assert findings == {"a video id occurs in several stores": 8}
    assert [v.id for v in store.videos][:2] == ["a/v0", "a/v1"] and store.videos[-1].id == "v4"
    assert features.join(pair[0]) is pair[0]
    three = features.join(store, random_store(pair[0].path.parent / "c", [3], seed=2))
    assert len(three.videos) == 10 and len(three.flat_rows(0, 57)) == 57


def test_an_environment_takes_a_list(pair):
    with gym.make("TemporalMoment-v0", features=[str(s.path) for s in pair], split="test") as env:
        env.reset(seed=0)
        assert len(env.unwrapped.bank) == sum(q.split == "test" for s in pair for q in s.queries)


def rewrite(store: FeatureStore, folder, **changes) -> FeatureStore:
    given = {
        "name": "other",
        "videos": store.videos,
        "queries": [replace(q, extra={}) for q in store.queries],
        "frames": store.tensor("frames"),
        "query_vectors": store.tensor("queries"),
        "grid": store.tensor("grid"),
        "backbone": store.manifest["backbone"],
        "text": store.manifest["text"],
    }
    return write_store(folder, StoreContents(**{**given, **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": np.ones((25, 7), np.float32)}, "dims frame: 6 against 7"),
        ({"grid": None}, r"dims grid: \[4, 5, 6\] against null"),
        ({"query_vectors": np.ones((8, 3), np.float32)}, "dims query: 9 against 3"),
        ({"backbone": {"name": "resnet"}}, 'backbone name: "random" against "resnet"'),
        ({"text": {"name": "minilm"}}, 'text name: "random" against "minilm"'),
        ({"extra": {"pca": {"dim": 6}}}, "channel reduction .*: none against"),
    ],
)
def test_stores_that_do_not_fit_are_refused_by_name(changes, words, pair, tmp_path):
    other = rewrite(pair[0], tmp_path / "other", **changes)
    with pytest.raises(DataError, match=f"'a' and 'other' cannot be joined, they differ in .*{words}"):
        features.join(pair[0], other)


def test_units_and_nothing_at_all(pair):
    other = FeatureStore.open(pair[1].path)
    other.manifest["units"]["boxes"] = "pixels"
    with pytest.raises(DataError, match='units boxes: .* against "pixels"'):
        features.join(pair[0], other)
    with pytest.raises(DataError, match="no store was given"):
        features.load([])


def test_half_and_single_precision_and_stores_without_boxes_go_together(pair, tmp_path):
    half = rewrite(pair[0], tmp_path / "half", grid=pair[0].tensor("grid").astype(np.float16), boxes=None)
    store = features.join(half, pair[1])
    for memory in ("device", "map"):
        bank = features.FeatureBank(store, memory=memory)
        assert bank.grid[:3].dtype == torch.float32 and not bank.has_boxes
        assert np.array_equal(bank.grid[24:28][1:], pair[1].tensor("grid", 0, 3))
    tracked = [q for q in store.queries if q.extra.get("track")]
    first, last = store.tracks[tracked[0].extra["track"]]
    assert np.array_equal(store.tensor("boxes", first, last), pair[1].tensor("boxes", 0, 3), equal_nan=True)


def test_the_same_video_in_train_here_and_test_there_is_reported(tmp_path):
    def store(split: str) -> FeatureStore:
        return write_store(
            tmp_path / split,
            StoreContents(
                name="same",
                videos=[StoredVideo("v", 4.0, 4), StoredVideo(f"only {split}", 4.0, 4)],
                queries=[Query("same#1/q", "v", "x", ((0.0, 1.0),), split), Query("q", "v", "y", ((0.0, 1.0),), split)],
                frames=np.ones((8, 2), np.float32),
                query_vectors=np.ones((2, 2), np.float32),
            ),
        )

    joined = features.join(store("train"), store("test"))
    assert [v.id for v in joined.videos] == ["same#1/v", "only train", "same#2/v", "only test"]
    assert len({q.qid for q in joined.queries}) == 4
    assert any("it leaks" in kind for kind, _ in joined.report.findings)
    assert asdict(joined.videos[2])["n_frames"] == 4
