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

from strong_envs import sampling
from strong_envs.spans import IOU_KINDS, STOP
from strong_envs.streaming import LANES, intrinsics
from strong_envs.temporal_task import INVALID

SIGNED, CLAMPED, LEGACY = range(len(IOU_KINDS))
REFUSE, PENALTY, TERMINATE = range(len(INVALID))
SAME_STEP, NEXT_STEP, DISABLED = range(3)
GOLDEN, MIX1, MIX2 = sampling._GOLDEN, sampling._MIX1, sampling._MIX2

# Rows of the state of all episodes. ``WAS`` rows hold the state reached by the last move, before an automatic reset.
SAMPLE, T, LENGTH, EPISODE, KEY, WAS_SAMPLE, WAS_T = range(7)
START, END, IOU, RETURN, WAS_START, WAS_END, NEW, PAY = range(8)
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


def move_rows(action, shift_start, shift_end, start, end, total, new_start, new_end, refused):
    """`spans.move` of (B,) spans: writes the new ones and which moves were refused."""
    for i in range(len(action)):
        one, two = start[i] + shift_start[action[i]], end[i] + shift_end[action[i]]
        valid = (one >= 0.0) & (two <= total) & (one < two)
        new_start[i] = one if valid else start[i]
        new_end[i] = two if valid else end[i]
    for i in range(len(action)):
        one, two = start[i] + shift_start[action[i]], end[i] + shift_end[action[i]]
        refused[i] = not ((one >= 0.0) & (two <= total) & (one < two))


def overlap_rows(start, end, sample, low, high, kind, best):
    """`spans.span_iou` of (B,) spans with true windows ``low`` and ``high`` (K, S): writes (B,)."""
    for k in range(len(low)):
        lows, highs = low[k], high[k]
        for i in range(len(sample)):
            iou = ratio_one(start[i], end[i], lows[sample[i]], highs[sample[i]], kind)
            best[i] = iou if k == 0 or iou > best[i] else best[i]


def pay_rows(iou, before, t, phi, pay):
    """`rewards.iou_step_reward` of (B,) steps: writes (B,) float64."""
    for i in range(len(iou)):
        change = iou[i] - before[i]
        pay[i] = (1.0 if change > 0.0 else 0.0) - (1.0 if change < 0.0 else 0.0) - phi * float(t[i])


def end_rows(action, t, refused, ends_refused, max_steps, terminated, truncated, done):
    """How (B,) steps end: writes three flags."""
    for i in range(len(action)):
        terminated[i] = (action[i] == STOP) | (ends_refused & refused[i])
    for i in range(len(action)):
        truncated[i] = (t[i] + 1 >= max_steps) & (not terminated[i])
    for i in range(len(action)):
        done[i] = terminated[i] | truncated[i]


def pair_rows(start, end, sample, seconds, span):
    """Spans in steps (B,), (B,) as (B, 2) seconds."""
    for i in range(len(sample)):
        second = seconds[sample[i]]
        span[i, 0] = start[i] * second
        span[i, 1] = end[i] * second


def step_all(
    actions, elapsed, ints, floats, flags, out_ints, out_floats, out_flags, out_spans, reward, shift_start, shift_end,
    low, high, seconds, true_seconds, first, phi, total, kind, invalid, mode, max_steps, random, full, index,
):  # fmt: skip
    """One step of B episodes, automatic resets included: the number that ended, or `BAD_ACTION` or `HAS_ENDED`.

    ``ints``, ``floats`` and ``flags`` are the state, the ``out`` arrays and ``reward`` what the step hands out; of the
    ``FINAL`` rows only the entries of ended episodes are written. ``elapsed`` are the seconds to report for those,
    ``first`` is the initial span (2,), ``random`` draws one; ``full`` fills what ``info`` describes, ``index`` the
    observation of states. With a negative result nothing has changed.

    The work goes through pieces that fit the first cache, in loops short enough for the compiler to vectorise.
    """
    n_actions, n_samples = len(shift_start), low.shape[1]
    for i in range(len(actions)):
        if actions[i] < 0 or actions[i] >= n_actions:
            return BAD_ACTION
    if mode == DISABLED:
        for i in range(len(actions)):
            if flags[DONE, i]:
                return HAS_ENDED
    count = 0
    for a in range(0, len(actions), PIECE):
        b = min(a + PIECE, len(actions))
        action, sample, t, length = actions[a:b], ints[SAMPLE, a:b], ints[T, a:b], ints[LENGTH, a:b]
        start, end, iou, total_return = floats[START, a:b], floats[END, a:b], floats[IOU, a:b], floats[RETURN, a:b]
        was_start, was_end, new, pay = floats[WAS_START, a:b], floats[WAS_END, a:b], floats[NEW, a:b], floats[PAY, a:b]
        done, is_invalid, resetting = flags[DONE, a:b], flags[IS_INVALID, a:b], flags[RESETTING, a:b]
        terminated, truncated = out_flags[TERMINATED, a:b], out_flags[TRUNCATED, a:b]
        resetting[:] = done
        move_rows(action, shift_start, shift_end, start, end, total, was_start, was_end, is_invalid)
        overlap_rows(was_start, was_end, sample, low, high, kind, new)
        pay_rows(new, iou, t, phi, pay)
        if invalid == PENALTY:
            for i in range(b - a):
                pay[i] -= 1.0 if is_invalid[i] else 0.0
        end_rows(action, t, is_invalid, invalid == TERMINATE, max_steps, terminated, truncated, done)
        ints[WAS_SAMPLE, a:b] = sample
        for i in range(b - a):
            t[i] += 1
        ints[WAS_T, a:b] = t
        for i in range(b - a):
            length[i] += 1
        if mode == NEXT_STEP:
            for i in range(b - a):
                if resetting[i]:
                    pay[i], length[i] = 0.0, length[i] - 1
                    done[i], terminated[i], truncated[i], is_invalid[i] = False, False, False, False
        start[:], end[:], iou[:] = was_start, was_end, new
        for i in range(b - a):
            total_return[i] += pay[i]
        for i in range(b - a):
            reward[a + i] = pay[i]
        ended = 0
        for i in range(b - a):
            ended += done[i]
        count += ended
        out_flags[ENDED, a:b] = done
        if ended:
            for i in range(b - a):
                out_floats[ENDED_RETURN, a + i] = total_return[i] if done[i] else 0.0
            for i in range(b - a):
                out_floats[ENDED_TIME, a + i] = elapsed if done[i] else 0.0
            for i in range(b - a):
                out_ints[ENDED_LENGTH, a + i] = length[i] if done[i] else 0
        else:
            # The array may be one that an earlier step filled.
            out_floats[ENDED_RETURN, a:b], out_floats[ENDED_TIME, a:b], out_ints[ENDED_LENGTH, a:b] = 0.0, 0.0, 0
        if mode != DISABLED and (ended or mode == NEXT_STEP):
            for i in range(b - a):
                if not (done[i] if mode == SAME_STEP else resetting[i]):
                    continue
                s, at = sample[i], a + i
                if mode == SAME_STEP:
                    out_ints[FINAL_SAMPLE, at], out_ints[FINAL_T, at] = s, t[i]
                    out_floats[FINAL_START, at], out_floats[FINAL_END, at] = start[i], end[i]
                    if full:
                        out_ints[FINAL_INFO_SAMPLE, at], out_flags[FINAL_INVALID, at] = s, is_invalid[i]
                        for side in range(2):
                            out_spans[FINAL_TRUE, at, side] = true_seconds[s, side]
                        out_spans[FINAL_SPAN, at, 0] = start[i] * seconds[s]
                        out_spans[FINAL_SPAN, at, 1] = end[i] * seconds[s]
                        clamped = new[i] if kind != LEGACY else overlap_one(start[i], end[i], s, low, high, CLAMPED)
                        out_floats[FINAL_TIOU, at] = clamped if clamped > 0.0 else 0.0
                episode = ints[EPISODE, at] + 1
                ints[EPISODE, at] = episode
                sample[i] = draw_one(ints[KEY, at], episode, n_samples)
                start[i], end[i] = first[0], first[1]
                if random:
                    one = draw_one(ints[KEY, at] + 3, episode, int(total))
                    two = draw_one(ints[KEY, at] + 4, episode, int(total))
                    start[i], end[i] = float(min(one, two)), float(max(one, two) + 1)
                iou[i] = overlap_one(start[i], end[i], sample[i], low, high, kind)
                t[i], length[i], total_return[i], is_invalid[i] = 0, 0, 0.0, False
        if index:
            out_ints[SHOWN_SAMPLE, a:b], out_ints[SHOWN_T, a:b] = sample, t
            out_floats[SHOWN_START, a:b], out_floats[SHOWN_END, a:b] = start, end
        if full:
            out_ints[INFO_SAMPLE, a:b], out_flags[INVALID_MOVE, a:b] = sample, is_invalid
            tiou, true = out_floats[TIOU, a:b], out_spans[TRUE_SPAN, a:b]
            if kind == LEGACY:
                overlap_rows(start, end, sample, low, high, CLAMPED, tiou)
            else:
                for i in range(b - a):
                    tiou[i] = iou[i] if iou[i] > 0.0 else 0.0
            pair_rows(start, end, sample, seconds, out_spans[SPAN, a:b])
            for i in range(b - a):
                true[i, 0], true[i, 1] = true_seconds[sample[i], 0], true_seconds[sample[i], 1]
    return count


def copy_into(out, at, part, stream):
    """``out[at:] = part`` for one part of a row; ``stream`` writes past the caches."""
    begin, stop = 0, 0
    if stream:
        address = np.uintp(out.ctypes.data + 4 * at)
        begin = min((LANES - (address // 4) % LANES) % LANES, len(part))
        stop = begin + (len(part) - begin) // LANES * LANES
        stream_copy(address + np.uintp(4 * begin), np.uintp(part.ctypes.data + 4 * begin), stop - begin)
    for d in range(begin):
        out[at + d] = part[d]
    for d in range(stop, len(part)):
        out[at + d] = part[d]


def mean_into(out, at, prefix, mean, base, first, last, stream):
    """Write the mean of a window, from prefix sums, into ``out[at:]``; an empty window gives zeros."""
    low, high = prefix[base + first], prefix[base + last]
    share, weight = np.float32(1.0 / max(last - first, 1)), np.float32(last > first)
    begin, stop = 0, 0
    if stream:
        address = np.uintp(out.ctypes.data + 4 * at)
        begin = min((LANES - (address // 4) % LANES) % LANES, len(mean))
        stop = begin + (len(mean) - begin) // LANES * LANES
        stream_mean(
            address + np.uintp(4 * begin), np.uintp(high.ctypes.data + 4 * begin),
            np.uintp(low.ctypes.data + 4 * begin), np.uintp(mean.ctypes.data + 4 * begin), share, weight, stop - begin,
        )  # fmt: skip
    part = out[at : at + len(mean)]
    for d in range(begin):
        part[d] = (high[d] - low[d]) * share + mean[d] * weight
    for d in range(stop, len(mean)):
        part[d] = (high[d] - low[d]) * share + mean[d] * weight


def observe_all(
    sample, start, end, t, mask, out, held, keep, stream, query, n_frames, reach, prefix, mean, base, group,
    whole_prefix, whole_mean, whole_base, whole_group, total, context, moment, time, max_steps,
):  # fmt: skip
    """Write the observations of B states into ``out`` (B, size), the parts in the order of `TemporalTask.observe`.

    Rows outside ``mask`` are not touched. ``held`` (B,) is the sample whose query a row holds, -1 for none; with
    ``keep`` what depends on the sample alone is not written again. ``stream`` writes past the caches.
    """
    size, windows = mean.shape[1], 5 if context else 1
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
            copy_into(row, 0, query[s], stream)
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
_FUNCTIONS += (move_rows, overlap_rows, pay_rows, end_rows, pair_rows, step_all, observe_all)


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
