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
from typing import Any

import numpy as np
import torch

from strong_envs import sampling
from strong_envs.rewards import TEMPORAL_REWARDS
from strong_envs.spans import IOU_KINDS, STOP
from strong_envs.temporal_task import CONTEXT_STEPS, INVALID, TemporalTask

SIGNED, CLAMPED, LEGACY = range(len(IOU_KINDS))
CHANGE, READ = range(len(TEMPORAL_REWARDS))
REFUSE, PENALTY, TERMINATE = range(len(INVALID))
SAME_STEP, NEXT_STEP, DISABLED = range(3)
GOLDEN, MIX1, MIX2 = sampling._GOLDEN, sampling._MIX1, sampling._MIX2

# Rows of the state of all episodes. ``WAS`` rows hold the state reached by the last move, before an automatic reset;
# ``ENDED`` rows the statistics of the episodes that this move ended.
SAMPLE, T, LENGTH, EPISODE, KEY, WAS_SAMPLE, WAS_T, ENDED_LENGTH = range(8)
START, END, IOU, RETURN, WAS_START, WAS_END, ENDED_RETURN, ENDED_TIME = range(8)
DONE, TERMINATED, TRUNCATED, IS_INVALID, WAS_INVALID = range(5)
BAD_ACTION, HAS_ENDED = -1, -2


def move_one(start, end, shift_start, shift_end, total):
    """`spans.move` of one span: start, end, valid."""
    new_start, new_end = start + shift_start, end + shift_end
    if new_start >= 0.0 and new_end <= total and new_start < new_end:
        return new_start, new_end, True
    return start, end, False


def iou_one(start, end, truth, kind):
    """`spans.span_iou` of one span; ``truth`` holds K pairs, ``kind`` is an index into `IOU_KINDS`."""
    best = -math.inf
    for k in range(len(truth)):
        low, high = truth[k][0], truth[k][1]
        inter = min(end, high) - max(start, low)
        if kind == CLAMPED:
            inter = max(inter, 0.0)
        elif kind == LEGACY:
            inter = abs(inter)
        best = max(best, inter / (max(end, high) - min(start, low)))
    return best


def pay_one(before, after, reward):
    """`rewards.temporal_reward` of one move before phi * t; ``reward`` is an index into `TEMPORAL_REWARDS`."""
    change = after - before
    if reward == READ:
        if change > 0.0:
            return 1.0 if before >= 0.0 else -1.0
        return 0.0 if after >= 0.0 else -1.0
    return 1.0 if change > 0.0 else -1.0 if change < 0.0 else 0.0


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


def step_all(
    actions, elapsed, ints, floats, flags, reward,
    table, truth, phi, total, kind, paid, invalid, mode, max_steps, first, random,
):  # fmt: skip
    """One step of B episodes, automatic resets included: the number that ended, or `BAD_ACTION` or `HAS_ENDED`.

    ``elapsed`` are the seconds to report for ended episodes; ``kind`` is an IoU, ``paid`` a reward; ``first`` is
    the initial span (2,), ``random`` draws one.
    With a negative result nothing has changed.
    """
    for i in range(len(actions)):
        if actions[i] < 0 or actions[i] >= len(table):
            return BAD_ACTION
        if mode == DISABLED and flags[DONE, i]:
            return HAS_ENDED
    count = 0
    for i in range(len(actions)):
        action, sample, t = actions[i], ints[SAMPLE, i], ints[T, i]
        resetting = mode == NEXT_STEP and flags[DONE, i]
        start, end, valid = move_one(
            floats[START, i], floats[END, i], table[action, 0], table[action, 1], total
        )
        iou = iou_one(start, end, truth[sample], kind)
        pay = pay_one(floats[IOU, i], iou, paid) - float(phi * np.float32(t))
        if invalid == PENALTY and not valid:
            pay -= 1.0
        terminated = action == STOP or (invalid == TERMINATE and not valid)
        truncated = t + 1 >= max_steps and not terminated
        if resetting:
            pay, terminated, truncated = 0.0, False, False
        done = terminated or truncated
        ints[WAS_SAMPLE, i], ints[WAS_T, i] = sample, t + 1
        floats[WAS_START, i], floats[WAS_END, i] = start, end
        reward[i] = pay
        flags[DONE, i], flags[TERMINATED, i], flags[TRUNCATED, i] = done, terminated, truncated
        flags[WAS_INVALID, i] = not valid and not resetting
        total_return, length = floats[RETURN, i] + pay, ints[LENGTH, i] + (not resetting)
        floats[ENDED_RETURN, i] = total_return if done else 0.0
        floats[ENDED_TIME, i] = elapsed if done else 0.0
        ints[ENDED_LENGTH, i] = length if done else 0
        count += done
        if resetting or (done and mode == SAME_STEP):
            episode = ints[EPISODE, i] + 1
            ints[EPISODE, i] = episode
            sample = draw_one(ints[KEY, i], episode, len(truth))
            start, end = first[0], first[1]
            if random:
                one = draw_one(ints[KEY, i] + 3, episode, int(total))
                two = draw_one(ints[KEY, i] + 4, episode, int(total))
                start, end = float(min(one, two)), float(max(one, two) + 1)
            iou = iou_one(start, end, truth[sample], kind)
            ints[SAMPLE, i], ints[T, i], ints[LENGTH, i] = sample, 0, 0
            floats[RETURN, i], flags[IS_INVALID, i] = 0.0, False
        else:
            ints[T, i], ints[LENGTH, i] = t + 1, length
            floats[RETURN, i], flags[IS_INVALID, i] = total_return, not valid
        floats[START, i], floats[END, i], floats[IOU, i] = start, end, iou
    return count


def describe_all(sample, start, end, truth, kind, seconds, true_seconds, tiou, span, true_span):
    """What ``info`` holds of B states: writes the IoU of a kind (B,) and both windows in seconds (B, 2)."""
    for i in range(len(sample)):
        s = sample[i]
        tiou[i] = iou_one(start[i], end[i], truth[s], kind)
        span[i, 0], span[i, 1] = start[i] * seconds[s], end[i] * seconds[s]
        true_span[i, 0], true_span[i, 1] = true_seconds[s, 0], true_seconds[s, 1]


def mean_into(out, at, prefix, mean, base, first, last):
    """Write the mean of a window, from prefix sums, into ``out[at:]``; an empty window gives zeros."""
    low, high, part = prefix[base + first], prefix[base + last], out[at : at + len(mean)]
    share, weight = np.float32(1.0 / max(last - first, 1)), np.float32(last > first)
    for d in range(len(mean)):
        part[d] = (high[d] - low[d]) * share + mean[d] * weight


def observe_all(
    sample, start, end, t, mask, out, held, keep, query, n_frames, reach, prefix, mean, base, group,
    whole_prefix, whole_mean, whole_base, whole_group, total, context, moment, time, max_steps,
):  # fmt: skip
    """Write the observations of B states into ``out`` (B, size), the parts in the order of `TemporalTask.observe`.

    Rows outside ``mask`` become zeros. ``held`` (B,) is the sample whose query a row holds, -1 for a row of zeros;
    with ``keep`` what depends on the sample alone is not written again.
    """
    size, windows = mean.shape[1], 5 if context else 1
    for i in range(len(sample)):
        row, s = out[i], sample[i]
        if not mask[i]:
            if held[i] != -1:
                for d in range(len(row)):
                    row[d] = np.float32(0.0)
                held[i] = -1
            continue
        same = keep and held[i] == s
        held[i] = s
        n, b, centre = n_frames[s], base[s], mean[group[s]]
        first, last = frames_one(start[i], end[i], total, n)
        third, before, after = (last - first + 2) // 3, max(first - reach[s], 0), min(last + reach[s], n)
        if not same:
            words = query[s]
            for d in range(len(words)):
                row[d] = words[d]
        at = query.shape[1]
        row[at], row[at + 1] = np.float32(start[i]) / np.float32(total), np.float32(end[i]) / np.float32(total)
        at += 2
        if moment:
            mean_into(row, at + size, whole_prefix, whole_mean[whole_group[s]], whole_base[s], first, last)
        elif not same:
            scene = whole_mean[whole_group[s]]
            for d in range(len(scene)):
                row[at + size + d] = scene[d]
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
            mean_into(row, at, prefix, centre, b, low, high)
            at += size if w else size + whole_mean.shape[1]
        if time:
            row[at] = np.float32(t[i]) / np.float32(max_steps)


_FUNCTIONS = (move_one, iou_one, pay_one, frames_one, draw_one, mean_into)
_FUNCTIONS += (step_all, describe_all, observe_all)
def available() -> bool:
    """Whether numba can be imported and ``STRONG_ENVS_COMPILED`` is not 0."""
    return os.environ.get("STRONG_ENVS_COMPILED", "1") != "0" and importlib.util.find_spec("numba") is not None


@cache
def kernels() -> SimpleNamespace:
    """The functions of this module as numba compiles them, on the first call of each; machine code is kept on disk."""
    from numba import njit

    # Copies that see each other compiled: the functions of the module stay plain Python.
    scope = dict(globals())
    for function in _FUNCTIONS:
        inner = function.__name__.endswith(("_one", "_into"))
        copy = FunctionType(function.__code__, scope, function.__name__)
        copy.__module__ = __name__
        scope[function.__name__] = njit(cache=not inner, error_model="numpy")(copy)
    return SimpleNamespace(**{f.__name__: scope[f.__name__] for f in _FUNCTIONS})


class HostArrays:
    """The tables of a `TemporalTask` as NumPy arrays: views where the bank lives on the CPU.

    ``phi`` is float32, because phi times whole numbers is that in torch; ``reach`` (S,) are the frames of the context.
    """

    def __init__(self, task: TemporalTask) -> None:
        config, bank = task.config, task.bank

        def host(tensor: torch.Tensor) -> np.ndarray:
            return np.ascontiguousarray(tensor.cpu().numpy())

        self.task, self.total, self.max_steps = task, float(config.total), int(config.max_steps)
        self.reward = TEMPORAL_REWARDS.index(config.reward)
        self.kind, self.invalid = IOU_KINDS.index(config.iou), INVALID.index(config.invalid)
        self.moment = config.global_scope == "moment"
        self.phi = np.float32(config.phi)
        self.table, self.truth, self.n_frames = host(task.table), host(task.truth), host(task.n_frames)
        self.reach = host(torch.ceil(CONTEXT_STEPS * task.n_frames / config.total).to(torch.int64))
        self.seconds = host(task.seconds)
        self.true_seconds = host(bank.truth[:, 0] * bank.duration[bank.video][:, None])
        self.first = np.array(config.initial_span, np.float64) * self.total
        self.on_host = bank.device.type == "cpu"
        if self.on_host:
            self.query = host(bank.query)
            self.whole = tuple(host(getattr(bank.frame_means, name)) for name in ("prefix", "mean", "base", "group"))
        self._means: Any = None
        self.parts: dict[str, slice] = {}
        self.size = 0
        for name, shape in task.dims().items():
            self.parts[name] = slice(self.size, self.size + shape[0])
            self.size += shape[0]

    @property
    def local(self) -> tuple[np.ndarray, ...]:
        """Prefix sums, means, base and group of f_o as they are now: boxes may have been replaced."""
        means = self.task.local.means
        if means is not self._means:
            self._means = means
            self._local = tuple(
                np.ascontiguousarray(getattr(means, name).numpy()) for name in ("prefix", "mean", "base", "group")
            )
        return self._local

    def write(self, state: tuple[np.ndarray, ...], mask: np.ndarray, out: np.ndarray, held: np.ndarray, keep: bool):
        """`observe_all` of ``state``: sample, start, end and t, each (B,)."""
        config = self.task.config
        kernels().observe_all(
            *state, mask, out, held, keep, self.query, self.n_frames, self.reach, *self.local, *self.whole,
            self.total, config.context, self.moment, config.time_in_observation, self.max_steps,
        )  # fmt: skip

    def observe(self, sample: int, start: float, end: float, t: int) -> np.ndarray:
        """The observation of one state, (size,) float32, in NumPy."""
        config, n = self.task.config, int(self.n_frames[sample])
        prefix, mean, base, group = self.local
        first, last = frames_one(start, end, self.total, n)
        out = np.empty(self.size, np.float32)
        out[self.parts["query"]] = self.query[sample]
        location = self.parts["location"].start
        out[location], out[location + 1] = start / self.total, end / self.total
        if self.moment:
            sums, means, rows, groups = self.whole
            _mean(out[self.parts["global"]], sums, means[groups[sample]], int(rows[sample]), first, last)
        else:
            out[self.parts["global"]] = self.whole[1][self.whole[3][sample]]
        centre, row = mean[group[sample]], int(base[sample])
        _mean(out[self.parts["local"]], prefix, centre, row, first, last)
        if config.context:
            third, reach, size = (last - first + 2) // 3, int(self.reach[sample]), len(centre)
            inside = (first, first + third), (last - third, last)
            outside = (max(first - reach, 0), first), (last, min(last + reach, n))
            for i, (low, high) in enumerate(inside + outside):
                at = self.parts["context"].start + i * size
                _mean(out[at : at + size], prefix, centre, row, low, high)
        if config.time_in_observation:
            out[-1] = t / self.max_steps
        return out


def _mean(out: np.ndarray, prefix: np.ndarray, mean: np.ndarray, base: int, first: int, last: int) -> None:
    """`mean_into` in NumPy."""
    if last <= first:
        out[:] = 0.0
        return
    np.subtract(prefix[base + last], prefix[base + first], out=out)
    out /= np.float32(last - first)
    out += mean
