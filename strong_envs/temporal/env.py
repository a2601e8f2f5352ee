"""`TemporalMoment-v0`: move the ends of a window until it holds the moment that a sentence describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from strong_envs.core.boxes import INITIAL_BOX, corners
from strong_envs.core.observations import flat, split_options
from strong_envs.core.sampling import draw_one, key_from
from strong_envs.core.spans import CLAMPED, LEGACY, SIGNED, frame_window
from strong_envs.core.validation import check_samples
from strong_envs.core.vector_env import check_observation
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.temporal.compiled_kernels import numbers
from strong_envs.temporal.compiled_tables import HostArrays
from strong_envs.temporal.dynamics import outcome
from strong_envs.temporal.task import check_spans, make_task
from strong_envs.temporal.vector_env import TemporalMomentVectorEnv

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot

__all__ = ["TemporalMomentEnv", "TemporalMomentVectorEnv", "check_spans", "make_task"]


class TemporalMomentEnv(gym.Env):
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

    | key | shape | meaning |
    |---|---|---|
    | query | (Dq,) | f_e, the sentence vector |
    | location | (2,) | l_t, start and end as fractions of the video |
    | local | (D,) | f_o, mean over the window of what lies inside the boxes (whole frames by default) |
    | global | (D,) | f_g, mean over the video (`global_scope="video"`) or the window (`"moment"`) |
    | context | (4 D,) | with `context`: f_o of the first third, last third, two steps before, two steps after |
    | time | (1,) | only with `time_in_observation`: t / T |

    Dq and D are the lengths of the store's sentence and frame vectors. With `boxes` other than `"frame"`, f_o is made
    of the grid's cells: its D is the length of a cell times the bins of `spp_levels`.

    Without `context` this is the paper's state: 8,898 numbers with its sizes (4,800 + 2 + 2,048 + 2,048). A mean over
    the window alone cannot tell on which side of it the event lies; the context can.

    With `observation="index"` the state itself: `sample` and `t` (int64), `start` and `end` (float64, in steps). A
    replay that stores indices is thousands of times smaller; `observe_state` of the vector environment rebuilds the
    features.

    ## Rewards
    Eq. 5: +1 - φt if the IoU rose, -φt if it did not change, -1 - φt if it fell; t counts from 0. The IoU is signed
    (Eq. 4 to the letter: negative when the windows are disjoint). Stop pays -φt. `reward="read"` is the one of READ
    (AAAI 2019): +1 only if the IoU rose from 0 or more, -1 wherever it is negative. `reward="iou_delta"` is the
    change of
    the IoU itself: rewards of an episode add up to what its windows gained, while signs pay many short moves better
    than one long one, which matters with `multi_scale`; take `phi=0.0` with it.

    The paper's φ = 0.1 makes a move that improves the IoU pay 0 or less from t = 10 on, and the state does not tell t:
    `phi=0.0` takes the penalty away, `time_in_observation=True` shows t.

    ## Start
    A sample drawn from the split with the window [0.25, 0.75] of the video, or with `start="random"` any window of
    whole steps (exploring starts, for training). `reset(options=...)` takes `sample`
    (index into the split) and `span` (start and end in seconds).

    ## End
    Terminated by stop (and by an invalid move under `invalid="terminate"`). Truncated after `max_steps` moves.

    ## Information
    `tiou` (clamped), `span` and `true_span` (seconds), `invalid_move`, `sample`, `qid`, `text`, and `path`, the spans
    so far in seconds.

    ## Arguments
    - `features="shapes-v0"`: a registered key, a path of a store, or a `FeatureBank`; `split="train"`; `device="cpu"`.
    - `boxes="frame"`: where f_o looks: `"frame"`, `"initial"`, `"gaussian"`, `"truth"`, `"static"`, `"objects"`,
      `"cells"`, or a tensor of corners; see `LocalFeatures`.
      `spp_levels=(1,)`: bins per side of its pyramid; `box_margin=0.0`.
    - `phi=0.1`, `max_steps=20`, `z_e=10`, `step_scale=1.0`, `multi_scale=False`, `initial_span=(0.25, 0.75)`,
      `start="initial"` | `"random"`.
    - `iou="signed"` | `"clamped"` | `"legacy"`; `reward="iou_sign"` | `"iou_delta"` | `"read"`.
    - `invalid="refuse"` | `"penalty"` (-1 more) | `"terminate"`.
    - `global_scope="video"` | `"moment"`; `context=True`; `time_in_observation=False`; `flatten=False`.
    - `observation="features"` | `"index"`.
    - `render_mode=None` | `"rgb_array"` | `"human"`.

    ## Version history
    - v0: first release.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 4}  # noqa: RUF012 (Gymnasium declares it so)
    OPTIONS = ("sample", "span")

    def __init__(
        self,
        features: str | FeatureBank = "shapes-v0",
        *,
        render_mode: str | None = None,
        flatten: bool = False,
        observation: str = "features",
        **arguments: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise DataError(f"render_mode must be one of {self.metadata['render_modes']} or None, got {render_mode!r}")
        self.render_mode, self.flatten = render_mode, flatten
        self.observation = check_observation(observation, flatten)
        self.task = make_task(features, **arguments)
        self.bank = self.task.bank
        self.observation_space = (
            self.task.index_space() if observation == "index" else self.task.observation_space(flatten)
        )
        self.action_space = spaces.Discrete(self.task.n_actions)
        self._key: int | None = None
        self._episode = -1
        self._viewer: Any = None
        self._started = False
        self.before_episode: Callable[[Tensor], None] | None = None
        self._host = HostArrays(self.task)
        self._shifts = self._host.table.tolist()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Start an episode; see "Start" above for the options."""
        super().reset(seed=seed)
        options = split_options(options, self.OPTIONS)
        if seed is not None or self._key is None:
            self._key, self._episode = key_from(self.np_random), -1
        key, episode, config = self._key, self._episode + 1, self.task.config
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
        self.sample, self._episode = sample, episode
        if self.before_episode is not None:
            self.before_episode(self.sample)
        self._span, self._index, self._t = span, index, 0
        self._truth = self._host.truth[self._index].tolist()
        self._true_seconds = [tuple(window) for window in self._host.true_seconds[self._index].tolist()]
        self._second = float(self._host.seconds[self._index])
        self._iou = self._best_iou(span[0], span[1], self._host.kind)
        self.last_reward, self._invalid, self._started = 0.0, False, True
        self.path = [self._seconds()]
        if self.render_mode == "human":
            self.render()
        return self._observation(), self._info()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        """Apply one move."""
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before step(), and after an episode has ended")
        if not self.action_space.contains(action):
            raise DataError(f"action must be an integer in [0, {self.task.n_actions}), got {action!r}")
        action, task, config = int(action), self.task, self.task.config
        # The functions of `TemporalTask.move`, with the numbers of one episode
        shift_start, shift_end = self._shifts[action]
        start, end, valid = numbers().shifted(*self._span, shift_start, shift_end, self._host.total)
        iou = self._best_iou(start, end, self._host.kind)
        reward, terminated, truncated = outcome(
            action,
            float(self._t),
            self._iou,
            iou,
            valid,
            task.reward.function,
            config.phi,
            task.penalty,
            task.ends,
            config.max_steps,
        )
        self._span, self._iou, self._t, self._invalid = (start, end), iou, self._t + 1, not valid
        # float32 like the vector environment, so that both give the same number
        self.last_reward = float(np.float32(reward))
        self._started = not (terminated or truncated)
        self.path.append(self._seconds())
        if self.render_mode == "human":
            self.render()
        return self._observation(), self.last_reward, terminated, truncated, self._info()

    def render(self) -> np.ndarray | None:
        """The frame under the window's middle, the query, a time bar with both windows, reward and step."""
        from strong_envs.rendering.viewer import Viewer

        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode; pass render_mode='rgb_array' or 'human' to gym.make")
            return None
        if not hasattr(self, "path"):
            raise gym.error.ResetNeeded("call reset() before render()")
        if self._viewer is None:
            self._viewer = Viewer(self.bank)
        picture = self._viewer.draw(self._shot())
        if self.render_mode == "human":
            self._viewer.show(picture, self.metadata["render_fps"])
            return None
        return picture

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None

    def _shot(self) -> Shot:
        """The picture to draw: first, middle and last frame of the window over the time bar."""
        from strong_envs.rendering.viewer import Shot

        task, sample = self.task, self._index
        n_frames = int(task.n_frames[sample])
        first, last = frame_window(self._span[0], self._span[1], self._host.total, n_frames)
        rows = [first, (first + last - 1) // 2, last - 1]
        boxes: list[Any] = []
        if task.local.boxes is not None:
            base = int(task.local.rows[sample])
            boxes = [task.local.boxes[base + row].tolist() for row in rows]
        elif task.local.source == "initial":
            boxes = [corners(np.array(INITIAL_BOX)).tolist()] * len(rows)
        seconds = float(self.bank.duration[self.bank.video[sample]]) / n_frames
        names = zip(("first", "middle", "last"), rows, strict=True)
        return Shot(
            sample,
            rows,
            self.path[-1],
            boxes,
            [f"{name} {(row + 0.5) * seconds:.1f} s" for name, row in names],
            footer=f"step {self._t}   reward {self.last_reward:+.2f}   tIoU {self._tiou():.2f}",
        )

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

    def _seconds(self) -> tuple[float, float]:
        return self._span[0] * self._second, self._span[1] * self._second

    def _best_iou(self, start: float, end: float, kind: int) -> float:
        """`TemporalTask.iou` of one window."""
        overlap = numbers().overlap
        return max([overlap(start, end, low, high, kind) for low, high in self._truth])

    def _nearest_truth(self) -> tuple[float, float]:
        """`TemporalTask.nearest_truth` of the window."""
        if len(self._truth) == 1:
            return self._true_seconds[0]
        overlap = numbers().overlap
        ious = [overlap(*self._span, low, high, SIGNED) for low, high in self._truth]
        return self._true_seconds[ious.index(max(ious))]

    def _tiou(self) -> float:
        """The clamped IoU of the window."""
        if self._host.kind == LEGACY:
            return self._best_iou(self._span[0], self._span[1], CLAMPED)
        return max(self._iou, 0.0)

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
        index = self._index
        return {
            "tiou": self._tiou(),
            "span": self.path[-1],
            "true_span": self._nearest_truth(),
            "invalid_move": self._invalid,
            "sample": index,
            "qid": self.bank.qids[index],
            "text": self.bank.texts[index],
            "path": list(self.path),
        }
