"""A step on a device never waits for it: run on the meta device, which has no numbers that the host could ask for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from strong_envs import features
from strong_envs.spatial.env import SpatialTrackVectorEnv
from strong_envs.temporal.env import TemporalMomentVectorEnv

COUNT = 5


class OnlyOn(TorchDispatchMode):
    """Refuses what makes the host wait for a device, or the device for the host: copies, and sizes that depend on
    numbers. Tensors of one number are operands that live in the launch of a kernel, and stay allowed."""

    WAITS = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal", "is_nonzero", "repeat_interleave")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert not any(name.startswith(word) for word in self.WAITS), f"{name} waits for the device"
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        kinds = {x.device.type for x in tensors if x.ndim}
        assert len(kinds) < 2, f"{name} copies between the host and the device"
        return result


def moved(thing, device, seen=None):
    """Send every tensor that an object holds to a device, in place."""
    seen = set() if seen is None else seen
    if isinstance(thing, torch.Tensor):
        return thing.to(device)
    if isinstance(thing, torch.device):
        return torch.device(device)
    if isinstance(thing, dict):
        return {key: moved(value, device, seen) for key, value in thing.items()}
    if isinstance(thing, tuple):
        parts = [moved(value, device, seen) for value in thing]
        return type(thing)(*parts) if hasattr(thing, "_fields") else tuple(parts)
    if type(thing).__module__.startswith(("strong_envs", "features")) and hasattr(thing, "__dict__"):
        if id(thing) not in seen:
            seen.add(id(thing))
            for name, value in vars(thing).items():
                object.__setattr__(thing, name, moved(value, device, seen))
    return thing


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
