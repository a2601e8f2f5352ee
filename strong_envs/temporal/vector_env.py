"""`TemporalMoment-v0` for many episodes at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from strong_envs.core.env_base import TRUTH
from strong_envs.core.validation import check_whole
from strong_envs.core.vector_env import IndexVectorEnv
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.temporal.compiled_buffers import INFO
from strong_envs.temporal.compiled_kernels import available, compiles
from strong_envs.temporal.compiled_stepper import STATE, CompiledSteps
from strong_envs.temporal.pictures import temporal_shot
from strong_envs.temporal.task import TemporalTask, check_spans, make_task

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot


class TemporalMomentVectorEnv(IndexVectorEnv):
    """`TemporalMoment-v0` for many episodes at once: the same functions as `TemporalMomentEnv`, on one device.

    Arguments as there, and ``num_envs``, ``autoreset_mode``, ``output="numpy" | "torch"``; ``render()`` gives one
    picture
    per environment. ``info`` has the keys of the scalar environment with a row per environment, and Gymnasium's masks
    ``_key``; at the end of episodes ``episode`` with ``r``, ``l``, ``t`` and the mask ``_episode``; under SAME_STEP
    ``final_obs`` and ``final_info``, dense, with their masks. ``path`` is of the scalar environment alone.

    ``autoreset_mode`` is NEXT_STEP by default, as in every environment of Gymnasium: all of its vector wrappers work.
    Under SAME_STEP its observation wrappers (FlattenObservation, NormalizeObservation, RescaleObservation,
    TransformObservation, FilterObservation, ReshapeObservation, DtypeObservation, VectorizeTransformObservation) raise;
    under DISABLED only NormalizeObservation does. A loop that stores transitions skips, under NEXT_STEP, the step after
    an end: its action is ignored and it pays 0. SAME_STEP has no such step, which saves a quarter of the work where
    episodes are three steps long; Stable-Baselines3 needs it (`vec_env` sets it) and our agents use it.

    ``final_obs`` and ``final_info`` have a row for every environment; rows outside their masks are not specified (what
    an earlier episode left there, always finite). On a device, where a look at the flags would stop the pipeline, these
    and ``episode`` are there in every step.

    ``episode`` has the layout of `gymnasium.wrappers.vector.RecordEpisodeStatistics`, which refuses to add its own
    statistics beside it: use ours, or give the wrapper a name of its own, ``stats_key="statistics"``.

    On a CPU with numba (extra ``fast``) a step is one compiled call; ``STRONG_ENVS_COMPILED=0`` keeps torch.
    ``copy=False`` lets every compiled step write into the same arrays, and into observations only what changed: faster,
    but what an earlier step returned is overwritten, and you must not write into it. ``info="light"`` leaves ``info``
    to the statistics of episodes that ended.
    """

    OPTIONS = ("sample", "span", "reset_mask")
    COUNTERS = (*IndexVectorEnv.COUNTERS, "_invalid", "start", "end", "t", "iou")

    def __init__(
        self,
        num_envs: int = 1,
        features: str | FeatureBank = "shapes-v0",
        *,
        flatten: bool = False,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        output: str = "numpy",
        observation: str = "features",
        max_episode_steps: int | None = None,
        copy: bool = True,
        info: str = "numeric",
        reveal_truth: bool | None = None,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        if max_episode_steps is not None:
            arguments["max_steps"] = check_whole(max_episode_steps, "max_episode_steps")
        task = make_task(features, **arguments)
        self._setup(task, num_envs, flatten, autoreset_mode, output, observation, copy, info, render_mode, reveal_truth)

    @classmethod
    def of(
        cls,
        task: TemporalTask,
        num_envs: int,
        flatten: bool = False,
        output: str = "torch",
        observation: str = "index",
        info: str = "numeric",
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
        info: str = "numeric",
        render_mode: str | None = None,
        reveal_truth: bool | None = None,
    ) -> None:
        self.task = task
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
            info,
            render_mode,
            reveal_truth=reveal_truth,
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
                return self._finished(result)
        return super().step(actions)

    def _finished(self, result: tuple[Any, Any, Any, Any, dict[str, Any]]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """What the compiled step leaves to Python: texts and pictures."""
        info = result[4]
        if not self.reveal_truth:
            for held in (info, info.get("final_info", {})):
                for name in TRUTH:
                    held.pop(name, None)
                    held.pop(f"_{name}", None)
        if self.info_mode == "full":
            if "final_info" in info:
                final = {name: part for name, part in info["final_info"].items() if not name.startswith("_")}
                info["final_info"] = self._described(final, info["_final_info"])
            ends = ("episode", "_episode", "final_obs", "_final_obs", "final_info", "_final_info")
            kept = {name: info[name] for name in ends if name in info}
            now = {name: info[name] for name in INFO if name in info}
            result = (*result[:4], {**kept, **self._described(now, self._out(self._all))})
        if self.render_mode is not None:
            self._paid = result[1]
            if self.render_mode == "human":
                self.render()
        return result

    @property
    def max_steps(self) -> int:
        """The most steps of an episode."""
        return int(self.task.config.max_steps)

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

    def _action_mask(self) -> Tensor:
        return self.task.action_mask(self.start, self.end)

    def _shots(self) -> list[Shot]:
        paid = torch.as_tensor(self._paid).tolist()
        state = zip(self.sample.tolist(), self.start.tolist(), self.end.tolist(), self.t.tolist(), paid, strict=True)
        return [temporal_shot(self.task, *one) for one in state]

    def _info(self) -> dict[str, Tensor]:
        if self.light:
            return {}
        where, shown = (self.sample, self.start, self.end), self.reveal_truth
        return {
            **({"tiou": self.task.iou(*where, "clamped")} if shown else {}),
            "span": self.task.to_seconds(*where),
            **({"true_span": self.task.nearest_truth(*where)} if shown else {}),
            "invalid_move": self._invalid.clone(),
            "sample": self.sample.clone(),
            "action_mask": self._action_mask().to(torch.int8),
        }
