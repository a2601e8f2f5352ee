"""A step on a device never waits for it: run on torch's meta device, where any look at a number is an error."""

from __future__ import annotations

import pytest
import torch
from gymnasium.vector import AutoresetMode

from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.pooling import WindowMeans
from strong_envs.features.store.store import FeatureStore
from strong_envs.temporal.env import TemporalMomentVectorEnv

META = torch.device("meta")


def on_meta(path: str) -> FeatureBank:
    """A bank without numbers: shapes and dtypes only."""
    bank = FeatureBank(FeatureStore.open(path), "train")
    means = bank.frame_means
    for name, value in list(vars(bank).items()):
        if isinstance(value, torch.Tensor):
            setattr(bank, name, value.to(META))
    parts = (getattr(means, name).to(META) for name in ("prefix", "mean", "base", "group"))
    bank.frame_means = WindowMeans(*parts)
    bank.device = META
    return bank


def test_the_meta_device_notices():
    tensor = torch.ones(2, device=META)
    for look in (lambda: bool(tensor.any()), lambda: tensor[0].item(), tensor.tolist, tensor.nonzero, tensor.cpu):
        with pytest.raises((RuntimeError, NotImplementedError)):
            look()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(
    "options",
    [
        {"flatten": True},
        {"start": "random", "global_scope": "moment", "invalid": "terminate", "time_in_observation": True},
        {"multi_scale": True, "iou": "clamped", "invalid": "penalty", "context": False},
        {"observation": "index", "info": "light"},
    ],
)
def test_a_step_does_not_wait_for_the_device(mode, options, ragged_store):
    env = TemporalMomentVectorEnv(6, on_meta(ragged_store), output="torch", autoreset_mode=mode, **options)
    env.reset(seed=0)
    for _ in range(2):
        observation, reward, terminated, truncated, info = env.step(torch.zeros(6, dtype=torch.int64, device=META))
        parts = observation.values() if isinstance(observation, dict) else [observation]
        assert all(part.device == META and len(part) == 6 for part in (*parts, reward, terminated, truncated))
        assert info["_episode"].device == META and ("final_obs" in info) == (mode == AutoresetMode.SAME_STEP)
    env.observe_state(env.reached)
    env.action_rewards(env.state())
