"""`TemporalOneShot-v0`: name a window at once; for bandit learners and for policies trained on groups of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from strong_envs.core.observations import feature_space, split_options
from strong_envs.core.validation import check_whole
from strong_envs.core.vector_env import IndexVectorEnv, check_observation, refuse_render_mode
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.temporal.task import TemporalTask, make_task

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot, Viewer


class TemporalOneShotVectorEnv(IndexVectorEnv):
    """`TemporalOneShot-v0` for many episodes at once; arguments of `TemporalOneShotEnv` and `TemporalMomentVectorEnv`.

    In ``info``: ``tiou`` (B,), ``span`` and ``true_span`` (B, 2) seconds, ``sample`` (B,). ``score`` pays any number of
    windows per sample without a step.
    """

    def __init__(
        self,
        num_envs: int = 1,
        features: str | FeatureBank = "shapes-v0",
        *,
        parts: int = 16,
        flatten: bool = False,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        output: str = "numpy",
        observation: str = "features",
        max_episode_steps: int | None = None,
        **arguments: Any,
    ) -> None:
        refuse_render_mode(arguments)
        if max_episode_steps is not None:
            raise DataError("an episode of TemporalOneShot is one step; max_episode_steps does not apply")
        self.parts = check_whole(parts, "parts")
        self.task: TemporalTask = make_task(features, **{"iou": "clamped", **arguments})
        bank, task = self.task.bank, self.task
        if observation == "index":
            space: spaces.Space = spaces.Dict({"sample": spaces.Box(0, len(bank) - 1, (), np.int64)})
        else:
            shapes: dict[str, tuple[int, ...]] = {"query": (bank.query_dim,), "parts": (self.parts * task.local.dim,)}
            ranges = {"query": bank.store.range("queries"), "parts": task.local.range}
            space = feature_space(shapes, ranges, flatten)
        action_space = spaces.Box(0.0, 1.0, (2,), np.float32)
        super().__init__(num_envs, bank, space, action_space, flatten, autoreset_mode, output, observation)
        self.window = torch.full((num_envs, 2), float("nan"), dtype=torch.float64, device=self.device)

    def score(self, samples: Tensor, windows: Tensor) -> Tensor:
        """Rewards (..., ) float64 of windows (..., 2), fractions of the video, for samples (...,)."""
        ends = torch.sort(windows.to(torch.float64) * self.task.config.total, -1).values.reshape(-1, 2)
        pay = self.task.iou(samples.reshape(-1), ends[:, 0], ends[:, 1])
        # An empty window inside the truth has an overlap of 0; one outside it, too.
        return pay.reshape(samples.shape)

    def state(self) -> dict[str, Tensor]:
        """The compact state of all episodes, named (B, ...) tensors."""
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
        self.window = torch.where(mask[:, None], float("nan"), self.window)

    def _advance(self, action: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.window = torch.sort(action, -1).values
        return self.score(self.sample, self.window), self._all, self._none

    def _actions(self, actions: Any) -> Tensor:
        given = actions if isinstance(actions, Tensor) else torch.as_tensor(np.asarray(actions))
        if given.shape != (self.num_envs, 2) or not (given.is_floating_point() or given.dtype == torch.int64):
            raise DataError(f"actions must be ({self.num_envs}, 2) fractions, got {tuple(given.shape)} {given.dtype}")
        if given.device.type == "cpu" and not bool(((given >= 0) & (given <= 1)).all()):
            raise DataError(f"actions must lie in [0, 1], start and end as fractions of the video; got {actions}")
        return given.to(self.device, torch.float64)

    def _info(self) -> dict[str, Tensor]:
        duration = self.bank.duration[self.bank.video[self.sample]][:, None]
        steps = self.window * self.task.config.total
        tiou = self.task.iou(self.sample, steps[:, 0], steps[:, 1], "clamped")
        return {
            "tiou": torch.nan_to_num(tiou),
            "span": self.window * duration,
            "true_span": self.bank.truth[self.sample, 0] * duration,
            "sample": self.sample.clone(),
        }


class TemporalOneShotEnv(gym.Env):
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

    ## Observation space
    `Dict` of float32 `Box`es, or with `flatten=True` their concatenation in this order.

    | key | shape | meaning |
    |---|---|---|
    | query | (Dq,) | f_e, the sentence vector |
    | parts | (parts D,) | f_o of `parts` equal parts of the video, one after the other |

    Dq is the length of the store's sentence vectors, D that of f_o: of a frame's vector, or with `boxes` other than
    `"frame"` of a cell's, times the bins of `spp_levels`.

    With `observation="index"` only `sample` (int64).

    ## Rewards
    The clamped temporal IoU, in [0, 1]; an empty window pays 0. `iou="signed"` is Eq. 4 to the letter, negative for
    disjoint windows.

    ## Start
    A sample drawn from the split. `reset(options=...)` takes `sample` (index into the split).

    ## End
    Terminated after the first action; never truncated.

    ## Information
    `tiou` (0 before the action), `span` (seconds; None before it), `true_span` (seconds), `sample`, `qid`, `text`.

    ## Arguments
    - `features="shapes-v0"`, `split="train"`, `device="cpu"`, `boxes="frame"`, `spp_levels=(1,)`, `box_margin=0.0`: as
      for `TemporalMoment-v0`. `parts=16`; `iou="clamped"`; `flatten=False`; `observation="features"` | `"index"`;
      `render_mode=None` | `"rgb_array"` | `"human"`.

    ## Version history
    - v0: first release.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 2}  # noqa: RUF012 (Gymnasium declares it so)
    OPTIONS = ("sample",)

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
        for name in ("num_envs", "autoreset_mode", "output"):
            if name in arguments:
                raise DataError(f"{name} belongs to the vector environment, made with gym.make_vec")
        check_observation(arguments.get("observation", "features"), flatten)
        self._one = TemporalOneShotVectorEnv(
            1, features, flatten=flatten, autoreset_mode=AutoresetMode.DISABLED, **arguments
        )
        self.task, self.bank = self._one.task, self._one.bank
        self.observation_space, self.action_space = self._one.single_observation_space, self._one.single_action_space
        self._open = False
        self._viewer: Viewer | None = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Start an episode; see "Start" above for the options."""
        super().reset(seed=seed)
        observation, info = self._one.reset(seed=seed, options=split_options(options, self.OPTIONS))
        self._open = True
        return self._finish(observation, info, None, 0.0)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """Name the window."""
        if not self._open:
            raise gym.error.ResetNeeded("call reset() before step(); an episode is one step long")
        ends = np.asarray(action, np.float32)
        if not self.action_space.contains(ends):
            raise DataError(f"action must be two numbers in [0, 1], start and end of the window; got {action!r}")
        observation, reward, *_, info = self._one.step(ends[None])
        self._open = False
        shown, info = self._finish(observation, info, tuple(info["span"][0].tolist()), float(reward[0]))
        return shown, self.last_reward, True, False, info

    def render(self) -> np.ndarray | None:
        """The video at the window's ends and middle, the query, a time bar with both windows, and the reward."""
        from strong_envs.rendering.viewer import Viewer

        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode; pass render_mode='rgb_array' or 'human' to gym.make")
            return None
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
        """The picture to draw: frames of the window named, or of the whole video before the action."""
        from strong_envs.rendering.viewer import Shot

        info, bank = self.last_info, self.bank
        sample, span = info["sample"], info["span"]
        count = int(self.task.n_frames[sample])
        seconds = float(bank.duration[bank.video[sample]]) / count
        start, end = span or (0.0, count * seconds)
        rows = [min(max(int(at / seconds), 0), count - 1) for at in (start, (start + end) / 2, end - seconds / 2)]
        return Shot(
            sample,
            rows,
            span,
            captions=[f"{(row + 0.5) * seconds:.1f} s" for row in rows],
            footer=f"reward {self.last_reward:.2f}" if span else "before the answer",
        )

    def _finish(self, observation: Any, info: dict, span: Any, reward: float) -> tuple[Any, dict]:
        self.last_info, self.last_reward = self._info(info, span), reward
        if self.render_mode == "human":
            self.render()
        return self._single(observation), dict(self.last_info)

    def _single(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {name: np.array(part[0]) for name, part in observation.items()}
        return np.array(observation[0])

    def _info(self, info: dict, span: tuple[float, float] | None) -> dict[str, Any]:
        index = int(info["sample"][0])
        return {
            "tiou": float(info["tiou"][0]),
            "span": span,
            "true_span": tuple(info["true_span"][0].tolist()),
            "sample": index,
            "qid": self.bank.qids[index],
            "text": self.bank.texts[index],
        }
