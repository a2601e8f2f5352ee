"""What a move of the temporal level pays and ends, written once for Python numbers, arrays, tensors and compiled code.

With `spans.shifted`, which moves a window, and `spans.overlap`, its IoU, this is the whole step.
"""

from __future__ import annotations

from collections.abc import Callable

from strong_envs.core.elementwise import Array
from strong_envs.core.spans import STOP

INVALID = ("refuse", "penalty", "terminate", "clip")
"""What an invalid move does beside leaving the window as it is: nothing, cost 1, end the episode.

With ``"clip"`` a move over the edge of the video is cut off there instead, and invalid where nothing of it is left."""


def outcome(
    action: Array,
    t: Array,
    before: Array,
    after: Array,
    valid: Array,
    pay: Callable[[Array, Array, Array, float], Array],
    phi: float,
    penalty: float,
    ends: bool,
    max_steps: int,
) -> tuple[Array, Array, Array]:
    """Reward, terminated and truncated of one move, elementwise.

    Args:
        action: number of the move.
        t: moves made before it.
        before: IoU before the move.
        after: IoU after it.
        valid: whether the window moved as the action says.
        pay: a `TemporalReward`, or its function, which takes ``t`` as a float.
        phi: what the reward takes for each step.
        penalty: taken from the reward of an invalid move.
        ends: whether an invalid move ends the episode.
        max_steps: moves after which an episode is truncated.
    """
    refused = valid ^ True  # "not", which Python has for single values only
    reward = pay(before, after, t, phi) - penalty * refused
    terminated = (action == STOP) | (refused & ends)
    truncated = (t + 1 >= max_steps) & (terminated ^ True)
    return reward, terminated, truncated
