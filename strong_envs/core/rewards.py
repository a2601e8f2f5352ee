"""Rewards of both levels: each is one function with a name, and every environment takes it by that name.

A new reward of the temporal level::

    @temporal_reward("iou_only")
    def iou_only(before, after, t, phi):
        return after - phi * t  # the IoU of the window reached

and `gym.make("TemporalMoment-v0", reward="iou_only")`, scalar, vector and compiled, pays it. `spatial_reward` does the
same for the boxes of `SpatialTrack-v0`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from strong_envs.core import boxes
from strong_envs.core.elementwise import Array, namespace
from strong_envs.features.errors import DataError, nearest

TEMPORAL_PHI = 0.1


@dataclass(frozen=True)
class TemporalReward:
    """A reward of the temporal level; see `temporal_reward`.

    Attributes:
        name: what ``reward=`` takes. function: before, after, t and phi to the reward, elementwise.
        signed_iou: whether the function needs IoUs of Eq. 4, negative for disjoint windows (``iou="signed"``).
    """

    name: str
    function: Callable[[Array, Array, Array, float], Array]
    signed_iou: bool = False

    def __reduce__(self) -> tuple:
        # Its module has the reward under the name of the function, so a copy looks it up.
        return find_temporal_reward, (self.name,)

    def __call__(self, before: Array, after: Array, t: Array, phi: float) -> Array:
        """The reward of moves: IoUs before and after (B,) float64, moves made before (B,) from 0, to (B,) float64."""
        # A number times whole numbers is float32 in torch and float64 in NumPy; the type of the IoU settles it.
        if isinstance(before, torch.Tensor):
            t = t.to(before.dtype)
        else:
            t = np.asarray(t, before.dtype) if isinstance(before, np.ndarray) else float(t)
        return self.function(before, after, t, phi)


def _find(registry: dict, name: str) -> Any:
    if not isinstance(name, str) or name not in registry:
        valid = tuple(registry)
        raise DataError(f"reward must be one of {valid}, got {name!r}{nearest(name, valid)}")
    return registry[name]


def _add(registry: dict, reward: TemporalReward | SpatialReward) -> None:
    if not isinstance(reward.name, str) or not reward.name:
        raise DataError(f"the name of a reward must be a word, got {reward.name!r}")
    known = registry.get(reward.name)
    # The same function once more is a cell of a notebook that is run again.
    where = [(one.function.__module__, one.function.__qualname__) for one in (known, reward) if one is not None]
    if len(set(where)) > 1:
        raise DataError(f"the reward {reward.name!r} is {'.'.join(where[0])} already; take another name")
    registry[reward.name] = reward


def _check_elementwise(reward: TemporalReward) -> None:
    ious = (-0.5, 0.0, 0.25, 0.75)
    cases = [(before, after, t) for before in ious for after in ious for t in (0.0, 3.0)]
    wide = np.array(cases).T
    try:
        single = [float(reward.function(before, after, t, 0.1)) for before, after, t in cases]
        arrays = np.broadcast_to(reward.function(wide[0], wide[1], wide[2], 0.1), len(cases)).tolist()
        rows = torch.as_tensor(wide)
        tensors = reward.function(rows[0], rows[1], rows[2], 0.1).to(torch.float64).tolist()
    except Exception as error:
        raise DataError(
            f"the reward {reward.name!r} must take Python floats, NumPy arrays and torch tensors alike (arithmetic and "
            f"comparisons, such as 1.0 * (after > before)); it raises {type(error).__name__}: {error}"
        ) from error
    if not single == arrays == tensors:
        raise DataError(f"the reward {reward.name!r} differs between floats, NumPy arrays and torch tensors")


TEMPORAL_REWARDS: dict[str, TemporalReward] = {}
"""Rewards of the temporal level by name."""


def temporal_reward(
    name: str, *, signed_iou: bool = False
) -> Callable[[Callable[[Array, Array, Array, float], Array]], TemporalReward]:
    """Register a function as the reward ``name`` of the temporal level, a decorator.

    The function gets the IoU ``before`` and ``after`` a move, the number ``t`` of moves made before it, a float, and
    the ``phi`` of the configuration. It is called with Python floats, NumPy arrays and tensors, and numba compiles it,
    so it consists of arithmetic and comparisons: ``1.0 * (after > before)`` in place of ``if``. Where numba cannot
    compile it, the vector environment steps in torch.

    Args:
        name: not the name of another function's reward.
        signed_iou: whether the function needs the signed IoU; any other ``iou`` is then refused.

    Raises:
        DataError: a name in use, or a function that does not give equal rewards for floats, arrays and tensors.
    """

    def register(function: Callable[[Array, Array, Array, float], Array]) -> TemporalReward:
        reward = TemporalReward(name, function, signed_iou)
        _check_elementwise(reward)
        _add(TEMPORAL_REWARDS, reward)
        return reward

    return register


def find_temporal_reward(name: str) -> TemporalReward:
    """The temporal reward of that name; an unknown one is refused with the valid names."""
    return _find(TEMPORAL_REWARDS, name)


@temporal_reward("iou_sign")
def iou_sign(before: Array, after: Array, t: Array, phi: float) -> Array:
    """Eq. 5: the sign of the change of IoU minus phi * t, with t counted from 0."""
    return 1.0 * (after > before) - 1.0 * (after < before) - phi * t


@temporal_reward("iou_delta")
def iou_delta(before: Array, after: Array, t: Array, phi: float) -> Array:
    """The change of IoU itself minus phi * t, with t counted from 0. Ours.

    Rewards of an episode add up to the IoU of its last window minus that of its first, so that nothing is earned by
    going on the way in small steps, or back and forth.
    """
    return after - before - phi * t


@temporal_reward("read", signed_iou=True)
def read(before: Array, after: Array, t: Array, phi: float) -> Array:
    """READ (He et al., AAAI 2019), its reward for a move.

    +1 where the IoU rose from 0 or more, 0 where it did not rise and is 0 or more, -1 for all else, which is windows
    beside the truth even when they come nearer; minus phi * t, with t counted from 0.
    """
    rose = 1.0 * ((after > before) & (before >= 0.0))
    idle = 1.0 * ((after <= before) & (after >= 0.0))
    return 2.0 * rose + idle - 1.0 - phi * t


def hit_reward(iou: Array, threshold: float) -> Array:
    """SM-RL (Wang et al., CVPR 2019): +1 where the IoU of a detection is above ``threshold``, else -1: (B,)."""
    return namespace(iou).where(iou > threshold, 1.0 + 0.0 * iou, -1.0 + 0.0 * iou)


def tree_leaf_reward(before: Array, after: Array) -> Array:
    """TSP-PRL (Wu et al., AAAI 2020), what pays its leaves: (B,) float64, from signed IoUs before and after a move.

    +1 where the IoU rose from 0 or more, and the IoU on top where it is above .5; -.1 where it did not rise and is 0 or
    more; -1 for all else.
    """
    where = namespace(before).where
    rose = where(after > 0.5, 1.0 + after, 1.0 + 0.0 * after)
    other = where((after <= before) & (after >= 0), -0.1 + 0.0 * after, -1.0 + 0.0 * after)
    return where((after > before) & (before >= 0), rose, other)


def tree_root_reward(before: Array, after: Array, best: Array) -> Array:
    """TSP-PRL, what pays its root: (B,) float64; ``best`` is the highest IoU that any branch would have led to.

    The change of the IoU, and on top of it 1 where the chosen branch is the best, else what it falls short of it.
    """
    return after - before + namespace(before).where(after >= best, 1.0 + 0.0 * after, after - best)


def relative_gains(gains: Array) -> Array:
    """Gains (B, A) of all actions of a state relative to the largest, up or down, that any of them makes: in [-1, 1].

    The sign of a gain says whether a move helps; this says which of several moves that help goes furthest.
    """
    largest = abs(gains).max(1)
    largest = largest.values if isinstance(gains, torch.Tensor) else largest
    return gains / namespace(gains).clip(largest, 1e-9, None)[:, None]


def compare(with_update: Array, without: Array, tolerance: float) -> Array:
    """Eq. 11: +1 where the score rose by more than ``tolerance``, -1 where it fell by more, 0 between: (B,)."""
    xp = namespace(with_update)
    gain = with_update - without
    return xp.where(abs(gain) <= tolerance, 0.0 * gain, xp.sign(gain))


SOURCES = ("critic", "true_box", "attention_box")


@dataclass(frozen=True)
class SpatialReward:
    """A reward of the spatial level; see `spatial_reward`.

    Attributes:
        name: what ``reward=`` takes. function: see `spatial_reward`. source: what it compares boxes by.
        temporal_truth: whether the function reads the signs of the temporal moves.
    """

    name: str
    function: Callable[..., Array]
    source: str
    temporal_truth: bool = False

    def __reduce__(self) -> tuple:
        return find_spatial_reward, (self.name,)

    def __call__(self, *args: Array) -> Array:
        """The score of boxes; see `spatial_reward`."""
        return self.function(*args)


SPATIAL_REWARDS: dict[str, SpatialReward] = {}
"""Rewards of the spatial level by name."""


def spatial_reward(
    name: str, *, source: str, temporal_truth: bool = False
) -> Callable[[Callable[..., Array]], SpatialReward]:
    """Register a function as the reward ``name`` of the spatial level, a decorator.

    The function scores boxes, and Eq. 11 pays the sign of the change of the score (`compare`). What it gets depends on
    its ``source``:

    - ``"critic"``: Q-values (B, A) of the temporal level for the boxes tried, and with ``temporal_truth`` the sign of
      the change of the true IoU for each temporal move (B, A), else None; it returns (B,).
    - ``"true_box"``, ``"attention_box"``: corners (..., 4) of the boxes tried, and corners (..., 4) of the true box of
      the frame or of the box of the frame attention, float64; it returns (...,).

    Raises:
        DataError: a name in use, or another source.
    """
    if source not in SOURCES:
        raise DataError(f"source must be one of {SOURCES}, got {source!r}{nearest(source, SOURCES)}")

    def register(function: Callable[..., Array]) -> SpatialReward:
        reward = SpatialReward(name, function, source, temporal_truth)
        _add(SPATIAL_REWARDS, reward)
        return reward

    return register


def find_spatial_reward(name: str) -> SpatialReward:
    """The spatial reward of that name; an unknown one is refused with the valid names."""
    return _find(SPATIAL_REWARDS, name)


def critic_rewards() -> tuple[str, ...]:
    """Names of the spatial rewards that compare Q-values of a critic."""
    return tuple(name for name, reward in SPATIAL_REWARDS.items() if reward.source == "critic")


@spatial_reward("q_value", source="critic")
def q_value(q: Array, move_signs: Array | None) -> Array:
    """The value of the best action, max Q, as Eq. 11 has it: (B, A) to (B,)."""
    return namespace(q).amax(q, -1)


@spatial_reward("signed_q", source="critic", temporal_truth=True)
def signed_q(q: Array, move_signs: Array) -> Array:
    """The sum of Q over the actions, each signed by whether that move raises the true IoU: (B, A), (B, A) to (B,)."""
    return (q * move_signs).sum(-1)


@spatial_reward("q_error", source="critic", temporal_truth=True)
def q_error(q: Array, move_signs: Array) -> Array:
    """Minus the squared error of Q against the signs of the true changes of IoU: (B, A), (B, A) to (B,)."""
    return -((q - move_signs) ** 2).sum(-1)


@spatial_reward("attention_box", source="attention_box")
def attention_box(box: Array, wanted: Array) -> Array:
    """The distance-IoU with the box of the frame attention, which also tells two boxes apart that both miss it."""
    return boxes.distance_iou(box, wanted)


@spatial_reward("box_iou", source="true_box")
def box_iou(box: Array, wanted: Array) -> Array:
    """The IoU with the true box of the frame."""
    return boxes.box_iou(box, wanted)
