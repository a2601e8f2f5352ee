"""`TemporalOneShot-v0`: name a window at once; for bandit learners and for policies trained on groups of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from strong_envs.core.env_base import ScalarEnv, refuse_vector_arguments, row_of
from strong_envs.core.observations import INDEX_LIMIT, feature_space, split_options
from strong_envs.core.validation import check_fractions, check_samples, check_seed, check_whole, shown
from strong_envs.core.vector_env import IndexVectorEnv, check_observation
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.temporal.pictures import one_shot_shot
from strong_envs.temporal.task import TemporalTask, make_task

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot

MOST_PARTS = 10_000
EMPTY = 0.0
"""Both ends of the span before the action: an empty window at the start of the video."""


def _ends(windows: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Answers as float64, (..., 2), NaN for each that is no pair of numbers; ``shape`` says how many there are."""
    if isinstance(windows, np.ndarray) and windows.dtype.kind == "c":
        return windows
    try:
        return np.asarray(windows, np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    level = [windows]
    for size in shape:
        if not all(isinstance(part, (list, tuple, np.ndarray)) and len(part) == size for part in level):
            raise DataError(f"windows must be (..., 2) fractions of the video, got {shown(windows)}")
        level = [answer for part in level for answer in part]
    return np.array([_pair(answer) for answer in level]).reshape(*shape, 2)


def _pair(answer: Any) -> tuple[float, float]:
    try:
        start, end = np.asarray(answer, np.float64)
        return float(start), float(end)
    except (TypeError, ValueError, OverflowError):
        return np.nan, np.nan


class TemporalOneShotVectorEnv(IndexVectorEnv):
    """`TemporalOneShot-v0` for many episodes at once; arguments of `TemporalOneShotEnv` and `TemporalMomentVectorEnv`.

    ``info`` has the keys of the scalar environment with a row per environment. ``score`` pays any number of windows per
    sample without a step.

    Attributes:
        unreadable: answers that `score` could not read so far.
    """

    COUNTERS = (*IndexVectorEnv.COUNTERS, "window")

    def __init__(
        self,
        num_envs: int = 1,
        features: str | FeatureBank = "shapes-v0",
        *,
        parts: int = 16,
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
        self.parts = check_whole(parts, "parts", most=MOST_PARTS)
        self.task: TemporalTask = make_task(features, **{"iou": "clamped", **arguments})
        bank, task = self.task.bank, self.task
        if observation == "index":
            space: spaces.Space = spaces.Dict({"sample": spaces.Box(0, INDEX_LIMIT, (), np.int64)})
        else:
            shapes = {"query": (bank.query_dim,), "parts": (self.parts * task.local.dim,)}
            space = feature_space(shapes, flatten, task.feature_limit)
        super().__init__(
            num_envs,
            bank,
            space,
            spaces.Box(0.0, 1.0, (2,), np.float32),
            flatten,
            autoreset_mode,
            output,
            observation,
            info,
            render_mode,
            max_episode_steps,
            reveal_truth,
        )
        self.unreadable = 0
        self.window = torch.full((num_envs, 2), EMPTY, dtype=torch.float64, device=self.device)

    @property
    def max_steps(self) -> int:
        """An episode is one step long."""
        return 1

    def score(self, samples: Any, windows: Any) -> Tensor:
        """Rewards of any number of answers: (...,) float64.

        An answer that cannot be read, with an end that is NaN, or that is no pair of numbers, scores 0 (-1 with
        ``iou="signed"``, whose wrong answers are negative) and is counted in ``unreadable``. Ends outside [0, 1],
        infinite ones among them, are clipped as in a step.

        Args:
            samples: (...,) whole numbers, indices into the split.
            windows: (..., 2) both ends as fractions of the video, in any order.

        Raises:
            DataError: shapes that do not fit, or a sample outside the split.
        """
        rows = samples if isinstance(samples, Tensor) else torch.as_tensor(np.asarray(samples))
        given = windows if isinstance(windows, Tensor) else torch.as_tensor(_ends(windows, tuple(rows.shape)))
        if given.is_complex() or given.shape != (*rows.shape, 2):
            raise DataError(
                f"windows must have the shape of samples and 2, {(*rows.shape, 2)}; got {tuple(given.shape)}"
            )
        checked = (
            check_samples(rows.reshape(-1), rows.numel(), len(self.bank)) if rows.numel() else np.zeros(0, np.int64)
        )
        rows, given = torch.as_tensor(checked, device=self.device), given.to(self.device, torch.float64).reshape(-1, 2)
        readable = ~given.isnan().any(-1)
        self.unreadable += int((~readable).sum())
        ends = torch.sort(given.nan_to_num(0.0).clamp(0, 1) * self.task.config.total, -1).values
        worst = -1.0 if self.task.config.iou == "signed" else 0.0
        # An empty window inside the truth has an overlap of 0; one outside it, too.
        pay = torch.where(readable, self.task.iou(rows, ends[:, 0], ends[:, 1]), worst)
        return pay.reshape(samples.shape if hasattr(samples, "shape") else np.shape(samples))

    def state(self) -> dict[str, Tensor]:
        """The compact state of all episodes: ``sample`` (B,)."""
        return {"sample": self.sample}

    def observe_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observations, named (B, ...) tensors, of stored states."""
        sample = state["sample"]
        cut = torch.arange(self.parts + 1, device=self.device, dtype=torch.float64) / self.parts
        n_frames = self.task.n_frames[sample][:, None]
        first = torch.minimum(torch.floor(cut[:-1] * n_frames).to(torch.int64), n_frames - 1)
        last = torch.maximum(torch.ceil(cut[1:] * n_frames - 1e-9).to(torch.int64), first + 1)
        means = self.task.local.means(sample, first, torch.minimum(last, n_frames))
        return {"query": self.bank.query[sample], "parts": means.flatten(1)}

    def _start(self, mask: Tensor, options: dict) -> None:
        self.window = torch.where(mask[:, None], EMPTY, self.window)

    def _advance(self, action: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.window = torch.sort(action, -1).values
        ends = self.window * self.task.config.total
        return self.task.iou(self.sample, ends[:, 0], ends[:, 1]), self._all, self._none

    def _actions(self, actions: Any) -> Tensor:
        return check_fractions(actions, self.num_envs, 2, "fractions, start and end of a window", self.device)

    def _action_mask(self) -> Tensor:
        return self._all[:, None].expand(-1, 2)

    def _shots(self) -> list[Shot]:
        paid, spans = torch.as_tensor(self._paid).tolist(), self.seconds().tolist()
        rows = zip(self.sample.tolist(), spans, paid, strict=True)
        return [one_shot_shot(self.task, i, None if end <= start else (start, end), r) for i, (start, end), r in rows]

    def seconds(self) -> Tensor:
        """The windows named, (B, 2) float64 seconds; zeros before the action."""
        return self.window * self.bank.duration[self.bank.video[self.sample]][:, None]

    def _info(self) -> dict[str, Tensor]:
        if self.light:
            return {}
        steps = self.window * self.task.config.total
        start, end = steps[:, 0], steps[:, 1]
        where, shown = (self.sample, start, end), self.reveal_truth
        return {
            **({"tiou": self.task.iou(*where, "clamped")} if shown else {}),
            "span": self.seconds(),
            **({"true_span": self.task.nearest_truth(*where)} if shown else {}),
            "sample": self.sample.clone(),
        }


class TemporalOneShotEnv(ScalarEnv):
    """`TemporalOneShot-v0`: name the window of a moment in one step.

    ## Description

    A video and a sentence are given; the agent names the window at once and is paid by its overlap with the true one.
    Every episode is one step long.

    ## Action space
    `Box(0, 1, (2,), float32)`: both ends as fractions of the video.

    | action | meaning |
    |---|---|
    | 0 | start |
    | 1 | end |

    The smaller number is the start: an inverted pair names the same window as the sorted one, so every action is valid.
    Numbers outside [0, 1], infinite ones among them, are clipped; NaN is refused.

    ## Observation space
    `Dict` of float32 `Box`es, or with `flatten=True` their concatenation in this order.
    `TemporalOneShotFlat-v0` is the same with `flatten=True`.

    | key | shape | meaning |
    |---|---|---|
    | query | (Dq,) | f_e, the sentence vector |
    | parts | (parts D,) | f_o of `parts` equal parts of the video, one after the other |

    Dq is the length of the store's sentence vectors, D that of f_o: of a frame's vector, or with `boxes` other than
    `"frame"` of a cell's, times the bins of `spp_levels`.

    Features are bounded by ±65,504, whatever the store holds. With `observation="index"` only `sample` (int64).

    ## Rewards
    The clamped temporal IoU, in [0, 1]; an empty window pays 0. `iou="signed"` is Eq. 4 to the letter, negative for
    disjoint windows. `score(samples, windows)` pays any number of answers without a step; an answer that cannot be read
    (NaN, or no pair of numbers) scores 0 there and is counted in `unreadable`.

    ## Start
    A sample drawn from the split. `reset(options=...)` takes `sample` (index into the split).

    ## End
    Terminated after the first action; never truncated. `spec.max_episode_steps` is 1.

    ## Information
    Arrays of fixed shape and dtype, from `reset` on: `tiou` () float64, 0 before the action; `span` (2,) float64
    seconds,
    zeros before the action; `true_span` (2,) float64 seconds, the true window nearest to `span`; `sample` () int64.
    `info="full"` adds `true_spans` (K, 2), all true windows, and the texts `qid` and `text`; `info="light"` leaves it
    empty.

    ## Arguments
    - `features="shapes-v0"`, `split="train"`, `device="cpu"`, `boxes="frame"`, `spp_levels=(1,)`,
      `spp_reduce="concat"`, `box_margin=0.0`: as for `TemporalMoment-v0`. `parts=16`; `iou="clamped"`;
      `flatten=False`; `observation="features"` | `"index"`;
      `render_mode=None` | `"rgb_array"` | `"human"`; `info="numeric"` | `"full"` | `"light"`;
      `reveal_truth=None`: as in `TemporalMomentEnv`, without `tiou` and the true windows on a test part.

    ## Version history
    - v0: first release. Unreleased: `info` holds arrays of fixed shape, texts on request; out-of-range actions are
      clipped; bounds of observations no longer follow the store.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 2}  # noqa: RUF012 (as Gymnasium)
    OPTIONS = ("sample",)

    def __init__(
        self,
        features: str | FeatureBank = "shapes-v0",
        *,
        render_mode: str | None = None,
        flatten: bool = False,
        info: str = "numeric",
        reveal_truth: bool | None = None,
        **arguments: Any,
    ) -> None:
        refuse_vector_arguments(arguments)
        self._set_common(render_mode, info, reveal_truth)
        arguments = {**arguments, "reveal_truth": reveal_truth}
        check_observation(arguments.get("observation", "features"), flatten)
        self._one = TemporalOneShotVectorEnv(
            1, features, flatten=flatten, info=info, autoreset_mode=AutoresetMode.DISABLED, **arguments
        )
        self.task, self.bank = self._one.task, self._one.bank
        self.observation_space, self.action_space = self._one.single_observation_space, self._one.single_action_space
        self._ready, self._answer = False, False

    @property
    def max_steps(self) -> int:
        """An episode is one step long."""
        return 1

    @property
    def unreadable(self) -> int:
        """Answers that `score` could not read so far."""
        return self._one.unreadable

    def score(self, samples: Any, windows: Any) -> Tensor:
        """Rewards of any number of answers; see `TemporalOneShotVectorEnv.score`."""
        return self._one.score(samples, windows)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see "Start" above for the options."""
        seed, options = check_seed(seed), split_options(options, self.OPTIONS)
        super().reset(seed=seed)
        observation, info = self._one.reset(seed=seed, options=options)
        self._ready, self._answer, self._opened, self.last_reward = True, False, True, 0.0
        return self._finish(observation, info)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Name the window; ends outside [0, 1] are clipped."""
        if not self._ready:
            raise gym.error.ResetNeeded("call reset() before step(); an episode is one step long")
        try:
            ends = np.asarray(action, np.float64)
        except (TypeError, ValueError, OverflowError):
            ends = np.zeros(())
        if ends.shape != (2,) or np.isnan(ends).any():
            raise DataError(f"action must be two numbers in [0, 1], start and end of the window; got {shown(action)}")
        # float32, as the space declares
        observation, reward, *_, info = self._one.step(ends[None].astype(np.float32))
        self._ready, self._answer, self.last_reward = False, True, float(reward[0])
        shown_now, details = self._finish(observation, info)
        return shown_now, self.last_reward, True, False, details

    def action_masks(self) -> np.ndarray:
        """(2,) bool, all True: every window may be named."""
        return self._one.action_masks()[0]

    def _shots(self) -> list[Shot]:
        start, end = self._one.seconds()[0].tolist()
        span = (start, end) if self._answer else None
        return [one_shot_shot(self.task, int(self._one.sample[0]), span, self.last_reward)]

    def _finish(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self.render_mode == "human":
            self.render()
        if isinstance(observation, dict):
            return {name: np.array(part[0]) for name, part in observation.items()}, row_of(info, 0)
        return np.array(observation[0]), row_of(info, 0)
