"""`SpatialTrack-v0`: carry a box from frame to frame so that the temporal level sees what the sentence is about."""

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
from strong_envs.core.observations import split_options
from strong_envs.core.rewards import critic_rewards
from strong_envs.core.sampling import draw, key_from
from strong_envs.core.validation import check_table, refuse_unknown
from strong_envs.core.vector_env import IndexVectorEnv, refuse_render_mode
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
ENV_ARGUMENTS = ("critic", "attention_box", "flatten", "observation", "render_mode")
TASK_ARGUMENTS = ("features", "split", "device", "boxes", "box_margin", *TEMPORAL_NAMES)


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

    In ``info``: ``box`` (B, 4) corners, ``frame`` (B,), ``window`` (B, 2) seconds, ``invalid_move`` (B,), ``sample``
    (B,), and where the store has true boxes ``box_iou`` and ``coverage`` (B,).
    """

    OPTIONS = ("sample", "span", "box", "reset_mask")

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
        **arguments: Any,
    ) -> None:
        refuse_render_mode(arguments)
        if max_episode_steps is not None:
            raise DataError("a SpatialTrack episode ends with its window; max_episode_steps does not apply")
        task = make_spatial_task(features, **arguments)
        self._setup(task, num_envs, flatten, autoreset_mode, output, observation)

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
        )
        self.walk: TrackState | None = None
        self.choose_window: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
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
            for one in given[mask.cpu().numpy()]:
                check_box(one, "options['box']")
            options["box"] = torch.tensor(given, device=self.device)
        return options

    def _start(self, mask: Tensor, options: dict) -> None:
        if "span" in options:
            start, end = options["span"]
        elif self.choose_window is not None:
            start, end = self.choose_window(self.sample)
        else:
            parts = (draw(self.keys + salt, self._episode, 1 << 30) for salt in (1, 2))
            uniform = torch.stack([part.to(torch.float64) / (1 << 30) for part in parts], -1)
            start, end = self.task.window(self.sample, uniform)
        initial = torch.tensor([self.task.config.initial_box], dtype=torch.float64, device=self.device)
        box = options.get("box", initial)
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
            shape = (self.num_envs, self.bank.max_frames + 1, self.task.channels)
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

    def _info(self) -> dict[str, Tensor]:
        walk, bank = self.track, self.bank
        corners = boxes.corners(walk.placed)
        info = {
            "box": corners,
            "frame": walk.frame.clone(),
            "window": self.task.temporal.to_seconds(walk.sample, walk.start, walk.end),
            "invalid_move": self._invalid.clone(),
            "sample": self.sample.clone(),
        }
        if bank.has_boxes:
            seen = (walk.frame - (walk.frame_action == 0).to(torch.int64)).clamp(min=walk.first)
            truth = bank.true_box(walk.sample, torch.minimum(seen, walk.last - 1)).to(torch.float64)
            info["box_iou"] = boxes.box_iou(corners, truth)
            info["coverage"] = boxes.coverage(corners, truth)
        return info


class SpatialTrackEnv(gym.Env):
    """`SpatialTrack-v0`: carry a box from frame to frame, so that f_o shows what the sentence is about.

    ## Description

    The temporal level looks at a window of a video; this level carries a tracking box through the window's frames, so
    that f_o, what lies inside the boxes, shows what the sentence is about (STRONG, ACM MM 2020, section 3.3). Each
    frame inherits the box of the frame before (Eq. 12).

    ## Action space
    `Discrete(9)`; a step is 1 / (2 z_s) of the frame, 1/20 by default.

    | action | move |
    |---|---|
    | 0 | left |
    | 1 | right |
    | 2 | up |
    | 3 | down |
    | 4 | bigger |
    | 5 | smaller |
    | 6 | taller |
    | 7 | fatter |
    | 8 | stop (keep the box in this frame) |

    With `box_moves="symmetric"`, `Discrete(11)`: 9 shorter, 10 thinner. Edges are clipped at the frame's border.

    ## Observation space
    `Dict` of float32 `Box`es (Eq. 10), or with `flatten=True` their concatenation in this order.

    | key | shape | meaning |
    |---|---|---|
    | query | (Dq,) | f_e, the sentence vector |
    | scene | (D,) | f_s, mean over the window of whole frames |
    | inside | (C,) | f_o^k, what lies inside the box in the current frame |
    | around | (5 C,) | with `surroundings`: a box twice as large, and the neighbours left, right, up, down |
    | box | (4,) | with `surroundings`: centre and size as fractions of the frame |
    | attention_box | (4,) | with an `attention_box`: its corners in this frame minus those of the box |

    Dq and D are the lengths of the store's sentence and frame vectors, C that of a cell of its h x w grid.

    The first three are there with `appearance`. Without `surroundings` this is the paper's state: 8,896 numbers with
    its sizes (4,800 + 2,048 + 2,048).

    ## Rewards
    Eq. 11: +1 if the temporal critic's value rises when the updated box is inherited from this frame on, -1 if it
    falls, 0 if it changes by at most `tie_tolerance`. `reward` names what is compared:

    | reward | value compared | needs |
    |---|---|---|
    | q_value | max Q, Eq. 11 as printed | a critic |
    | signed_q | sum over moves of Q times the sign of the move's true change of IoU | a critic, the temporal truth |
    | q_error | minus the squared error of Q against those signs | a critic, the temporal truth |
    | attention_box | distance-IoU with the box in which the temporal level looks in this frame | `attention_box` |
    | box_iou | IoU with the true box in this frame (an upper bound, never a result) | true boxes |

    ## Start
    A sample drawn from the split, the box b0 and a temporal window: `window="initial"` (.25 to .75), `"truth"`,
    `"random"` or `"whole"`. `reset(options=...)` takes `sample`, `span` (seconds) and `box` (centre and size).

    ## End
    Terminated after the last frame of the window (after the first, with `inheritance="first"`); never truncated.

    ## Information
    `box` (corners), `frame`, `window` (seconds), `invalid_move`, `sample`, `qid`, `text`, `path` (boxes so far, as
    corners), and with true boxes `box_iou` and `coverage`, the share of the true box inside.

    ## Arguments
    - `features="shapes-v0"`, `split="train"`, `device="cpu"`: as for `TemporalMoment-v0`, whose arguments are taken too
      and shape what the critic sees.
    - `critic=None`: a callable from temporal observations to (B, A) Q-values. None or `"reference"` takes the small
      critic that ships for the default world. `SpatioTemporalCoupling` supplies the live one.
    - `attention_box=None`: a callable from samples (B,) and frames (B,) to the corners (B, 4) of where the temporal
    level looks.
    - `reward="q_value"`, `tie_tolerance=1e-5` (Q-values never tie exactly), `same_action=False` (one action for both).
    - `inheritance="previous"` (Eq. 12) | `"none"` (every frame begins with b0) | `"first"` (the box of the first frame
      serves all others: the episode ends with its actions).
    - `z_s=10`, `box_moves="paper"` | `"symmetric"`, `actions_per_frame=1`, `first_frame_actions=1`,
      `initial_box=(0.5, 0.5, 0.5, 0.5)`, `window="initial"` | `"truth"` | `"random"` | `"whole"`.
    - `appearance=True`, `surroundings=True`, `flatten=False`, `render_mode=None` | `"rgb_array"` | `"human"`.
    - `observation="features"` | `"index"` (`sample`, `first`, `last`, `frame` and `box`, what a replay stores).

    ## Version history
    - v0: first release.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 10}  # noqa: RUF012 (Gymnasium declares it so)
    OPTIONS = ("sample", "span", "box")

    def __init__(
        self,
        features: str | FeatureBank = "shapes-v0",
        *,
        render_mode: str | None = None,
        flatten: bool = False,
        **arguments: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise DataError(f"render_mode must be one of {self.metadata['render_modes']} or None, got {render_mode!r}")
        self.render_mode = render_mode
        for name in ("num_envs", "autoreset_mode", "output", "max_episode_steps"):
            if name in arguments:
                raise DataError(f"{name} belongs to the vector environment, made with gym.make_vec")
        # One episode of the vector environment: the box, its sums and the critic are tensors in any case.
        self._one = SpatialTrackVectorEnv(
            1, features, flatten=flatten, autoreset_mode=AutoresetMode.DISABLED, **arguments
        )
        self.task, self.bank = self._one.task, self._one.bank
        self.observation_space, self.action_space = self._one.single_observation_space, self._one.single_action_space
        self._viewer: Any = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Start an episode; see "Start" above for the options."""
        super().reset(seed=seed)
        options = split_options(options, self.OPTIONS)
        if seed is None and self._one._keys is None:
            self._one._keys = torch.tensor([key_from(self.np_random)], device=self.bank.device)
        observation, info = self._one.reset(seed=seed, options=options)
        self.last_reward = 0.0
        self.path: list[tuple[int, list[float]]] = []
        if self.render_mode == "human":
            self.render()
        return self._single(observation), self._info(info)

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        """Change the box of the current frame."""
        if bool(self._one._done[0]):
            raise gym.error.ResetNeeded("call reset() before step(), and after an episode has ended")
        if not self.action_space.contains(action):
            raise DataError(f"action must be an integer in [0, {self.task.n_actions}), got {action!r}")
        frame = int(self._one.track.frame)
        observation, reward, terminated, truncated, info = self._one.step(np.array([int(action)]))
        self.last_reward = float(reward[0])
        self.path.append((frame, info["box"][0].tolist()))
        if self.render_mode == "human":
            self.render()
        return self._single(observation), self.last_reward, bool(terminated[0]), bool(truncated[0]), self._info(info)

    def render(self) -> np.ndarray | None:
        """The current frame with the tracked box (and the true one), the query, reward and step."""
        from strong_envs.rendering.viewer import Viewer

        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode; pass render_mode='rgb_array' or 'human' to gym.make")
            return None
        if self.walk is None:
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
        """The picture to draw: the frame last acted on, with the tracked and the true box."""
        from strong_envs.rendering.viewer import Shot

        walk, bank = self._one.track, self.bank
        sample = int(walk.sample)
        frame, box = self.path[-1] if self.path else (int(walk.frame), boxes.corners(walk.placed)[0].tolist())
        second = (frame + 0.5) * float(bank.duration[bank.video[sample]]) / int(self.task.temporal.n_frames[sample])
        start, end = self.task.temporal.to_seconds(walk.sample, walk.start, walk.end)[0].tolist()
        footer = f"frame {frame}   reward {self.last_reward:+.0f}"
        if bank.has_boxes:
            true = bank.true_box(walk.sample, torch.tensor([frame], device=bank.device)).cpu().to(torch.float64)
            footer += f"   box IoU {float(boxes.box_iou(torch.tensor([box]), true)):.2f}"
        return Shot(sample, [frame], (start, end), [box], cursor=second, footer=footer)

    @property
    def walk(self) -> TrackState | None:
        """The state of the episode, tensors with a batch of one; None before the first reset."""
        return self._one.walk

    @property
    def track(self) -> TrackState:
        """The state of the episode, tensors with a batch of one; a reset is needed first."""
        return self._one.track

    @property
    def choose_window(self) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
        """What picks the window of an episode instead of ``window``: samples (B,) to start and end in steps."""
        return self._one.choose_window

    @choose_window.setter
    def choose_window(self, choose: Callable[[Tensor], tuple[Tensor, Tensor]] | None) -> None:
        self._one.choose_window = choose

    def _single(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {name: np.array(part[0]) for name, part in observation.items()}
        return np.array(observation[0])

    def _info(self, info: dict) -> dict[str, Any]:
        index = int(info["sample"][0])
        single = {
            name: part[0].tolist()
            for name, part in info.items()
            if name in ("box", "frame", "window", "invalid_move", "sample", "box_iou", "coverage")
        }
        return {**single, "qid": self.bank.qids[index], "text": self.bank.texts[index], "path": list(self.path)}


def _merge(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (new.ndim - 1)), new, old)
