"""Observations of both levels: their Gymnasium spaces, and named parts put side by side."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from strong_envs.features.errors import DataError, nearest

FEATURE_LIMIT = float(np.finfo(np.float16).max)
"""Bound of every number that is a feature: float16's largest, 65504, which extractors keep their numbers below."""

INDEX_LIMIT = 2**31 - 1
"""Bound of samples and frames in the spaces of index observations, for stores of every size."""

BOUNDS = {
    "location": (0.0, 1.0),
    "time": (0.0, 1.0),
    "box": (0.0, 1.0),
    "attention_box": (-1.0, 1.0),
    "mask": (0.0, 1.0),
    "position": (0.0, 1.0),
    "range": (0.0, 1.0),
    "budget": (0.0, 1.0),
}
"""Parts of observations that are no features: fractions of the video or of the frame."""


def feature_space(shapes: Mapping[str, tuple[int, ...]], flatten: bool, limit: float = FEATURE_LIMIT) -> spaces.Space:
    """The Dict of Boxes for named parts, or one flat Box of their concatenation.

    Bounds belong to the kind of a part and not to the numbers of a store, so that stores of equal sizes have equal
    spaces: fractions as in `BOUNDS`, features in [-limit, limit].
    """
    parts = {}
    for name, shape in shapes.items():
        low, high = BOUNDS.get(name, (-limit, limit))
        parts[name] = spaces.Box(low, high, shape, np.float32)
    if not flatten:
        # Gymnasium sorts the keys of a plain dict; its wrappers would then flatten in another order than the paper's.
        return spaces.Dict(OrderedDict(parts))
    lows = np.concatenate([part.low.ravel() for part in parts.values()])
    highs = np.concatenate([part.high.ravel() for part in parts.values()])
    return spaces.Box(lows, highs, dtype=np.float32)


def flat(observation: dict[str, Tensor]) -> Tensor:
    """The parts of an observation side by side: (B, sum of sizes). It may share their memory, see `joined`."""
    return joined([part.flatten(1) for part in observation.values()])


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate (B, n) tensors along their columns; neighbouring views of one table become a view of it, uncopied.

    The compiled path writes whole rows and hands out their parts as such views: putting them together again would cost
    more than having computed them.
    """
    first, width = parts[0], 0
    for part in parts:
        # A view of more than `first` would lose the gradients of the others.
        if (
            part.requires_grad
            or part.dtype != first.dtype
            or len(part) != len(first)
            or part.stride() != (first.stride(0), 1)
            or part.storage_offset() != first.storage_offset() + width
            or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
        ):
            return torch.cat(list(parts), 1)
        width += part.shape[1]
    return first.as_strided((len(first), width), first.stride())


def feature_limit(*ranges: tuple[float, float]) -> float:
    """`FEATURE_LIMIT`, or float32's largest number where features of these ranges (low, high) exceed it."""
    largest = max((abs(end) for ends in ranges for end in ends), default=0.0)
    return FEATURE_LIMIT if largest < FEATURE_LIMIT else float(np.finfo(np.float32).max)


def split_options(options: dict | None, valid: Sequence[str]) -> dict:
    """Reset options with unknown keys refused; a value of None counts as not given."""
    if options is not None and not isinstance(options, Mapping):
        raise DataError(f"options must be a dict, got {options!r}")
    options = dict(options or {})
    for key in options:
        if key not in valid:
            raise DataError(f"unknown reset option {key!r} (valid: {sorted(valid)}){nearest(key, valid)}")
    return {key: value for key, value in options.items() if value is not None}
