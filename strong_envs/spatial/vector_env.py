"""`SpatialTrack-v0` for many episodes at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from strong_envs.core import boxes
from strong_envs.core.rewards import critic_rewards
from strong_envs.core.sampling import draw
from strong_envs.core.validation import check_table, refuse_unknown
from strong_envs.core.vector_env import IndexVectorEnv
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.spatial.task import (
    CONFIG_NAMES,
    AttentionBox,
    Critic,
    SpatialConfig,
    SpatialTask,
    TrackState,
    check_box,
)
from strong_envs.temporal.task import CONFIG_NAMES as TEMPORAL_NAMES
from strong_envs.temporal.task import TemporalTask, check_spans, make_task

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot

INDEX = ("sample", "first", "last", "frame", "box")
ENV_ARGUMENTS = ("critic", "attention_box", "flatten", "observation", "render_mode", "info", "reveal_truth")
TASK_ARGUMENTS = ("features", "split", "device", "boxes", "spp_levels", "spp_reduce", "box_margin", *TEMPORAL_NAMES)


def make_spatial_task(
    features: str | FeatureBank = "shapes-v0",
    critic: Critic | str | None = None,
    attention_box: AttentionBox | None = None,
    temporal: TemporalTask | None = None,
    **arguments: Any,
) -> SpatialTask:
    """The `SpatialTask` behind the environments, from the same arguments."""
    config = SpatialConfig(**{name: arguments.pop(name) for name in CONFIG_NAMES if name in arguments})
    unknown = [name for name in arguments if name not in TASK_ARGUMENTS]
    refuse_unknown(unknown, (*TASK_ARGUMENTS, *CONFIG_NAMES, *ENV_ARGUMENTS))
    task = temporal if temporal is not None else make_task(features, **arguments)
    if (critic is None or critic == "reference") and config.reward in critic_rewards():
        from strong_envs.spatial.reference_critic import find_reference_critic

        critic = find_reference_critic(task)
    elif isinstance(critic, str):
        raise DataError(f"critic must be a callable, 'reference' or None, got {critic!r}")
    return SpatialTask(task, config, critic, attention_box)


class SpatialTrackVectorEnv(IndexVectorEnv):
    """`SpatialTrack-v0` for many episodes at once; arguments of `SpatialTrackEnv` and of `TemporalMomentVectorEnv`.

    ``info`` has the keys of the scalar environment with a row per environment. ``max_episode_steps`` truncates.
    """

    OPTIONS = ("sample", "span", "box", "reset_mask")
    COUNTERS = (*IndexVectorEnv.COUNTERS, "_invalid")

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
        task = make_spatial_task(features, **arguments)
        more = (info, render_mode, max_episode_steps, reveal_truth)
        self._setup(task, num_envs, flatten, autoreset_mode, output, observation, *more)

    @classmethod
    def of(cls, task: SpatialTask, num_envs: int) -> SpatialTrackVectorEnv:
        """An environment over an existing task, with index observations and torch output: what agents train on."""
        env = cls.__new__(cls)
        env._setup(task, num_envs, False, AutoresetMode.SAME_STEP, "torch", "index")
        return env

    def _setup(
        self,
        task: SpatialTask,
        num_envs: int,
        flatten: bool,
        autoreset_mode: AutoresetMode | str,
        output: str,
        observation: str,
        info: str = "numeric",
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        reveal_truth: bool | None = None,
    ) -> None:
        self.task = task
        super().__init__(
            num_envs,
            task.bank,
            task.index_space() if observation == "index" else task.observation_space(flatten),
            spaces.Discrete(task.n_actions),
            flatten,
            autoreset_mode,
            output,
            observation,
            info,
            render_mode,
            max_episode_steps,
            reveal_truth,
        )
        self.walk: TrackState | None = None
        self._initial = torch.tensor([self.task.config.initial_box], dtype=torch.float64, device=self.device)
        self.choose_window: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
        self._invalid = self._none

    @property
    def track(self) -> TrackState:
        """The state of all episodes."""
        if self.walk is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self.walk

    def _read(self, options: dict, sample: Tensor, mask: Tensor) -> dict:
        if "span" in options:
            options["span"] = check_spans(self.task.temporal, sample, options["span"], mask)
        if "box" in options:
            given = check_table(options["box"], 4, self.num_envs, "options['box']", "centre x, y, width, height")
            rows = mask.cpu().numpy()
            for one in given[rows]:
                check_box(one, "options['box']")
            # Rows that do not begin may hold anything.
            boxes_of = np.where(rows[:, None], given, self.task.config.initial_box)
            options["box"] = torch.tensor(boxes_of, device=self.device)
        return options

    @property
    def max_steps(self) -> int:
        """The most steps of an episode: the actions in every frame of the longest video."""
        return self.limit or self.task.max_steps

    def _uniform(self) -> Tensor:
        """(B, 2) float64 in [0, 1), drawn for each episode."""
        parts = (draw(self.keys + salt, self._episode, 1 << 30) for salt in (1, 2))
        return torch.stack([part.to(torch.float64) / (1 << 30) for part in parts], -1)

    def _start(self, mask: Tensor, options: dict) -> None:
        if "span" in options:
            start, end = options["span"]
        elif self.choose_window is not None:
            start, end = self.choose_window(self.sample, self._uniform())
        else:
            start, end = self.task.window(self.sample, self._uniform())
        box = options.get("box", self._initial)
        # The sums are the bulk of a walk, and a fresh copy of them at every reset would be most of what a reset costs.
        kept = None if self.walk is None else self.walk.sums
        fresh = self.task.begin(self.sample, start, end, box.expand(self.num_envs, 4), kept)
        if self.walk is not None and kept is not None:
            # What begins starts its sums at 0, or rounding would grow from episode to episode.
            index = torch.arange(self.num_envs, device=self.device)
            kept[index, fresh.first] = torch.where(mask[:, None], 0.0, kept[index, fresh.first])
            merged = (new if new is old else _merge(mask, new, old) for new, old in zip(fresh, self.walk, strict=True))
            fresh = TrackState(*merged)
        self.walk = fresh
        self._invalid = self._invalid & ~mask

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of all that decides how the episodes go on: named tensors (B, ...)."""
        parts = self.track._asdict()
        if not self.task.needs_critic:
            # Only a critic's rewards read the sums, and on real features they are hundreds of megabytes.
            del parts["sums"]
        return super().snapshot() | {f"walk.{name}": part.clone() for name, part in parts.items()}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Go on as the environment from which `snapshot` was taken."""
        missing = [f for f in TrackState._fields if f != "sums" and f"walk.{f}" not in snapshot]
        if missing:
            raise DataError(f"this is no snapshot of SpatialTrack-v0: it lacks {missing}")
        super().restore(snapshot)
        # Clones: of two environments that go on from one snapshot, neither may write into the other's sums.
        parts = {
            f: snapshot[f"walk.{f}"].to(self.device, copy=True) for f in TrackState._fields if f"walk.{f}" in snapshot
        }
        if "sums" not in parts:
            shape = (self.num_envs, self.bank.max_frames + 1, self.task.pooled)
            parts["sums"] = torch.zeros(shape, device=self.device)
        self.walk = TrackState(**parts)

    def _advance(self, action: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        walk, reward, terminated, valid = self.task.step(self.track, action)
        self.walk = walk
        self._invalid = ~valid & active
        return reward, terminated, self._none

    def state(self) -> dict[str, Tensor]:
        """The compact state of all episodes, named (B, ...) tensors."""
        return {name: getattr(self.track, name) for name in INDEX}

    def action_rewards(self, state: dict[str, Tensor], gain: float = 0.0) -> Tensor:
        """What a step pays for every action in stored states, (B, A) float32; see `SpatialTask.action_rewards`."""
        frame = torch.minimum(state["frame"], state["last"] - 1)
        return self.task.action_rewards(state["sample"], frame, state["box"], gain)

    def observe_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observations, named (B, ...) tensors, of stored states."""
        return self.task.observe_index(**{name: state[name] for name in INDEX})

    def _action_mask(self) -> Tensor:
        return self.task.action_mask(self.track.box)

    def _shots(self) -> list[Shot]:
        track, paid = self.track, torch.as_tensor(self._paid).tolist()
        shown = torch.where(track.frame_action == 0, track.frame - 1, track.frame).clamp(min=track.first)
        return [
            spatial_shot(self.task, self._one_state(i), int(shown[i]), boxes.corners(track.placed)[i].tolist(), paid[i])
            for i in range(self.num_envs)
        ]

    def _one_state(self, i: int) -> TrackState:
        return TrackState(*(part[i : i + 1] for part in self.track))

    def _info(self) -> dict[str, Tensor]:
        if self.light:
            return {}
        walk, bank = self.track, self.bank
        corners = boxes.corners(walk.placed)
        info = {
            "box": corners,
            "frame": walk.frame.clone(),
            "window": self.task.temporal.to_seconds(walk.sample, walk.start, walk.end),
            "invalid_move": self._invalid.clone(),
            "sample": self.sample.clone(),
            "action_mask": self._action_mask().to(torch.int8),
        }
        if bank.has_boxes and self.reveal_truth:
            seen = (walk.frame - (walk.frame_action == 0).to(torch.int64)).clamp(min=walk.first)
            truth = bank.true_box(walk.sample, torch.minimum(seen, walk.last - 1)).to(torch.float64)
            info["box_iou"] = boxes.box_iou(corners, truth)
            info["coverage"] = boxes.coverage(corners, truth)
        return info


def spatial_shot(task: SpatialTask, track: TrackState, frame: int, box: list[float], reward: float) -> Shot:
    """The picture to draw of one episode: a frame with the tracked and the true box, and the window."""
    from strong_envs.rendering.viewer import Shot

    bank, sample = task.bank, int(track.sample)
    second = (frame + 0.5) * float(bank.duration[bank.video[sample]]) / int(task.temporal.n_frames[sample])
    start, end = task.temporal.to_seconds(track.sample, track.start, track.end)[0].tolist()
    footer = f"frame {frame}   reward {reward:+.2f}"
    if bank.has_boxes:
        true = bank.true_box(track.sample, torch.tensor([frame], device=bank.device)).cpu().to(torch.float64)
        footer += f"   box IoU {float(boxes.box_iou(torch.tensor([box]), true)):.2f}"
    return Shot(sample, [frame], (start, end), [box], cursor=second, footer=footer)


def _merge(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (new.ndim - 1)), new, old)
