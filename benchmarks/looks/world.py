"""One data set of a frontier: its sensor, the log-odds of its rows, its posterior, and what an answer is worth."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strong_envs.agents.looks.agent import LookAgent
from strong_envs.agents.looks.posterior import CLIPS, WEIGHTS, LookPosterior, seen_of
from strong_envs.agents.looks.search import unique_even_rows
from strong_envs.agents.looks.sensor import FrameSensor, SensorArgs
from strong_envs.agents.training.checkpoint import load_weights, save_weights
from strong_envs.core import spans
from strong_envs.core.sampling import spread
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.registry import load, split_validation
from strong_envs.features.store.store import FeatureStore
from strong_envs.features.store.subset import StoreView
from strong_envs.looks.task import frames_before, load_rows

JUDGED = 200
"""Most validation queries that choices are made on."""
OWN = "own train"
"""The training part of the videos that are searched, also where agents are trained on others."""

Say = Callable[[str], None]


def digest_of(settings: Sequence[Any], digits: int = 16) -> str:
    """A name in hexadecimal digits for JSON-ready settings: that of a file which they decide."""
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:digits]


@dataclass(frozen=True)
class Budgets:
    """How much is trained: updates of the sensor, of the agent and of SM-RL, steps of the library's."""

    sensor: int = 1500
    agent: int = 240
    library: int = 20_000
    sm_rl: int = 300

    def scaled(self, factor: float) -> Budgets:
        """All of it times a factor."""
        least = (300, 10, 500, 20)
        numbers = zip((self.sensor, self.agent, self.library, self.sm_rl), least, strict=True)
        return Budgets(*(max(int(n * factor), low) for n, low in numbers))

    def of(self, row: str) -> list[int]:
        """What decides a row of the frontier: the training of the sensor, and its own."""
        own = {"look policy": self.agent, "MaskablePPO": self.library, "SM-RL": self.sm_rl}
        return [self.sensor, *(steps for name, steps in own.items() if row.startswith(name))]


@dataclass
class World:
    """One data set with its sensor: log-odds of all rows, by part.

    Args:
        features: key or path. train_on: where agents are trained, the same by default.
        looks: numbers of looks. budgets: see `Budgets`.
        seed: of the sensor.
        say: hears what is done. part: that answers are scored on.
        whole_frames: let the sensor see the vector of a frame in the place of its cells.
        folder: keeps the sensor and the log-odds, so that they are computed once; None keeps nothing.
        agents: trained look policies, and the seconds that their training took, by seed.
    """

    features: str
    looks: Sequence[int]
    budgets: Budgets
    train_on: str | None = None
    seed: int = 0
    say: Say = lambda line: None
    part: str = "test"
    folder: Path | None = None
    whole_frames: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    agents: dict[int, tuple[LookAgent, float]] = field(default_factory=dict)

    @cached_property
    def store(self) -> FeatureStore:
        """The store; where it has no validation part, one is carved out of its training part."""
        return split_validation(self.features)

    @cached_property
    def clips(self) -> FeatureBank:
        """The training part that the sensor learns from: that of the clips, where long videos are made of them."""
        extra = self.store.manifest.get("extra") or {}
        if isinstance(self.store, StoreView) and extra.get("shared_rows") and "validation" not in extra:
            return load(self.store.base, "train")
        # The clips of a part that validation was carved out of are among those that choices are made on.
        return load_rows(self.store, "train")

    @cached_property
    def name_of_sensor(self) -> str:
        """Names the data, the training and the seed of the sensor."""
        settings = [self.clips.store.content_hash, self.clips.split, self.budgets.sensor, self.seed]
        settings += ["whole frames"] if self.whole_frames else []
        return f"sensor-{digest_of(settings, 12)}"

    @cached_property
    def sensor(self) -> FrameSensor:
        """The sensor of all rows."""
        sensor = FrameSensor(
            self.clips, SensorArgs(steps=self.budgets.sensor, whole_frames=self.whole_frames), self.seed
        )
        file = None if self.folder is None else self.folder / f"{self.name_of_sensor}.safetensors"
        if file is not None and file.is_file():
            sensor.net.load_state_dict(load_weights(file)[0])
            sensor.net.eval()
            return sensor
        begun = time.perf_counter()
        sensor.fit(self.clips, lambda i, n: self.say(f"sensor {i}/{n}") if i % 250 == 0 else None)
        self.seconds["sensor"] = time.perf_counter() - begun
        if file is not None:
            save_weights(file, dict(sensor.net.state_dict()), {"kind": "frame sensor"})
        return sensor

    def bank(self, part: str) -> FeatureBank:
        """A part: ``"train"`` (of `train_on`), `OWN`, ``"val"`` or `part`."""
        if part == "train" and self.train_on:
            return load_rows(split_validation(self.train_on), part)
        return load_rows(self.store, "train" if part == OWN else part)

    @cached_property
    def tables(self) -> dict[str, Tensor]:
        """Log-odds that were computed so far, by part."""
        return {}

    def table(self, part: str) -> Tensor:
        """(S, N) log-odds of a part, computed when first asked for."""
        if part not in self.tables:
            bank = self.bank(part)
            key = f"{self.name_of_sensor}-{bank.store.content_hash[:16]}-{bank.split}"
            file = None if self.folder is None else self.folder / "tables" / f"{key}.safetensors"
            if file is not None and file.is_file():
                self.tables[part] = load_weights(file)[0]["log_odds"]
            else:
                self.say(f"log-odds of the {part} part")
                self.tables[part] = self.sensor.table(bank)
                if file is not None:
                    save_weights(file, {"log_odds": self.tables[part]}, {"kind": "log-odds"})
        return self.tables[part]

    def n_frames(self, part: str) -> Tensor:
        """(S,) rows of the videos of a part."""
        bank = self.bank(part)
        return bank.n_frames[bank.video]

    @property
    def neighbours(self) -> int:
        """Frames before a row that its features need."""
        return frames_before(self.store.manifest.get("backbone"))

    def iou(self, part: str, rows: Tensor | None, samples: Tensor | None = None) -> Tensor:
        """IoU (B,) of the answers after looks (B, looks), or after all frames."""
        table, n_frames = self.table(part), self.n_frames(part)
        samples = torch.arange(len(table)) if samples is None else samples
        seen = table[samples] if rows is None else seen_of(table, samples, rows)
        return self.iou_of(part, self.posterior_unfitted.answer(seen, n_frames[samples]), samples)

    def iou_of(self, part: str, window: Tensor, samples: Tensor) -> Tensor:
        """IoU (B,) of windows (B, 2), fractions of the videos of samples (B,)."""
        bank = self.bank(part)
        return spans.span_iou(window[:, 0], window[:, 1], bank.truth[samples], "clamped")

    @cached_property
    def posterior_unfitted(self) -> LookPosterior:
        """The posterior over windows, with today's weight and clip."""
        return LookPosterior(self.bank("train"))

    @cached_property
    def posterior(self) -> LookPosterior:
        """The posterior with the weight and the clip that answer best on validation: even looks and all frames."""
        posterior, samples = self.posterior_unfitted, judged(self.bank("val"))
        n_frames = self.n_frames("val")[samples]
        few = unique_even_rows(n_frames, self.looks[len(self.looks) // 2])
        best = (-1.0, posterior.weight, posterior.clip)
        for weight in WEIGHTS:
            for clip in CLIPS:
                posterior.weight, posterior.clip = weight, clip
                score = sum(float(self.iou("val", rows, samples).mean()) for rows in (few, None))
                best = max(best, (score, weight, clip))
        _, posterior.weight, posterior.clip = best
        self.say(f"posterior: weight {posterior.weight:g}, clip {posterior.clip:g}")
        return posterior


def judged(bank: FeatureBank) -> Tensor:
    """At most `JUDGED` samples spread over a bank."""
    return spread(len(bank), JUDGED)
