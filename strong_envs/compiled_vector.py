"""The compiled stepping of `TemporalMomentVectorEnv`: its state in three arrays, its observations in recycled ones."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from strong_envs import compiled as c
from strong_envs.spans import Array

if TYPE_CHECKING:
    from strong_envs.temporal_moment import TemporalMomentVectorEnv

_MODES = {"SameStep": c.SAME_STEP, "NextStep": c.NEXT_STEP, "Disabled": c.DISABLED}
_STATE = {
    "sample": ("ints", c.SAMPLE),
    "start": ("floats", c.START),
    "end": ("floats", c.END),
    "t": ("ints", c.T),
    "iou": ("floats", c.IOU),
    "_return": ("floats", c.RETURN),
    "_length": ("ints", c.LENGTH),
    "_episode": ("ints", c.EPISODE),
    "_keys": ("ints", c.KEY),
    "_done": ("flags", c.DONE),
    "_invalid": ("flags", c.IS_INVALID),
}
_LOOKING = ("now", "was", "ended", "outcome", "invalid", "was_invalid", "shown", "final", "current", "views")
_OBJECTS = [object()]
_HELD_HERE_ONLY = sys.getrefcount(_OBJECTS[0])


class RecycledArrays:
    """Zeroed (B, size) float32 arrays; one that nobody else holds any more is handed out again.

    Fresh memory costs as much as the observation written into it (the system clears every page), and views, slices
    and torch tensors of an array all hold it, so what somebody still looks at is never touched.
    """

    def __init__(self, rows: int, size: int, most: int = 3) -> None:
        self._shape, self._most = (rows, size), most
        self._arrays: list[np.ndarray] = []
        self._helds: list[np.ndarray] = []

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """An array, and (B,) int64, the sample that each of its rows last showed (-1: zeros)."""
        arrays = self._arrays
        for i in range(len(arrays)):
            if sys.getrefcount(arrays[i]) == _HELD_HERE_ONLY:
                return arrays[i], self._helds[i]
        arrays.append(np.zeros(self._shape, np.float32))
        self._helds.append(np.full(self._shape[0], -1, np.int64))
        if len(arrays) > self._most:
            del arrays[0], self._helds[0]
        return arrays[-1], self._helds[-1]


class CompiledSteps:
    """Steps a `TemporalMomentVectorEnv` in compiled calls; the tensors of the environment are views of its arrays.

    Args:
        env: on the CPU. copy: whether every step hands out arrays of its own. light: leave ``info`` to ended episodes.
    """

    def __init__(self, env: TemporalMomentVectorEnv, copy: bool, light: bool) -> None:
        self.kernels = c.kernels()
        count, task = env.num_envs, env.task
        self.copy, self.light, self.count = copy, light, count
        self.host = c.HostArrays(task)
        self.mode = _MODES[env.autoreset_mode.value]
        # Rows a power of two apart would fight for the same lines of the cache: three lines more keep them apart.
        width = count + 24
        self.ints, self.floats = np.zeros((8, width), np.int64), np.zeros((8, width), np.float64)
        self.flags, self.reward = np.zeros((5, width), np.bool_), np.zeros(count, np.float32)
        self.everywhere = np.ones(count, np.bool_)
        self.random = task.config.start == "random"
        self.flat, self.index = env.flatten, env.observation == "index"
        self.wrap = torch.from_numpy if env.output == "torch" else _same
        self.parts, self.size = self.host.parts, self.host.size
        self._look()

    def _look(self) -> None:
        """Arrays to hand out, and all that looks into the arrays of the state."""
        count = self.count
        ints, floats, flags = self.ints[:, :count], self.floats[:, :count], self.flags[:, :count]
        self.now = (ints[c.SAMPLE], floats[c.START], floats[c.END], ints[c.T])
        self.was = (ints[c.WAS_SAMPLE], floats[c.WAS_START], floats[c.WAS_END], ints[c.WAS_T])
        self.ended = (floats[c.ENDED_RETURN], ints[c.ENDED_LENGTH], floats[c.ENDED_TIME])
        self.outcome = (flags[c.DONE], flags[c.TERMINATED], flags[c.TRUNCATED])
        self.invalid, self.was_invalid = flags[c.IS_INVALID], flags[c.WAS_INVALID]
        self.shown, self.final = RecycledArrays(count, self.size), RecycledArrays(count, self.size)
        self.current: tuple[Any, np.ndarray, np.ndarray] | None = None
        self.views = {name: torch.from_numpy(getattr(self, kind)[row, :count]) for name, (kind, row) in _STATE.items()}

    def __getstate__(self) -> dict[str, Any]:
        # Copied views would be arrays of their own; they are made anew, and `load` takes the environment's state over.
        return {name: value for name, value in vars(self).items() if name not in _LOOKING}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._look()

    def load(self, env: TemporalMomentVectorEnv) -> None:
        """Take the state of the environment over, after a reset or a step in torch."""
        if env.start is not self.views["start"]:
            for name, view in self.views.items():
                view.copy_(getattr(env, name))
                setattr(env, name, view)

    def step(self, env: TemporalMomentVectorEnv, actions: Any) -> tuple[Any, Any, Any, Any, dict] | None:
        """`TemporalMomentVectorEnv.step`; None, with nothing changed, for what that method has to refuse."""
        if env._keys is None:
            return None
        actions = actions.cpu().numpy() if isinstance(actions, Tensor) else np.asarray(actions)
        if actions.shape != (self.count,) or actions.dtype.kind not in "iub":
            return None
        actions = np.ascontiguousarray(actions, np.int64)
        self.load(env)
        host = self.host
        reward = np.empty(self.count, np.float32) if self.copy else self.reward
        ended = self.kernels.step_all(
            actions, time.perf_counter() - env._began, self.ints, self.floats, self.flags, reward, host.table,
            host.truth, host.phi, host.total, host.kind, host.reward, host.invalid, self.mode, host.max_steps,
            host.first, self.random,
        )  # fmt: skip
        if ended < 0:
            return None
        env._reached = None
        wrap = self.wrap
        info: dict[str, Any] = {}
        done, terminated, truncated = [row.copy() for row in self.outcome] if self.copy else self.outcome
        if ended:
            returns, lengths, seconds = self.ended
            info["episode"] = {"r": wrap(returns.copy()), "l": wrap(lengths.copy()), "t": wrap(seconds.copy())}
            info["_episode"] = which = wrap(done)
            if self.mode == c.SAME_STEP:
                info["final_obs"], info["_final_obs"] = self._final(done), which
                if not self.light:
                    info["final_info"] = self._describe(self.was, self.was_invalid)
                    info["_final_info"] = which
        if not self.light:
            info.update(self._describe(self.now, self.invalid))
        return self.view(self.now), wrap(reward), wrap(terminated), wrap(truncated), info

    def reached(self) -> dict[str, Tensor]:
        """The states that the last move led to, before any automatic reset."""
        return {name: torch.from_numpy(row.copy()) for name, row in zip(_INDEX, self.was, strict=True)}

    def view(self, state: tuple[np.ndarray, ...]) -> Any:
        """What the agent is shown in the current states."""
        if self.index:
            return self._indices(state)
        if self.copy:
            out, held = self.shown.take()
            self.host.write(state, self.everywhere, out, held, False)
            return self._arrange(out)
        if self.current is None:
            out, held = np.zeros((self.count, self.size), np.float32), np.full(self.count, -1, np.int64)
            self.current = self._arrange(out), out, held
        shown, out, held = self.current
        self.host.write(state, self.everywhere, out, held, True)
        return shown

    def observe(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observations of stored states, as `TemporalTask.observe` computes them."""
        rows = tuple(state[name].contiguous().numpy() for name in _INDEX)
        count = len(rows[0])
        if count and not 0 <= rows[0].min() <= rows[0].max() < len(self.host.truth):
            raise IndexError(f"sample must lie in [0, {len(self.host.truth)})")
        out = np.empty((count, self.size), np.float32)
        self.host.write(rows, np.ones(count, np.bool_), out, np.full(count, -1, np.int64), False)
        whole = torch.from_numpy(out)
        return {name: whole[:, part] for name, part in self.parts.items()}

    def _final(self, done: np.ndarray) -> Any:
        if self.index:
            return self._indices(self.was, True)
        out, held = self.final.take()
        self.host.write(self.was, done, out, held, False)
        return self._arrange(out)

    def _indices(self, state: tuple[np.ndarray, ...], copy: bool = False) -> dict[str, Array]:
        sample, start, end, t = [row.copy() for row in state] if self.copy or copy else state
        wrap = self.wrap
        return {"sample": wrap(sample), "start": wrap(start), "end": wrap(end), "t": wrap(t)}

    def _arrange(self, out: np.ndarray) -> Any:
        return self.wrap(out) if self.flat else {name: self.wrap(out[:, part]) for name, part in self.parts.items()}

    def _describe(self, state: tuple[np.ndarray, ...], invalid: np.ndarray) -> dict[str, Array]:
        host, wrap, count = self.host, self.wrap, self.count
        tiou, span, true = np.empty(count), np.empty((count, 2)), np.empty((count, 2))
        sample, start, end, _ = state
        self.kernels.describe_all(
            sample, start, end, host.truth, c.CLAMPED, host.seconds, host.true_seconds, tiou, span, true
        )
        return {
            "tiou": wrap(tiou),
            "span": wrap(span),
            "true_span": wrap(true),
            "invalid_move": wrap(invalid.copy()),
            "sample": wrap(sample.copy()),
        }


_INDEX = ("sample", "start", "end", "t")


def _same(array: np.ndarray) -> np.ndarray:
    return array
