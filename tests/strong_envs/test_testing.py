"""`strong_envs.testing.check` passes what is sound and names what is not."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from strong_envs import features
from strong_envs.features import DataError
from strong_envs.temporal.env import TemporalMomentEnv
from strong_envs.testing import CheckFailed, check, check_bank


def test_what_ships_passes(ragged_store):
    passed = check(ragged_store, steps=25)
    assert any("TemporalMoment" in one for one in passed) and any("SpatialTrack" in one for one in passed)
    assert "scalar and vector agree" in check("TemporalOneShot-v0", features=ragged_store, steps=10)
    assert "seeds" in check("strong_envs:TemporalMoment-v0", features=ragged_store, steps=25, flatten=True)
    assert check(TemporalMomentEnv, features=ragged_store, steps=25)
    assert check(gym.make("TemporalMoment-v0", features=ragged_store), steps=25)


class Drifting(TemporalMomentEnv):
    def step(self, action):
        shown, reward, *rest = super().step(action)
        return ({**shown, "location": shown["location"] + 2}, reward, *rest)


class Unpaid(TemporalMomentEnv):
    def step(self, action):
        shown, _, *rest = super().step(action)
        return (shown, float("nan"), *rest)


class Unseeded(TemporalMomentEnv):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        return super().reset(options={"sample": int(np.random.default_rng().integers(len(self.bank)))})


class Deaf(TemporalMomentEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Drifting, "location|space"),
        (Unpaid, "NaN|nan|finite"),
        (Unseeded, "seed|deterministic|not equivalent"),
        (Deaf, "option"),
    ],
)
def test_what_is_broken_is_named(broken, words, ragged_store):
    with pytest.raises(CheckFailed, match=words):
        check(broken, features=ragged_store, steps=40)


def test_a_vector_environment_that_disagrees_is_named(ragged_store):
    class Generous(TemporalMomentEnv):
        def step(self, action):
            shown, reward, *rest = super().step(action)
            return (shown, reward + 1, *rest)

    gym.register(
        "Generous-v0", entry_point=Generous, vector_entry_point="strong_envs.temporal.env:TemporalMomentVectorEnv"
    )
    try:
        with pytest.raises(CheckFailed, match="in step 0 of environment 0 the scalar one gives"):
            check("Generous-v0", features=ragged_store, steps=10)
    finally:
        del gym.registry["Generous-v0"]


def test_a_broken_bank_is_named(ragged_store):
    bank = features.FeatureBank(features.open_store(ragged_store), "train")
    bank.truth[3, 0] = torch.tensor([0.9, 0.1], dtype=torch.float64)
    with pytest.raises(CheckFailed, match=bank.qids[3]):
        check_bank(bank)
    bank = features.FeatureBank(features.open_store(ragged_store), "train")
    bank.frames[0, 0] = float("nan")
    with pytest.raises(CheckFailed, match="frames holds NaN"):
        check(bank)


def test_what_cannot_be_checked_is_refused(ragged_store):
    with pytest.raises(DataError, match="neither a registered key"):
        check("shapse")
    with pytest.raises(DataError, match="made already"):
        check(gym.make("TemporalMoment-v0", features=ragged_store), phi=0.2)
    with pytest.raises(CheckFailed, match="not a gymnasium.Env"):
        check(lambda: 3)
