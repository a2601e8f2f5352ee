"""Pure rewards of both levels, for NumPy arrays and torch tensors alike."""

from __future__ import annotations

import numpy as np
import torch

from strong_envs.core.spans import Array, _xp

TEMPORAL_PHI = 0.1
TEMPORAL_REWARDS = ("iou_sign", "iou_delta", "read")
SPATIAL_REWARDS = ("q_value", "signed_q", "q_error", "attention_box", "box_iou")
FROM_CRITIC = ("q_value", "signed_q", "q_error")


def iou_step_reward(before: Array, after: Array, t: Array, phi: float) -> Array:
    """Eq. 5: the sign of the change of IoU minus phi * t, with t counted from 0: (B,) float64."""
    return _xp(before).sign(after - before) - phi * _steps(t, before)


def iou_gain_reward(before: Array, after: Array, t: Array, phi: float) -> Array:
    """The change of IoU itself minus phi * t: (B,) float64. Ours.

    Rewards of an episode add up to the IoU of its last window minus that of its first, so that nothing is earned by
    going on the way in small steps, or back and forth.
    """
    return after - before - phi * _steps(t, before)


def read_step_reward(before: Array, after: Array, t: Array, phi: float) -> Array:
    """READ (He et al., AAAI 2019), its reward for a move: (B,) float64.

    +1 where the IoU rose from 0 or more, 0 where it did not rise and is 0 or more, -1 for all else, which is windows
    beside the truth even when they come nearer; minus phi * t, with t counted from 0. The IoU must be signed.
    """
    xp = _xp(before)
    change = xp.sign(after - before)
    rose = xp.where((change > 0) & (before >= 0), 1.0 + 0.0 * change, -1.0 + 0.0 * change)
    return xp.where((change <= 0) & (after >= 0), 0.0 * change, rose) - phi * _steps(t, before)


def _steps(t: Array, like: Array) -> Array:
    # A number times whole numbers is float32 in torch and float64 in NumPy; ones of the type of the IoU settle it.
    return t.to(like.dtype) if isinstance(t, torch.Tensor) else np.asarray(t, like.dtype)


def hit_reward(iou: Array, threshold: float) -> Array:
    """SM-RL (Wang et al., CVPR 2019): +1 where the IoU of a detection is above ``threshold``, else -1: (B,)."""
    return _xp(iou).where(iou > threshold, 1.0 + 0.0 * iou, -1.0 + 0.0 * iou)


def tree_leaf_reward(before: Array, after: Array) -> Array:
    """TSP-PRL (Wu et al., AAAI 2020), what pays its leaves: (B,) float64, from signed IoUs before and after a move.

    +1 where the IoU rose from 0 or more, and the IoU on top where it is above .5; -.1 where it did not rise and is 0 or
    more; -1 for all else.
    """
    where = _xp(before).where
    rose = where(after > 0.5, 1.0 + after, 1.0 + 0.0 * after)
    other = where((after <= before) & (after >= 0), -0.1 + 0.0 * after, -1.0 + 0.0 * after)
    return where((after > before) & (before >= 0), rose, other)


def tree_root_reward(before: Array, after: Array, best: Array) -> Array:
    """TSP-PRL, what pays its root: (B,) float64; ``best`` is the highest IoU that any branch would have led to.

    The change of the IoU, and on top of it 1 where the chosen branch is the best, else what it falls short of it.
    """
    return after - before + _xp(before).where(after >= best, 1.0 + 0.0 * after, after - best)


def temporal_reward(kind: str, before: Array, after: Array, t: Array, phi: float) -> Array:
    """The reward of `TEMPORAL_REWARDS` named ``kind``: (B,) float64."""
    paid = {"iou_sign": iou_step_reward, "iou_delta": iou_gain_reward, "read": read_step_reward}[kind]
    return paid(before, after, t, phi)


def relative_gains(gains: Array) -> Array:
    """Gains (B, A) of all actions of a state relative to the largest, up or down, that any of them makes: in [-1, 1].

    The sign of a gain says whether a move helps; this says which of several moves that help goes furthest.
    """
    largest = abs(gains).max(1)
    largest = largest.values if isinstance(gains, torch.Tensor) else largest
    return gains / _xp(gains).clip(largest, 1e-9, None)[:, None]


def compare(with_update: Array, without: Array, tolerance: float) -> Array:
    """Eq. 11: +1 where the score rose by more than ``tolerance``, -1 where it fell by more, 0 between: (B,)."""
    xp = _xp(with_update)
    gain = with_update - without
    return xp.where(abs(gain) <= tolerance, 0.0 * gain, xp.sign(gain))


def q_score(q: Array, move_reward: Array | None, reward: str) -> Array:
    """What the spatial level compares with and without the update: (B, A) Q-values to (B,).

    ``q_value``: the value of the best action, max Q, as Eq. 11 has it. ``signed_q``: the sum of Q over the actions,
    each signed by whether that move raises the true IoU (``move_reward``, (B, A) in {-1, 0, 1}). ``q_error``: minus the
    squared error of Q against those signs. The last two need the temporal truth, which training has.
    """
    if reward == "q_value":
        return _xp(q).amax(q, -1)
    if reward == "signed_q":
        return (q * move_reward).sum(-1)
    if reward == "q_error":
        return -((q - move_reward) ** 2).sum(-1)
    raise ValueError(f"reward must be one of {SPATIAL_REWARDS}, got {reward!r}")
