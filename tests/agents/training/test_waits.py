"""What must not wait for a device: a step of an environment, and an update of STRONG's temporal level.

Reading a number of a tensor stops the host until the device has computed it, and finding the places of a mask does so
too, because the result has a size. Both are visible on a processor.
"""

from __future__ import annotations

import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch.utils._python_dispatch import TorchDispatchMode

from strong_envs import agents, features
from strong_envs.agents.strong.cell_attention.training import CellAttentionTraining
from strong_envs.agents.training.captured import CapturedStep
from strong_envs.features.devices import constant, sent
from strong_envs.spatial.env import SpatialTrackVectorEnv
from strong_envs.temporal.env import TemporalMomentVectorEnv

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")


class Waits(TorchDispatchMode):
    """Collects the operations after which a host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if name in WAITS or masks:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def bank():
    return features.load("shapes-v0", "train")


def test_a_wait_is_seen():
    with Waits() as waits:
        float(torch.ones(()))
        torch.ones(3)[torch.tensor([True, False, True])]
    assert waits.found == ["_local_scalar_dense", "index"]


@pytest.mark.parametrize("make", [TemporalMomentVectorEnv, SpatialTrackVectorEnv])
def test_a_step_waits_for_nothing_but_the_look_that_a_processor_has_for_free(make, bank):
    options = {"reward": "box_iou"} if make is SpatialTrackVectorEnv else {"info": "light"}
    env = make(8, bank, output="torch", autoreset_mode=AutoresetMode.SAME_STEP, **options)
    env.reset(seed=0)
    action = torch.zeros(8, dtype=torch.int64)
    env.step(action)
    with Waits() as waits:
        env.step(action)
    # `bool(done.any())`: on a device all rows are computed instead (`IndexVectorEnv._step`).
    assert waits.found in ([], ["_local_scalar_dense"])


def test_an_update_of_strong_waits_for_nothing(bank):
    system = agents.make("strong", bank, cells={"episodes": 16, "queries": 4, "moves": 2, "lattice": 2})
    training = CellAttentionTraining(system.temporal, system.task, 10_000, whole=0.5, boxes=None)
    training.advance()
    drawn = {
        "samples": training.order[:4],
        "dice": torch.rand(4, 2),
        "free": torch.zeros(4, dtype=torch.bool),
        "cells": training._lattice(),
    }
    with Waits() as waits:
        training.learn(drawn)
    assert waits.found == []


def test_a_step_is_called_as_it_is_where_nothing_can_be_recorded():
    calls = []

    def step(given):
        calls.append(given)
        return {"twice": 2 * given["one"]}

    captured = CapturedStep(step, torch.device("cpu"))
    for value in range(6):
        assert captured({"one": torch.tensor(value)})["twice"] == 2 * value
    assert len(calls) == 6


def test_numbers_are_sent_and_tables_are_made_once():
    numbers = torch.arange(3)
    assert torch.equal(sent(numbers, "cpu"), numbers)
    one = constant(((0, 1), (2, 3)), torch.float32, torch.device("cpu"))
    assert one.tolist() == [[0, 1], [2, 3]] and one is constant(((0, 1), (2, 3)), torch.float32, torch.device("cpu"))
