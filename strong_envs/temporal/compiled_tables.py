"""The tables of a `TemporalTask` as NumPy arrays, for steps that do without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from strong_envs.core.spans import IOU_KINDS
from strong_envs.temporal.compiled_kernels import frames_one, kernels
from strong_envs.temporal.compiled_stores import STREAM_BYTES
from strong_envs.temporal.task import CONTEXT_STEPS, INVALID, TemporalTask


class HostArrays:
    """The tables of a `TemporalTask` as NumPy arrays: views where the bank lives on the CPU.

    ``low`` and ``high`` (K, S) are the true windows in steps; ``reach`` (S,) the frames of the context.
    """

    def __init__(self, task: TemporalTask) -> None:
        config, bank = task.config, task.bank

        def host(tensor: torch.Tensor) -> np.ndarray:
            return np.ascontiguousarray(tensor.cpu().numpy())

        self.task, self.total, self.max_steps = task, float(config.total), int(config.max_steps)
        self.kind, self.invalid = IOU_KINDS.index(config.iou), INVALID.index(config.invalid)
        self.moment = config.global_scope == "moment"
        self.phi = float(config.phi)
        self.table, self.truth, self.n_frames = host(task.table), host(task.truth), host(task.n_frames)
        self.shift_start, self.shift_end = (np.ascontiguousarray(column) for column in self.table.T)
        self.low, self.high = (np.ascontiguousarray(self.truth[..., side].T) for side in range(2))
        self.reach = host(torch.ceil(CONTEXT_STEPS * task.n_frames / config.total).to(torch.int64))
        self.seconds = host(task.seconds)
        self.true_seconds = host(bank.truth[:, 0] * bank.duration[bank.video][:, None])
        self.first = np.array(config.initial_span, np.float64) * self.total
        self.on_host = bank.device.type == "cpu" and not bank.mapped
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
            *state, mask, out, held, keep, out.nbytes >= STREAM_BYTES, self.query, self.n_frames, self.reach,
            *self.local, *self.whole, self.total, config.context, self.moment, config.time_in_observation,
            self.max_steps,
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
