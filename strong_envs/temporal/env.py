"""`TemporalMoment-v0`: move the ends of a window until it holds the moment that a sentence describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from strong_envs.core.env_base import TRUTH, ScalarEnv, refuse_vector_arguments
from strong_envs.core.observations import flat, split_options
from strong_envs.core.sampling import draw_one, key_from
from strong_envs.core.spans import CLAMPED, LEGACY, SIGNED
from strong_envs.core.validation import check_samples, check_seed
from strong_envs.core.vector_env import check_observation
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.temporal.compiled_kernels import numbers
from strong_envs.temporal.compiled_tables import HostArrays
from strong_envs.temporal.dynamics import outcome
from strong_envs.temporal.pictures import temporal_shot
from strong_envs.temporal.task import check_spans, make_task
from strong_envs.temporal.vector_env import TemporalMomentVectorEnv

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot

MASKS = 4096
"""Masks of actions that an environment remembers by its windows; whole steps have 210."""

__all__ = ["TemporalMomentEnv", "TemporalMomentVectorEnv", "check_spans", "make_task"]


class TemporalMomentEnv(ScalarEnv):
    """`TemporalMoment-v0`: move the ends of a window until it holds the moment that a sentence describes.

    ## Description

    A video and a sentence are given; an agent moves the two ends of a window until it holds the moment that the
    sentence describes (STRONG, ACM MM 2020, section 3.2). Videos are precomputed features; a step never copies one.

    ## Action space
    `Discrete(7)`; a step is n / (2 z_e) frames, 1/20 of the video by default.

    | action | move |
    |---|---|
    | 0 | start forward |
    | 1 | start backward |
    | 2 | end forward |
    | 3 | end backward |
    | 4 | shift forward |
    | 5 | shift backward |
    | 6 | stop |

    With `multi_scale=True`, `Discrete(19)`: actions 7 to 12 repeat 0 to 5 with a quarter of a step, 13 to 18 with a
    sixteenth.

    ## Observation space
    `Dict` of float32 `Box`es (Eq. 1), or with `flatten=True` their concatenation in this order.
    `TemporalMomentFlat-v0` is the same with `flatten=True`.

    | key | shape | meaning |
    |---|---|---|
    | query | (Dq,) | f_e, the sentence vector |
    | location | (2,) | l_t, start and end as fractions of the video |
    | local | (D,) | f_o, mean over the window of what lies inside the boxes (whole frames by default) |
    | global | (D,) | f_g, mean over the video (`global_scope="video"`) or the window (`"moment"`) |
    | context | (4 D,) | with `context`: f_o of the first third, last third, two steps before, two steps after |
    | time | (1,) | only with `time_in_observation`: t / T |

    Dq and D are the lengths of the store's sentence and frame vectors. With `boxes` other than `"frame"`, f_o is made
    of the grid's cells: its D is the length of a cell, times the bins of `spp_levels` with `spp_reduce="concat"`.

    Without `context` this is the paper's state: 8,898 numbers with its sizes (4,800 + 2 + 2,048 + 2,048). A mean over
    the window alone cannot tell on which side of it the event lies; the context can.

    Features are bounded by ±65,504, float16's largest number, whatever the store holds: environments over stores of
    equal sizes have equal spaces, and a model trained on one store loads on another.

    With `observation="index"` the state itself: `sample` and `t` (int64), `start` and `end` (float64, in steps). A
    replay that stores indices is thousands of times smaller; `observe_state` of the vector environment rebuilds the
    features.

    ## Rewards
    Eq. 5: +1 - φt if the IoU rose, -φt if it did not change, -1 - φt if it fell; t counts from 0. The IoU is signed
    (Eq. 4 to the letter: negative when the windows are disjoint). Stop pays -φt. `reward="read"` is the one of READ
    (AAAI 2019): +1 only if the IoU rose from 0 or more, -1 wherever it is negative. `reward="iou_delta"` is the change
    of the IoU itself: rewards of an episode add up to what its windows gained, while signs pay many short moves better
    than one long one, which matters with `multi_scale`; take `phi=0.0` with it. Further rewards are registered with
    `strong_envs.core.rewards.temporal_reward`.

    The paper's φ = 0.1 makes a move that improves the IoU pay 0 or less from t = 10 on, and the state does not tell t:
    `phi=0.0` takes the penalty away, `time_in_observation=True` shows t.

    ## Start
    A sample drawn from the split with the window [0.25, 0.75] of the video, or with `start="random"` any window of
    whole steps (exploring starts, for training). `reset(options=...)` takes `sample`
    (index into the split) and `span` (start and end in seconds).

    ## End
    Terminated by stop (and by an invalid move under `invalid="terminate"`). Truncated after `max_steps` moves, which
    `spec.max_episode_steps` repeats.

    ## Information
    Arrays of fixed shape and dtype, from `reset` on:

    | key | shape, dtype | meaning |
    |---|---|---|
    | `tiou` | () float64 | clamped IoU of the window with the nearest true window |
    | `span` | (2,) float64 | the window, seconds |
    | `true_span` | (2,) float64 | the true window nearest to `span`, seconds: of several, the one that `tiou` is with |
    | `invalid_move` | () bool | the last move was refused |
    | `sample` | () int64 | index into the split |
    | `action_mask` | (A,) int8 | moves that change the window, and stop; `action_masks()` gives it as bool |

    `info="full"` adds `true_spans` (K, 2), all true windows (the last one repeated up to the K of the split), the
    texts `qid` and `text`, and `path`, the list of spans so far. `info="light"` leaves it empty. The vector environment
    has a row per environment and Gymnasium's masks `_key`.

    ## Arguments
    - `features="shapes-v0"`: a registered key, a path of a store, or a `FeatureBank`; `split="train"`; `device="cpu"`.
    - `boxes="frame"`: where f_o looks: `"frame"`, `"initial"`, `"gaussian"`, `"truth"`, `"static"`, `"objects"`,
      `"cells"`, or a tensor of corners; see `LocalFeatures`.
      `spp_levels=(1,)`: bins per side of its pyramid, (1, 2, 4) in the paper; `spp_reduce="concat"` | `"max"` makes one
      vector of its bins; `box_margin=0.0`.
    - `phi=0.1`, `max_steps=20`, `z_e=10`, `step_scale=1.0`, `multi_scale=False`, `initial_span=(0.25, 0.75)`,
      `start="initial"` | `"random"`.
    - `iou="signed"` | `"clamped"` | `"legacy"`; `reward="iou_sign"` | `"iou_delta"` | `"read"`.
    - `invalid="refuse"` | `"penalty"` (-1 more) | `"terminate"` | `"clip"` (cut off at the edge of the video).
    - `global_scope="video"` | `"moment"`; `context=True`; `time_in_observation=False`; `flatten=False`.
    - `observation="features"` | `"index"`; `info="numeric"` | `"full"` | `"light"`.
    - `reveal_truth=None`: whether `info` has `tiou`, `true_span` and `true_spans`. None withholds them on a test part
      alone, which is a split whose name begins with `test`; pass True to have them there. Pictures draw the
      truth where `info` tells it. Rewards are paid in any case.
    - `render_mode=None` | `"rgb_array"` | `"human"`.

    ## Version history
    - v0: first release. Unreleased: `info` holds arrays of fixed shape, texts on request, and `true_span` is the
      nearest
      of several true windows; bounds of observations no longer follow the store.
    """

    OPTIONS = ("sample", "span")

    def __init__(
        self,
        features: str | FeatureBank = "shapes-v0",
        *,
        render_mode: str | None = None,
        flatten: bool = False,
        observation: str = "features",
        info: str = "numeric",
        reveal_truth: bool | None = None,
        **arguments: Any,
    ) -> None:
        refuse_vector_arguments(arguments)
        self._set_common(render_mode, info, reveal_truth)
        self.flatten, self.observation = flatten, check_observation(observation, flatten)
        self.task = make_task(features, **arguments)
        self.bank = self.task.bank
        self.observation_space = (
            self.task.index_space() if observation == "index" else self.task.observation_space(flatten)
        )
        self.action_space = spaces.Discrete(self.task.n_actions)
        self._key: int | None = None
        self._episode = -1
        self._started = False
        self.before_episode: Callable[[Tensor], None] | None = None
        self._host = HostArrays(self.task)
        self._shifts = self._host.table.tolist()
        self._masks: dict[tuple[float, float], np.ndarray] = {}

    @property
    def max_steps(self) -> int:
        """The most steps of an episode."""
        return int(self.task.config.max_steps)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see "Start" above for the options."""
        seed, options = check_seed(seed), split_options(options, self.OPTIONS)
        super().reset(seed=seed)
        key, episode, config = self._key, self._episode, self.task.config
        if seed is not None or key is None:
            key, episode = key_from(self.np_random), -1
        episode += 1
        if "sample" in options:
            index = int(check_samples(options["sample"], 1, len(self.bank))[0])
        else:
            index = draw_one(key, episode, len(self.bank))
        sample = torch.tensor([index], device=self.bank.device)
        if "span" in options:
            low, high = check_spans(self.task, sample, options["span"])
            span = float(low), float(high)
        elif config.start == "random":
            # `TemporalTask.first_span` for one episode
            ends = [draw_one(key + salt, episode, int(config.total)) for salt in (3, 4)]
            span = float(min(ends)), float(max(ends) + 1)
        else:
            span = float(self._host.first[0]), float(self._host.first[1])
        self.sample, self._key, self._episode = sample, key, episode
        if self.before_episode is not None:
            self.before_episode(self.sample)
        self._span, self._index, self._t = span, index, 0
        self._truth = self._host.truth[index].tolist()
        self._true_seconds = self._host.true_seconds[index].copy()
        self._second = float(self._host.seconds[index])
        self._iou = self._best_iou(span[0], span[1], self._host.kind)
        self.last_reward, self._invalid, self._started, self._opened = 0.0, False, True, True
        self.path = [self._seconds()]
        if self.render_mode == "human":
            self.render()
        return self._observation(), self._info()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply one move."""
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before step(), and after an episode has ended")
        if not self.action_space.contains(action):
            raise DataError(f"action must be an integer in [0, {self.task.n_actions}), got {action!r}")
        action, task, config, host = int(action), self.task, self.task.config, self._host
        # The functions of `TemporalTask.move`, with the numbers of one episode
        shift_start, shift_end = self._shifts[action]
        start, end, valid = numbers().shifted(*self._span, shift_start, shift_end, host.total, task.beyond)
        iou = self._best_iou(start, end, host.kind)
        pay, phi, limit = task.reward.function, config.phi, config.max_steps
        reward, terminated, truncated = outcome(
            action, float(self._t), self._iou, iou, valid, pay, phi, task.penalty, task.ends, limit
        )
        self._span, self._iou, self._t, self._invalid = (start, end), iou, self._t + 1, not valid
        # float32 like the vector environment, so that both give the same number
        self.last_reward = float(np.float32(reward))
        self._started = not (terminated or truncated)
        self.path.append(self._seconds())
        if self.render_mode == "human":
            self.render()
        return self._observation(), self.last_reward, terminated, truncated, self._info()

    def action_masks(self) -> np.ndarray:
        """(A,) bool: which actions move the window now, or stop; what MaskablePPO reads."""
        return self._mask().astype(np.bool_)

    @property
    def start(self) -> Tensor:
        """(1,) float64, in steps."""
        return torch.tensor([self._span[0]], dtype=torch.float64, device=self.bank.device)

    @property
    def end(self) -> Tensor:
        """(1,) float64, in steps."""
        return torch.tensor([self._span[1]], dtype=torch.float64, device=self.bank.device)

    @property
    def t(self) -> Tensor:
        """(1,) int64, the moves made so far."""
        return torch.tensor([self._t], device=self.bank.device)

    def _shots(self) -> list[Shot]:
        return [temporal_shot(self.task, self._index, self._span[0], self._span[1], self._t, self.last_reward)]

    def _seconds(self) -> tuple[float, float]:
        return self._span[0] * self._second, self._span[1] * self._second

    def _best_iou(self, start: float, end: float, kind: int) -> float:
        """`TemporalTask.iou` of one window."""
        overlap = numbers().overlap
        return max([overlap(start, end, low, high, kind) for low, high in self._truth])

    def _nearest(self) -> int:
        """`spans.nearest_window` of the window."""
        if len(self._truth) == 1:
            return 0
        overlap = numbers().overlap
        ious = [overlap(*self._span, low, high, SIGNED) for low, high in self._truth]
        return ious.index(max(ious))

    def _tiou(self) -> float:
        """The clamped IoU of the window."""
        if self._host.kind == LEGACY:
            return self._best_iou(self._span[0], self._span[1], CLAMPED)
        return max(self._iou, 0.0)

    def _mask(self) -> np.ndarray:
        """`TemporalTask.action_mask` of the window, (A,) int8."""
        mask = self._masks.get(self._span)
        if mask is None:
            (start, end), shifted, rules = self._span, numbers().shifted, (self._host.total, self.task.beyond)
            mask = np.array([shifted(start, end, low, high, *rules)[2] for low, high in self._shifts], np.int8)
            if len(self._masks) < MASKS:
                self._masks[self._span] = mask
        return mask.copy()

    def _observation(self) -> Any:
        if self.observation == "index":
            state = {"sample": self._index, "start": self._span[0], "end": self._span[1], "t": self._t}
            return {name: np.asarray(value) for name, value in state.items()}
        if self._host.on_host:
            whole = self._host.observe(self._index, self._span[0], self._span[1], self._t)
        else:
            whole = flat(self.task.observe(self.sample, self.start, self.end, self.t))[0].cpu().numpy()
        return whole if self.flatten else {name: whole[part] for name, part in self._host.parts.items()}

    def _info(self) -> dict[str, Any]:
        if self.info_mode == "light":
            return {}
        info: dict[str, Any] = {
            "tiou": np.array(self._tiou()),
            "span": np.array(self.path[-1]),
            "true_span": self._true_seconds[self._nearest()].copy(),
            "invalid_move": np.array(self._invalid),
            "sample": np.array(self._index),
            "action_mask": self._mask(),
        }
        if self.info_mode == "full":
            index = self._index
            info["true_spans"] = self._true_seconds.copy()
        if not self.reveal_truth:
            info = {name: value for name, value in info.items() if name not in TRUTH}
        if self.info_mode == "full":
            info |= {"qid": self.bank.qids[index], "text": self.bank.texts[index], "path": list(self.path)}
        return info
