"""Observations of both levels: their Gymnasium spaces, and named parts put side by side."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from strong_envs.features.errors import DataError, nearest


def feature_space(
    shapes: dict[str, tuple[int, ...]], ranges: dict[str, tuple[float, float]], flatten: bool
) -> spaces.Space:
    """The Dict of Boxes for named parts, or one flat Box of their concatenation.

    ``ranges`` bounds the parts that hold features; the others are fractions in [0, 1]. An empty window gives zeros and
    prefix sums round, so the bounds include 0 and a little slack.
    """
    parts = {}
    for name, shape in shapes.items():
        low, high = ranges.get(name, (0.0, 1.0))
        if name in ranges:
            slack = 1e-3 + 1e-3 * (high - low)
            low, high = min(low, 0.0) - slack, max(high, 0.0) + slack
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


def split_options(options: dict | None, valid: Sequence[str]) -> dict:
    """Reset options with unknown keys refused; a value of None counts as not given."""
    if options is not None and not isinstance(options, Mapping):
        raise DataError(f"options must be a dict, got {options!r}")
    options = dict(options or {})
    for key in options:
        if key not in valid:
            raise DataError(f"unknown reset option {key!r} (valid: {sorted(valid)}){nearest(key, valid)}")
    return {key: value for key, value in options.items() if value is not None}
