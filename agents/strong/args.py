"""Arguments of STRONG and of its levels; `agents.strong.presets` makes them of a preset, a constructor or a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Any, cast

from strong_envs.agents.ranges import check_fields, hints_of
from strong_envs.agents.strong.cell_attention.attention import CellAttentionArgs
from strong_envs.agents.strong.frame_attention.attention import FrameAttentionArgs
from strong_envs.agents.strong.levels.ddpg import DDPGArgs
from strong_envs.agents.strong.levels.dqn import DQNArgs
from strong_envs.agents.strong.levels.full_feedback import FullFeedbackArgs
from strong_envs.agents.strong.levels.level import LevelArgs
from strong_envs.core import boxes as box_ops
from strong_envs.core.validation import check_choice
from strong_envs.features.errors import DataError, nearest
from strong_envs.local_features import REDUCE, SOURCES
from strong_envs.rollout import OUTSIDE
from strong_envs.spatial.task import SpatialConfig
from strong_envs.temporal.task import TemporalConfig

LEARNT = ("tracked", "attention", "static_attention")
"""Boxes that are learnt, so that training goes in turns."""
BOXES = (*SOURCES, *LEARNT)
BOUNDS = ("truth", "static")
"""Boxes that use the truth: upper bounds."""
SELECT = ("last", "value")
ATTENTION = ("cells", "frames", "none")
SCORE_OBSERVATION = ("means", "posterior")
TRACKED_WINDOW = ("video", "localised")
LEARNS_FROM = ("own rewards", "frame labels", "all rewards")
ALGORITHMS: dict[str, type[LevelArgs]] = {"dqn": DQNArgs, "ddpg": DDPGArgs, "full feedback": FullFeedbackArgs}
"""Arguments of a level by their ``algorithm``."""
AnyLevelArgs: type = make_dataclass(
    "AnyLevelArgs",
    {name: hint for kind in ALGORITHMS.values() for name, hint in hints_of(cast(Any, kind)).items()}.items(),
)
"""The fields of the arguments of all algorithms."""
PAPER: dict[str, Any] = {
    "algorithm": "ddpg",
    "network": "plain",
    "num_envs": 128,
    "batch": 128,
    "updates": 1,
    "lr_actor": 0.01,
    "lr_critic": 0.01,
    "weight_decay": 0.0,
    "decay": False,
    "gamma": 0.2,
    "tau": 0.02,
    "entropy": 0.0,
    "attention_heads": 1,
    "attention_timed": False,
    "actor_hidden": (500, 128),
    "critic_hidden": (1024, 512, 300),
    "standardise": False,
    "weights_std": 0.1,
}
"""What ``preset="paper"`` changes in a level."""
PRESETS = ("default", "paper")


def level_args(preset: str = "default", **changes: Any) -> LevelArgs:
    """The arguments of a level in a preset with some of them changed: `DQNArgs` unless ``algorithm`` names another.

    Raises:
        DataError: an unknown preset, name or choice.
    """
    if preset not in PRESETS:
        raise DataError(f"preset must be one of {PRESETS}, got {preset!r}{nearest(str(preset), PRESETS)}")
    base = changed_level(DQNArgs(), PAPER) if preset == "paper" else DQNArgs()
    return changed_level(base, changes)


def changed_level(args: LevelArgs, changes: Mapping[str, Any]) -> LevelArgs:
    """Arguments of a level with some of them changed; another ``algorithm`` starts from the defaults of its own.

    Of the arguments given so far it then keeps ``steps``, ``stop`` and ``seed``.
    """
    algorithm = changes.get("algorithm", args.algorithm)
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        valid = tuple(ALGORITHMS)
        raise DataError(f"algorithm must be one of {valid}, got {algorithm!r}{nearest(str(algorithm), valid)}")
    kind = ALGORITHMS[algorithm]
    names = [f.name for f in fields(kind)]
    for name in changes:
        if name not in names:
            owners = [other for other, its in ALGORITHMS.items() if name in (f.name for f in fields(its))]
            if owners:
                raise DataError(
                    f"{name} is an argument of algorithm={' and '.join(map(repr, owners))}, not {algorithm!r}"
                )
            raise DataError(
                f"algorithm={algorithm!r} has no argument {name!r}{nearest(name, names)}; it has {sorted(names)}"
            )
    if kind is not type(args):
        args = kind(steps=args.steps, stop=args.stop, seed=args.seed)
    return replace(args, **changes)


@dataclass(frozen=True)
class StrongArgs:
    """Arguments of `Strong`; the defaults are ``preset="default"``."""

    learns_from: str = "own rewards"
    """``"own rewards"``: both levels learn from what `step` pays in their own episodes, and the attention from the
    error of the temporal critic, or with ``frame_scores=True`` from windows recovered from these rewards
    (`window_episodes`). ``"frame labels"``: the same levels, but the boxes follow a frame attention that is trained to
    classify frames as inside or outside the moment. ``"all rewards"``: with such a frame attention, and levels that
    know the rewards of all moves in uniformly drawn states (`agents.strong.levels.full_feedback`)."""
    boxes: str = "tracked"
    """Source of f_o: see `agents.strong.agent`."""
    attention: str = "cells"
    """``"cells"``: over the cells of each frame (`agents.strong.cell_attention`); ``"frames"``: both attentions over
    frames (Eqs. 2-3 and 13-14, `agents.strong.attention`); ``"none"``: means (STRONG-A)."""
    blind: bool = False
    """Hide every visual part of the observation."""
    rounds: int = 3
    """Turns of spatial and temporal training, after the pre-training of the temporal level."""
    pretrain_steps: int = 800_000
    """Steps of the temporal level before the first turn. A system without turns trains for as many as are given, and by
    default for as many as a tracked one spends on its temporal level."""
    spatial_steps: int = 60_000
    temporal_steps: int = 160_000
    """Steps of the temporal level in a turn, on average over the turns."""
    ramp: float = 1.0
    """Factor by which each turn trains the temporal level longer than the one before; the sum over the turns stays."""
    cells: CellAttentionArgs = field(default_factory=CellAttentionArgs)
    """The attention over cells, with ``attention="cells"``."""
    frame_attention: FrameAttentionArgs = field(default_factory=FrameAttentionArgs)
    """The attention that is trained with frame labels, at the start of every turn."""
    frame_scores: bool = False
    """Adds the logits of the frame attention, averaged in the window and around it, to the observation of the temporal
    level; see `FrameScoresTask`."""
    score_observation: str = "means"
    """What of these scores is observed: ``"means"``, those means; ``"posterior"``, also what the posterior over windows
    that all scores of the video give says about the window and each move
    (`agents.strong.frame_attention.posterior`)."""
    window_episodes: int = 8
    """With ``frame_scores=True`` and ``learns_from="own rewards"``: episodes of random moves in every training query.
    Their rewards determine where its moment is, and the frame attention learns these windows
    (`agents.strong.frame_attention.windows_from_rewards`)."""
    folds: int = 5
    """Where clips recur in several videos, the boxes and scores that the levels train on are those of as many frame
    attentions, each of which has not learnt from a part of the groups of clips and answers for it."""
    average_folds: bool = False
    """Whether predictions take the mean of these frame attentions and the one that has learnt from all groups."""
    random_boxes: float = 0.3
    """Share of the samples with another box while the temporal level trains in a tracked system: the whole frame where
    it has an attention over cells, else a random one."""
    box_margin: float = 0.2
    """Added around every box before the temporal level looks inside, in fractions of the frame."""
    spp_levels: tuple[int, ...] = (1,)
    """Bins per side of the spatial pyramid that f_o pools a box with: (1,) its mean, (1, 2, 4) the paper's [1, 4, 16]
    bins (section 3.3)."""
    spp_reduce: str = "max"
    """How these bins become one vector: ``"max"``, as long as a cell (the paper's 2,048 numbers), or ``"concat"``."""
    attention_stretches: int | None = 20
    """Equal stretches of the video that ``attention="frames"`` weighs; None weighs every frame, as the paper does, at a
    cost that grows with the longest video."""
    tracked_window: str = "video"
    """Where the tracker walks: ``"video"``, through the whole video from its first frame; ``"localised"``, from the
    left end of the window that the temporal level localises to its right end (Eq. 12 within l_t). Training episodes of
    the spatial level then lie in these windows, too, whatever ``spatial_env.window`` says. The windows are those of
    greedy episodes on the boxes so far: a prediction begins with whole frames, and localises and tracks once for every
    turn that was trained."""
    outside_boxes: str = "whole"
    """What stands for a frame outside that window, which the paper does not say: ``"whole"``, the whole frame (section
    3.4: where nothing is tracked, f_o := f_s); ``"initial"``, b0; ``"nearest"``, the first or the last tracked box."""
    temporal: LevelArgs = field(default_factory=lambda: level_args())
    select: str = "last"
    """Result of an episode: ``"last"``, the window after the last move, or ``"value"``, the window of its path in which
    stopping has the highest predicted value relative to the other moves."""
    exploring_starts: bool = False
    """Train the temporal level from random windows. Predictions begin with the initial window in any case."""
    spatial: LevelArgs = field(
        default_factory=lambda: level_args(network="plain", num_envs=128, stop=box_ops.STOP, hidden=(64, 64))
    )
    temporal_env: TemporalConfig = field(
        default_factory=lambda: TemporalConfig(multi_scale=True, reward="iou_delta", phi=0.001)
    )
    spatial_env: SpatialConfig = field(
        default_factory=lambda: SpatialConfig(
            reward="attention_box",
            payment="change",
            window="random",
            first_frame_actions=16,
            actions_per_frame=2,
            appearance=False,
            surroundings=False,
        )
    )
    seed: int = 0

    def __post_init__(self) -> None:
        choices = (
            ("learns_from", LEARNS_FROM),
            ("boxes", BOXES),
            ("attention", ATTENTION),
            ("select", SELECT),
            ("score_observation", SCORE_OBSERVATION),
            ("spp_reduce", REDUCE),
            ("tracked_window", TRACKED_WINDOW),
            ("outside_boxes", OUTSIDE),
        )
        for name, valid in choices:
            check_choice(getattr(self, name), name, valid)
        check_fields(self)
        for environment in (self.temporal_env, self.spatial_env):
            check_fields(environment)
        full = isinstance(self.temporal, FullFeedbackArgs) or (
            self.boxes == "tracked" and isinstance(self.spatial, FullFeedbackArgs)
        )
        if full != (self.learns_from == "all rewards"):
            raise DataError(
                f"learns_from={self.learns_from!r} does not agree with algorithm={self.temporal.algorithm!r} of the "
                f"temporal and {self.spatial.algorithm!r} of the spatial level: 'full feedback' learns from "
                "'all rewards', and the others do not"
            )
        if self.attention == "cells" and tuple(self.spp_levels) != (1,):
            raise DataError(
                f"attention='cells' weighs the cells of a box and pools no pyramid; leave spp_levels at (1,), got "
                f"{self.spp_levels}"
            )
        if self.attention == "cells" and self.temporal.algorithm == "full feedback":
            raise DataError(
                "attention='cells' learns from the moves of episodes: algorithm of the temporal level must be 'dqn' or "
                f"'ddpg', got {self.temporal.algorithm!r}"
            )
        if self.attention == "cells" and (
            self.temporal_env.time_in_observation or self.temporal_env.global_scope != "video"
        ):
            raise DataError(
                "attention='cells' needs time_in_observation=False and global_scope='video' of temporal_env, got "
                f"{self.temporal_env.time_in_observation} and {self.temporal_env.global_scope!r}"
            )
        if self.needs_attention_boxes and not self.has_frame_attention and self.attention != "cells":
            raise DataError(
                f"boxes={self.boxes!r} follow an attention; with learns_from='own rewards' it must be "
                f"attention='cells', or that of frame_scores=True, got {self.attention!r}"
            )
        if self.frame_scores and (self.attention != "none" or not (self.needs_attention_boxes or self.scores_frames)):
            raise DataError(
                "frame_scores=True requires frame attention: boxes must be 'attention', 'static_attention', 'tracked' "
                "with reward='attention_box', or 'frame' with frame_attention.whole_frames, and attention 'none'; "
                f"got boxes={self.boxes!r}, reward={self.spatial_env.reward!r}, attention={self.attention!r}, "
                f"whole_frames={self.frame_attention.whole_frames}"
            )
        if self.score_observation != "means" and not self.frame_scores:
            raise DataError(f"score_observation={self.score_observation!r} requires frame_scores=True")

    @property
    def takes_turns(self) -> bool:
        """Whether boxes are learnt, so that training goes in turns."""
        return self.boxes in LEARNT

    @property
    def needs_attention_boxes(self) -> bool:
        """Whether boxes follow the peak of an attention."""
        rests = self.boxes in ("attention", "static_attention")
        return rests or (self.boxes == "tracked" and self.spatial_env.reward == "attention_box")

    @property
    def has_frame_attention(self) -> bool:
        """Whether the system trains a frame attention, with frame labels or for the scores of frames."""
        return self.frame_scores or (self.needs_attention_boxes and self.learns_from != "own rewards")

    @property
    def scores_frames(self) -> bool:
        """Whether the frame attention scores whole frames and gives no boxes."""
        return self.boxes == "frame" and self.frame_attention.whole_frames

    def turn_steps(self, turn: int) -> int:
        """Steps of the temporal level in a turn, counted from 1."""
        weights = [self.ramp**i for i in range(self.rounds)]
        return round(self.temporal_steps * self.rounds * weights[turn - 1] / sum(weights))
