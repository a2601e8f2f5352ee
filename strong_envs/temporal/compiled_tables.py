"""The tables of a `TemporalTask` as NumPy arrays, for steps that do without torch."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from strong_envs.core.spans import IOU_KINDS
from strong_envs.features.bank.pooling import WindowMeans
from strong_envs.temporal import compiled_kernels as c
from strong_envs.temporal.compiled_observations import Tables
from strong_envs.temporal.compiled_stores import STREAM_BYTES
from strong_envs.temporal.task import TemporalTask, context_reach


class HostArrays:
    """The tables of a `TemporalTask` as NumPy arrays: views where the bank lives on the CPU.

    Attributes:
        rules: what a step reads, without the options of a vector environment. truth: (S, K, 2) true windows in steps.
        true_seconds: (S, K, 2) true windows in seconds. seconds: (S,) seconds of a step. table: (A, 2) moves.
        on_host: whether observations can be made here. parts: name and columns of the parts of an observation.
    """

    def __init__(self, task: TemporalTask) -> None:
        config, bank = task.config, task.bank

        def host(tensor: torch.Tensor) -> np.ndarray:
            return np.ascontiguousarray(tensor.cpu().numpy())

        self.task, self.total = task, float(config.total)
        self.kind = IOU_KINDS.index(config.iou)
        self.table, self.seconds = host(task.table), host(task.seconds)
        self.n_actions = len(self.table)
        self.first = np.array(config.initial_span, np.float64) * self.total
        self.on_host = bank.device.type == "cpu" and not bank.mapped
        self._made: Any = None
        self.parts: dict[str, slice] = {}
        self.size = 0
        for name, shape in task.dims().items():
            self.parts[name] = slice(self.size, self.size + shape[0])
            self.size += shape[0]

    @cached_property
    def truth(self) -> np.ndarray:
        """(S, K, 2) true windows in steps."""
        return np.ascontiguousarray(self.task.truth.cpu().numpy())

    @cached_property
    def true_seconds(self) -> np.ndarray:
        """(S, K, 2) true windows in seconds."""
        return np.ascontiguousarray(self.task.true_seconds.cpu().numpy())

    def rules(self, mode: int, full: bool, index: bool) -> c.Rules:
        """What `step_all` reads, for one way to reset and one kind of ``info`` and observation."""
        config = self.task.config
        shift_start, shift_end = (np.ascontiguousarray(column) for column in self.table.T)
        low, high, true_low, true_high = (
            np.ascontiguousarray(windows[..., side].T)
            for windows in (self.truth, self.true_seconds)
            for side in range(2)
        )
        return c.Rules(
            shift_start, shift_end, low, high, self.seconds, true_low, true_high, self.first, float(config.phi),
            self.total, self.task.penalty, self.task.ends, self.task.beyond, self.kind, mode, int(config.max_steps),
            config.start == "random", full, index,
        )  # fmt: skip

    @property
    def tables(self) -> Tables:
        """What an observation is made of, as it is now: boxes may have been replaced."""
        task, means = self.task, self.task.local.means
        if means is not self._made:
            config, bank, whole = task.config, task.bank, task.bank.frame_means
            assert isinstance(means, WindowMeans) and isinstance(whole, WindowMeans)
            parts = [bank.query, task.n_frames, context_reach(task.n_frames, config.total)]
            parts += [means.prefix, means.mean, means.base, means.group]
            parts += [whole.prefix, whole.mean, whole.base, whole.group]
            arrays: list[Any] = [np.ascontiguousarray(part.numpy()) for part in parts]
            options = (self.total, config.context, config.global_scope == "moment", config.time_in_observation)
            self._tables = Tables._make((*arrays, *options, int(config.max_steps)))
            self._made = means
        return self._tables

    def write(
        self, state: tuple[np.ndarray, ...], mask: np.ndarray, out: np.ndarray, held: np.ndarray, keep: bool
    ) -> None:
        """`observe_all` of ``state``: sample, start, end and t, each (B,)."""
        c.kernels().observe_all(*state, mask, out, held, keep, out.nbytes >= STREAM_BYTES, *self.tables)

    def observe(self, sample: int, start: float, end: float, t: int) -> np.ndarray:
        """The observation of one state, (size,) float32, in NumPy."""
        out = np.empty(self.size, np.float32)
        c.numbers().observe_row(out, sample, start, end, t, False, False, self.tables)
        return out
