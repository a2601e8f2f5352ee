"""The temporal level on a CPU: one episode in plain Python numbers, and, with numba, all episodes in one compiled call.

The functions below are ordinary Python. `kernels` has the same functions compiled by numba (extra ``fast``), so
the scalar environment and the compiled vector environment share one source. Python floats are IEEE doubles like
torch's float64, hence integers, flags and rewards equal the torch path to the last bit; means over windows agree to
1e-5. Nothing here is needed: without numba, on a device, or with ``STRONG_ENVS_COMPILED=0``, torch does the work.
"""

from __future__ import annotations

import importlib.util
import math
import os
from functools import cache
from types import FunctionType, SimpleNamespace

import numpy as np

from strong_envs.core import sampling
from strong_envs.core.spans import IOU_KINDS, STOP
from strong_envs.temporal.compiled_stores import LANES, intrinsics
from strong_envs.temporal.task import INVALID

SIGNED, CLAMPED, LEGACY = range(len(IOU_KINDS))
REFUSE, PENALTY, TERMINATE = range(len(INVALID))
SAME_STEP, NEXT_STEP, DISABLED = range(3)
GOLDEN, MIX1, MIX2 = sampling._GOLDEN, sampling._MIX1, sampling._MIX2

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
OUT_ROWS = (7, 8, 5, 4)
PIECE = 256
"""Episodes that `step_all` treats together: some 30 rows of them fit the first cache or nearly so."""

BAD_ACTION, HAS_ENDED = -1, -2

# Known to compiled code only: plain Python never streams.
stream_copy = stream_mean = stream_end = None


def move_one(start, end, shift_start, shift_end, total):
    """`spans.move` of one span: start, end, valid."""
    new_start, new_end = start + shift_start, end + shift_end
    if new_start >= 0.0 and new_end <= total and new_start < new_end:
        return new_start, new_end, True
    return start, end, False


def ratio_one(start, end, low, high, kind):
    """`spans.span_iou` with one true window; ``kind`` is an index into `IOU_KINDS`."""
    inter = (high if high < end else end) - (low if low > start else start)
    hull = (high if high > end else end) - (low if low < start else start)
    if kind == CLAMPED:
        inter = inter if inter > 0.0 else 0.0
    elif kind == LEGACY:
        inter = abs(inter)
    return inter / hull


def iou_one(start, end, truth, kind):
    """`spans.span_iou` of one span; ``truth`` holds K pairs."""
    return max([ratio_one(start, end, low, high, kind) for low, high in truth])


def overlap_one(start, end, sample, low, high, kind):
    """`spans.span_iou` of one span with the true windows ``low`` and ``high`` (K, S) of a sample."""
    best = ratio_one(start, end, low[0, sample], high[0, sample], kind)
    for k in range(1, len(low)):
        iou = ratio_one(start, end, low[k, sample], high[k, sample], kind)
        best = iou if iou > best else best
    return best


def frames_one(start, end, total, n_frames):
    """`spans.frame_window` of one span: first frame (inclusive) and last (exclusive)."""
    first = max(min(math.floor(start * n_frames / total), n_frames - 1), 0)
    last = min(max(math.ceil(end * n_frames / total), first + 1), n_frames)
    return first, last


def draw_one(key, counter, size):
    """`sampling.draw` of one number, in int64 arithmetic that wraps (compiled code only)."""
    z = key + (counter + 1) * GOLDEN
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * MIX1
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * MIX2
    z = z ^ ((z >> 31) & ((1 << 33) - 1))
    return ((z >> 16) & ((1 << 47) - 1)) % size


def move_rows(a, b, action, shift_start, shift_end, start, end, total, new_start, new_end, refused):
    """`spans.move` of the spans from a to b: writes the new ones and which moves were refused."""
    for i in range(a, b):
        one, two = start[i] + shift_start[action[i]], end[i] + shift_end[action[i]]
        valid = (one >= 0.0) & (two <= total) & (one < two)
        new_start[i] = one if valid else start[i]
        new_end[i] = two if valid else end[i]
    for i in range(a, b):
        one, two = start[i] + shift_start[action[i]], end[i] + shift_end[action[i]]
        refused[i] = not ((one >= 0.0) & (two <= total) & (one < two))


def overlap_rows(a, b, start, end, sample, low, high, kind, best):
    """`spans.span_iou` of the spans from a to b with the true windows ``low`` and ``high`` (K, S)."""
    for k in range(len(low)):
        lows, highs = low[k], high[k]
        for i in range(a, b):
            iou = ratio_one(start[i], end[i], lows[sample[i]], highs[sample[i]], kind)
            best[i] = iou if k == 0 or iou > best[i] else best[i]


def copy_rows(a, b, source, target):
    """``target[:, a:b] = source[:, a:b]``; numba compiles a loop in a tenth of the time that slices take."""
    for r in range(len(source)):
        one, two = source[r], target[r]
        for i in range(a, b):
            two[i] = one[i]


def step_all(
    actions, elapsed, ints, floats, flags, out_ints, out_floats, out_flags, out_spans, reward, shift_start, shift_end,
    low, high, seconds, true_seconds, first, phi, total, kind, metric, invalid, mode, max_steps, random, full, index,
):  # fmt: skip
    """One step of B episodes, automatic resets included: the number that ended, or `BAD_ACTION` or `HAS_ENDED`.

    ``ints``, ``floats`` and ``flags`` are the state, the ``out`` arrays and ``reward`` what the step hands out; of the
    ``FINAL`` rows only the entries of ended episodes are written. ``elapsed`` are the seconds to report for those,
    ``first`` is the initial span (2,), ``random`` draws one. The ``kind`` of IoU is paid, ``metric``, the clamped one,
    told. ``full`` fills what ``info`` describes, ``index`` the observation of states. With a negative result nothing
    has changed.

    The work goes through pieces that fit the first cache, in loops short enough for the compiler to vectorise.
    """
    n_actions, n_samples = len(shift_start), low.shape[1]
    sample, t, length, episodes, keys = ints[SAMPLE], ints[T], ints[LENGTH], ints[EPISODE], ints[KEY]
    start, end, iou, total_return = floats[START], floats[END], floats[IOU], floats[RETURN]
    was_start, was_end, was_iou, pay = floats[WAS_START], floats[WAS_END], floats[WAS_IOU], floats[PAY]
    done, is_invalid, resetting = flags[DONE], flags[IS_INVALID], flags[RESETTING]
    terminated, truncated = out_flags[TERMINATED], out_flags[TRUNCATED]
    returns, times, lengths = out_floats[ENDED_RETURN], out_floats[ENDED_TIME], out_ints[ENDED_LENGTH]
    tiou, span, true, ends_refused = out_floats[TIOU], out_spans[SPAN], out_spans[TRUE_SPAN], invalid == TERMINATE
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
        move_rows(a, b, actions, shift_start, shift_end, start, end, total, was_start, was_end, is_invalid)
        overlap_rows(a, b, was_start, was_end, sample, low, high, kind, was_iou)
        for i in range(a, b):
            change = was_iou[i] - iou[i]
            pay[i] = (1.0 if change > 0.0 else 0.0) - (1.0 if change < 0.0 else 0.0) - phi * float(t[i])
        if invalid == PENALTY:
            for i in range(a, b):
                pay[i] -= 1.0 if is_invalid[i] else 0.0
        for i in range(a, b):
            terminated[i] = (actions[i] == STOP) | (ends_refused & is_invalid[i])
        for i in range(a, b):
            truncated[i] = (t[i] + 1 >= max_steps) & (not terminated[i])
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
                    if full:
                        out_ints[FINAL_INFO_SAMPLE, i], out_flags[FINAL_INVALID, i] = s, is_invalid[i]
                        out_spans[FINAL_SPAN, i, 0] = start[i] * seconds[s]
                        out_spans[FINAL_SPAN, i, 1] = end[i] * seconds[s]
                        out_spans[FINAL_TRUE, i, 0] = true_seconds[s, 0]
                        out_spans[FINAL_TRUE, i, 1] = true_seconds[s, 1]
                        told = iou[i]
                        if kind == LEGACY:
                            told = overlap_one(start[i], end[i], sample[i], low, high, metric)
                        out_floats[FINAL_TIOU, i] = told if told > 0.0 else 0.0
                episodes[i] += 1
                sample[i] = draw_one(keys[i], episodes[i], n_samples)
                start[i], end[i] = first[0], first[1]
                if random:
                    one = draw_one(keys[i] + 3, episodes[i], int(total))
                    two = draw_one(keys[i] + 4, episodes[i], int(total))
                    start[i], end[i] = float(min(one, two)), float(max(one, two) + 1)
                iou[i] = overlap_one(start[i], end[i], sample[i], low, high, kind)
                t[i], length[i], total_return[i], is_invalid[i] = 0, 0, 0.0, False
        if index:
            copy_rows(a, b, ints[SAMPLE : SAMPLE + 2], out_ints[SHOWN_SAMPLE:])
            copy_rows(a, b, floats[START : START + 2], out_floats[SHOWN_START:])
        if full:
            copy_rows(a, b, ints[SAMPLE : SAMPLE + 1], out_ints[INFO_SAMPLE:])
            copy_rows(a, b, flags[IS_INVALID : IS_INVALID + 1], out_flags[INVALID_MOVE:])
            for i in range(a, b):
                tiou[i] = iou[i] if iou[i] > 0.0 else 0.0
            if kind == LEGACY:
                for i in range(a, b):
                    tiou[i] = overlap_one(start[i], end[i], sample[i], low, high, metric)
            for i in range(a, b):
                second = seconds[sample[i]]
                span[i, 0], span[i, 1] = start[i] * second, end[i] * second
            for i in range(a, b):
                true[i, 0], true[i, 1] = true_seconds[sample[i], 0], true_seconds[sample[i], 1]
    return count


def copy_into(out, at, part, stream):
    """``out[at:] = part`` for one part of a row; ``stream`` writes past the caches."""
    row = out[at : at + len(part)]
    if not stream:
        for d in range(len(part)):
            row[d] = part[d]
        return
    # Whole lines are streamed, and what is left on both sides of them is not.
    address = np.uintp(row.ctypes.data)
    begin = min((LANES - (address // 4) % LANES) % LANES, len(part))
    stop = begin + (len(part) - begin) // LANES * LANES
    stream_copy(address + np.uintp(4 * begin), np.uintp(part.ctypes.data + 4 * begin), stop - begin)
    for d in range(begin):
        row[d] = part[d]
    for d in range(stop, len(part)):
        row[d] = part[d]


def mean_into(out, at, prefix, mean, base, first, last, stream):
    """Write the mean of a window, from prefix sums, into ``out[at:]``; an empty window gives zeros."""
    low, high, row = prefix[base + first], prefix[base + last], out[at : at + len(mean)]
    share, weight = np.float32(1.0 / max(last - first, 1)), np.float32(last > first)
    if not stream:
        for d in range(len(mean)):
            row[d] = (high[d] - low[d]) * share + mean[d] * weight
        return
    address = np.uintp(row.ctypes.data)
    begin = min((LANES - (address // 4) % LANES) % LANES, len(mean))
    stop = begin + (len(mean) - begin) // LANES * LANES
    stream_mean(
        address + np.uintp(4 * begin), np.uintp(high.ctypes.data + 4 * begin), np.uintp(low.ctypes.data + 4 * begin),
        np.uintp(mean.ctypes.data + 4 * begin), share, weight, stop - begin,
    )  # fmt: skip
    for d in range(begin):
        row[d] = (high[d] - low[d]) * share + mean[d] * weight
    for d in range(stop, len(mean)):
        row[d] = (high[d] - low[d]) * share + mean[d] * weight


def observe_all(
    sample, start, end, t, mask, out, held, keep, stream, query, n_frames, reach, prefix, mean, base, group,
    whole_prefix, whole_mean, whole_base, whole_group, total, context, moment, time, max_steps,
):  # fmt: skip
    """Write the observations of B states into ``out`` (B, size), the parts in the order of `TemporalTask.observe`.

    Rows outside ``mask`` are not touched. ``held`` (B,) is the sample whose query a row holds, -1 for none; with
    ``keep`` what depends on the sample alone is not written again. ``stream`` writes past the caches.
    """
    size, windows = mean.shape[1], 5 if context else 1
    begin = size - size  # not a literal, for which numba would compile `copy_into` once more
    for i in range(len(sample)):
        if not mask[i]:
            continue
        row, s = out[i], sample[i]
        same = keep and held[i] == s
        held[i] = s
        n, b, centre = n_frames[s], base[s], mean[group[s]]
        first, last = frames_one(start[i], end[i], total, n)
        third, before, after = (last - first + 2) // 3, max(first - reach[s], 0), min(last + reach[s], n)
        if not same:
            copy_into(row, begin, query[s], stream)
        at = query.shape[1]
        row[at], row[at + 1] = np.float32(start[i]) / np.float32(total), np.float32(end[i]) / np.float32(total)
        at += 2
        for w in range(windows):
            low, high = first, last
            if w == 1:
                high = first + third
            elif w == 2:
                low = last - third
            elif w == 3:
                low, high = before, first
            elif w == 4:
                low, high = last, after
            mean_into(row, at, prefix, centre, b, low, high, stream)
            at += size
            if w == 0:
                scene = whole_mean[whole_group[s]]
                if moment:
                    mean_into(row, at, whole_prefix, scene, whole_base[s], first, last, stream)
                elif not same:
                    copy_into(row, at, scene, stream)
                at += len(scene)
        if time:
            row[at] = np.float32(t[i]) / np.float32(max_steps)
    if stream:
        stream_end()


_FUNCTIONS = (ratio_one, overlap_one, frames_one, draw_one, copy_into, mean_into)
_FUNCTIONS += (move_rows, overlap_rows, copy_rows, step_all, observe_all)


def available() -> bool:
    """Whether numba can be imported and ``STRONG_ENVS_COMPILED`` is not 0."""
    return os.environ.get("STRONG_ENVS_COMPILED", "1") != "0" and importlib.util.find_spec("numba") is not None


@cache
def kernels() -> SimpleNamespace:
    """The functions of this module as numba compiles them, on the first call of each; machine code is kept on disk."""
    from numba import njit

    # Copies that see each other compiled: the functions of the module stay plain Python.
    scope = {**globals(), **vars(intrinsics())}
    for function in _FUNCTIONS:
        inner = function.__name__.endswith(("_one", "_into", "_rows"))
        copy = FunctionType(function.__code__, scope, function.__name__)
        copy.__module__ = __name__
        scope[function.__name__] = njit(cache=not inner, error_model="numpy")(copy)
    return SimpleNamespace(**{f.__name__: scope[f.__name__] for f in _FUNCTIONS})
