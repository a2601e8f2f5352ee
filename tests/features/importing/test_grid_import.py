"""Stores of imported grids run STRONG and the spatial level; their channels may be reduced."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from strong_envs import features
from strong_envs.features.commands.import_features import add_parser
from strong_envs.features.datasets import read
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.pca import PCA
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.options import ImportOptions
from strong_envs.features.store.store import FeatureStore

ROWS = {"a": 20, "b": 12, "c": 16, "d": 9}


@pytest.fixture
def data(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        {"qid": k, "query": f"the thing number {k}", "duration": float(n), "vid": video, "relevant_windows": [[1, 5]],
         "split": "test" if video == "d" else "train"}
        for k, (video, n) in enumerate(ROWS.items())
    ]  # fmt: skip
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for video, n in ROWS.items():
        maps = rng.normal(size=(n, 3, 4, 8)).astype(np.float32)
        square = rng.normal(size=(n, 4, 4, 70)).astype(np.float16)
        for name, array in (
            ("grid", maps),
            ("chw", square.transpose(0, 3, 1, 2)),
            ("cells", square.reshape(n, 16, 70)),
            ("square", square),
            ("fast", np.repeat(maps, 2, axis=0)),
            ("frames", rng.normal(size=(n, 5)).astype(np.float32)),
        ):
            (tmp_path / name).mkdir(exist_ok=True)
            np.save(tmp_path / name / f"{video}.npy", array)
    return tmp_path


def test_a_grid_alone_is_a_store_whose_frames_are_its_means(data):
    store, report = import_store(data / "s", read(data / "all.jsonl"), None, ImportOptions(grid=data / "grid"))
    maps = np.concatenate([np.load(data / "grid" / f"{v}.npy") for v in ROWS])
    assert np.array_equal(store.tensor("grid"), maps) and store.shape("frames") == (57, 8)
    assert np.allclose(store.tensor("frames"), maps.mean((1, 2)), atol=1e-6)
    assert store.manifest["backbone"] == {"imported": ["grid"]} and not report.count("dropped")


def test_layouts_give_the_same_grid(data):
    found = read(data / "all.jsonl")
    stores = {
        name: import_store(data / f"s-{name}", found, data / "frames", ImportOptions(grid=data / name))
        for name in ("square", "chw", "cells")
    }
    grids = [store.tensor("grid") for store, _ in stores.values()]
    assert grids[0].dtype == np.float16 and all(np.array_equal(grid, grids[0]) for grid in grids[1:])
    assert "the axes were exchanged" in str(stores["chw"][1]) and not stores["square"][1].count("doubtful")
    store, report = import_store(data / "s-fast", found, data / "frames", ImportOptions(grid=data / "fast"))
    assert np.array_equal(store.tensor("grid", 0, 20), np.load(data / "grid" / "a.npy"))
    assert "a grid at another rate than the features" in str(report)


def test_an_imported_store_runs_strong_and_the_spatial_level(data):
    from strong_envs.agents import registry

    options = ImportOptions(grid=data / "grid")
    store, _ = import_store(data / "s", read(data / "all.jsonl"), data / "frames", options)
    bank = features.load(str(store.path))
    assert bank.has_grid and bank.grid_shape == (3, 4, 8)
    env = gym.make("TemporalMoment-v0", features=str(store.path), boxes="initial")
    env.reset(seed=0)
    env.step(0)
    plain, _ = import_store(data / "t", read(data / "all.jsonl"), data / "frames")
    assert registry.incompatibility("strong", bank) is None
    assert "--grid" in registry.incompatibility("strong", features.load(str(plain.path)))


def test_channels_are_reduced_on_train_videos_and_again_as_before(data):
    found = read(data / "all.jsonl")
    store, _ = import_store(data / "s", found, None, ImportOptions(grid=data / "grid", pca=3))
    reducer = PCA.from_json(store.manifest["extra"]["pca"])
    train = np.concatenate([np.load(data / "grid" / f"{v}.npy") for v in "abc"]).reshape(-1, 8)
    assert reducer.n_rows == len(train) and np.allclose(reducer.mean, train.mean(0), atol=1e-5)
    maps = np.concatenate([np.load(data / "grid" / f"{v}.npy") for v in ROWS])
    assert store.shape("grid") == (57, 3, 4, 3) and np.allclose(store.tensor("grid"), reducer.apply(maps), atol=1e-5)
    assert np.allclose(store.tensor("frames"), reducer.apply(maps.mean((1, 2))), atol=1e-4)
    again, _ = import_store(data / "t", found, None, ImportOptions(grid=data / "grid", pca=data / "s"))
    assert np.array_equal(again.tensor("grid"), store.tensor("grid"))
    assert features.join(store, again).shape("grid") == (114, 3, 4, 3)
    rows, _ = import_store(data / "u", found, data / "frames", ImportOptions(pca=2))
    assert rows.shape("frames") == (57, 2)
    both, _ = import_store(data / "v", found, data / "frames", ImportOptions(grid=data / "grid", pca=3))
    assert both.shape("frames") == (57, 5) and both.shape("grid") == (57, 3, 4, 3)
    for wrong in (0, -1, 9, data / "v-none", rows.path):
        with pytest.raises(DataError):
            import_store(data / "w", found, None, ImportOptions(grid=data / "grid", pca=wrong))
    assert not (data / "w").exists()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((20, 3, 4), np.float32), "not a square"),
        (np.ones((20, 5, 4, 8), np.float32), "has maps of"),
        (np.ones((20, 8), np.float32), "a grid is"),
        (np.full((20, 3, 4, 8), np.nan, np.float32), "NaN"),
        (np.ones((20, 300, 400, 3), np.uint8), "sides up to 64"),
    ],
)
def test_a_grid_that_cannot_be_used_costs_its_video_only(array, words, data):
    np.save(data / "grid" / "b.npy", array)
    store, report = import_store(
        data / "s", read(data / "all.jsonl"), data / "frames", ImportOptions(grid=data / "grid")
    )
    assert [v.id for v in store.videos] == ["a", "c", "d"] and words in str(report)
    assert len(store.tensor("grid")) == len(store.tensor("frames")) == 45


def test_the_command(data, capsys):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    words = ["import", data / "all.jsonl", "--grid", data / "grid", "--pca", "4", "--out", data / "s"]
    args = parser.parse_args([*map(str, words)])
    assert args.run(args) == 0 and FeatureStore.open(data / "s").shape("grid") == (57, 3, 4, 4)
    args = parser.parse_args(["import", str(data / "all.jsonl"), "--out", str(data / "t")])
    assert args.run(args) == 2 and "--features (or --grid)" in capsys.readouterr().err
