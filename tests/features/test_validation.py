"""The validation part: a store's own, or carved out of training, and nothing of it anywhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_stores import random_store

from strong_envs import features
from strong_envs.features import DataError, FeatureBank, FeatureStore, Query, StoreContents, StoredVideo, write_store
from strong_envs.features.composing.parts import find_leaks
from strong_envs.features.search_windows import WindowRule, cut_windows
from strong_envs.features.store.in_memory import QueryStore
from strong_envs.features.validation import groups


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return random_store(tmp_path_factory.mktemp("s") / "s", [5 + i % 7 for i in range(80)], windows=2)


def plain(tmp_path: Path, videos: list[StoredVideo], split: str = "train") -> FeatureStore:
    queries = [Query(f"q{v.id}", v.id, f"sentence {v.id}", ((0.0, 1.0),), split) for v in videos]
    rows = sum(v.n_frames for v in videos)
    frames = np.arange(rows, dtype=np.float32)[:, None]
    vectors = np.eye(len(videos), dtype=np.float32)
    return write_store(tmp_path / "store", StoreContents("store", videos, queries, frames, vectors))


def test_a_part_that_is_carved_takes_whole_videos_and_leaves_the_others_as_they_are(store: FeatureStore) -> None:
    carved = features.split_validation(store)
    assert carved.splits == ["test", "train", "val"] and store.splits == ["test", "train"]
    banks = {split: features.load(carved, split) for split in carved.splits}
    videos = {split: {v.id for v in bank.videos} for split, bank in banks.items()}
    assert {split: len(ids) for split, ids in videos.items()} == {"train": 54, "val": 6, "test": 20}
    assert not videos["train"] & videos["val"] and not videos["test"] & (videos["train"] | videos["val"])
    assert sum(len(bank) for bank in banks.values()) == len(store.queries)
    whole = FeatureBank(store)
    place = {qid: i for i, qid in enumerate(whole.qids)}
    for bank in banks.values():
        chosen = torch.tensor([place[qid] for qid in bank.qids])
        assert torch.equal(bank.query, whole.query[chosen]) and bank.qids == [whole.qids[i] for i in chosen]
        for i, sample in enumerate(chosen):
            a, b = int(bank.video[i]), int(whole.video[sample])
            mine, theirs = (x.frames[x.offsets[v] : x.offsets[v + 1]] for x, v in ((bank, a), (whole, b)))
            assert torch.equal(mine, theirs)
    test = features.load(store, "test")
    assert test.qids == banks["test"].qids and torch.equal(test.truth, banks["test"].truth)
    assert len(features.load(store, "train")) == len(banks["train"]) + len(banks["val"])


@pytest.mark.parametrize("memory", ["device", "map"])
def test_load_gives_every_store_a_validation_part(store: FeatureStore, memory: str) -> None:
    bank = features.load(store, "val", memory=memory)
    assert bank.qids == features.load(features.split_validation(store), "val").qids
    assert bank.split == "val" and bank is features.load(store, "val", memory=memory)
    own = features.open_store("shapes-v0")
    assert features.split_validation("shapes-v0") is own and len(features.load("shapes-v0", "val").videos) == 10


def test_the_choice_depends_on_names_and_seed_alone(store: FeatureStore) -> None:
    def chosen(**options: float) -> set[str]:
        return {q.video for q in features.split_validation(store, **options).queries if q.split == "val"}

    assert chosen() == chosen(seed=0) != chosen(seed=1)
    assert len(chosen(share=0.5)) == 30 and chosen() < chosen(share=0.5)
    hashes = {features.split_validation(store, seed=seed).content_hash for seed in (0, 0, 1)}
    assert len(hashes | {store.content_hash}) == 3


def test_videos_that_share_a_source_are_never_parted(tmp_path: Path) -> None:
    clip = {"duration": 1.0, "n_frames": 4}
    pairs = [("a", "b"), ("b", "c"), *((f"x{i}", f"y{i}") for i in range(8))]
    videos = [
        StoredVideo(f"v{i}", 8.0, 8, None, {"composed": {
            "tiles": [1, 1], "size": [8, 8], "pieces": [[0, 0, 4, 0, 0], [0, 4, 4, 1, 0]],
            "sources": [{"id": f"{one}-clip{i}", "group": one, **clip}, {"id": two, "group": two, **clip}],
        }})
        for i, (one, two) in enumerate(pairs)
    ]  # fmt: skip
    videos += [StoredVideo(f"w{i}", 3.0, 3, None, {"group": "one film"}) for i in range(3)]
    found = groups(videos)
    assert found["v0"] == found["v1"] and found["w0"] == found["w1"] == found["w2"]
    assert len(set(found.values())) == 10
    store = plain(tmp_path, videos)
    for seed in range(12):
        carved = features.split_validation(store, share=0.3, seed=seed)
        part = {q.video: q.split for q in carved.queries}
        assert not find_leaks(carved.videos, carved.queries)
        assert part["v0"] == part["v1"] and part["w0"] == part["w1"] == part["w2"]
        assert 1 <= sum(split == "val" for split in part.values()) <= 6


def test_windows_of_one_video_stay_together(store: FeatureStore) -> None:
    view = cut_windows(store, WindowRule(sizes=(4, 8), fps=2.0, per_query=None))
    carved = features.split_validation(view)
    sources = {split: {q.extra["source_video"] for q in carved.queries if q.split == split} for split in carved.splits}
    assert sources["val"] and not sources["val"] & sources["train"]
    assert carved.manifest["extra"]["protocol"] == view.manifest["extra"]["protocol"]


def test_annotations_alone_have_a_validation_part_too(shared_data: Path) -> None:
    store = features.open_store(f"queries:{shared_data / 'charades_sta'}")
    assert isinstance(store, QueryStore)
    train, val = (features.load(features.split_validation(store), split) for split in ("train", "val"))
    assert not {q.video for q in train.queries} & {q.video for q in val.queries}
    assert 0.08 < len(val) / (len(train) + len(val)) < 0.12


def test_a_store_from_which_nothing_can_be_carved_says_why(tmp_path: Path, store: FeatureStore) -> None:
    one_film = [StoredVideo(f"w{i}", 3.0, 3, None, {"group": "one film"}) for i in range(3)]
    with pytest.raises(DataError, match="the 3 videos of its split 'train' belong to one group"):
        features.load(plain(tmp_path / "a", one_film), "val")
    with pytest.raises(DataError, match=r"has no split 'val'; it has \['test'\]"):
        features.load(plain(tmp_path / "b", one_film, "test"), "val")
    with pytest.raises(DataError, match=r"has no split 'trian'; it has \['test', 'train'\]"):
        features.split_validation(store, train="trian")
    with pytest.raises(DataError, match="between 0 and 1, got 1"):
        features.split_validation(store, share=1)
