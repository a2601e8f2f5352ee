"""`TemporalMoment-v0` for many episodes at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from strong_envs.core.vector_env import IndexVectorEnv, refuse_render_mode
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError, nearest
from strong_envs.temporal.compiled_kernels import available, compiles
from strong_envs.temporal.compiled_stepper import STATE, CompiledSteps
from strong_envs.temporal.task import TemporalTask, check_spans, make_task

INFOS = ("full", "light")


class TemporalMomentVectorEnv(IndexVectorEnv):
    """`TemporalMoment-v0` for many episodes at once: the same functions as `TemporalMomentEnv`, on one device.

    Arguments as there (without ``render_mode``), and ``num_envs``, ``autoreset_mode`` (SAME_STEP by default; NEXT_STEP
    and DISABLED work), ``output="numpy" | "torch"``. In ``info``: ``tiou`` (B,), ``span`` and ``true_span`` (B, 2)
    seconds, ``invalid_move`` (B,), ``sample`` (B,); at the end of episodes ``episode`` with ``r``, ``l``, ``t`` and the
    mask ``_episode``; under SAME_STEP ``final_obs`` and ``final_info``, dense, with their masks.

    ``final_obs`` and ``final_info`` have a row for every environment; rows outside their masks are not specified (what
    an earlier episode left there, always finite). On a device, where a look at the flags would stop the pipeline, these
    and ``episode`` are there in every step.

    ``episode`` has the layout of `gymnasium.wrappers.vector.RecordEpisodeStatistics`, which refuses to add its own
    statistics beside it: use ours, or give the wrapper a name of its own, ``stats_key="statistics"``.

    On a CPU with numba (extra ``fast``) a step is one compiled call; ``STRONG_ENVS_COMPILED=0`` keeps torch.
    ``copy=False`` lets every compiled step write into the same arrays, and into observations only what changed: faster,
    but what an earlier step returned is overwritten, and you must not write into it. ``info="light"`` leaves ``info``
    to the episodes that ended.
    """

    OPTIONS = ("sample", "span", "reset_mask")
    COUNTERS = (*IndexVectorEnv.COUNTERS, "start", "end", "t", "iou")

    def __init__(
        self,
        num_envs: int = 1,
        features: str | FeatureBank = "shapes-v0",
        *,
        flatten: bool = False,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        output: str = "numpy",
        observation: str = "features",
        max_episode_steps: int | None = None,
        copy: bool = True,
        info: str = "full",
        **arguments: Any,
    ) -> None:
        if max_episode_steps is not None:
            arguments["max_steps"] = max_episode_steps
        refuse_render_mode(arguments)
        task = make_task(features, **arguments)
        self._setup(task, num_envs, flatten, autoreset_mode, output, observation, copy, info)

    @classmethod
    def of(
        cls,
        task: TemporalTask,
        num_envs: int,
        flatten: bool = False,
        output: str = "torch",
        observation: str = "index",
        info: str = "full",
    ) -> TemporalMomentVectorEnv:
        """An environment over an existing task; by default with what our agents train on, indices and torch output."""
        env = cls.__new__(cls)
        env._setup(task, num_envs, flatten, AutoresetMode.SAME_STEP, output, observation, info=info)
        return env

    def _setup(
        self,
        task: TemporalTask,
        num_envs: int,
        flatten: bool,
        autoreset_mode: AutoresetMode | str,
        output: str,
        observation: str,
        copy: bool = True,
        info: str = "full",
    ) -> None:
        if info not in INFOS:
            raise DataError(f"info must be one of {INFOS}, got {info!r}{nearest(info, INFOS)}")
        self.task, self.light = task, info == "light"
        self.has_multi_scale = task.has_multi_scale
        space = task.index_space() if observation == "index" else task.observation_space(flatten)
        super().__init__(
            num_envs,
            task.bank,
            space,
            spaces.Discrete(task.n_actions),
            flatten,
            autoreset_mode,
            output,
            observation,
        )
        zeros = torch.zeros(num_envs, dtype=torch.float64, device=self.device)
        self.start, self.end, self.iou = zeros, zeros, zeros
        self.t = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._invalid = self._none
        self.before_episode: Callable[[Tensor], None] | None = None
        self._reached: dict[str, Tensor] | None = None
        self._compiled: CompiledSteps | None = None
        # A subclass may have changed what a step does, which the compiled one would not know.
        own = type(self) is TemporalMomentVectorEnv and type(task) is TemporalTask
        in_memory = self.device.type == "cpu" and not task.bank.mapped
        if own and in_memory and available() and compiles(task.reward):
            self._compiled = CompiledSteps(
                task,
                num_envs,
                self.autoreset_mode.value,
                flatten,
                observation == "index",
                output == "torch",
                copy,
                self.light,
            )

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict]:
        """One step of every environment; see `IndexVectorEnv`."""
        if self._compiled is not None and self.before_episode is None and self._keys is not None:
            if self.start is not self._compiled.views["start"]:
                # A reset or a step in torch has made tensors of its own.
                self._compiled.load({name: getattr(self, name) for name in STATE})
                vars(self).update(self._compiled.views)
            result = self._compiled.step(actions, time.perf_counter() - self._began)
            if result is not None:
                self._reached = None
                return result
        return super().step(actions)

    @property
    def reached(self) -> dict[str, Tensor]:
        """The states that the last move led to, before any automatic reset, as `state` gives them."""
        if self._reached is None:
            self._reached = self.state() if self._compiled is None else self._compiled.reached()
        return self._reached

    @reached.setter
    def reached(self, state: dict[str, Tensor]) -> None:
        self._reached = state

    def _read(self, options: dict, sample: Tensor, mask: Tensor) -> dict:
        if "span" in options:
            options["span"] = check_spans(self.task, sample, options["span"], mask)
        return options

    def _start(self, mask: Tensor, options: dict) -> None:
        if self.before_episode is not None:
            self.before_episode(self.sample[mask])
        if "span" in options:
            start, end = options["span"]
        else:
            start, end = self.task.first_span(self.sample, self.keys, self._episode)
        self.start, self.end = torch.where(mask, start, self.start), torch.where(mask, end, self.end)
        self.t = torch.where(mask, 0, self.t)
        self.iou = torch.where(mask, self.task.iou(self.sample, start, end), self.iou)
        self._invalid = self._invalid & ~mask

    def _advance(self, action: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result = self.task.move(self.sample, self.start, self.end, self.t, self.iou, action)
        self.start, self.end, self.iou = result.start, result.end, result.iou
        self.t = self.t + 1
        self._invalid = ~result.valid & active
        return result.reward, result.terminated, result.truncated

    def state(self) -> dict[str, Tensor]:
        """The compact state of all episodes, named (B, ...) tensors."""
        state = {"sample": self.sample, "start": self.start, "end": self.end, "t": self.t}
        # The compiled step works in place, and a state must outlive the step after it.
        return state if self._compiled is None else {name: part.clone() for name, part in state.items()}

    def action_rewards(self, state: dict[str, Tensor], gain: float = 0.0) -> Tensor:
        """What a step pays for every action in stored states, (B, A) float32: training knows the truth, so all.

        ``gain``: see `TemporalTask.action_rewards`.
        """
        return self.task.action_rewards(state["sample"], state["start"], state["end"], state["t"], gain)

    def observe_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observations, named (B, ...) tensors, of stored states."""
        if self._compiled is not None:
            return self._compiled.observe(state)
        return self.task.observe(state["sample"], state["start"], state["end"], state["t"])

    def _view(self, state: dict[str, Tensor]) -> Any:
        if self._compiled is not None:
            return self._compiled.view(tuple(part.numpy() for part in state.values()))
        return super()._view(state)

    def _info(self) -> dict[str, Tensor]:
        if self.light:
            return {}
        return {
            "tiou": self.task.iou(self.sample, self.start, self.end, "clamped"),
            "span": self.task.to_seconds(self.sample, self.start, self.end),
            "true_span": self.task.nearest_truth(self.sample, self.start, self.end),
            "invalid_move": self._invalid.clone(),
            "sample": self.sample.clone(),
        }
