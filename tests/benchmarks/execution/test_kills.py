"""Stores, checkpoints and results are the old ones or the new ones, at whatever moment their writer is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from strong_envs.agents.registry import Prediction
from strong_envs.agents.training.checkpoint import load_weights, save_weights
from strong_envs.benchmarks.execution.predictions import read_prediction, write_prediction
from strong_envs.benchmarks.results.files import read_result, write_json
from strong_envs.features import FeatureStore, Query, StoreContents, StoredVideo, write_store

KILLS = 50


def write_a_store(target: Path, number: int) -> None:
    contents = StoreContents(
        name="s",
        videos=[StoredVideo("v", 30.0, 300)],
        queries=[Query("q", "v", str(number), ((1.0, 2.0),))],
        frames=np.full((300, 40), number, np.float32),
        query_vectors=np.full((1, 4), number, np.float32),
    )
    write_store(target, contents, overwrite=True)


def read_a_store(target: Path) -> int:
    store = FeatureStore.open(target)
    store.verify()
    numbers = {float(x) for name in ("frames", "queries") for x in np.unique(store.tensor(name))}
    assert numbers == {float(store.queries[0].text)}
    return int(store.queries[0].text)


def write_a_checkpoint(target: Path, number: int) -> None:
    save_weights(target, {"w": torch.full((200, 50), float(number))}, {"step": number})


def read_a_checkpoint(target: Path) -> int:
    tensors, about = load_weights(target)
    assert set(tensors["w"].flatten().tolist()) == {float(about["step"])}
    return about["step"]


def write_a_result(target: Path, number: int) -> None:
    write_json(target, {"system": "x", "spans": [number] * 2000})


def read_a_result(target: Path) -> int:
    (number,) = set(read_result(target)["spans"])
    return number


def write_a_prediction(target: Path, number: int) -> None:
    write_prediction(target, Prediction(torch.full((500, 2), float(number), dtype=torch.float64)))


def read_a_prediction(target: Path) -> int:
    (number,) = set(read_prediction(target)[0].spans.flatten().tolist())
    return int(number)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "read"),
    [
        ("store", write_a_store, read_a_store),
        ("checkpoint.safetensors", write_a_checkpoint, read_a_checkpoint),
        ("result.json", write_a_result, read_a_result),
        ("prediction.safetensors", write_a_prediction, read_a_prediction),
    ],
)
def test_fifty_kills_lose_nothing(
    name: str, write: Callable[[Path, int], None], read: Callable[[Path], int], tmp_path: Path
) -> None:
    target, rng, last = tmp_path / name, random.Random(0), 0
    write(target, 0)
    for _ in range(KILLS):
        child = os.fork()
        if child == 0:
            try:
                for number in range(last + 1, last + 10**6):
                    write(target, number)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0, 0.08))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the writer failed by itself"
        found = read(target)
        assert found >= last
        last = found
    assert last > 0
