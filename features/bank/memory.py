"""Free memory, so that what cannot fit is refused before the system kills a process."""

from __future__ import annotations

import math

import torch

from strong_envs.features.errors import DataError
from strong_envs.features.extraction.work_folder import size


def free_memory(device: str | torch.device = "cpu") -> float:
    """Bytes that are free on a device; infinity where it is unknown."""
    device = torch.device(device)
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu":
        try:
            with open("/proc/meminfo") as handle:
                return next(int(line.split()[1]) * 1024.0 for line in handle if line.startswith("MemAvailable"))
        except (OSError, StopIteration, ValueError, IndexError):
            return math.inf
    return math.inf


def need_memory(needed: float, what: str, device: str | torch.device, otherwise: str) -> None:
    """Raise `DataError` when ``needed`` bytes for ``what`` are not free; ``otherwise`` is the advice in the message."""
    free = free_memory(device)
    if needed > free:
        raise DataError(f"{what} would take {size(needed)} on {device} and {size(free)} are free: {otherwise}")
