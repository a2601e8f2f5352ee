"""The compiled steps of the temporal level: the state of all episodes in three arrays, results in pooled ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from strong_envs.temporal import compiled_kernels as c
from strong_envs.temporal.compiled_buffers import BufferPool, StepBufferPool
from strong_envs.temporal.compiled_tables import HostArrays
from strong_envs.temporal.task import TemporalTask

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
STATE = tuple(_STATE)
"""Attributes of the vector environment that make up the state of its episodes, tensors (B,)."""

_VIEWS = ("step_all", "now", "was", "handed", "shown", "final", "current", "views")
_INDEX = ("sample", "start", "end", "t")


class CompiledSteps:
    """Steps episodes of a `TemporalTask` on the CPU in compiled calls.

    Args:
        task: whose reward numba compiles, see `compiled_kernels.compiles`. count: number of episodes B.
        mode: value of Gymnasium's `AutoresetMode`. flatten, index, torch_output: what a step returns as observations.
        copy: whether every step hands out arrays of its own. light: leave ``info`` to ended episodes.

    Attributes:
        views: tensors (B,) by the names of `STATE` that look into the arrays of the state.
    """

    def __init__(
        self,
        task: TemporalTask,
        count: int,
        mode: str,
        flatten: bool = False,
        index: bool = False,
        torch_output: bool = False,
        copy: bool = True,
        light: bool = False,
    ) -> None:
        self.copy, self.light, self.count = copy, light, count
        self.flat, self.index, self.torch = flatten, index, torch_output
        self.host, self.mode, self.reward = HostArrays(task), _MODES[mode], task.reward
        self.rules = self.host.rules(self.mode, not light, index)
        # Rows a power of two apart would fight for the same lines of the cache: three lines more keep them apart.
        self.width = count + 24
        self.ints = np.zeros((c.STATE_ROWS[0], self.width), np.int64)
        self.floats = np.zeros((c.STATE_ROWS[1], self.width), np.float64)
        self.flags = np.zeros((c.STATE_ROWS[2], self.width), np.bool_)
        self.everywhere = np.ones(count, np.bool_)
        # Every ``info`` shows it; torch has no tensors that cannot be written.
        self.everywhere.flags.writeable = torch_output
        self.parts, self.size = self.host.parts, self.host.size
        self._make_views()

    def _make_views(self) -> None:
        """Arrays to hand out, and all that looks into the arrays of the state."""
        self.step_all = c.kernels(self.reward).step_all
        count = self.count
        ints, floats = self.ints[:, :count], self.floats[:, :count]
        self.now = (ints[c.SAMPLE], floats[c.START], floats[c.END], ints[c.T])
        self.was = (ints[c.WAS_SAMPLE], floats[c.WAS_START], floats[c.WAS_END], ints[c.WAS_T])
        self.handed = StepBufferPool(self.width, self.host.n_actions, self.everywhere, not self.copy)
        self.shown, self.final = BufferPool(count, self.size), BufferPool(count, self.size)
        self.current: tuple[Any, np.ndarray, np.ndarray] | None = None
        self.views = {name: torch.from_numpy(getattr(self, kind)[row, :count]) for name, (kind, row) in _STATE.items()}

    def __getstate__(self) -> dict[str, Any]:
        # Copied views would be arrays of their own; they are made anew, and `load` takes the environment's state over.
        return {name: value for name, value in vars(self).items() if name not in _VIEWS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_views()

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over the state of all episodes: tensors (B,) by the names of `STATE`."""
        for name, view in self.views.items():
            view.copy_(state[name])

    def step(self, actions: Any, elapsed: float) -> tuple[Any, Any, Any, Any, dict] | None:
        """One step of all episodes as `IndexVectorEnv.step` returns it, ``elapsed`` seconds after they began.

        None, with nothing changed, for what that method refuses.
        """
        try:
            actions = actions.cpu().numpy() if isinstance(actions, Tensor) else np.asarray(actions)
        except (TypeError, ValueError):
            return None
        if actions.shape != (self.count,) or actions.dtype.kind not in "iub":
            return None
        actions = np.ascontiguousarray(actions, np.int64)
        out = self.handed.take()
        ended = self.step_all(
            actions, elapsed, self.ints, self.floats, self.flags, out.ints, out.floats, out.flags, out.spans,
            out.masks, out.reward, *self.rules,
        )  # fmt: skip
        if ended < 0:
            return None
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
        if not self.torch:
            return observation, out.reward, out.terminated, out.truncated, info
        flags = (torch.from_numpy(flag) for flag in (out.reward, out.terminated, out.truncated))
        return (_tensors(observation), *flags, _tensors(info))

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
