"""Names of devices, checked before torch sees them, and numbers sent to a device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from strong_envs.features.errors import DataError


def usable_device(device: str | torch.device) -> torch.device:
    """The device of a name, tried out.

    Raises:
        DataError: not the name of a device, or one that torch cannot use here.
    """
    if not isinstance(device, (str, torch.device)):
        raise DataError(f"device must be a name such as 'cpu' or 'cuda:0', got {device!r}")
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise DataError("device 'meta' holds no numbers; use 'cpu' or a device such as 'cuda'")
        torch.empty(1, device=found).cpu()
        return found
    except DataError:
        raise
    except (RuntimeError, AssertionError, NotImplementedError, ValueError, ImportError) as error:
        # The sentences of torch that follow the first name every backend, and people to write to.
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise DataError(f"device {str(device)!r} cannot be used with torch {torch.__version__}: {reason}") from None


def sent(numbers: Tensor, device: torch.device | str) -> Tensor:
    """Numbers that the host drew, on a device. On a CUDA device the host goes on without waiting for the copy."""
    device = torch.device(device)
    if device.type != "cuda":
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=256)
def constant(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A small table (numbers in tuples), made once for each device and never written to.

    Made anew in every step of an environment, each would be a copy that the host waits for.
    """
    return torch.tensor(values, dtype=dtype, device=device)
