"""The meta device as a device that the host must not wait for."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
    if (
        type(thing).__module__.startswith(("strong_envs", "features"))
        and hasattr(thing, "__dict__")
        and id(thing) not in seen
    ):
        seen.add(id(thing))
        for name, value in vars(thing).items():
            object.__setattr__(thing, name, moved(value, device, seen))
    return thing
