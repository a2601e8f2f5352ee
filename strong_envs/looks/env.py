"""`TemporalLook-v0`: find the moment that a sentence describes while looking at a few frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from strong_envs.core.env_base import ScalarEnv, refuse_vector_arguments, row_of
from strong_envs.core.observations import split_options
from strong_envs.core.validation import check_seed, shown
from strong_envs.core.vector_env import check_observation
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.looks.vector_env import TemporalLookVectorEnv

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot


class TemporalLookEnv(ScalarEnv):
    """`TemporalLook-v0`: find the moment that a sentence describes while looking at a few frames.

    ## Description

    A video and a sentence are given. The agent sees nothing of the video but the frames that it looks at, and names
    the window of the moment. Decoding and encoding frames is what costs time in practice, so looks are limited, and
    may be charged. Nothing of a frame that was not looked at reaches an observation.

    ## Action space
    `Discrete(156)` with the default arguments. Positions are the middles of 16 equal parts of the current range, which
    is the whole video at first; answers are the 136 windows with both ends between two of these parts.

    | action | meaning |
    |---|---|
    | 0 to 15 | look at position 0 to 15 of the current range |
    | 16 | zoom to the left half of the range |
    | 17 | zoom to the middle half |
    | 18 | zoom to the right half |
    | 19 | zoom out: a range twice as long |
    | 20 to 155 | answer with a window of the range, ordered by start, then by end |

    `positions` sets the number of parts; `zoom=False` has no zooms. With an `answerer` there is one answer, the last
    action: that function names the window. With `actions="box"` the space is `Box(0, 1, (4,), float32)`: look at the
    fraction `a[1]` of the video where `a[0]` < 0.5, otherwise answer with the window of the fractions `a[2]` and
    `a[3]`, in any order; numbers outside [0, 1] are clipped, NaN is refused.

    Looking at a frame again, and zooming where the range cannot change, does nothing: `invalid_move`.
    `action_masks()` has the actions that do something.

    ## Observation space
    `Dict` of float32 `Box`es, or with `flatten=True` their concatenation in this order.
    `TemporalLookFlat-v0` is the same with `flatten=True`.

    | key | shape | meaning |
    |---|---|---|
    | query | (Dq,) | the sentence vector |
    | mask | (slots,) | 1 for each slot that a look has filled, in the order of the looks |
    | position | (slots,) | the middle of the frame looked at, a fraction of the video |
    | feature | (slots D,) | what the looks showed, one slot after the other |
    | range | (2,) | start and end of the current range, fractions of the video |
    | budget | (1,) | share of the looks that is left |

    slots is `max_looks`; empty slots hold zeros. Dq is the length of the store's sentence vectors, D that of a frame's
    vector, with `shows="grid"` that of all its cells, and with a `sensor` that of what it returns.

    Features are bounded by ±65,504, whatever the store holds. With `observation="index"` the state itself: `sample`,
    `rows` (slots,) (-1 where empty) and `looks` (int64), `low` and `high` (float64, the range).

    ## Rewards
    The clamped temporal IoU of the answer, minus `look_cost` for every frame that is read for the first time. A row of
    features may need the frames before it: motion of the drawn world is measured against one frame, so a look there
    reads two. `neighbours` says how many; frames that several looks need are paid once.

    `feedback="gain"`, which needs an `answerer`, pays after every look what it added to the IoU of the window that the
    answerer would name; the rewards of an episode add up to the same IoU. `feedback="answer"` pays the IoU of the
    answer and nothing else, and `info` tells no truth: the kind of feedback that users give.

    ## Start
    A sample drawn from the split, the whole video as range, no look. `reset(options=...)` takes `sample` (index into
    the split).

    ## End
    Terminated by an answer. When no look is left, only answers are left: another action answers with the current range;
    an `answerer` is asked at once. Truncated, without an answer and without its reward, after `max_steps` actions,
    which `spec.max_episode_steps` repeats.

    ## Information
    Arrays of fixed shape and dtype, from `reset` on:

    | key | shape, dtype | meaning |
    |---|---|---|
    | `tiou` | () float64 | clamped IoU of the answer with the nearest true window, 0 before the answer |
    | `span` | (2,) float64 | the answer, seconds; zeros before it |
    | `true_span` | (2,) float64 | the true window nearest to `span`, seconds |
    | `looks` | () int64 | looks so far |
    | `frames_read` | () int64 | different frames read so far, those that features need beside their own included |
    | `invalid_move` | () bool | the last action did nothing |
    | `sample` | () int64 | index into the split |
    | `action_mask` | (A,) int8 | actions that do something; absent with box actions |

    `info="full"` adds `true_spans` (K, 2), all true windows, the texts `qid` and `text`, and `path`, the list of rows
    looked at. `info="light"` leaves it empty.

    ## Arguments
    - `features="shapes-v0"`: a registered key, a path of a store, or a `FeatureBank`; `split="train"`; `device="cpu"`.
    - `positions=16`: parts of the range. `max_looks=16`: looks, and slots. `look_cost=0.0`: price of a frame.
      `zoom=True`: whether the range can be zoomed. `max_steps=None`: actions, 2 `max_looks` + 16 by default.
    - `actions="discrete"` | `"box"`; `feedback="full"` | `"gain"` | `"answer"`.
    - `shows="frame"` | `"grid"`: what a look shows. `neighbours=None`: frames before a row that its features need, by
      default what is known of the store's backbone.
    - `sensor=None`: a function of samples (N,) and rows (N,) to (N, K) numbers that stand in the slots instead of the
      features, such as the log-odds of a classifier. It is asked about rows that were looked at and no others.
    - `answerer=None`: a function of states (`low`, `high`, `rows`, `looks`, `sample`) to windows (B, 2), fractions of
      the video.
    - `flatten=False`; `observation="features"` | `"index"`; `info="numeric"` | `"full"` | `"light"`.
    - `reveal_truth=None`: as for `TemporalMoment-v0`; None also withholds the truth where `feedback` is `"answer"`.
    - `render_mode=None` | `"rgb_array"` | `"human"`: what was seen lights up on a time bar.

    ## Version history
    - v0: first release.
    """

    OPTIONS = ("sample",)

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
        check_observation(observation, flatten)
        self._one = TemporalLookVectorEnv(
            1,
            features,
            flatten=flatten,
            observation=observation,
            info=info,
            autoreset_mode=AutoresetMode.DISABLED,
            reveal_truth=reveal_truth,
            **arguments,
        )
        # What the task withholds by itself is withheld from pictures, too.
        self._reveal = self._one._reveal
        self.task, self.bank = self._one.task, self._one.bank
        self.observation_space, self.action_space = self._one.single_observation_space, self._one.single_action_space
        self._ready, self.last_reward = False, 0.0
        self.path: list[int] = []

    @property
    def max_steps(self) -> int:
        """The most steps of an episode."""
        return self._one.max_steps

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see "Start" above for the options."""
        seed, options = check_seed(seed), split_options(options, self.OPTIONS)
        super().reset(seed=seed)
        observation, info = self._one.reset(seed=seed, options=options)
        self._ready, self._opened, self.last_reward, self.path = True, True, 0.0, []
        return self._finish(observation, info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Look, zoom or answer."""
        if not self._ready:
            raise gym.error.ResetNeeded("call reset() before step(), and after an episode has ended")
        if self.task.config.actions == "discrete":
            if not self.action_space.contains(action):
                raise DataError(f"action must be an integer in [0, {self.task.n_actions}), got {shown(action)}")
            actions = np.array([int(action)])
        else:
            try:
                actions = np.asarray(action, np.float64)[None]
            except (TypeError, ValueError, OverflowError):
                actions = np.zeros(())
            if actions.shape != (1, 4) or np.isnan(actions).any():
                raise DataError(
                    f"action must be four numbers in [0, 1]: look or answer, position, start, end; got {shown(action)}"
                )
            # float32, as the space declares
            actions = actions.astype(np.float32)
        observation, reward, terminated, truncated, info = self._one.step(actions)
        self.last_reward = float(reward[0])
        ended, cut = bool(terminated[0]), bool(truncated[0])
        self._ready = not (ended or cut)
        self.path = self._one.rows[0][: int(self._one.looks[0])].tolist()
        seen, details = self._finish(observation, info)
        return seen, self.last_reward, ended, cut, details

    def action_masks(self) -> np.ndarray:
        """(A,) bool: looks at new frames, zooms that change the range, answers; what MaskablePPO reads."""
        return self._one.action_masks()[0]

    def _shots(self) -> list[Shot]:
        self._one._paid = np.array([self.last_reward])
        return self._one._shots()

    def _finish(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self.render_mode == "human":
            self.render()
        details = row_of(info, 0)
        if self.info_mode == "full":
            details["path"] = list(self.path)
        if isinstance(observation, dict):
            return {name: np.array(part[0]) for name, part in observation.items()}, details
        return np.array(observation[0]), details
