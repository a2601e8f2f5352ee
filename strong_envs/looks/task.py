"""The look task as functions of indices: state in, state, reward or observation out; shared by all shells and agents.

The state of an episode is ``(sample, low, high, rows, looks)``: the range that positions divide, and the rows looked
at so far in their order. An observation is a function of this state, and only the rows in it are ever read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from strong_envs import features as feature_registry
from strong_envs.core import spans
from strong_envs.core.observations import FEATURE_LIMIT, INDEX_LIMIT, feature_limit, feature_space
from strong_envs.core.validation import check_choice, check_number, check_whole, refuse_unknown
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.store.store import FeatureStore
from strong_envs.looks import dynamics

ACTIONS = ("discrete", "box")
SHOWS = ("frame", "grid")
FEEDBACK = ("full", "gain", "answer")
MOST_LOOKS = 4096
MOST_POSITIONS = 100_000
"""With an answerer. Without one there are answers between all positions, so `MOST_LOOKS` bounds them too."""
READS_BEFORE = {"shapes cells": 1}
"""Backbones whose rows need the frames before them: the motion of the drawn world is measured against one frame."""


def frames_before(backbone: Mapping[str, Any] | None) -> int:
    """Frames before a row that features of a backbone need, as a store or a saved system describes it; 0 if unknown."""
    return READS_BEFORE.get(str((backbone or {}).get("name")), 0)


Sensor = Callable[[Tensor, Tensor], Tensor]
"""Samples (N,) and rows of their videos (N,), int64, to what a look at each shows (N, K) float32."""
Answerer = Callable[[dict[str, Tensor]], Tensor]
"""States, named (B, ...) tensors, to windows (B, 2) float64, fractions of the video."""


@dataclass(frozen=True)
class LookConfig:
    """Arguments of the look task; see `TemporalLookEnv`."""

    positions: int = 16
    max_looks: int = 16
    look_cost: float = 0.0
    zoom: bool = True
    actions: str = "discrete"
    shows: str = "frame"
    feedback: str = "full"
    neighbours: int | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        whole = {
            "positions": check_whole(self.positions, "positions", least=2, most=MOST_POSITIONS),
            "max_looks": check_whole(self.max_looks, "max_looks", most=MOST_LOOKS),
        }
        check_number(self.look_cost, "look_cost", 0, 1)
        check_choice(self.actions, "actions", ACTIONS)
        check_choice(self.shows, "shows", SHOWS)
        check_choice(self.feedback, "feedback", FEEDBACK)
        if not isinstance(self.zoom, bool):
            raise DataError(f"zoom must be True or False, got {self.zoom!r}")
        if self.neighbours is not None:
            whole["neighbours"] = check_whole(self.neighbours, "neighbours", least=0, most=1000)
        if self.max_steps is not None:
            whole["max_steps"] = check_whole(self.max_steps, "max_steps", most=100_000)
        for name, value in whole.items():
            # 16.0 is a whole number too, but sizes no tensor.
            object.__setattr__(self, name, value)

    @property
    def limit(self) -> int:
        """The most steps of an episode."""
        return self.max_steps if self.max_steps is not None else 2 * self.max_looks + 16


CONFIG_NAMES = tuple(f.name for f in fields(LookConfig))


class Looked(NamedTuple):
    """What one action did: ``state`` named (B, ...) tensors, the window of the answer (B, 2), and (B,) each."""

    state: dict[str, Tensor]
    window: Tensor
    answered: Tensor
    new_frames: Tensor
    valid: Tensor


class LookTask:
    """A bank, a configuration, what a look shows and what answers, with dynamics, masks and observations.

    Args:
        bank: features of one split; rows are read when they are looked at. config: see `LookConfig`.
        sensor: what a look shows in place of the features, see `Sensor`. answerer: what names the window, see
            `Answerer`; without one, actions do.

    Attributes:
        neighbours: frames before a row that its features need. n_frames: (S,) int64 rows of each sample's video.
        n_actions: number of discrete actions, 0 for box actions.
    """

    def __init__(
        self, bank: FeatureBank, config: LookConfig, sensor: Sensor | None = None, answerer: Answerer | None = None
    ) -> None:
        self.bank, self.config, self.sensor, self.answerer = bank, config, sensor, answerer
        for name, value in (("sensor", sensor), ("answerer", answerer)):
            if value is not None and not callable(value):
                raise DataError(f"{name} must be a function or None, got {value!r}")
        if config.feedback == "gain" and answerer is None:
            raise DataError("feedback='gain' pays what each look adds to the answer and needs answerer=")
        if config.actions == "box" and answerer is not None:
            raise DataError("a box action names the window itself; drop answerer= or actions='box'")
        known = frames_before(bank.store.manifest.get("backbone"))
        self.neighbours = known if config.neighbours is None else config.neighbours
        self.n_frames = bank.n_frames[bank.video]
        if answerer is None and config.positions > MOST_LOOKS:
            raise DataError(
                f"positions must be a whole number in [2, {MOST_LOOKS:,}] without an answerer, got {config.positions}"
            )
        # An answerer names the window; its only action stands for the whole range.
        self.answers = dynamics.answers(config.positions if answerer is None else 1, bank.device)
        looks_and_zooms = config.positions + len(dynamics.ZOOMS) * config.zoom
        self._first_answer = looks_and_zooms
        count = looks_and_zooms + len(self.answers)
        self.n_actions = count if config.actions == "discrete" else 0
        if sensor is not None:
            first = torch.zeros(1, dtype=torch.int64, device=bank.device)
            self.dim = 0
            self.dim = self.look(first, first).shape[1]
        else:
            if config.shows == "grid" and not bank.has_grid:
                raise DataError(
                    f"store {bank.store.name!r} has no spatial grid; extract or import it with --grid, or use "
                    "shows='frame'"
                )
            self.dim = bank.frame_dim if config.shows == "frame" else int(np.prod(bank.grid_shape))

    @cached_property
    def truth(self) -> Tensor:
        """(S, K, 2) true windows, fractions; not before a reward asks, so that a masked bank can be observed."""
        return self.bank.truth

    # Spaces -----------------------------------------------------------------------------------------------------

    def observation_space(self, flatten: bool) -> spaces.Space:
        """The space of `observe`, see `TemporalLookEnv`."""
        slots = self.config.max_looks
        shapes: dict[str, tuple[int, ...]] = {"query": (self.bank.query_dim,), "mask": (slots,), "position": (slots,)}
        shapes |= {"feature": (slots * self.dim,), "range": (2,), "budget": (1,)}
        name = "frames" if self.config.shows == "frame" else "grid"
        ranges = [self.bank.store.range("queries")]
        if self.sensor is None:
            ranges.append(self.bank.store.range(name))
        return feature_space(shapes, flatten, feature_limit(*ranges))

    def index_space(self) -> spaces.Dict:
        """The space of the state itself."""
        slots = (self.config.max_looks,)
        return spaces.Dict(
            {
                "sample": spaces.Box(0, INDEX_LIMIT, (), np.int64),
                "low": spaces.Box(0.0, 1.0, (), np.float64),
                "high": spaces.Box(0.0, 1.0, (), np.float64),
                "rows": spaces.Box(dynamics.NO_ROW, INDEX_LIMIT, slots, np.int64),
                "looks": spaces.Box(0, MOST_LOOKS, (), np.int64),
            }
        )

    def action_space(self) -> spaces.Space:
        """``Discrete(n_actions)``, or ``Box(0, 1, (4,))``."""
        if self.config.actions == "box":
            return spaces.Box(0.0, 1.0, (4,), np.float32)
        return spaces.Discrete(self.n_actions)

    # Functions of states ----------------------------------------------------------------------------------------

    def initial(self, sample: Tensor) -> dict[str, Tensor]:
        """The state before the first action, for samples (B,)."""
        zeros = torch.zeros(len(sample), dtype=torch.float64, device=sample.device)
        rows = torch.full((len(sample), self.config.max_looks), dynamics.NO_ROW, device=sample.device)
        return {
            "sample": sample,
            "low": zeros,
            "high": zeros + 1.0,
            "rows": rows,
            "looks": torch.zeros_like(sample),
        }

    def observe(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observations, named (B, ...) float32 tensors; no row but those looked at is read."""
        sample, rows = state["sample"], state["rows"]
        seen = rows != dynamics.NO_ROW
        which, _ = seen.nonzero(as_tuple=True)
        n_frames = self.n_frames[sample][:, None]
        feature = torch.zeros((*rows.shape, self.dim), device=rows.device)
        if len(which):
            feature[seen] = self.look(sample[which], rows[seen])
        position = torch.where(seen, (rows + 0.5) / n_frames, 0.0)
        left = 1.0 - state["looks"] / self.config.max_looks
        return {
            "query": self.bank.query[sample],
            "mask": seen.to(torch.float32),
            "position": position.to(torch.float32),
            "feature": feature.flatten(1),
            "range": torch.stack((state["low"], state["high"]), -1).to(torch.float32),
            "budget": left[:, None].to(torch.float32),
        }

    def look(self, samples: Tensor, rows: Tensor) -> Tensor:
        """What looks at rows (N,) of the videos of samples (N,) show: (N, dim) float32."""
        if self.sensor is not None:
            numbers = self.sensor(samples, rows)
            wanted = f"sensor must return a tensor ({len(rows)}, {self.dim or 'K'})"
            if not isinstance(numbers, Tensor):
                raise DataError(f"{wanted}, got {type(numbers).__name__}")
            if (
                numbers.ndim != 2
                or len(numbers) != len(rows)
                or numbers.shape[1] != (self.dim or numbers.shape[1] or 1)
            ):
                raise DataError(f"{wanted}, got {tuple(numbers.shape)}")
            if numbers.device.type == "cpu" and bool(numbers.isnan().any()):
                raise DataError(f"{wanted} without NaN")
            return numbers.detach().to(torch.float32).clamp(-FEATURE_LIMIT, FEATURE_LIMIT)
        at = self.bank.offsets[self.bank.video[samples]] + rows
        source = self.bank.frames if self.config.shows == "frame" else self.bank.grid
        return source[at].flatten(1).to(torch.float32)

    def action_mask(self, state: dict[str, Tensor]) -> Tensor:
        """(B, n_actions) bool: looks at new rows while looks are left, zooms that change the range, every answer."""
        low, high = state["low"][:, None], state["high"][:, None]
        n_frames = self.n_frames[state["sample"]][:, None]
        part = torch.arange(self.config.positions, device=low.device)
        rows = dynamics.rows_of(low, high, part, self.config.positions, n_frames)
        left = (state["looks"] < self.config.max_looks)[:, None]
        parts = [(rows[:, :, None] != state["rows"][:, None, :]).all(-1) & left]
        if self.config.zoom:
            kind = torch.arange(len(dynamics.ZOOMS), device=low.device)
            parts.append(dynamics.zoomed(low, high, kind, n_frames)[2] & left)
        parts.append(left.new_ones((len(left), self.n_actions - self._first_answer)))
        return torch.cat(parts, 1)

    def act(self, state: dict[str, Tensor], action: Tensor) -> Looked:
        """Apply actions: (B,) int64, or (B, 4) float64 with box actions. Tensors of ``state`` are not written into."""
        sample, low, high = state["sample"], state["low"], state["high"]
        n_frames, rows, looks = self.n_frames[sample], state["rows"], state["looks"]
        left = looks < self.config.max_looks
        if self.config.actions == "box":
            looking = action[:, 0] < 0.5
            row = dynamics.row_at(action[:, 1], n_frames)
            answered, zooming = ~looking, torch.zeros_like(looking)
            window = action[:, 2:].sort(-1).values
        else:
            positions, first = self.config.positions, self._first_answer
            looking = action < positions
            row = dynamics.rows_of(low, high, action.clamp(max=positions - 1), positions, n_frames)
            answered, zooming = action >= first, (action >= positions) & (action < first)
            share = self.answers[(action - first).clamp(0, len(self.answers) - 1)]
            window = low[:, None] + (high - low)[:, None] * share
        new = looking & left & (rows != row[:, None]).all(-1)
        slot = torch.arange(rows.shape[1], device=rows.device) == looks[:, None]
        seen = torch.where(slot & new[:, None], row[:, None], rows)
        new_frames = dynamics.frames_read(seen, self.neighbours) - dynamics.frames_read(rows, self.neighbours)
        looks = looks + new
        valid = new | answered
        if self.config.zoom and self.config.actions == "discrete":
            to_low, to_high, can = dynamics.zoomed(low, high, (action - self.config.positions).clamp(0, 3), n_frames)
            zoomed = zooming & can & left
            low, high = torch.where(zoomed, to_low, low), torch.where(zoomed, to_high, high)
            valid = valid | zoomed
        # Without looks only an answer is left; whoever does something else has answered with the current range.
        forced = ~left & ~answered
        window = torch.where(forced[:, None], torch.stack((low, high), -1), window)
        answered = answered | forced
        after = {"sample": sample, "low": low, "high": high, "rows": seen, "looks": looks}
        if self.answerer is not None:
            # The last look is followed by the answer: there is nothing else to decide.
            answered = answered | (looks >= self.config.max_looks)
            window = self.answered(after, answered)
        return Looked(after, window, answered, new_frames, valid)

    def answered(self, state: dict[str, Tensor], where: Tensor) -> Tensor:
        """The windows that `answerer` names where it is asked, zeros elsewhere: (B, 2) float64 fractions."""
        window = torch.zeros((len(where), 2), dtype=torch.float64, device=where.device)
        if self.answerer is None or (where.device.type == "cpu" and not bool(where.any())):
            return window
        index = where.nonzero().flatten()
        named = self.answerer({name: part[index] for name, part in state.items()})
        wanted = f"answerer must return a tensor ({len(index)}, 2) of fractions of the video"
        if not isinstance(named, Tensor) or named.shape != (len(index), 2):
            got = tuple(named.shape) if isinstance(named, Tensor) else type(named).__name__
            raise DataError(f"{wanted}, got {got}")
        if named.device.type == "cpu" and bool(named.isnan().any()):
            raise DataError(f"{wanted}, got NaN")
        window[index] = named.detach().to(torch.float64).clamp(0, 1).sort(-1).values
        return window

    def iou(self, sample: Tensor, window: Tensor) -> Tensor:
        """Clamped IoU of windows (B, 2) with the nearest true window of samples (B,): (B,) float64."""
        return spans.span_iou(window[:, 0], window[:, 1], self.truth[sample], "clamped")

    def nearest_truth(self, sample: Tensor, window: Tensor) -> Tensor:
        """The true window nearest to each window (B, 2), fractions of the video: (B, 2) float64."""
        truth = self.truth[sample]
        nearest = spans.nearest_window(window[:, 0], window[:, 1], truth)
        return truth[torch.arange(len(sample), device=sample.device), nearest]


TASK_ARGUMENTS = ("features", "split", "device", "sensor", "answerer")
ENV_ARGUMENTS = (*TASK_ARGUMENTS, "flatten", "observation", "render_mode", "info", "reveal_truth")


def make_look_task(
    features: str | FeatureBank = "shapes-v0",
    split: str = "train",
    device: str | torch.device = "cpu",
    sensor: Sensor | None = None,
    answerer: Answerer | None = None,
    **config: object,
) -> LookTask:
    """The `LookTask` behind the environments, from the same arguments. Rows that videos share are not copied."""
    refuse_unknown([name for name in config if name not in CONFIG_NAMES], (*ENV_ARGUMENTS, *CONFIG_NAMES))
    checked = LookConfig(**config)  # type: ignore[arg-type]
    bank = features if isinstance(features, FeatureBank) else load_rows(features, split, device)
    return LookTask(bank, checked, sensor, answerer)


def load_rows(features: str | FeatureStore, split: str, device: str | torch.device = "cpu") -> FeatureBank:
    """The bank of a split; rows stay in the files of the store where its videos share them, see ``memory="map"``."""
    store = feature_registry.open_store(features)
    shared = bool((store.manifest.get("extra") or {}).get("shared_rows"))
    return feature_registry.load(features, split, device, memory="map" if shared else "device")
