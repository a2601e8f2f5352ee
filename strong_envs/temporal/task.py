"""The temporal level as pure functions of indices: state in, state, reward or observation out.

The state of an episode is ``(sample, start, end, t)``. The scalar environment, the vector environment, the adapter for
Stable-Baselines3 and the agents' replay all call the functions of one `TemporalTask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from strong_envs import features as feature_registry
from strong_envs.core import rewards, spans
from strong_envs.core.observations import INDEX_LIMIT, feature_limit, feature_space
from strong_envs.core.sampling import draw
from strong_envs.core.validation import check_number, check_table, check_whole, refuse_unknown
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.devices import sent
from strong_envs.features.errors import DataError, nearest
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.dynamics import INVALID, outcome

SCOPES = ("video", "moment")
STARTS = ("initial", "random")
INITIAL_SPAN = (0.25, 0.75)
CONTEXT_STEPS = 2
MOST_STEPS = 100_000
"""An episode is no longer: each step is kept by those who draw or score its path."""


@dataclass(frozen=True)
class TemporalConfig:
    """Arguments of the temporal level; every gap of the paper is one of them. See `TemporalMomentEnv`."""

    phi: float = rewards.TEMPORAL_PHI
    max_steps: int = 20
    z_e: float = 10.0
    step_scale: float = 1.0
    multi_scale: bool = False
    iou: str = "signed"
    reward: str = "iou_sign"
    invalid: str = "refuse"
    global_scope: str = "video"
    initial_span: tuple[float, float] = INITIAL_SPAN
    start: str = "initial"
    context: bool = True
    time_in_observation: bool = False

    def __post_init__(self) -> None:
        for name, valid in (
            ("iou", spans.IOU_KINDS),
            ("reward", tuple(rewards.TEMPORAL_REWARDS)),
            ("invalid", INVALID),
            ("global_scope", SCOPES),
            ("start", STARTS),
        ):
            value = getattr(self, name)
            if value not in valid:
                raise DataError(f"{name} must be one of {valid}, got {value!r}{nearest(value, valid)}")
        if rewards.find_temporal_reward(self.reward).signed_iou and self.iou != "signed":
            raise DataError(
                f"reward={self.reward!r} pays by the sign of the IoU and needs iou='signed', got iou={self.iou!r}"
            )
        check_number(self.phi, "phi", 0, 1)
        check_whole(self.max_steps, "max_steps", most=MOST_STEPS)
        check_number(self.z_e, "z_e", 0.5, 1e6)
        check_number(self.step_scale, "step_scale", 0, 1e6, above=True)
        start, end = check_table(self.initial_span, 2, 1, "initial_span", "start and end as fractions of the video")[0]
        if not 0 <= start < end <= 1:
            raise DataError(f"initial_span must be fractions 0 <= start < end <= 1, got {self.initial_span}")

    @property
    def total(self) -> float:
        """Steps in a video."""
        return 2.0 * self.z_e


CONFIG_NAMES = tuple(f.name for f in fields(TemporalConfig))


class Transition(NamedTuple):
    """What one move did: all fields (B,); ``iou`` is of the kind of the reward."""

    start: Tensor
    end: Tensor
    iou: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor


class TemporalTask:
    """A bank, a configuration and the boxes of f_o, with the level's dynamics, rewards and observations.

    Args:
        bank: features of one split. local: where f_o comes from. config: see `TemporalConfig`.

    Attributes:
        table: (A, 2) what each move adds to start and end, in steps. n_frames: (S,) int64. seconds: (S,) seconds of a
            step.
        reward: what pays a move. penalty: taken for an invalid one. ends: whether an invalid one ends the episode.
        beyond: as of `spans.shifted`, 0 where a move is cut off at the edge.
    """

    def __init__(self, bank: FeatureBank, local: LocalFeatures, config: TemporalConfig) -> None:
        self.bank, self.local, self.config = bank, local, config
        table = spans.move_table(config.step_scale, config.multi_scale)
        self.table = torch.as_tensor(table, device=bank.device)
        self.n_frames = bank.n_frames[bank.video]
        self.seconds = bank.duration[bank.video] / config.total
        self.reward = rewards.find_temporal_reward(config.reward)
        self.penalty = 1.0 if config.invalid == "penalty" else 0.0
        self.ends = config.invalid == "terminate"
        self.beyond = 0.0 if config.invalid == "clip" else spans.BEYOND

    @cached_property
    def truth(self) -> Tensor:
        """(S, K, 2) true windows, in steps; not before a reward asks, so that a masked bank can be observed."""
        return (self.bank.truth * self.config.total).clamp(0, self.config.total)

    @cached_property
    def true_seconds(self) -> Tensor:
        """(S, K, 2) true windows, in seconds."""
        return self.bank.truth * self.bank.duration[self.bank.video][:, None, None]

    @property
    def n_actions(self) -> int:
        """Number of moves."""
        return len(self.table)

    @property
    def has_multi_scale(self) -> bool:
        """Whether there are longer and shorter moves in the same direction."""
        return self.config.multi_scale

    def initial(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The initial span l0 of each sample, in steps."""
        start, end = (
            torch.full(samples.shape, share * self.config.total, dtype=torch.float64, device=self.bank.device)
            for share in self.config.initial_span
        )
        return start, end

    def first_span(self, samples: Tensor, keys: Tensor, episodes: Tensor) -> tuple[Tensor, Tensor]:
        """The span in which an episode begins: l0, or with ``start="random"`` whole steps drawn from the episode."""
        if self.config.start == "initial":
            return self.initial(samples)
        count = int(self.config.total)
        ends = [draw(keys + salt, episodes, count).to(torch.float64) for salt in (3, 4)]
        return torch.minimum(*ends), torch.maximum(*ends) + 1

    def random_states(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """States drawn uniformly, sample and window: what `IndexVectorEnv.observe_state` takes."""
        device = self.bank.device
        start, end = (sent(x, device) for x in random_windows((count,), self.config.total, generator))
        sample = sent(torch.randint(len(self.bank), (count,), generator=generator), device)
        return {"sample": sample, "start": start, "end": end, "t": torch.zeros_like(sample)}

    def iou(self, samples: Tensor, start: Tensor, end: Tensor, kind: str | None = None) -> Tensor:
        """IoU with the truth, of the kind of the reward unless named: (B,) float64."""
        return spans.span_iou(start, end, self.truth[samples], kind or self.config.iou)

    def iou_of(self, sample: int, start: float, end: float) -> float:
        """Clamped IoU of one span, in steps, with the truth of one sample."""
        return max(
            0.0, *(spans.overlap(start, end, low, high, spans.CLAMPED) for low, high in self.truth[sample].tolist())
        )

    def action_mask(self, start: Tensor, end: Tensor) -> Tensor:
        """Which actions change spans (B,), or stop: (B, A) bool."""
        shift = self.table[:, 0], self.table[:, 1]
        return spans.shifted(start[:, None], end[:, None], *shift, self.config.total, self.beyond)[2]

    def shift(self, start: Tensor, end: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a move does to windows (B,), without its reward: start, end, and whether it ends the episode.

        Unlike `move` it needs no truth; an agent predicts by it.
        """
        new_start, new_end, valid = spans.move(start, end, action, self.table, self.config.total, self.beyond)
        ended = action == spans.STOP
        return new_start, new_end, ended | ~valid if self.ends else ended

    def move(self, samples: Tensor, start: Tensor, end: Tensor, t: Tensor, iou: Tensor, action: Tensor) -> Transition:
        """One step of every episode (Eq. 5). ``t`` (B,) counts from 0, ``iou`` (B,) belongs to the span given."""
        config = self.config
        new_start, new_end, valid = spans.move(start, end, action, self.table, config.total, self.beyond)
        new_iou = self.iou(samples, new_start, new_end)
        reward, terminated, truncated = outcome(
            action, t, iou, new_iou, valid, self.reward, config.phi, self.penalty, self.ends, config.max_steps
        )
        return Transition(new_start, new_end, new_iou, reward, terminated, truncated, valid)

    def move_rewards(self, samples: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Sign of the change of IoU for every action in every state, (B, A) float32: what Eq. 5 pays before phi."""
        (sample, low, high), action = self._each_action(samples, start, end)
        new_start, new_end, _ = spans.move(low, high, action, self.table, self.config.total, self.beyond)
        change = self.iou(sample, new_start, new_end) - self.iou(sample, low, high)
        return torch.sign(change).to(torch.float32).view(len(samples), self.n_actions)

    def action_rewards(self, samples: Tensor, start: Tensor, end: Tensor, t: Tensor, gain: float = 0.0) -> Tensor:
        """What `move` pays for every action in every state, (B, A) float32.

        On top of it ``gain`` times the change of the IoU, relative to the largest of the state.
        """
        (sample, low, high, made), action = self._each_action(samples, start, end, t)
        before = self.iou(sample, low, high)
        result = self.move(sample, low, high, made, before, action)
        reward = result.reward.view(len(samples), self.n_actions)
        if gain:
            reward = reward + gain * rewards.relative_gains((result.iou - before).view_as(reward))
        return reward.to(torch.float32)

    def _each_action(self, *parts: Tensor) -> tuple[list[Tensor], Tensor]:
        """States (B,) repeated for every action, and those actions: (B * A,) each."""
        action = torch.arange(self.n_actions, device=self.bank.device).repeat(len(parts[0]))
        return [x.repeat_interleave(self.n_actions) for x in parts], action

    def windows(self, samples: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of the span, and with ``context`` of its first third, last third, and two steps before and after it.

        Returns first and last, (B, P) int64 with P = 5 or 1; a window before the video or after it is empty.
        """
        n_frames = self.n_frames[samples]
        first, last = spans.frame_window(start, end, self.config.total, n_frames)
        if not self.config.context:
            return first[:, None], last[:, None]
        pairs = spans.context_windows(first, last, context_reach(n_frames, self.config.total), n_frames)
        firsts, lasts = zip(*pairs, strict=True)
        return torch.stack(firsts, -1), torch.stack(lasts, -1)

    def nearest_truth(self, samples: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The true window, in seconds, that each span lies nearest to: (B, 2) float64; see `spans.nearest_window`."""
        return self.true_seconds[samples, spans.nearest_window(start, end, self.truth[samples])]

    def observe(
        self, samples: Tensor, start: Tensor, end: Tensor, t: Tensor, local: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The state of Eq. 1 as float32 tensors, in the paper's order: query, location, local, global.

        With ``context`` follow (B, 4 D), f_o of the first third, the last third, before and after the span; with
        ``time_in_observation`` (B, 1) t / T. ``local`` (B, P, D) replaces the means of `windows` (the spatial level
        tries boxes in this way).
        """
        first, last = self.windows(samples, start, end)
        if local is None:
            local = self.local.means(samples, first, last)
        total = self.config.total
        if self.config.global_scope == "video":
            scene = self.bank.frame_means.mean[self.bank.video[samples]]
        else:
            scene = self.bank.frame_means(samples, first[:, 0], last[:, 0])
        observation = {
            "query": self.bank.query[samples],
            "location": torch.stack((start, end), -1).to(torch.float32) / total,
            "local": local[:, 0],
            "global": scene,
        }
        if self.config.context:
            observation["context"] = local[:, 1:].flatten(1)
        if self.config.time_in_observation:
            observation["time"] = (t[:, None] / self.config.max_steps).to(torch.float32)
        return observation

    def dims(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parts of an observation, in order."""
        shapes: dict[str, tuple[int, ...]] = {
            "query": (self.bank.query_dim,),
            "location": (2,),
            "local": (self.local.dim,),
            "global": (self.bank.frame_dim,),
        }
        if self.config.context:
            shapes["context"] = (4 * self.local.dim,)
        if self.config.time_in_observation:
            shapes["time"] = (1,)
        return shapes

    def observation_space(self, flatten: bool) -> spaces.Space:
        """The Gymnasium space of `observe`."""
        return feature_space(self.dims(), flatten, self.feature_limit)

    @property
    def feature_limit(self) -> float:
        """Bound of the features in observations, see `observations.feature_limit`."""
        store = self.bank.store
        return feature_limit(store.range("queries"), self.local.range, store.range("frames"))

    def index_space(self) -> spaces.Space:
        """The Gymnasium space of the state itself: sample, start, end (steps) and t."""
        total = self.config.total
        return spaces.Dict(
            {
                "sample": spaces.Box(0, INDEX_LIMIT, (), np.int64),
                "start": spaces.Box(0.0, total, (), np.float64),
                "end": spaces.Box(0.0, total, (), np.float64),
                "t": spaces.Box(0, self.config.max_steps, (), np.int64),
            }
        )

    def to_seconds(self, samples: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Spans in seconds: (B, 2) float64."""
        return torch.stack((start, end), -1) * self.seconds[samples][:, None]


def context_reach(n_frames: Tensor, total: float) -> Tensor:
    """Frames of the context before and after a window: `CONTEXT_STEPS` steps, (B,) int64."""
    return torch.ceil(CONTEXT_STEPS * n_frames / total).to(torch.int64)


def random_windows(shape: tuple[int, ...], total: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows of whole steps with both ends uniform: start and end, each of ``shape``, float64."""
    ends = torch.randint(int(total), (2, *shape), generator=generator).to(torch.float64)
    return torch.minimum(ends[0], ends[1]), torch.maximum(ends[0], ends[1]) + 1


TASK_ARGUMENTS = ("features", "split", "device", "boxes", "spp_levels", "spp_reduce", "box_margin")
ENV_ARGUMENTS = (*TASK_ARGUMENTS, "flatten", "observation", "render_mode", "info", "reveal_truth")


def make_task(
    features: str | FeatureBank = "shapes-v0",
    split: str = "train",
    device: str | torch.device = "cpu",
    boxes: str | Tensor = "frame",
    spp_levels: Sequence[int] = (1,),
    spp_reduce: str = "concat",
    box_margin: float = 0.0,
    **config: Any,
) -> TemporalTask:
    """The `TemporalTask` behind the environments, from the same arguments."""
    unknown = [name for name in config if name not in CONFIG_NAMES]
    refuse_unknown(unknown, (*ENV_ARGUMENTS, *CONFIG_NAMES))
    bank = feature_registry.load(features, split, device)
    return TemporalTask(bank, LocalFeatures(bank, boxes, spp_levels, spp_reduce, box_margin), TemporalConfig(**config))


def check_spans(task: TemporalTask, samples: Tensor, span: Any, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Start and end in seconds, one pair or (B, 2), to steps (B,), (B,); refused if no window inside its video.

    Only rows in ``mask`` (B,) are looked at; the others may hold anything.
    """
    seconds = check_table(span, 2, len(samples), "options['span']", "start and end in seconds")
    durations = task.bank.duration[task.bank.video[samples]].cpu().numpy()
    bad = ~((seconds[:, 0] >= 0) & (seconds[:, 0] < seconds[:, 1]) & (seconds[:, 1] <= durations + 1e-9))
    known = np.ones(len(samples), np.bool_) if mask is None else mask.cpu().numpy()
    bad &= known
    if bad.any():
        i = int(bad.argmax())
        raise DataError(
            f"options['span'] must satisfy 0 <= start < end <= duration; got {seconds[i].tolist()} s "
            f"in a video of {durations[i]:g} s"
        )
    # Rows that do not begin may hold anything; a valid window in their place keeps what is computed with them in range.
    seconds = np.where(known[:, None], seconds, np.stack((0 * durations, durations), -1))
    steps = torch.as_tensor(seconds, device=task.bank.device) / task.seconds[samples][:, None]
    # Seconds round; a span meant as whole steps must be one, or ties of the IoU would be lost.
    whole = steps.round()
    steps = torch.where((steps - whole).abs() < 1e-6, whole, steps)
    return steps[:, 0], steps[:, 1].clamp(max=task.config.total)
