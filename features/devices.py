"""Names of devices, checked before torch sees them."""

from __future__ import annotations

import torch

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
