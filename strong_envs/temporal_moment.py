"""`TemporalMoment-v0`: move the ends of a window until it holds the moment that a sentence describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

import features as feature_registry
from features.bank import FeatureBank
from features.records import DataError, nearest
from strong_envs.arguments import check_samples, check_table, refuse_unknown
from strong_envs.compiled import CLAMPED, HostArrays, available, iou_one, move_one, pay_one
from strong_envs.local_features import LocalFeatures
from strong_envs.sampling import draw, key_from
from strong_envs.spans import STOP
from strong_envs.temporal_task import CONFIG_NAMES, TemporalConfig, TemporalTask, flat, split_options
from strong_envs.vector import IndexVectorEnv, check_observation, refuse_render_mode

if TYPE_CHECKING:
    from strong_envs.compiled_vector import CompiledSteps

INFOS = ("full", "light")
TASK_ARGUMENTS = ("features", "split", "device", "boxes", "spp_levels", "box_margin")
ENV_ARGUMENTS = (*TASK_ARGUMENTS, "flatten", "observation", "render_mode")


def make_task(
    features: str | FeatureBank = "shapes-v0",
    split: str = "train",
    device: str | torch.device = "cpu",
    boxes: str | Tensor = "frame",
    spp_levels: Sequence[int] = (1,),
    box_margin: float = 0.0,
    **config: Any,
) -> TemporalTask:
    """The `TemporalTask` behind the environments, from the same arguments."""
    unknown = [name for name in config if name not in CONFIG_NAMES]
    refuse_unknown(unknown, (*ENV_ARGUMENTS, *CONFIG_NAMES))
    bank = feature_registry.load(features, split, device)
    return TemporalTask(bank, LocalFeatures(bank, boxes, spp_levels, margin=box_margin), TemporalConfig(**config))


class TemporalMomentEnv(gym.Env):
    """
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

    Without `context` this is the paper's state: 8,898 numbers with its sizes (4,800 + 2 + 2,048 + 2,048). A mean over
    the window alone cannot tell on which side of it the event lies; the context can.

    With `observation="index"` the state itself: `sample` and `t` (int64), `start` and `end` (float64, in steps). A
    replay that stores indices is thousands of times smaller; `observe_state` of the vector environment rebuilds the
    features.

    ## Rewards
    Eq. 5: +1 - φt if the IoU rose, -φt if it did not change, -1 - φt if it fell; t counts from 0. The IoU is signed
    (Eq. 4 to the letter: negative when the windows are disjoint). Stop pays -φt. `reward="read"` is the one of READ
    (AAAI 2019): +1 only if the IoU rose from 0 or more, -1 wherever it is negative.

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
    - `boxes="frame"`: where f_o looks: `"frame"`, `"initial"`, `"gaussian"`, `"truth"`, or a tensor of corners.
      `spp_levels=(1,)`: bins per side of its pyramid; `box_margin=0.0`.
    - `phi=0.1`, `max_steps=20`, `z_e=10`, `step_scale=1.0`, `multi_scale=False`, `initial_span=(0.25, 0.75)`,
      `start="initial"` | `"random"`.
    - `iou="signed"` | `"clamped"` | `"legacy"`; `reward="change"` | `"read"`.
    - `invalid="refuse"` | `"penalty"` (-1 more) | `"terminate"`.
    - `global_scope="video"` | `"moment"`; `context=True`; `time_in_observation=False`; `flatten=False`.
    - `observation="features"` | `"index"`.
    - `render_mode=None` | `"rgb_array"` | `"human"`.

    ## Version history
    - v0: first release.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 4}
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
        key, episode = (torch.tensor([x], device=self.bank.device) for x in (self._key, self._episode + 1))
        if "sample" in options:
            picked = check_samples(options["sample"], 1, len(self.bank))
            sample = torch.as_tensor(picked, device=self.bank.device)
        else:
            sample = draw(key, episode, len(self.bank))
        given = check_spans(self.task, sample, options["span"]) if "span" in options else None
        self.sample, self._episode = sample, self._episode + 1
        if self.before_episode is not None:
            self.before_episode(self.sample)
        start, end = self.task.first_span(sample, key, episode) if given is None else given
        self._span, self._index, self._t = (float(start), float(end)), int(sample), 0
        self._truth = self._host.truth[self._index].tolist()
        self._second = float(self._host.seconds[self._index])
        self._iou = iou_one(*self._span, self._truth, self._host.kind)
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
            raise DataError(f"action must be an integer in [0, {self.action_space.n}), got {action!r}")
        action, config = int(action), self.task.config
        start, end, valid = move_one(*self._span, *self._shifts[action], self._host.total)
        iou = iou_one(start, end, self._truth, self._host.kind)
        # As `TemporalTask.move` computes it for a batch
        reward = pay_one(self._iou, iou, self._host.reward) - float(self._host.phi * np.float32(self._t))
        if config.invalid == "penalty" and not valid:
            reward -= 1.0
        terminated = action == STOP or (config.invalid == "terminate" and not valid)
        self._span, self._iou, self._t, self._invalid = (start, end), iou, self._t + 1, not valid
        truncated = self._t >= config.max_steps and not terminated
        # float32 like the vector environment, so that both give the same number
        self.last_reward = float(np.float32(reward))
        self._started = not (terminated or truncated)
        self.path.append(self._seconds())
        if self.render_mode == "human":
            self.render()
        return self._observation(), self.last_reward, terminated, truncated, self._info()

    def render(self) -> np.ndarray | None:
        """The frame under the window's middle, the query, a time bar with both windows, reward and step."""
        from strong_envs.viewer import Viewer, temporal_picture

        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode; pass render_mode='rgb_array' or 'human' to gym.make")
            return None
        if not hasattr(self, "path"):
            raise gym.error.ResetNeeded("call reset() before render()")
        if self._viewer is None:
            self._viewer = Viewer(self.bank)
        picture = temporal_picture(self._viewer, self)
        return self._viewer.show(picture, self.metadata["render_fps"]) if self.render_mode == "human" else picture

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None

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

    def _observation(self) -> Any:
        if self.observation == "index":
            state = {"sample": self._index, "start": self._span[0], "end": self._span[1], "t": self._t}
            return {name: np.asarray(value) for name, value in state.items()}
        if self._host.on_host:
            whole = self._host.observe(self._index, *self._span, self._t)
        else:
            whole = flat(self.task.observe(self.sample, self.start, self.end, self.t))[0].cpu().numpy()
        return whole if self.flatten else {name: whole[part] for name, part in self._host.parts.items()}

    def _info(self) -> dict[str, Any]:
        index = self._index
        return {
            "tiou": iou_one(*self._span, self._truth, CLAMPED),
            "span": self.path[-1],
            "true_span": self.bank.queries[index].windows[0],
            "invalid_move": self._invalid,
            "sample": index,
            "qid": self.bank.qids[index],
            "text": self.bank.texts[index],
            "path": list(self.path),
        }


class TemporalMomentVectorEnv(IndexVectorEnv):
    """`TemporalMoment-v0` for many episodes at once: the same functions as `TemporalMomentEnv`, on one device.

    Arguments as there (without ``render_mode``), and ``num_envs``, ``autoreset_mode`` (SAME_STEP by default; NEXT_STEP
    and DISABLED work), ``output="numpy" | "torch"``. In ``info``: ``tiou`` (B,), ``span`` and ``true_span`` (B, 2)
    seconds, ``invalid_move`` (B,), ``sample`` (B,); at the end of episodes ``episode`` with ``r``, ``l``, ``t`` and the
    mask ``_episode``; under SAME_STEP ``final_obs`` and ``final_info``, dense, with their masks.

    On a CPU with numba (extra ``fast``) a step is one compiled call; ``STRONG_ENVS_COMPILED=0`` keeps torch.
    ``copy=False`` lets every compiled step write into the same observation, reward and flags, and only what changed:
    faster, but what an earlier step returned is overwritten, and you must not write into it. ``info="light"`` leaves
    ``info`` to the episodes that ended.
    """

    OPTIONS = ("sample", "span", "reset_mask")

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
        if type(self) is TemporalMomentVectorEnv and self.device.type == "cpu" and available():
            from strong_envs.compiled_vector import CompiledSteps

            self._compiled = CompiledSteps(self, copy, self.light)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict]:
        """One step of every environment; see `IndexVectorEnv`."""
        if self._compiled is not None and self.before_episode is None:
            result = self._compiled.step(self, actions)
            if result is not None:
                return result
        return super().step(actions)

    @property
    def reached(self) -> dict[str, Tensor]:
        """The states that the last move led to, before any automatic reset, as `state` gives them."""
        if self._reached is None and self._compiled is not None:
            self._reached = self._compiled.reached()
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
            start, end = self.task.first_span(self.sample, self._keys, self._episode)
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
        state = {"sample": self.sample, "start": self.start, "end": self.end, "t": self.t}
        # The compiled step works in place, and a state must outlive the step after it.
        return state if self._compiled is None else {name: part.clone() for name, part in state.items()}

    def action_rewards(self, state: dict[str, Tensor]) -> Tensor:
        """What a step pays for every action in stored states, (B, A) float32: training knows the truth, so all."""
        return self.task.action_rewards(state["sample"], state["start"], state["end"], state["t"])

    def observe_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
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
        truth = self.bank.truth[self.sample, 0] * self.bank.duration[self.bank.video[self.sample]][:, None]
        return {
            "tiou": self.task.iou(self.sample, self.start, self.end, "clamped"),
            "span": self.task.to_seconds(self.sample, self.start, self.end),
            "true_span": truth,
            "invalid_move": self._invalid.clone(),
            "sample": self.sample.clone(),
        }


def check_spans(
    task: TemporalTask, samples: Tensor, span: Any, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Start and end in seconds, one pair or (B, 2), to steps (B,), (B,); refused if no window inside its video.

    Only rows in ``mask`` (B,) are looked at; the others may hold anything.
    """
    seconds = check_table(span, 2, len(samples), "options['span']", "start and end in seconds")
    durations = task.bank.duration[task.bank.video[samples]].cpu().numpy()
    bad = ~((seconds[:, 0] >= 0) & (seconds[:, 0] < seconds[:, 1]) & (seconds[:, 1] <= durations + 1e-9))
    if mask is not None:
        bad &= mask.cpu().numpy()
    if bad.any():
        i = int(bad.argmax())
        raise DataError(
            f"options['span'] must satisfy 0 <= start < end <= duration; got {seconds[i].tolist()} s "
            f"in a video of {durations[i]:g} s"
        )
    steps = torch.as_tensor(np.array(seconds), device=task.bank.device) / task.seconds[samples][:, None]
    # Seconds round; a span meant as whole steps must be one, or ties of the IoU would be lost.
    whole = steps.round()
    steps = torch.where((steps - whole).abs() < 1e-6, whole, steps)
    return steps[:, 0], steps[:, 1].clamp(max=task.config.total)


