"""A step on a device never waits for it: run on the meta device, which has no numbers that the host could ask for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_device import OnlyOn, moved
from gymnasium.vector import AutoresetMode

from strong_envs import features
from strong_envs.spatial.env import SpatialTrackVectorEnv
from strong_envs.temporal.env import TemporalMomentVectorEnv

COUNT = 5


def on_meta(environment, store, **options):
    bank = features.FeatureBank(features.open_store(store), "train")
    env = environment(COUNT, bank, output="torch", **options)
    env.reset(seed=0)
    host = {key: value.clone() for key, value in env.state().items()}
    moved(env, "meta")
    assert env.device.type == "meta" and {x.device.type for x in env.state().values()} == {"meta"}
    return env, host


def critic(observation):
    return (observation["local"][:, :1] + observation["location"][:, :1]).expand(-1, 7)


ENVIRONMENTS = [
    (TemporalMomentVectorEnv, {"flatten": True}),
    (TemporalMomentVectorEnv, {"start": "random", "invalid": "penalty", "global_scope": "moment"}),
    (TemporalMomentVectorEnv, {"observation": "index", "info": "light", "time_in_observation": True}),
    (TemporalMomentVectorEnv, {"boxes": "truth", "iou": "clamped", "invalid": "terminate"}),
    (SpatialTrackVectorEnv, {"reward": "box_iou", "window": "random"}),
    (SpatialTrackVectorEnv, {"critic": critic, "reward": "signed_q"}),
]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize(("environment", "options"), ENVIRONMENTS)
def test_a_step_on_a_device_never_waits_for_it(environment, options, mode, ragged_store, monkeypatch):
    monkeypatch.setenv("STRONG_ENVS_COMPILED", "0")
    env, host = on_meta(environment, ragged_store, autoreset_mode=mode, **options)
    action = torch.zeros(COUNT, dtype=torch.int64, device="meta")
    with OnlyOn():
        for _ in range(3):
            observation, reward, terminated, truncated, info = env.step(action)
    parts = observation.values() if isinstance(observation, dict) else [observation]
    for part in (*parts, reward, terminated, truncated):
        assert part.device.type == "meta" and len(part) == COUNT
    assert ("final_obs" in info) == (mode == AutoresetMode.SAME_STEP)
    assert {name: (x.shape, x.dtype) for name, x in env.state().items()} == {
        name: (x.shape, x.dtype) for name, x in host.items()
    }


def test_the_guard_sees_what_waits():
    mask = torch.ones(3, dtype=torch.bool, device="meta")
    for wait in (lambda: bool(mask.any()), lambda: mask.nonzero(), lambda: mask[mask], lambda: mask.cpu()):
        with OnlyOn(), pytest.raises((AssertionError, NotImplementedError, RuntimeError)):
            wait()
    with OnlyOn(), pytest.raises(AssertionError, match="copies"):
        torch.as_tensor(np.zeros(3), device="meta")
