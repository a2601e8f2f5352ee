"""`SpatialTrack-v0`: carry a box from frame to frame so that the temporal level sees what the sentence is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from strong_envs.core import boxes
from strong_envs.core.env_base import ScalarEnv, refuse_vector_arguments, row_of
from strong_envs.core.observations import split_options
from strong_envs.core.sampling import key_from
from strong_envs.core.validation import check_seed
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.spatial.task import TrackState
from strong_envs.spatial.vector_env import SpatialTrackVectorEnv, make_spatial_task, spatial_shot

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot

__all__ = ["SpatialTrackEnv", "SpatialTrackVectorEnv", "make_spatial_task"]


class SpatialTrackEnv(ScalarEnv):
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
    `SpatialTrackFlat-v0` is the same with `flatten=True`.

    | key | shape | meaning |
    |---|---|---|
    | query | (Dq,) | f_e, the sentence vector |
    | scene | (D,) | f_s, mean over the window of whole frames |
    | inside | (C,) | f_o^k, what lies inside the box in the current frame; longer with a pyramid of `spp_levels` |
    | around | (5 C,) | with `surroundings`: a box twice as large, and the neighbours left, right, up, down |
    | box | (4,) | with `surroundings`: centre and size as fractions of the frame |
    | attention_box | (4,) | with an `attention_box`: its corners in this frame minus those of the box |

    Dq and D are the lengths of the store's sentence and frame vectors, C that of a cell of its h x w grid.

    Features are bounded by ±65,504, whatever the store holds. The first three are there with `appearance`. Without
    `surroundings` this is the paper's state: 8,896 numbers with its sizes (4,800 + 2,048 + 2,048).

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
    `spec.max_episode_steps` is the number of actions in the longest video.

    ## Information
    Arrays of fixed shape and dtype, from `reset` on:

    | key | shape, dtype | meaning |
    |---|---|---|
    | `box` | (4,) float64 | the box that the last action made, corners |
    | `frame` | () int64 | the frame that the next action changes |
    | `window` | (2,) float64 | the temporal window, seconds |
    | `invalid_move` | () bool | the last action changed nothing |
    | `sample` | () int64 | index into the split |
    | `action_mask` | (A,) int8 | actions that change the box, and stop; `action_masks()` gives it as bool |
    | `box_iou` | () float64 | with true boxes: IoU with the true box |
    | `coverage` | () float64 | with true boxes: share of the true box inside |

    `info="full"` adds `true_spans` (K, 2) in seconds, the texts `qid` and `text`, and `path`, the list of frames and
    boxes (corners) so far; `info="light"` leaves it empty.

    ## Arguments
    - `features="shapes-v0"`, `split="train"`, `device="cpu"`: as for `TemporalMoment-v0`, whose arguments are taken too
      and shape what the critic sees.
    - `critic=None`: a callable from temporal observations to (B, A) Q-values. None or `"reference"` takes the small
      critic that ships for the default world. `SpatioTemporalCoupling` supplies the live one.
    - `attention_box=None`: a callable from samples (B,) and frames (B,) to the corners (B, 4) of where the temporal
      level looks.
    - `payment="sign"` (Eq. 11) | `"change"` (the change itself, which tells moves apart that all help),
      `reward="q_value"`, `tie_tolerance=1e-5` (Q-values never tie exactly), `same_action=False` (one action for both).
    - `inheritance="previous"` (Eq. 12) | `"none"` (every frame begins with b0) | `"first"` (the box of the first frame
      serves all others: the episode ends with its actions).
    - `z_s=10`, `box_moves="paper"` | `"symmetric"`, `actions_per_frame=1`, `first_frame_actions=1`,
      `initial_box=(0.5, 0.5, 0.5, 0.5)`, `window="initial"` | `"truth"` | `"random"` | `"whole"`.
    - `appearance=True`, `surroundings=True`, `flatten=False`, `render_mode=None` | `"rgb_array"` | `"human"`.
    - `observation="features"` | `"index"` (`sample`, `first`, `last`, `frame` and `box`, what a replay stores);
      `info="numeric"` | `"full"` | `"light"`;
      `reveal_truth=None`: as in `TemporalMomentEnv`, without `box_iou`, `coverage` and the true windows on a test part.

    ## Version history
    - v0: first release. Unreleased: `info` holds arrays of fixed shape, texts on request; `window="truth"` draws one of
      several true windows; bounds of observations no longer follow the store.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 10}  # noqa: RUF012 (as Gymnasium)
    OPTIONS = ("sample", "span", "box")

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
        # One episode of the vector environment: the box, its sums and the critic are tensors in any case.
        self._one = SpatialTrackVectorEnv(
            1, features, flatten=flatten, info=info, autoreset_mode=AutoresetMode.DISABLED, **arguments
        )
        self.task, self.bank = self._one.task, self._one.bank
        self.observation_space, self.action_space = self._one.single_observation_space, self._one.single_action_space

    @property
    def max_steps(self) -> int:
        """The most steps of an episode: the actions in every frame of the longest video."""
        return self.task.max_steps

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see "Start" above for the options."""
        seed, options = check_seed(seed), split_options(options, self.OPTIONS)
        super().reset(seed=seed)
        if seed is None and self._one._keys is None:
            self._one._keys = torch.tensor([key_from(self.np_random)], device=self.bank.device)
        observation, info = self._one.reset(seed=seed, options=options)
        self.last_reward, self._opened = 0.0, True
        self.path: list[tuple[int, list[float]]] = []
        return self._finish(observation, info)

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Change the box of the current frame."""
        if bool(self._one._done[0]):
            raise gym.error.ResetNeeded("call reset() before step(), and after an episode has ended")
        if not self.action_space.contains(action):
            raise DataError(f"action must be an integer in [0, {self.task.n_actions}), got {action!r}")
        frame = int(self._one.track.frame)
        observation, reward, terminated, truncated, info = self._one.step(np.array([int(action)]))
        self.last_reward = float(reward[0])
        self.path.append((frame, boxes.corners(self.track.placed)[0].tolist()))
        shown, details = self._finish(observation, info)
        return shown, self.last_reward, bool(terminated[0]), bool(truncated[0]), details

    def action_masks(self) -> np.ndarray:
        """(A,) bool: which actions change the box now, or stop; what MaskablePPO reads."""
        return np.asarray(self._one.action_masks()[0])

    @property
    def walk(self) -> TrackState | None:
        """The state of the episode, tensors with a batch of one; None before the first reset."""
        return self._one.walk

    @property
    def track(self) -> TrackState:
        """The state of the episode, tensors with a batch of one; a reset is needed first."""
        return self._one.track

    @property
    def choose_window(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
        """What picks the window of an episode instead of ``window``.

        Samples (B,) and numbers (B, 2) in [0, 1), drawn for the episode, to start and end in steps.
        """
        return self._one.choose_window

    @choose_window.setter
    def choose_window(self, choose: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None) -> None:
        self._one.choose_window = choose

    def _shots(self) -> list[Shot]:
        frame, box = self.path[-1] if self.path else (int(self.track.frame), boxes.corners(self.track.box)[0].tolist())
        return [spatial_shot(self.task, self.track, frame, box, self.last_reward)]

    def _finish(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self.render_mode == "human":
            self.render()
        details = row_of(info, 0)
        if self.info_mode == "full":
            details["path"] = list(self.path)
        if isinstance(observation, dict):
            return {name: np.array(part[0]) for name, part in observation.items()}, details
        return np.array(observation[0]), details
