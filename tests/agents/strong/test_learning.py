"""Learning from own rewards alone, on a store that shows what the sentence names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strong_envs import agents, features
from strong_envs.agents.cli import held_out
from strong_envs.agents.strong.cell_attention.attention import AttendedFeatures
from strong_envs.features import Query, StoreContents, StoredVideo, write_store

SIDE, FRAMES, COLOURS = 4, 20, 3
SMALL = {
    "temporal": {"hidden": (32,), "width": 16},
    "spatial": {"num_envs": 32, "hidden": (16,)},
    "cells": {"hidden": 16, "episodes": 64, "steps_per_update": 40},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Videos with an object of every colour, each in a cell of its own, lit while its moment lasts.

    Whole frames tell that something is lit; which object it is, only its cell does.
    """
    rng = np.random.default_rng(0)
    count = 90
    grid = 0.1 * rng.normal(size=(count, FRAMES, SIDE * SIDE, COLOURS + 2)).astype(np.float32)
    videos = [StoredVideo(f"v{i}", float(FRAMES), FRAMES) for i in range(count)]
    queries, vectors = [], []
    for i in range(count):
        cells = rng.choice(SIDE * SIDE, COLOURS, replace=False)
        for colour, cell in enumerate(cells):
            length = int(rng.integers(4, 10))
            first = int(rng.integers(0, FRAMES - length))
            grid[i, :, cell, colour] += 1
            grid[i, first : first + length, cell, COLOURS] += 1
            split = "train" if i < 60 else "test"
            queries.append(Query(f"q{i}-{colour}", f"v{i}", f"colour {colour}", ((first, first + length),), split))
            vectors.append(np.eye(COLOURS)[colour])
    maps = grid.reshape(count * FRAMES, SIDE, SIDE, COLOURS + 2)
    contents = StoreContents(
        name="lights",
        videos=videos,
        queries=queries,
        frames=maps.mean((1, 2)),
        query_vectors=np.array(vectors, np.float32),
        grid=maps,
    )
    store = write_store(tmp_path_factory.mktemp("lights") / "store", contents)
    return features.load(str(store.path), "train"), features.load(str(store.path), "test")


def constant_of(world):
    """Held-out mIoU of the best window that ignores the video, chosen on the held-out part itself: a generous bound."""
    truth = world[1].truth[:, 0]
    ends = torch.arange(21) / 20
    start, end = (x.flatten() for x in torch.meshgrid(ends, ends, indexing="ij"))
    keep = start < end
    start, end = start[keep, None], end[keep, None]
    overlap = (torch.minimum(end, truth[:, 1]) - torch.maximum(start, truth[:, 0])).clamp(min=0)
    union = torch.maximum(end, truth[:, 1]) - torch.minimum(start, truth[:, 0])
    return float((overlap / union).mean(1).max())


@pytest.mark.slow
def test_a_short_training_from_own_rewards_beats_the_constant_window_and_finds_the_object(world):
    train, test = world
    steps = {"pretrain_steps": 40_000, "spatial_steps": 20_000, "temporal_steps": 10_000}
    system = agents.make("strong", train, seed=0, rounds=1, **steps, **SMALL).fit()
    bound = constant_of(world)
    assert held_out(system, test) > bound + 0.2
    # Nobody told the attention where the objects are.
    peaks = AttendedFeatures(test, system.cell_attention).peaks
    middle = ((peaks[:, :2] + peaks[:, 2:]) / 2 * SIDE).to(torch.int64).clamp(max=SIDE - 1)
    found = []
    for sample, query in enumerate(test.queries):
        colour = int(query.text[-1])
        rows = slice(int(test.offsets[test.video[sample]]), int(test.offsets[test.video[sample] + 1]))
        cell = test.grid[rows].mean(0)[..., colour].flatten().argmax()
        at = middle[sample * FRAMES : (sample + 1) * FRAMES]
        found.append((at[:, 1] * SIDE + at[:, 0] == cell).to(torch.float32).mean())
    # The middle of the box lies in the very cell of the object; by chance it does in 1 of 16 frames.
    assert float(torch.stack(found).mean()) > 0.25
    assert system.predict(test).boxes.shape == (len(test) * FRAMES, 4)
