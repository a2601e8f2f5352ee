"""`TemporalLook-v0` for many episodes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from strong_envs.core.validation import check_fractions, check_whole
from strong_envs.core.vector_env import IndexVectorEnv
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.looks import dynamics
from strong_envs.looks.pictures import look_shot
from strong_envs.looks.task import LookTask, make_look_task

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot

STATE = ("low", "high", "rows", "looks")


class TemporalLookVectorEnv(IndexVectorEnv):
    """`TemporalLook-v0` for many episodes at once; arguments of `TemporalLookEnv` and `TemporalMomentVectorEnv`.

    ``info`` has the keys of the scalar environment with a row per environment. Steps are tensor operations on one
    device; there is no compiled path, because a step costs less than what a look shows.
    """

    COUNTERS = (
        *IndexVectorEnv.COUNTERS,
        *(*STATE, "t", "frames_read", "_value", "_invalid", "_answered", "window"),
    )

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
        info: str = "numeric",
        reveal_truth: bool | None = None,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        if max_episode_steps is not None:
            arguments["max_steps"] = check_whole(max_episode_steps, "max_episode_steps")
        task = make_look_task(features, **arguments)
        self._setup(task, num_envs, flatten, autoreset_mode, output, observation, info, reveal_truth, render_mode)

    @classmethod
    def of(cls, task: LookTask, num_envs: int, observation: str = "index") -> TemporalLookVectorEnv:
        """An environment over an existing task, with what agents train on: indices, torch output, SAME_STEP resets."""
        env = cls.__new__(cls)
        env._setup(task, num_envs, False, AutoresetMode.SAME_STEP, "torch", observation, "light")
        return env

    def _setup(
        self,
        task: LookTask,
        num_envs: int,
        flatten: bool,
        autoreset_mode: AutoresetMode | str,
        output: str,
        observation: str,
        info: str = "numeric",
        reveal_truth: bool | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.task = task
        if task.config.feedback == "answer" and reveal_truth is None:
            # A user who rates an answer tells nothing else.
            reveal_truth = False
        super().__init__(
            num_envs,
            task.bank,
            task.index_space() if observation == "index" else task.observation_space(flatten),
            task.action_space(),
            flatten,
            autoreset_mode,
            output,
            observation,
            info,
            render_mode,
            reveal_truth=reveal_truth,
        )
        blank = task.initial(self.sample)
        self.low, self.high, self.rows, self.looks = (blank[name] for name in STATE)
        self.t, self.frames_read = torch.zeros_like(self.sample), torch.zeros_like(self.sample)
        self._value = torch.zeros(num_envs, dtype=torch.float64, device=self.device)
        self._invalid, self._answered = self._none, self._none
        self.window = torch.zeros((num_envs, 2), dtype=torch.float64, device=self.device)

    @property
    def max_steps(self) -> int:
        """The most steps of an episode."""
        return self.task.config.limit

    def state(self) -> dict[str, Tensor]:
        """The compact state of all episodes, named (B, ...) tensors."""
        return {"sample": self.sample} | {name: getattr(self, name) for name in STATE}

    def observe_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observations, named (B, ...) tensors, of stored states."""
        return self.task.observe(state)

    def seconds(self) -> Tensor:
        """The windows named, (B, 2) float64 seconds; zeros before the answer."""
        return self.window * self.bank.duration[self.bank.video[self.sample]][:, None]

    def _start(self, mask: Tensor, options: dict) -> None:
        blank = self.task.initial(self.sample)
        for name in STATE:
            fresh, old = blank[name], getattr(self, name)
            setattr(self, name, torch.where(mask[:, None] if fresh.ndim == 2 else mask, fresh, old))
        self.t, self.frames_read = torch.where(mask, 0, self.t), torch.where(mask, 0, self.frames_read)
        self._value = torch.where(mask, 0.0, self._value)
        self.window = torch.where(mask[:, None], 0.0, self.window)
        self._invalid, self._answered = self._invalid & ~mask, self._answered & ~mask

    def _advance(self, action: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        done, looks = self.task.act(self.state(), action), self.looks
        answered = done.answered & active
        self.low, self.high, self.rows, self.looks = (done.state[name] for name in STATE)
        self.t = self.t + 1
        self.frames_read = self.frames_read + done.new_frames
        self._invalid, self._answered = ~done.valid & active, answered
        self.window = torch.where(answered[:, None], done.window, self.window)
        paid = torch.where(answered, self.task.iou(self.sample, done.window), 0.0)
        feedback = self.task.config.feedback
        if feedback == "gain":
            # Asked after every look, also where the answer is not due: the gains add up to the IoU of the answer.
            looked = (self.looks > looks) & active & ~answered
            would = self.task.answered(done.state, looked)
            now = torch.where(looked, self.task.iou(self.sample, would), torch.where(answered, paid, self._value))
            paid, self._value = now - self._value, now
        if feedback != "answer":
            paid = paid - self.task.config.look_cost * done.new_frames
        truncated = ~answered & (self.t >= self.max_steps)
        return paid, answered, truncated

    def _actions(self, actions: Any) -> Tensor:
        if self.task.config.actions == "discrete":
            return super()._actions(actions)
        what = "numbers: look or answer, position, start, end"
        return check_fractions(actions, self.num_envs, 4, what, self.device)

    def _action_mask(self) -> Tensor:
        if self.task.config.actions == "box":
            return self._all[:, None].expand(-1, 4)
        return self.task.action_mask(self.state())

    def _shots(self) -> list[Shot]:
        paid = torch.as_tensor(self._paid).tolist()
        shots = []
        for i, sample in enumerate(self.sample.tolist()):
            rows = self.rows[i][self.rows[i] != dynamics.NO_ROW].tolist()
            start, end = self.window[i].tolist()
            answer = (start, end) if bool(self._answered[i]) else None
            view = float(self.low[i]), float(self.high[i])
            shots.append(look_shot(self.task, sample, rows, view, answer, int(self.frames_read[i]), paid[i]))
        return shots

    def _info(self) -> dict[str, Tensor]:
        if self.light:
            return {}
        revealed, sample = self.reveal_truth, self.sample
        known = {}
        if revealed:
            duration = self.bank.duration[self.bank.video[sample]][:, None]
            known = {
                "tiou": torch.where(self._answered, self.task.iou(sample, self.window), 0.0),
                "true_span": self.task.nearest_truth(sample, self.window) * duration,
            }
        masks = {} if self.task.config.actions == "box" else {"action_mask": self._action_mask().to(torch.int8)}
        return {
            **known,
            "span": self.seconds(),
            "looks": self.looks.clone(),
            "frames_read": self.frames_read.clone(),
            "invalid_move": self._invalid.clone(),
            "sample": sample.clone(),
            **masks,
        }
