"""The step of all episodes of a batch in one call, which numba compiles (extra ``fast``).

The dynamics are those of `strong_envs.core.spans`, `strong_envs.temporal.dynamics` and `strong_envs.core.rewards`:
`kernels` compiles the same functions with the numbers of one episode in place of tensors. Rewards, flags and integers
therefore equal those of the torch path to the last bit; means over windows agree to 1e-5. Nothing here is required:
without numba, on a device, or with ``STRONG_ENVS_COMPILED=0``, torch does the work.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from functools import cache
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from strong_envs.core import rewards
from strong_envs.core.elementwise import maximum, minimum
from strong_envs.core.rewards import TemporalReward
from strong_envs.core.sampling import draw
from strong_envs.core.spans import (
    LEGACY,
    SIGNED,
    STOP,
    context_windows,
    frame_window,
    intersection,
    overlap,
    shifted,
)
from strong_envs.temporal.compiled_observations import copy_loop, mean_loop, observe_all, observe_row
from strong_envs.temporal.compiled_stores import intrinsics
from strong_envs.temporal.dynamics import outcome

SAME_STEP, NEXT_STEP, DISABLED = range(3)

# Rows of the state of all episodes. ``WAS`` rows hold the state reached by the last move, before an automatic reset.
SAMPLE, T, WAS_SAMPLE, WAS_T, LENGTH, EPISODE, KEY = range(7)
START, END, IOU, WAS_START, WAS_END, WAS_IOU, RETURN, PAY = range(8)
DONE, IS_INVALID, RESETTING = range(3)
STATE_ROWS = (7, 8, 3)

# Rows of what a step hands out: the observation of states, statistics of ended episodes, ``info`` and final ``info``.
SHOWN_SAMPLE, SHOWN_T, INFO_SAMPLE, ENDED_LENGTH, FINAL_SAMPLE, FINAL_T, FINAL_INFO_SAMPLE = range(7)
SHOWN_START, SHOWN_END, TIOU, ENDED_RETURN, ENDED_TIME, FINAL_START, FINAL_END, FINAL_TIOU = range(8)
TERMINATED, TRUNCATED, ENDED, INVALID_MOVE, FINAL_INVALID = range(5)
SPAN, TRUE_SPAN, FINAL_SPAN, FINAL_TRUE = range(4)
MASK, FINAL_MASK = range(2)
OUT_ROWS = (7, 8, 5, 4, 2)
PIECE = 256
"""Episodes that `step_all` treats together: some 30 rows of them fit the first cache or nearly so."""

BAD_ACTION, HAS_ENDED = -1, -2

# Known to compiled code only: the function of the reward.
pay_one: Any = None


class Rules(NamedTuple):
    """What `step_all` reads beside the state: (A,) moves, (K, S) true windows in steps, scales, and the options.

    ``seconds`` (S,) are those of a step, ``true_low`` and ``true_high`` (K, S) the true windows in seconds. ``first``
    (2,) is the initial span, ``random`` draws one. ``kind`` is the IoU that is paid. ``full`` fills what ``info``
    describes, ``shown`` the observation of states.
    """

    shift_start: np.ndarray
    shift_end: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seconds: np.ndarray
    true_low: np.ndarray
    true_high: np.ndarray
    first: np.ndarray
    phi: float
    total: float
    penalty: float
    ends: bool
    beyond: float
    kind: int
    mode: int
    max_steps: int
    random: bool
    full: bool
    shown: bool


def overlap_one(start: float, end: float, sample: int, low: np.ndarray, high: np.ndarray, kind: int) -> float:
    """`spans.span_iou` of one span with the true windows ``low`` and ``high`` (K, S) of a sample."""
    best = overlap(start, end, low[0, sample], high[0, sample], kind)
    for k in range(1, len(low)):
        best = maximum(best, overlap(start, end, low[k, sample], high[k, sample], kind))
    return best


def nearest_one(start: float, end: float, sample: int, low: np.ndarray, high: np.ndarray) -> int:
    """`spans.nearest_window` of one span among the true windows ``low`` and ``high`` (K, S) of a sample."""
    best, nearest = overlap(start, end, low[0, sample], high[0, sample], SIGNED), 0
    for k in range(1, len(low)):
        iou = overlap(start, end, low[k, sample], high[k, sample], SIGNED)
        if iou > best:
            best, nearest = iou, k
    return nearest


def move_rows(
    a: Any, b: Any, action: np.ndarray, rules: Rules, start: np.ndarray, end: np.ndarray, new_start: np.ndarray,
    new_end: np.ndarray, refused: np.ndarray,
) -> None:  # fmt: skip
    """`spans.shifted` of the spans from a to b: writes the new ones and which moves were refused."""
    shift_start, shift_end, total, beyond = rules.shift_start, rules.shift_end, rules.total, rules.beyond
    for i in range(a, b):
        one, two, _ = shifted(start[i], end[i], shift_start[action[i]], shift_end[action[i]], total, beyond)
        new_start[i] = one
        new_end[i] = two
    # A loop of its own: numbers of one size are vectorised, flags among them are not.
    for i in range(a, b):
        _, _, valid = shifted(start[i], end[i], shift_start[action[i]], shift_end[action[i]], total, beyond)
        refused[i] = not valid


def overlap_rows(
    a: Any, b: Any, start: np.ndarray, end: np.ndarray, sample: np.ndarray, low: np.ndarray, high: np.ndarray,
    kind: int, best: np.ndarray,
) -> None:  # fmt: skip
    """`spans.span_iou` of the spans from a to b with the true windows ``low`` and ``high`` (K, S)."""
    for k in range(len(low)):
        lows, highs = low[k], high[k]
        for i in range(a, b):
            iou = overlap(start[i], end[i], lows[sample[i]], highs[sample[i]], kind)
            best[i] = iou if k == 0 or iou > best[i] else best[i]


def copy_rows(a: Any, b: Any, source: np.ndarray, target: np.ndarray) -> None:
    """``target[:, a:b] = source[:, a:b]``; numba compiles a loop in a tenth of the time that slices take."""
    for r in range(len(source)):
        one, two = source[r], target[r]
        for i in range(a, b):
            two[i] = one[i]


def true_rows(
    a: Any, b: Any, start: np.ndarray, end: np.ndarray, sample: np.ndarray, rules: Rules, true: np.ndarray
) -> None:
    """The nearest true window, in seconds, of the spans from a to b."""
    if len(rules.low) > 1:
        for i in range(a, b):
            s = sample[i]
            k = nearest_one(start[i], end[i], s, rules.low, rules.high)
            true[i, 0], true[i, 1] = rules.true_low[k, s], rules.true_high[k, s]
        return
    low, high = rules.true_low[0], rules.true_high[0]
    for i in range(a, b):
        true[i, 0], true[i, 1] = low[sample[i]], high[sample[i]]


def mask_rows(a: Any, b: Any, start: np.ndarray, end: np.ndarray, rules: Rules, mask: np.ndarray) -> None:
    """Which actions move the spans from a to b: ``mask`` (A, B) int8, whose row of stop holds ones already."""
    for j in range(len(mask)):
        if j == STOP:
            continue
        shift_start, shift_end, row = rules.shift_start[j], rules.shift_end[j], mask[j]
        for i in range(a, b):
            _, _, valid = shifted(start[i], end[i], shift_start, shift_end, rules.total, rules.beyond)
            row[i] = valid


def step_all(
    actions: np.ndarray, elapsed: float, ints: np.ndarray, floats: np.ndarray, flags: np.ndarray, out_ints: np.ndarray,
    out_floats: np.ndarray, out_flags: np.ndarray, out_spans: np.ndarray, out_masks: np.ndarray, reward: np.ndarray,
    *given: Any,
) -> int:  # fmt: skip
    """One step of B episodes, automatic resets included: the number that ended, or `BAD_ACTION` or `HAS_ENDED`.

    ``ints``, ``floats`` and ``flags`` are the state, the ``out`` arrays and ``reward`` what the step hands out; of the
    ``FINAL`` rows only the entries of ended episodes are written. ``elapsed`` are the seconds to report for those. The
    rest are the fields of `Rules`, one by one: numba takes single arguments in half the time that a tuple costs it.
    With a negative result nothing has changed.

    The work goes through pieces that fit the first cache, in loops short enough for the compiler to vectorise.
    """
    rules = Rules(*given)
    low, high, kind, mode, seconds = rules.low, rules.high, rules.kind, rules.mode, rules.seconds
    n_actions, n_samples = len(rules.shift_start), low.shape[1]
    sample, t, length, episodes, keys = ints[SAMPLE], ints[T], ints[LENGTH], ints[EPISODE], ints[KEY]
    start, end, iou, total_return = floats[START], floats[END], floats[IOU], floats[RETURN]
    was_start, was_end, was_iou, pay = floats[WAS_START], floats[WAS_END], floats[WAS_IOU], floats[PAY]
    done, is_invalid, resetting = flags[DONE], flags[IS_INVALID], flags[RESETTING]
    terminated, truncated = out_flags[TERMINATED], out_flags[TRUNCATED]
    returns, times, lengths = out_floats[ENDED_RETURN], out_floats[ENDED_TIME], out_ints[ENDED_LENGTH]
    tiou, span = out_floats[TIOU], out_spans[SPAN]
    for i in range(len(actions)):
        if actions[i] < 0 or actions[i] >= n_actions:
            return BAD_ACTION
    if mode == DISABLED:
        for i in range(len(actions)):
            if done[i]:
                return HAS_ENDED
    count = 0
    for low_end in range(0, len(actions), PIECE):
        # Unsigned, because an index that might be negative is looked at once more, and no such loop is vectorised.
        a, b = np.uint64(low_end), np.uint64(min(low_end + PIECE, len(actions)))
        if mode == NEXT_STEP:
            copy_rows(a, b, flags[DONE : DONE + 1], flags[RESETTING:])
        move_rows(a, b, actions, rules, start, end, was_start, was_end, is_invalid)
        overlap_rows(a, b, was_start, was_end, sample, low, high, kind, was_iou)
        for i in range(a, b):
            pay[i], _, _ = outcome(
                actions[i], float(t[i]), iou[i], was_iou[i], not is_invalid[i], pay_one, rules.phi, rules.penalty,
                rules.ends, rules.max_steps,
            )  # fmt: skip
        for i in range(a, b):
            _, terminated[i], truncated[i] = outcome(
                actions[i], float(t[i]), iou[i], was_iou[i], not is_invalid[i], pay_one, rules.phi, rules.penalty,
                rules.ends, rules.max_steps,
            )  # fmt: skip
        for i in range(a, b):
            done[i] = terminated[i] | truncated[i]
        for i in range(a, b):
            t[i] += 1
            length[i] += 1
        copy_rows(a, b, ints[SAMPLE : SAMPLE + 2], ints[WAS_SAMPLE:])
        if mode == NEXT_STEP:
            for i in range(a, b):
                if resetting[i]:
                    pay[i], length[i] = 0.0, length[i] - 1
                    done[i], terminated[i], truncated[i], is_invalid[i] = False, False, False, False
        copy_rows(a, b, floats[WAS_START : WAS_START + 3], floats[START:])
        for i in range(a, b):
            total_return[i] += pay[i]
        for i in range(a, b):
            reward[i] = pay[i]
        ended = 0
        for i in range(a, b):
            ended += done[i]
        count += ended
        copy_rows(a, b, flags[DONE : DONE + 1], out_flags[ENDED:])
        # Also where none ended: the arrays may be ones that an earlier step filled.
        for i in range(a, b):
            returns[i] = total_return[i] if done[i] else 0.0
            times[i] = elapsed if done[i] else 0.0
        for i in range(a, b):
            lengths[i] = length[i] if done[i] else 0
        if mode == NEXT_STEP or (mode == SAME_STEP and ended):
            for i in range(a, b):
                if not (done[i] if mode == SAME_STEP else resetting[i]):
                    continue
                if mode == SAME_STEP:
                    s = sample[i]
                    out_ints[FINAL_SAMPLE, i], out_ints[FINAL_T, i] = s, t[i]
                    out_floats[FINAL_START, i], out_floats[FINAL_END, i] = start[i], end[i]
                    if rules.full:
                        out_ints[FINAL_INFO_SAMPLE, i], out_flags[FINAL_INVALID, i] = s, is_invalid[i]
                        out_spans[FINAL_SPAN, i, 0] = start[i] * seconds[s]
                        out_spans[FINAL_SPAN, i, 1] = end[i] * seconds[s]
                        k = 0
                        if len(low) > 1:
                            k = nearest_one(start[i], end[i], s, low, high)
                        out_spans[FINAL_TRUE, i, 0] = rules.true_low[k, s]
                        out_spans[FINAL_TRUE, i, 1] = rules.true_high[k, s]
                        clamped = iou[i]
                        if kind == LEGACY:
                            clamped = overlap_one(start[i], end[i], s, low, high, SIGNED)
                        out_floats[FINAL_TIOU, i] = maximum(clamped, 0.0)
                        for j in range(n_actions):
                            _, _, valid = shifted(
                                start[i], end[i], rules.shift_start[j], rules.shift_end[j], rules.total, rules.beyond
                            )
                            out_masks[FINAL_MASK, j, i] = valid
                episodes[i] += 1
                sample[i] = draw(keys[i], episodes[i], n_samples)
                start[i], end[i] = rules.first[0], rules.first[1]
                if rules.random:
                    one = draw(keys[i] + 3, episodes[i], int(rules.total))
                    two = draw(keys[i] + 4, episodes[i], int(rules.total))
                    start[i], end[i] = float(minimum(one, two)), float(maximum(one, two) + 1)
                iou[i] = overlap_one(start[i], end[i], sample[i], low, high, kind)
                t[i], length[i], total_return[i], is_invalid[i] = 0, 0, 0.0, False
        if rules.shown:
            copy_rows(a, b, ints[SAMPLE : SAMPLE + 2], out_ints[SHOWN_SAMPLE:])
            copy_rows(a, b, floats[START : START + 2], out_floats[SHOWN_START:])
        if rules.full:
            copy_rows(a, b, ints[SAMPLE : SAMPLE + 1], out_ints[INFO_SAMPLE:])
            copy_rows(a, b, flags[IS_INVALID : IS_INVALID + 1], out_flags[INVALID_MOVE:])
            for i in range(a, b):
                tiou[i] = maximum(iou[i], 0.0)
            if kind == LEGACY:
                for i in range(a, b):
                    tiou[i] = maximum(overlap_one(start[i], end[i], sample[i], low, high, SIGNED), 0.0)
            for i in range(a, b):
                second = seconds[sample[i]]
                span[i, 0], span[i, 1] = start[i] * second, end[i] * second
            true_rows(a, b, start, end, sample, rules, out_spans[TRUE_SPAN])
            mask_rows(a, b, start, end, rules, out_masks[MASK])
    return count


def _smaller(a: float, b: float) -> float:
    return a if a < b else b


def _larger(a: float, b: float) -> float:
    return a if a > b else b


def _floor(a: float) -> int:
    return math.floor(a)


def _ceil(a: float) -> int:
    return math.ceil(a)


_PRIMITIVES = {
    "minimum": _smaller,
    "maximum": _larger,
    "floor": _floor,
    "ceil": _ceil,
    "copy_into": copy_loop,
    "mean_into": mean_loop,
}
"""What stands for these names in compiled code, where the plain functions take arrays and tensors too."""

_INNER: tuple[Any, ...] = (intersection, overlap, shifted, frame_window, context_windows, outcome, draw)
_INNER += (overlap_one, nearest_one, move_rows, overlap_rows, copy_rows, true_rows, mask_rows, observe_row)
_OUTER = (step_all, observe_all)


def available() -> bool:
    """Whether numba can be imported and ``STRONG_ENVS_COMPILED`` is not 0."""
    return os.environ.get("STRONG_ENVS_COMPILED", "1") != "0" and importlib.util.find_spec("numba") is not None


def _names(functions: tuple[Any, ...]) -> dict[str, Any]:
    """What the functions of other modules find there under the names that they use."""
    return {
        name: function.__globals__[name]
        for function in functions
        for name in function.__code__.co_names
        if name in function.__globals__
    }


@cache
def numbers() -> SimpleNamespace:
    """`shifted`, `overlap`, `frame_window`, `context_windows` and `observe_row` for Python numbers, not compiled.

    Copies whose minimum and maximum are Python's own, which take a tenth of the time of those for arrays and tensors.
    """
    functions = (intersection, shifted, overlap, frame_window, context_windows, observe_row)
    scope = {**_names(functions), **globals(), "minimum": min, "maximum": max, "floor": math.floor, "ceil": math.ceil}
    for function in functions:
        scope[function.__name__] = FunctionType(function.__code__, scope, function.__name__)
    return SimpleNamespace(**{function.__name__: scope[function.__name__] for function in functions})


@cache
def kernels(reward: TemporalReward = rewards.iou_sign) -> SimpleNamespace:
    """The functions of this module as numba compiles them, on the first call of each; machine code is kept on disk.

    ``reward`` is the one that `step_all` pays.
    """
    from numba import njit

    pay = reward.function
    # Copies that see each other compiled: the functions themselves stay plain Python.
    scope = {**_names((*_PRIMITIVES.values(), *_INNER, *_OUTER)), **globals(), **vars(intrinsics())}
    named = {**_PRIMITIVES, **{function.__name__: function for function in _INNER}}
    # Kept code must not outlive any of the functions that are compiled into it.
    code = [(f.__code__.co_code, f.__code__.co_consts) for f in (pay, *named.values(), *_OUTER)]
    version = hashlib.sha256(repr(code).encode()).hexdigest()[:12]
    scope["pay_one"] = njit(error_model="numpy")(pay)
    for name, function in named.items():
        inline = function in (copy_loop, mean_loop)
        scope[name] = njit(error_model="numpy", forceinline=inline)(FunctionType(function.__code__, scope, name))
    for function in _OUTER:
        copy = FunctionType(function.__code__, scope, function.__name__)
        copy.__module__, copy.__qualname__ = __name__, f"{function.__name__}_{version}"
        own = pay.__module__ == rewards.__name__
        scope[function.__name__] = njit(cache=own, error_model="numpy")(copy)
    return SimpleNamespace(**{name: scope[name] for name in (*named, *(f.__name__ for f in _OUTER))})


@cache
def compiles(reward: TemporalReward) -> bool:
    """Whether numba, which must be there, compiles the function of a reward."""
    if reward.function.__module__ == rewards.__name__:
        return True
    from numba import float64, njit

    try:
        njit(error_model="numpy")(reward.function).compile((float64,) * 4)
    except Exception:  # numba raises whatever its passes run into
        return False
    return True
