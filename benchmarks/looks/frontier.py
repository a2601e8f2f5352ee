"""Rows of the frontier: searches of one world, their choices on validation, their answers on the test part.

One sensor and one rule for the answer serve all rows; what differs is which frames are looked at. Numbers of even looks
that a search begins with, and weight and clip of the posterior, are chosen on validation. The test part is searched
once, with what was chosen.
"""

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

from strong_envs.agents.looks.agent import LookAgent, LookAgentArgs
from strong_envs.agents.looks.library import LibraryLookArgs, LibraryLooker
from strong_envs.agents.looks.posterior import CLIPS, WEIGHTS, LookPosterior, seen_of
from strong_envs.agents.looks.search import random_rows, uncertainty_rows, unique_even_rows
from strong_envs.agents.looks.sensor import FrameSensor, SensorArgs
from strong_envs.agents.training.checkpoint import load_weights, save_weights
from strong_envs.core import spans
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.registry import load, split_validation
from strong_envs.features.store.store import FeatureStore
from strong_envs.features.store.subset import StoreView
from strong_envs.looks import dynamics
from strong_envs.looks.task import frames_before, load_rows

EVEN, RANDOM, UNCERTAIN, OURS, LIBRARY = (
    "even looks",
    "random looks",
    "uncertainty search",
    "look policy",
    "MaskablePPO",
)
ROWS = (EVEN, RANDOM, UNCERTAIN, OURS, LIBRARY)
ALL = "all frames"
FIRSTS = (0.0, 0.2, 0.4, 0.6, 0.8)
"""Shares of the looks that are even and come first, chosen from for every number of looks."""
LONG, LONG_FIRSTS = 200, (0.4, 0.6, 0.8)
"""Rows from which on a video has first to be covered, and the shares that are tried there."""
JUDGED = 200
"""Most validation queries that choices are made on."""
LEARNS = {EVEN: "nothing", RANDOM: "nothing", UNCERTAIN: "nothing", OURS: "own rewards", LIBRARY: "own rewards"}

Say = Callable[[str], None]


def digest_of(settings: Sequence[Any], digits: int = 16) -> str:
    """A name in hexadecimal digits for JSON-ready settings: that of a file which they decide."""
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:digits]


@dataclass(frozen=True)
class Budgets:
    """How much is trained: updates of the sensor and of the agent, steps of the library's."""

    sensor: int = 1500
    agent: int = 150
    library: int = 20_000

    def scaled(self, factor: float) -> Budgets:
        """All of it times a factor."""
        least = (300, 10, 500)
        numbers = zip((self.sensor, self.agent, self.library), least, strict=True)
        return Budgets(*(max(int(n * factor), low) for n, low in numbers))


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
        """A part: ``"train"`` (of `train_on`), ``"val"`` or `part`."""
        if part == "train" and self.train_on:
            return load_rows(split_validation(self.train_on), part)
        return load_rows(self.store, part)

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
        bank, table, n_frames = self.bank(part), self.table(part), self.n_frames(part)
        samples = torch.arange(len(bank)) if samples is None else samples
        seen = table[samples] if rows is None else seen_of(table, samples, rows)
        window = self.posterior_unfitted.answer(seen, n_frames[samples])
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


Search = Callable[[str, int, float, Tensor], Tensor]
"""Part, looks, share of even looks and samples (B,) to rows (B, looks)."""


def searcher(world: World, row: str, seed: int) -> tuple[Search, dict[str, Any], bool]:
    """The search of a row, trained where it learns; what is worth noting; whether it begins with even looks."""
    posterior, begun = world.posterior, time.perf_counter()

    if row == EVEN:
        return lambda part, k, share, s: unique_even_rows(world.n_frames(part)[s], k), {}, False
    if row == RANDOM:
        generator = torch.Generator().manual_seed(seed)
        return lambda part, k, share, s: random_rows(world.n_frames(part)[s], k, generator), {}, False
    if row == UNCERTAIN:

        def uncertain(part: str, k: int, share: float, samples: Tensor) -> Tensor:
            table, n_frames = world.table(part), world.n_frames(part)
            return uncertainty_rows(posterior, table, n_frames, k, int(share * k), samples)

        return uncertain, {}, True
    if row == OURS:
        agent = LookAgent(posterior, LookAgentArgs(steps=world.budgets.agent), seed).fit(
            world.bank("train"),
            world.table("train"),
            lambda i, n, r: world.say(f"{row} {seed}: {i}/{n}, return {r:.3f}") if i % 50 == 0 else None,
        )
        found = {"train_seconds": time.perf_counter() - begun}

        def learned(part: str, k: int, share: float, samples: Tensor) -> Tensor:
            return agent.rows(world.table(part), world.n_frames(part), k, int(share * k), samples)

        return learned, found, True
    most = min(max(world.looks), 64)
    library = LibraryLooker(posterior, LibraryLookArgs(steps=world.budgets.library, most_looks=most), seed)
    library.fit(world.bank("train"), world.table("train"))
    found = {"train_seconds": time.perf_counter() - begun, "most_looks": most}
    held: dict[tuple[str, int], Tensor] = {}

    def masked(part: str, k: int, share: float, samples: Tensor) -> Tensor:
        if (part, len(samples)) not in held:
            held[part, len(samples)] = library.rows(world.bank(part), world.table(part), samples)
        return held[part, len(samples)][:, :k]

    return masked, found, False


def run_row(world: World, row: str, seed: int) -> dict[str, Any]:
    """Train a row, choose on validation, answer the test part once.

    Returns:
        JSON-ready: ``looks``, and for each number of looks the ``iou`` of every query, the mean ``frames`` read and the
        share of even ``firsts``; ``validation`` mIoU of what was chosen.
    """
    search, found, begins = searcher(world, row, seed)
    val = judged(world.bank("val"))
    firsts = FIRSTS if world.bank("val").max_frames < LONG else LONG_FIRSTS
    everything = torch.arange(len(world.bank(world.part)))
    cell: dict[str, Any] = {"row": row, "seed": seed, "looks": [], "iou": [], "frames": [], "firsts": []}
    cell |= found | {"validation": []}
    for k in world.looks:
        if k > cell.get("most_looks", k):
            continue
        choices: list[tuple[float, float]] = []
        for share in firsts if begins else (0.0,):
            if int(share * k) in {int(s * k) for _, s in choices}:
                continue
            choices.append((float(world.iou("val", search("val", k, share, val), val).mean()), share))
        value, share = max(choices)
        rows = search(world.part, k, share, everything)
        cell["looks"].append(k)
        cell["iou"].append([round(x, 4) for x in world.iou(world.part, rows).tolist()])
        cell["frames"].append(round(float(dynamics.frames_read(rows, world.neighbours).double().mean()), 2))
        cell["firsts"].append(share)
        cell["validation"].append(round(value, 4))
        world.say(f"{row} {seed}: {k} looks, validation {value:.3f}")
    return cell


def run_all(world: World) -> dict[str, Any]:
    """The bound: the answer after a look at every frame."""
    _ = world.posterior
    frames = world.n_frames(world.part)
    iou = [round(x, 4) for x in world.iou(world.part, None).tolist()]
    return {"row": ALL, "seed": world.seed, "looks": [float(frames.double().mean())], "iou": [iou]}


def judged(bank: FeatureBank) -> Tensor:
    """At most `JUDGED` samples spread over a bank."""
    count = min(len(bank), JUDGED)
    return (torch.arange(count) * len(bank)) // count
