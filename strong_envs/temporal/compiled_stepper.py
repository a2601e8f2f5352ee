"""The compiled stepping of `TemporalMomentVectorEnv`: its state in three arrays, its observations in recycled ones."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from strong_envs.temporal import compiled_kernels as c
from strong_envs.temporal.compiled_buffers import BufferPool, StepBufferPool
from strong_envs.temporal.compiled_tables import HostArrays

if TYPE_CHECKING:
    from strong_envs.temporal.vector_env import TemporalMomentVectorEnv

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
_LOOKING = ("now", "was", "handed", "shown", "final", "current", "views")
_INDEX = ("sample", "start", "end", "t")


class CompiledSteps:
    """Steps a `TemporalMomentVectorEnv` in compiled calls; the tensors of the environment are views of its arrays.

    Args:
        env: on the CPU. copy: whether every step hands out arrays of its own. light: leave ``info`` to ended episodes.
    """

    def __init__(self, env: TemporalMomentVectorEnv, copy: bool, light: bool) -> None:
        self.kernels = c.kernels()
        count, task = env.num_envs, env.task
        self.copy, self.light, self.count = copy, light, count
        self.host = HostArrays(task)
        self.mode = _MODES[env.autoreset_mode.value]
        # Rows a power of two apart would fight for the same lines of the cache: three lines more keep them apart.
        self.width = count + 24
        kinds = (np.int64, np.float64, np.bool_)
        self.ints, self.floats, self.flags = (
            np.zeros((rows, self.width), kind) for rows, kind in zip(c.STATE_ROWS, kinds, strict=True)
        )
        self.everywhere = np.ones(count, np.bool_)
        self.random = task.config.start == "random"
        self.flat, self.index = env.flatten, env.observation == "index"
        self.torch = env.output == "torch"
        self.parts, self.size = self.host.parts, self.host.size
        self._frame_scores()

    def _frame_scores(self) -> None:
        """Arrays to hand out, and all that looks into the arrays of the state."""
        count = self.count
        ints, floats = self.ints[:, :count], self.floats[:, :count]
        self.now = (ints[c.SAMPLE], floats[c.START], floats[c.END], ints[c.T])
        self.was = (ints[c.WAS_SAMPLE], floats[c.WAS_START], floats[c.WAS_END], ints[c.WAS_T])
        self.handed = StepBufferPool(count, self.width, not self.copy)
        self.shown, self.final = BufferPool(count, self.size), BufferPool(count, self.size)
        self.current: tuple[Any, np.ndarray, np.ndarray] | None = None
        self.views = {name: torch.from_numpy(getattr(self, kind)[row, :count]) for name, (kind, row) in _STATE.items()}

    def __getstate__(self) -> dict[str, Any]:
        # Copied views would be arrays of their own; they are made anew, and `load` takes the environment's state over.
        return {name: value for name, value in vars(self).items() if name not in _LOOKING}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._frame_scores()

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
        host, out = self.host, self.handed.take()
        ended = self.kernels.step_all(
            actions, time.perf_counter() - env._began, self.ints, self.floats, self.flags, out.ints, out.floats,
            out.flags, out.spans, out.reward, host.shift_start, host.shift_end, host.low, host.high, host.seconds,
            host.true_seconds, host.first, host.phi, host.total, host.kind, c.CLAMPED, host.invalid, self.mode,
            host.max_steps, self.random, not self.light, self.index,
        )  # fmt: skip
        if ended < 0:
            return None
        env._reached = None
        info: dict[str, Any] = {}
        if ended:
            info["episode"], info["_episode"] = out.episode.copy(), out.ended
            if self.mode == c.SAME_STEP:
                info["final_obs"] = out.final_obs.copy() if self.index else self._final(out.ended)
                info["_final_obs"] = out.ended
                if not self.light:
                    info["final_info"], info["_final_info"] = out.final_info.copy(), out.ended
        if not self.light:
            info.update(out.info)
        observation = out.shown.copy() if self.index else self._show(self.now)
        result = observation, out.reward, out.terminated, out.truncated, info
        return tuple(map(_tensors, result)) if self.torch else result

    def reached(self) -> dict[str, Tensor]:
        """The states that the last move led to, before any automatic reset."""
        return {name: torch.from_numpy(row.copy()) for name, row in zip(_INDEX, self.was, strict=True)}

    def view(self, state: tuple[np.ndarray, ...]) -> Any:
        """What the agent is shown in the current states."""
        if self.index:
            shown: Any = {name: row.copy() for name, row in zip(_INDEX, state, strict=True)}
        else:
            shown = self._show(state)
        return _tensors(shown) if self.torch else shown

    def _show(self, state: tuple[np.ndarray, ...]) -> Any:
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
        """The last observations of ended episodes; rows outside ``done`` keep what they held."""
        out, held = self.final.take()
        self.host.write(self.was, done, out, held, False)
        return self._arrange(out)

    def _arrange(self, out: np.ndarray) -> Any:
        return out if self.flat else {name: out[:, part] for name, part in self.parts.items()}


def _tensors(value: Any) -> Any:
    """Arrays, also in dicts of dicts, as tensors that share their memory."""
    if isinstance(value, dict):
        return {name: _tensors(part) for name, part in value.items()}
    return torch.from_numpy(value)
