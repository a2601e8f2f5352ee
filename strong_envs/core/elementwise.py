"""Operations that the dynamics are written in: the same call for Python numbers, NumPy arrays and torch tensors.

A pure function that is written with these and with arithmetic and comparisons serves all shells of the project: the
scalar environment calls it with Python numbers, the vector environment with tensors, tests and metrics with arrays, and
`strong_envs.temporal.compiled_kernels` compiles it with the numbers of one episode.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import torch

Array = Any
"""A Python number, a NumPy array or a torch tensor; every function returns the kind that it was given."""


def namespace(array: Array) -> ModuleType:
    """`torch` for a tensor, `numpy` for everything else."""
    return torch if isinstance(array, torch.Tensor) else np


def minimum(a: Array, b: Array) -> Array:
    """The smaller of two numbers, elementwise; ``b`` may be a Python number. NaN in arrays and tensors stays NaN."""
    if isinstance(a, torch.Tensor):
        return torch.minimum(a, b) if isinstance(b, torch.Tensor) else a.clamp(max=b)
    if isinstance(a, np.ndarray):
        return np.minimum(a, b)
    return a if a < b else b


def maximum(a: Array, b: Array) -> Array:
    """The larger of two numbers, elementwise; ``b`` may be a Python number. NaN in arrays and tensors stays NaN."""
    if isinstance(a, torch.Tensor):
        return torch.maximum(a, b) if isinstance(b, torch.Tensor) else a.clamp(min=b)
    if isinstance(a, np.ndarray):
        return np.maximum(a, b)
    return a if a > b else b


def floor(a: Array) -> Array:
    """The largest whole number that is not above ``a``, as an integer."""
    if isinstance(a, torch.Tensor):
        return torch.floor(a).to(torch.int64)
    return np.floor(a).astype(np.int64) if isinstance(a, np.ndarray) else math.floor(a)


def ceil(a: Array) -> Array:
    """The smallest whole number that is not below ``a``, as an integer."""
    if isinstance(a, torch.Tensor):
        return torch.ceil(a).to(torch.int64)
    return np.ceil(a).astype(np.int64) if isinstance(a, np.ndarray) else math.ceil(a)
