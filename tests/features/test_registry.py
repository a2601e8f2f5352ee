"""Banks are shared while they are used, and freed when nothing uses them."""

from __future__ import annotations

import gc
import weakref

import pytest
from random_stores import random_store

from strong_envs import features
from strong_envs.features import registry
from strong_envs.features.errors import DataError


def test_a_bank_is_shared_while_it_is_used_and_freed_afterwards(tmp_path):
    path = str(random_store(tmp_path / "s", [3, 5]).path)
    bank = features.load(path)
    assert features.load(path) is bank and features.open_store(path) is bank.store
    _ = bank.frame_means, bank.grid_prefix  # what is computed when first used must not hold it either
    watched = [weakref.ref(bank), weakref.ref(bank.store)]
    del bank, _
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


def test_many_stores_leave_nothing_behind(tmp_path):
    before = len(registry._BANKS), len(registry._STORES)
    for k in range(5):
        features.load(str(random_store(tmp_path / str(k), [2, 2]).path))
    gc.collect()
    assert (len(registry._BANKS), len(registry._STORES)) == before


@pytest.mark.parametrize("device", ["banana", "cuda:99", "mps:3", "meta", None, 0, b"cpu", "", "cpu:x"])
def test_a_device_that_cannot_be_used_is_one_sentence(device, ragged_store):
    import torch

    if device == "cuda:99" and torch.cuda.device_count() > 99:
        pytest.skip("this machine has a hundred devices")
    with pytest.raises(DataError, match="device"):
        features.load(ragged_store, device=device)
    assert features.load(ragged_store, device="cpu").device.type == "cpu"


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "/dev/null", "/dev/null/x", "", "."])
def test_odd_paths_are_one_sentence(name):
    with pytest.raises(DataError):
        features.open_store(name)
