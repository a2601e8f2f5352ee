"""The spatial level as pure functions: which box, what it pays, what the agent sees.

An episode walks through the frames of one window. In frame k one action changes the box inherited from frame k - 1
(Eq. 12); the temporal level's critic says whether that helped (Eq. 11).

The comparison. Q_w values the temporal state whose f_o uses the boxes chosen so far and the *updated* box from frame k
on; Q_o the same with the box as it was. So every action counts for all frames that will inherit it, and Q_o of a step
is Q_w of the step before: one evaluation of the critic a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from strong_envs.core import boxes, rewards, spans
from strong_envs.core.observations import INDEX_LIMIT, feature_limit, feature_space
from strong_envs.core.validation import check_number, check_whole, shown
from strong_envs.features.devices import constant, sent
from strong_envs.features.errors import DataError, nearest
from strong_envs.temporal.task import TemporalTask

WINDOWS = ("initial", "truth", "random", "whole")
INHERITANCE = ("previous", "none", "first")
"""Which box a frame begins with: that of the frame before (Eq. 12); b0, frame by frame alone (the paper's TRL+dis);
or the box of the first frame, the only one in which there are actions (TRL+fix)."""

FEW_WINDOWS = 8
"""As many as an observation without attention over frames has, or more."""
FRAMES_A_WINDOW = 12
"""How many frames are pooled in the time in which the sums of one window are read (60 frames of 64 cells, measured)."""
MOST_ACTIONS = 10_000
"""More actions in a frame are refused."""

PAYMENTS = ("sign", "change")
"""What a move earns: the sign of the change of the score (Eq. 11), or the change itself."""

Critic = Callable[[dict[str, Tensor]], Tensor]
"""Temporal observations (named tensors, (B, ...)) to the Q-values of the temporal actions (B, A)."""

AttentionBox = Callable[[Tensor, Tensor], Tensor]
"""Samples (B,) and frames (B,) to the box in which the temporal level looks for its evidence, corners (B, 4)."""


@dataclass(frozen=True)
class SpatialConfig:
    """Arguments of the spatial level. See `SpatialTrackEnv`."""

    reward: str = "q_value"
    payment: str = "sign"
    z_s: float = 10.0
    box_moves: str = "paper"
    actions_per_frame: int = 1
    first_frame_actions: int = 1
    inheritance: str = "previous"
    initial_box: tuple[float, float, float, float] = boxes.INITIAL_BOX
    window: str = "initial"
    tie_tolerance: float = 1e-5
    same_action: bool = False
    appearance: bool = True
    surroundings: bool = True

    def __post_init__(self) -> None:
        choices = (
            ("reward", tuple(rewards.SPATIAL_REWARDS)),
            ("payment", PAYMENTS),
            ("box_moves", boxes.BOX_MOVES),
            ("window", WINDOWS),
            ("inheritance", INHERITANCE),
        )
        for name, valid in choices:
            value = getattr(self, name)
            if value not in valid:
                raise DataError(f"{name} must be one of {valid}, got {value!r}{nearest(value, valid)}")
        check_number(self.z_s, "z_s", 0, 1e6, above=True)
        for name in ("actions_per_frame", "first_frame_actions"):
            check_whole(getattr(self, name), name, most=MOST_ACTIONS)
        check_number(self.tie_tolerance, "tie_tolerance", 0, 1e6)
        if self.same_action and self.reward != "q_value":
            raise DataError(f"same_action compares one action's value under reward='q_value', not {self.reward!r}")
        check_box(self.initial_box, "initial_box")


CONFIG_NAMES = tuple(f.name for f in fields(SpatialConfig))


def check_box(box: object, name: str) -> None:
    """A box must be centre and size inside the frame."""
    try:
        x, y, w, h = (float(v) for v in box)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{name} must be four numbers (centre x, y, width, height), got {shown(box)}") from None
    eps = 1e-6
    inside = x - w / 2 >= -eps and x + w / 2 <= 1 + eps and y - h / 2 >= -eps and y + h / 2 <= 1 + eps
    if not (inside and w > 0 and h > 0):
        raise DataError(f"{name} (centre x, y, width, height) must lie inside [0, 1], got {(x, y, w, h)}")


class TrackState(NamedTuple):
    """State of B spatial episodes.

    ``start`` and ``end`` (B,) are in steps; ``first``, ``last`` and the current ``frame`` (B,) count frames; ``tick``
    counts actions within the frame. ``box``, the one that the next action changes, ``placed``, what the last action
    made, and ``before``, the box that the episode began with, are (B, 4) centre and size. ``sums`` (B, n + 1, D) adds
    up the tracked features of the frames before each frame; ``score`` (B,) is what the reward compared last.
    """

    sample: Tensor
    start: Tensor
    end: Tensor
    first: Tensor
    last: Tensor
    frame: Tensor
    frame_action: Tensor
    box: Tensor
    placed: Tensor
    before: Tensor
    sums: Tensor
    score: Tensor


class SpatialTask:
    """Dynamics, rewards and observations of the spatial level over a `TemporalTask`.

    Args:
        temporal: the temporal level; its configuration shapes what the critic sees.
        config: see `SpatialConfig`.
        critic: see `Critic`; needed by the rewards that compare Q-values.
        attention_box: see `AttentionBox`; where given, the agent sees it, and ``reward="attention_box"`` pays it for
            following.
    """

    def __init__(
        self,
        temporal: TemporalTask,
        config: SpatialConfig,
        critic: Critic | None,
        attention_box: AttentionBox | None = None,
    ) -> None:
        self.temporal, self.config, self.critic, self.bank = temporal, config, critic, temporal.bank
        self.reward = rewards.find_spatial_reward(config.reward)
        if self.reward.source == "true_box" and not self.bank.has_boxes:
            raise DataError(
                f"reward={config.reward!r} needs a true box track for every query; {self.bank.name!r} lacks them"
            )
        if self.reward.source == "attention_box" and attention_box is None:
            raise DataError(
                f"reward={config.reward!r} follows where the temporal level looks: pass "
                "attention_box=callable(samples, frames)"
            )
        if not (config.appearance or config.surroundings or attention_box is not None):
            raise DataError(
                "with appearance=False the agent needs surroundings=True or an attention_box: it would see nothing"
            )
        self.attention_box = attention_box
        for name, given in (("critic", critic), ("attention_box", attention_box)):
            if given is not None and not callable(given):
                raise DataError(f"{name} must be callable, got {given!r}")
        if self.needs_critic and critic is None:
            raise DataError(
                f"reward={config.reward!r} compares Q-values and there is no critic for {self.bank.name!r}: pass "
                "critic=callable(observation) -> (B, A) Q-values, or wrap both levels in SpatioTemporalCoupling, "
                "or use reward='box_iou' on a store with true boxes"
            )
        self.table = torch.as_tensor(boxes.move_table(config.z_s, config.box_moves), device=self.bank.device)
        _, _, self.channels = self.bank.grid_shape
        self.pooled = temporal.local.box_dim

    @property
    def n_actions(self) -> int:
        """Number of moves."""
        return len(self.table)

    @property
    def needs_critic(self) -> bool:
        """Whether the reward compares Q-values."""
        return self.reward.source == "critic"

    def random_states(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """States drawn uniformly, sample, frame and box, in windows of whole videos; sides are at least a tenth."""
        device = self.bank.device
        sample = sent(torch.randint(len(self.bank), (count,), generator=generator), device)
        dice = sent(torch.rand(count, 5, generator=generator), device).to(torch.float64)
        last = self.temporal.n_frames[sample]
        size = 0.1 + 0.9 * dice[:, :2]
        box = torch.cat((size / 2 + (1 - size) * dice[:, 2:4], size), -1)
        return {
            "sample": sample,
            "first": torch.zeros_like(sample),
            "last": last,
            "frame": (dice[:, 4] * last).to(torch.int64),
            "box": box,
        }

    def window(self, samples: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The temporal window of each episode, in steps; ``uniform`` (B, 2) in [0, 1) decides what is random."""
        total, kind = self.temporal.config.total, self.config.window
        if kind == "initial":
            return self.temporal.initial(samples)
        if kind == "truth":
            return self.true_window(samples, uniform)
        if kind == "whole":
            zero = torch.zeros(samples.shape, dtype=torch.float64, device=self.bank.device)
            return zero, zero + total
        start = torch.floor(uniform[:, 0] * (total - 1))
        return start, (start + 1 + torch.floor(uniform[:, 1] * (total - start))).clamp(max=total)

    def true_window(self, samples: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """A true window of each sample, in steps; where there are several, the one that ``uniform`` (B, 2) picks."""
        truth = self.temporal.truth[samples]
        count = 1 + (truth[:, 1:] != truth[:, :-1]).any(-1).sum(-1)  # the last one is repeated
        pick = torch.minimum((uniform[:, 0] * count).to(torch.int64), count - 1)
        chosen = truth[torch.arange(len(truth), device=truth.device), pick]
        return chosen[:, 0], chosen[:, 1]

    def action_mask(self, box: Tensor) -> Tensor:
        """Which actions change boxes (B, 4), or stop: (B, A) bool."""
        count = len(box)
        action = torch.arange(self.n_actions, device=box.device).repeat(count)
        _, valid = boxes.move(box.repeat_interleave(self.n_actions, 0), action, self.table)
        return (valid | (action == boxes.STOP)).view(count, self.n_actions)

    @property
    def max_steps(self) -> int:
        """The most steps of an episode: the actions in every frame of the longest video."""
        later = 0 if self.config.inheritance == "first" else self.bank.max_frames - 1
        return self.config.first_frame_actions + later * self.config.actions_per_frame

    def begin(self, samples: Tensor, start: Tensor, end: Tensor, box: Tensor, sums: Tensor | None = None) -> TrackState:
        """The state before the first frame: spans in steps (B,), boxes (B, 4) centre and size.

        ``sums`` are those of an earlier walk to use again, as they are: only differences between entries that a walk
        has written itself are ever read.
        """
        bank = self.bank
        first, last = spans.frame_window(start, end, self.temporal.config.total, self.temporal.n_frames[samples])
        if sums is None:
            sums = torch.zeros((len(samples), bank.max_frames + 1, self.pooled), device=bank.device)
        box = box.to(torch.float64)
        zeros = torch.zeros(len(samples), dtype=torch.float64, device=bank.device)
        walk = TrackState(samples, start, end, first, last, first, torch.zeros_like(first), box, box, box, sums, zeros)
        return walk._replace(score=self.score(walk, box))

    def step(self, walk: TrackState, action: Tensor) -> tuple[TrackState, Tensor, Tensor, Tensor]:
        """One action in the current frame: the next state, reward (B,) float64, terminated (B,), valid (B,)."""
        config = self.config
        # An episode that has ended and waits for its reset stays in its last frame.
        walk = walk._replace(frame=self._current(walk))
        box, valid = boxes.move(walk.box, action, self.table)
        if config.same_action:
            with_update, without = self._same_action_values(walk, box)
            score = with_update
        else:
            # A box is judged by its own frame, so the one before must be looked at again there.
            without = walk.score if self.needs_critic else self.score(walk, walk.box)
            score = with_update = self.score(walk, box)
        reward = self._paid(with_update, without)
        frame_action = walk.frame_action + 1
        opening = walk.frame == walk.first
        leave = frame_action >= torch.where(opening, config.first_frame_actions, config.actions_per_frame)
        frame = torch.where(leave, walk.frame + 1, walk.frame)
        frame_action = torch.where(leave, 0, frame_action)
        feature = self.temporal.local.inside(walk.sample, walk.frame, boxes.corners(box).to(torch.float32))
        placed, done = box, frame >= walk.last
        if config.inheritance == "none":
            box = torch.where(leave[:, None], walk.before, box)
        elif config.inheritance == "first":
            frame, done = walk.frame, leave
        index = torch.arange(len(frame), device=self.bank.device)
        # In place: entry frame + 1 is read only after this step, and written anew on each action of the frame.
        sums = walk.sums
        sums[index, walk.frame + 1] = sums[index, walk.frame] + feature
        walk = walk._replace(frame=frame, frame_action=frame_action, box=box, placed=placed, sums=sums, score=score)
        return walk, reward, done, valid

    def _paid(self, with_update: Tensor, without: Tensor) -> Tensor:
        """What moves earn whose scores are ``with_update``, and ``without`` them."""
        if self.config.payment == "change":
            return with_update - without
        return rewards.compare(with_update, without, self.config.tie_tolerance)

    def score(self, walk: TrackState, box: Tensor) -> Tensor:
        """What the reward compares, if ``box`` were inherited from the current frame on: (B,) float64."""
        if not self.needs_critic:
            return self.frame_score(walk.sample, self._current(walk), box)
        q, signs = self.q_values(walk, box), None
        if self.reward.temporal_truth:
            signs = self.temporal.move_rewards(walk.sample, walk.start, walk.end)
        return self.reward(q, signs).to(torch.float64)

    def frame_score(self, sample: Tensor, frame: Tensor, box: Tensor) -> Tensor:
        """How good boxes are in their frames, by the rewards that look at one frame: (B,) or (B, P) float64.

        ``box`` is (B, 4) or (B, P, 4), centre and size; it is compared with the true box of the frame or with that of
        the frame attention, as the ``source`` of the reward says.
        """
        edges = boxes.corners(box)
        if self.reward.source == "true_box":
            wanted = self.bank.true_box(sample, frame)
        else:
            assert self.attention_box is not None
            wanted = self.attention_box(sample, frame)
        wanted = wanted.to(torch.float64)
        return self.reward(edges, wanted if box.ndim == 2 else wanted[:, None].expand_as(edges)).to(torch.float64)

    def action_rewards(self, sample: Tensor, frame: Tensor, box: Tensor, gain: float = 0.0) -> Tensor:
        """What a step pays for every action in stored states, (B, A) float32; for the rewards that look at one frame.

        On top of it ``gain`` times what the move gains relative to the largest of the state: among moves that all help,
        and from afar even growing helps, the one that helps most stands out.

        Raises:
            DataError: a reward that compares Q-values, which takes the boxes of a whole window and not of one frame.
        """
        if self.needs_critic:
            raise DataError(
                f"reward={self.config.reward!r} is known for the move that was made only; train with algorithm='dqn' "
                "or 'ddpg'"
            )
        count, actions = len(sample), self.n_actions
        moves = torch.arange(actions, device=box.device).repeat(count)
        moved, _ = boxes.move(box.to(torch.float64).repeat_interleave(actions, 0), moves, self.table)
        tried = torch.cat((moved.view(count, actions, 4), box.to(torch.float64)[:, None]), 1)
        scores = self.frame_score(sample, frame, tried)
        reward = self._paid(scores[:, :-1], scores[:, -1:])
        if gain:
            reward = reward + gain * rewards.relative_gains(scores[:, :-1] - scores[:, -1:])
        return reward.to(torch.float32)

    def q_values(self, walk: TrackState, box: Tensor) -> Tensor:
        """Q-values (B, A) of the temporal state whose f_o has ``box`` from the current frame on."""
        t = torch.zeros_like(walk.first)
        observation = self.temporal.observe(walk.sample, walk.start, walk.end, t, local=self.trial(walk, box))
        assert self.critic is not None  # see `needs_critic`
        with torch.no_grad():
            q = self.critic(observation)
        if not isinstance(q, Tensor) or q.shape != (len(walk.sample), self.temporal.n_actions):
            got = tuple(q.shape) if isinstance(q, Tensor) else type(q).__name__
            wanted = f"({len(walk.sample)}, {self.temporal.n_actions})"
            raise DataError(f"the critic must return a tensor of one value per temporal action, {wanted}, got {got}")
        return q

    def _same_action_values(self, walk: TrackState, box: Tensor) -> tuple[Tensor, Tensor]:
        """Both Q-values of one action, the best without the update (decision: ``same_action``)."""
        without = self.q_values(walk, walk.box)
        best = without.argmax(-1, keepdim=True)
        updated = self.q_values(walk, box)
        return updated.gather(1, best)[:, 0].to(torch.float64), without.gather(1, best)[:, 0].to(torch.float64)

    def trial(self, walk: TrackState, box: Tensor) -> Tensor:
        """f_o of the temporal windows: boxes as tracked before the current frame, ``box`` from there on: (B, P, D).

        Frames before the walk's window keep the box that the episode began with; so do those after the current frame
        under ``inheritance="none"``, where they will not have ``box``.
        """
        a, c = self.temporal.windows(walk.sample, walk.start, walk.end)
        # The few windows of an observation are read from sums, in constant time. Attention over frames asks for one a
        # frame or stretch; pooling each frame once takes less time then, if the video is not much longer.
        many = a.shape[1] > FEW_WINDOWS and FRAMES_A_WINDOW * a.shape[1] > self.bank.max_frames
        if self.temporal.local.by_frame or many:
            return self._trial_by_frame(walk, box, a, c)
        first, now = walk.first[:, None], walk.frame[:, None]
        row = torch.arange(len(a), device=a.device)[:, None]
        tracked = walk.sums[row, c.clamp(max=now).clamp(min=first)] - walk.sums[row, a.clamp(min=first).clamp(max=now)]
        video = self.bank.video[walk.sample][:, None].expand_as(a)

        def same_box(low: Tensor, high: Tensor, edges: Tensor) -> Tensor:
            edges = self.temporal.local.widened(boxes.corners(edges).to(torch.float32))[:, None].expand(*a.shape, 4)
            return self.bank.box_sums(video, low, torch.maximum(low, high), edges)

        until = torch.minimum(c, now + 1) if self.config.inheritance == "none" else c
        total = tracked + same_box(torch.maximum(a, now), until, box)
        if self.config.inheritance == "none":
            total = total + same_box(torch.maximum(a, now + 1), c, walk.before)
        total = total + same_box(a, torch.minimum(c, first), walk.before)
        return total / (c - a).clamp(min=1).unsqueeze(-1)

    def _trial_by_frame(self, walk: TrackState, box: Tensor, a: Tensor, c: Tensor) -> Tensor:
        """`trial` that pools f_o in every frame of the windows [a, c), and then adds them up."""
        at = torch.arange(self.bank.max_frames, device=a.device)
        wanted = ((at >= a[..., None]) & (at < c[..., None])).any(1)
        first, now = walk.first[:, None], walk.frame[:, None]
        tracked = (at >= first) & (at < now)
        owner, frame = (wanted & ~tracked).nonzero(as_tuple=True)
        tried = frame >= walk.frame[owner]
        if self.config.inheritance == "none":
            tried = frame == walk.frame[owner]
        edges = boxes.corners(torch.where(tried[:, None], box[owner], walk.before[owner])).to(torch.float32)
        features = torch.where(tracked[..., None], walk.sums[:, 1:] - walk.sums[:, :-1], 0.0)
        features[owner, frame] = self.temporal.local.inside(walk.sample[owner], frame, edges)
        sums = torch.cat((features.new_zeros(len(a), 1, features.shape[2]), features.cumsum(1)), 1)
        row = torch.arange(len(a), device=a.device)[:, None]
        return (sums[row, c] - sums[row, a]) / (c - a).clamp(min=1).unsqueeze(-1)

    def observe(self, walk: TrackState) -> dict[str, Tensor]:
        """The state of Eq. 10 in the paper's order: query, scene (f_s), box features (f_o^k), with ``appearance``.

        With ``surroundings``: ``around`` (B, 5 D), the features of a box twice as large and of the four neighbours
        (left, right, up, down), and ``box`` (B, 4), centre and size. Without them the agent cannot see where it is nor
        where the object went. With a frame attention: ``attention_box`` (B, 4), its corners minus those of the box.
        """
        return self.observe_index(walk.sample, walk.first, walk.last, walk.frame, walk.box)

    def observe_index(
        self, sample: Tensor, first: Tensor, last: Tensor, frame: Tensor, box: Tensor
    ) -> dict[str, Tensor]:
        """`observe` from what a replay stores: (B,) sample, window and frame, and the boxes (B, 4)."""
        rows = self.bank.offsets[self.bank.video[sample]] + torch.minimum(frame, last - 1)
        box = box.to(torch.float32)
        observation = {}
        if self.config.appearance:
            observation["query"] = self.bank.query[sample]
            observation["scene"] = self.bank.frame_means(sample, first, last)
            local, edges = self.temporal.local, boxes.corners(box)
            # What lies in the box itself, without the margin that the temporal level may have around it.
            pyramid = local.levels != (1,)
            observation["inside"] = local.pool(rows, edges) if pyramid else self.bank.frame_box_features(rows, edges)
        if self.config.surroundings:
            observation["around"] = self.around(rows, box)
            observation["box"] = box
        if self.attention_box is not None:
            frames_seen = self.attention_box(sample, torch.minimum(frame, last - 1)).to(torch.float32)
            observation["attention_box"] = frames_seen - boxes.corners(box)
        return observation

    def around(self, rows: Tensor, box: Tensor) -> Tensor:
        """Features of five boxes around each box, clipped to the frame: (B, 5 D)."""
        size = box[:, 2:]
        shifts = constant(((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)), box.dtype, box.device)
        scale = constant((2.0, 1, 1, 1, 1), box.dtype, box.device)
        centre = box[:, None, :2] + shifts * size[:, None]
        half = size[:, None] * scale[:, None] / 2
        # A neighbour outside the frame shrinks to a sliver at its border.
        low, high = (centre - half).clamp(0, 1 - 1e-3), (centre + half).clamp(0, 1)
        edges = torch.cat((low, torch.maximum(high, low + 1e-3)), -1)
        return self.bank.frame_box_features(rows, edges).flatten(1)

    def dims(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parts of an observation, in order."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.config.appearance:
            shapes |= {
                "query": (self.bank.query_dim,),
                "scene": (self.bank.frame_dim,),
                "inside": (self.pooled,),
            }
        if self.config.surroundings:
            shapes |= {"around": (5 * self.channels,), "box": (4,)}
        if self.attention_box is not None:
            shapes["attention_box"] = (4,)
        return shapes

    def observation_space(self, flatten: bool) -> spaces.Space:
        """The Gymnasium space of `observe`."""
        store = self.bank.store
        limit = feature_limit(store.range("queries"), store.range("frames"), store.range("grid"))
        return feature_space(self.dims(), flatten, limit)

    def index_space(self) -> spaces.Space:
        """The Gymnasium space of what a replay stores: sample, window and frame (frames), box (centre and size)."""
        counts = {name: spaces.Box(0, INDEX_LIMIT, (), np.int64) for name in ("sample", "first", "last", "frame")}
        return spaces.Dict({**counts, "box": spaces.Box(0.0, 1.0, (4,), np.float64)})

    def _current(self, walk: TrackState) -> Tensor:
        return torch.minimum(walk.frame, walk.last - 1)
