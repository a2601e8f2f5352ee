"""Stores that are refused, banks that hold what was written, and pooling against plain loops."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from random_stores import random_store

from strong_envs import features
from strong_envs.features import DataError, FeatureStore, Query, StoreContents, StoredVideo, write_store
from strong_envs.features.bank.pooling import (
    WindowMeans,
    attention_weights,
    box_weights,
    integral_box_means,
    integral_maps,
    ragged_prefix_sums,
    spatial_pyramid,
)


def packed(lengths, dim, seed=0):
    rows = torch.randn(sum(lengths), dim, generator=torch.Generator().manual_seed(seed)) + 5
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return rows, offsets


@pytest.mark.parametrize("chunk", [1 << 23, 600])
def test_window_means_equal_a_loop(chunk, monkeypatch):
    monkeypatch.setattr("strong_envs.features.bank.pooling.CHUNK", chunk)
    lengths = [1, 7, 300, 5000]
    rows, offsets = packed(lengths, 6)
    prefix, mean = ragged_prefix_sums(rows, offsets)
    means = WindowMeans(prefix, mean, offsets[:-1] + torch.arange(4), torch.arange(4))
    rng = np.random.default_rng(0)
    for _ in range(50):
        v = int(rng.integers(4))
        a, b = sorted(rng.integers(0, lengths[v] + 1, 2))
        got = means(torch.tensor([v]), torch.tensor([a]), torch.tensor([b]))[0]
        want = rows[offsets[v] + a : offsets[v] + b].mean(0) if b > a else torch.zeros(6)
        assert torch.allclose(got, want, atol=1e-4)


def test_pyramid_and_integral_maps_equal_the_area_mean():
    maps = torch.rand(5, 7, 9, 4, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor(
        [[0.13, 0.2, 0.77, 0.91], [0, 0, 1, 1], [0.5, 0.5, 0.52, 0.6], [0.3, 0, 1, 0.2], [0, 0.9, 0.1, 1]]
    )
    fine = maps.repeat_interleave(100, 1).repeat_interleave(100, 2)
    bins = spatial_pyramid(maps, corners)
    assert bins.shape == (5, 21, 4)
    for i, (x1, y1, x2, y2) in enumerate(corners.tolist()):
        area = fine[i, round(y1 * 700) : round(y2 * 700), round(x1 * 900) : round(x2 * 900)]
        assert torch.allclose(bins[i, 0], area.mean((0, 1)), atol=1e-4)
    plain = torch.einsum("bk,bkc->bc", box_weights(corners, 7, 9), maps.flatten(1, 2))
    assert torch.allclose(bins[:, 0], plain, atol=1e-5)
    assert torch.allclose(integral_box_means(integral_maps(maps), torch.arange(5), corners), plain, atol=1e-4)
    assert torch.allclose(spatial_pyramid(maps, corners, (1, 3))[:, 1:].mean(1), plain, atol=1e-5)


@pytest.mark.parametrize("spread", [1, 40, 1000])
def test_attention_is_safe_at_any_spread(spread):
    scores = torch.tensor([[0.0, 1.0, 0.5]]) * spread
    inside = torch.tensor([[True, True, False]])
    weights = attention_weights(scores, inside)
    want = torch.softmax(scores[:, :2].double(), -1)
    assert torch.allclose(weights[:, :2].double(), want, atol=1e-6) and weights[0, 2] == 0
    assert attention_weights(scores, ~inside & inside).tolist() == [[0, 0, 0]]


def test_a_bank_holds_its_split(ragged_store):
    store = features.open_store(ragged_store)
    train, test = (features.load(ragged_store, split) for split in ("train", "test"))
    assert len(train) + len(test) == len(store.queries)
    assert {q.split for q in test.queries} == {"test"}
    i = 3
    video = test.videos[int(test.video[i])]
    row = sum(v.n_frames for v in store.videos[: [v.id for v in store.videos].index(video.id)])
    a = int(test.offsets[test.video[i]])
    assert np.allclose(test.frames[a : a + video.n_frames], store.tensor("frames", row, row + video.n_frames))
    windows = test.queries[i].windows
    assert np.allclose(test.truth[i, : len(windows)].numpy() * video.duration, windows)
    assert features.load(ragged_store, "test") is test
    with pytest.raises(DataError, match="has no split 'dev'"):
        features.load(ragged_store, "dev")


def test_sums_inside_boxes_equal_a_loop(ragged_store):
    bank = features.load(ragged_store, "train")
    video = bank.video[torch.arange(6)]
    last = bank.n_frames[video]
    first = last // 3
    corners = torch.tensor([[0.1, 0.2, 0.6, 0.9]]).expand(6, 4)
    got = bank.box_sums(video, first, last, corners)
    for i in range(6):
        rows = bank.offsets[video[i]] + torch.arange(int(first[i]), int(last[i]))
        want = bank.frame_box_features(rows, corners[:1].expand(len(rows), 4)).sum(0)
        assert torch.allclose(got[i], want, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["videos"][0].update(n_frames=2), "the videos add up to"),
        (lambda m: m["queries"][0].update(windows=[[1.0, 0.5]]), "has the window"),
        (lambda m: m["queries"][0].update(video="v00"), "unknown video 'v00'"),
        (lambda m: m["queries"][0]["extra"].update(track="t"), "unknown track"),
        (lambda m: m["tensors"]["frames"].update(shape=[1, 6]), "the manifest says"),
        (lambda m: m.update(version=99), "version 99"),
        (lambda m: m.pop("tensors"), "missing required field `tensors`"),
    ],
)
def test_an_unfit_manifest_is_one_sentence(ragged_store, tmp_path, change, words):
    broken = tmp_path / "broken"
    shutil.copytree(ragged_store, broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    change(manifest)
    (broken / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=words):
        FeatureStore.open(broken)


def test_damaged_files_are_one_sentence(ragged_store, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(ragged_store, broken)
    data = (broken / "frames.safetensors").read_bytes()
    (broken / "frames.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        FeatureStore.open(broken)
    (broken / "frames.safetensors").write_bytes(data[:-4] + b"\\0\\0\\0\\1"[:4])
    with pytest.raises(DataError, match="has hash"):
        FeatureStore.open(broken).verify()
    with pytest.raises(DataError, match="no such folder"):
        FeatureStore.open(tmp_path / "absent")


def test_nan_features_never_reach_a_store(tmp_path):
    values = np.ones((4, 3), np.float32)
    values[2, 1] = np.nan
    common = dict(
        name="s",
        videos=[StoredVideo("a", 2.0, 4)],
        queries=[Query("q", "a", "x", ((0.0, 1.0),))],
        query_vectors=np.ones((1, 2), np.float32),
    )
    with pytest.raises(DataError, match="1 of 4 rows, the first in row 2"):
        write_store(tmp_path / "s", StoreContents(frames=values, **common))
    assert list(tmp_path.iterdir()) == []
    write_store(tmp_path / "s", StoreContents(frames=np.nan_to_num(values), **common))
    with pytest.raises(DataError, match="exists"):
        write_store(tmp_path / "s", StoreContents(frames=np.nan_to_num(values), **common))


def test_a_key_with_a_typo_gets_the_nearest(tmp_path):
    with pytest.raises(DataError, match="did you mean 'shapes-travel-v0'"):
        features.load("shapes-travle-v0")
    store = random_store(tmp_path / "own", [4, 5, 6, 7])
    features.register("own-store-for-test", lambda: store)
    assert features.load("own-store-for-test").store is store


@pytest.mark.parametrize("tensor", ["frames", "queries", "grid"])
def test_nan_that_came_into_a_store_behind_our_back_stops_there(tensor, tmp_path):
    """Headers and manifest are right, the numbers are not."""
    from safetensors.numpy import save_file

    import strong_envs  # noqa: F401 (registers the ids)

    store = random_store(tmp_path / "spoilt", [3, 4, 5])
    values = store.tensor(tensor)
    values[2] = np.nan
    save_file({tensor: values}, str(store.path / f"{tensor}.safetensors"))
    import gymnasium as gym

    with pytest.raises(DataError, match="NaN or infinite"):
        gym.make("SpatialTrack-v0", features=str(store.path), reward="box_iou").reset(seed=0)


def test_a_shared_bank_follows_its_store(tmp_path):
    """A store written anew under the same path is not mistaken for the one that was loaded before."""
    first = random_store(tmp_path / "own", [4, 5, 6], seed=1)
    bank = features.load(str(first.path))
    assert features.load(str(first.path)) is bank
    shutil.rmtree(first.path)
    random_store(tmp_path / "own", [4, 5, 6], seed=2)
    assert not torch.equal(features.load(str(first.path)).frames, bank.frames)
