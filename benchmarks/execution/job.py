"""What every command does that trains: plan cells, and run those that are not stored yet."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from strong_envs.agents.overrides import check_settings, parse_settings, setting_paths, with_settings
from strong_envs.benchmarks.execution.cell import Cell, code_hash, protocol_of
from strong_envs.benchmarks.execution.learned_boxes import boxes_for, margin_of, plain_name
from strong_envs.benchmarks.execution.local_engine import Outcome, run_matrix
from strong_envs.benchmarks.metrics.columns import all_columns, known_columns
from strong_envs.benchmarks.metrics.definitions import THRESHOLDS
from strong_envs.benchmarks.protocols import DYNAMICS, Protocol
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.devices import usable_device
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import sentence
from strong_envs.features.registry import job_store, load_part
from strong_envs.features.store.store import FeatureStore
from strong_envs.features.validation import VALIDATION

MOST_SEEDS, MOST_BUDGET, MOST_EVALUATIONS = 10_000, 10_000, 10_000
EVALUATIONS = 8
"""Scores within the first stage of a training where none are asked for: two and the end in its last quarter."""


@dataclass(frozen=True)
class Variant:
    """A row of the result: a system with its options, under a label."""

    label: str
    system: str
    options: dict[str, Any] = field(default_factory=dict)
    boxes: tuple[str, ...] = ()
    """Trained systems whose boxes it looks through, see `benchmarks.execution.learned_boxes`: one a seed, in turn."""

    def options_for(self, seed: int) -> dict[str, Any]:
        """The options of one training run."""
        if not self.boxes:
            return self.options
        file = self.boxes[seed % len(self.boxes)]
        return {"box_margin": margin_of(file)} | self.options | {"boxes": file}


@dataclass
class Job:
    """A matrix of variants and seeds, and what came of it. ``cells`` holds those of each label, one a seed."""

    args: argparse.Namespace
    store: Any
    """With the parts that are trained and scored on."""
    protocol: Protocol
    cells: dict[str, list[Cell]]
    refused: dict[str, str]
    """Why the store cannot serve a label."""
    outcome: Outcome = field(default_factory=Outcome)
    seconds: float = 0.0

    @cached_property
    def bank(self) -> FeatureBank:
        """The test split, on the CPU: opened when the trainings have ended, by what makes tables and pictures."""
        return load_part(self.store, self.args.test)

    @property
    def folder(self) -> Path:
        """Where the cells are."""
        return Path(self.args.out) / "cells"

    def runs(self, label: str) -> list[dict[str, Any]]:
        """The finished cells of a label, in the order of the seeds."""
        results = self.outcome.results
        return [results[cell.key] for cell in self.cells.get(label, ()) if cell.key in results]

    def protocol_for(self, label: str) -> Protocol:
        """The protocol of a label's cells; that of the job where a system takes no options of the environment."""
        cell = self.cells[label][0]
        if not any(name.startswith("temporal_env.") for name in setting_paths(cell.system)):
            return self.protocol
        return protocol_of(self.store, cell, self.protocol.comparison, self.protocol.thresholds)


def systems_of(args: argparse.Namespace) -> list[str]:
    """Names of ``--systems`` and ``--agent``, each once; ``all`` stands for every registered system."""
    from strong_envs import agents

    names: list[str] = []
    for name in filter(None, (word.strip() for word in args.systems.split(","))):
        names.extend(agents.names() if name == "all" else [name])
    return list(dict.fromkeys([*names, *getattr(args, "agent", [])]))


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """``--set`` and ``--multi-scale`` as settings."""
    settings = parse_settings(getattr(args, "set", []))
    if getattr(args, "multi_scale", False):
        settings["multi_scale"] = True
    return settings


def plain_variants(args: argparse.Namespace, names: Iterable[str]) -> list[Variant]:
    """One variant a system, with the settings that it has; an unknown system is refused."""
    from strong_envs import agents

    importable_here()
    labels, settings = list(names), settings_of(args)
    systems = [agents.find(label if label in agents.REGISTRY else plain_name(label)).name for label in labels]
    check_settings(systems, {k: v for k, v in settings.items() if k != "multi_scale"})
    source = getattr(args, "boxes", None)
    return [
        Variant(label, system, with_settings(system, settings), boxes_for(label, source) if label != system else ())
        for label, system in zip(labels, systems, strict=True)
    ]


def thresholds_of(args: argparse.Namespace) -> tuple[float, ...]:
    """``--thresholds`` as numbers; `DataError` where one is none."""
    text = getattr(args, "thresholds", None)
    if text is None:
        return THRESHOLDS
    try:
        found = tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found):
        raise DataError(f"--thresholds are numbers in [0, 1] such as .3,.5,.7, each once; got {text!r}")
    return found


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse numbers, a device, thresholds and columns that no job can be made of, before any work."""
    if not 1 <= args.seeds <= MOST_SEEDS:
        raise DataError(f"--seeds must be positive, 1 to {MOST_SEEDS:,}; got {args.seeds}")
    if args.jobs < 1:
        raise DataError(f"--jobs must be positive, got {args.jobs}")
    if not 0 <= getattr(args, "validation", 0.0) < 1:
        raise DataError(f"--validation is a share of the training videos from 0 to below 1; got {args.validation}")
    if not 0 <= (getattr(args, "evaluations", None) or 0) <= MOST_EVALUATIONS:
        raise DataError(f"--evaluations must be 0 or more, up to {MOST_EVALUATIONS:,}; got {args.evaluations}")
    if not 0 < args.budget <= MOST_BUDGET:
        raise DataError(f"--budget must be positive, a factor of up to {MOST_BUDGET:,}; got {args.budget}")
    if getattr(args, "engine", "local") == "local":
        usable_device(args.device)
    thresholds = thresholds_of(args)
    Protocol("main", "data", thresholds=thresholds)
    words = (getattr(args, "metrics", None) or "").split(",")
    known_columns([word.strip() for word in words if word.strip()], all_columns(thresholds))


def importable_here() -> None:
    """Let ``my_module:MyAgent`` be a file of the current directory, in this process and in the workers.

    The directory goes last: a file there that has the name of an installed module must not be imported in its place.
    """
    try:
        here = os.getcwd()
    except OSError as error:
        raise DataError(f"the current folder cannot be used: {sentence(error)}") from None
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def run_job(args: argparse.Namespace, variants: Sequence[Variant]) -> Job:
    """Check the input, run the cells that are not stored yet, return everything.

    Raises:
        DataError: a store that cannot be opened, an unknown system.
    """
    from strong_envs import agents

    began, thresholds = time.perf_counter(), thresholds_of(args)
    importable_here()
    for variant in variants:
        agents.find(variant.system)
    share = getattr(args, "validation", 0.0)
    store = job_store(args.features, args.train, share)
    looks = evaluations_of(args, store)
    if looks and VALIDATION not in store.splits:
        raise DataError(f"--evaluations are made on a validation part, and {store.name!r} has none: raise --validation")
    train = load_part(store, args.train)
    if args.test not in store.splits:
        raise DataError(f"store {store.name!r} has no split {args.test!r}; it has {store.splits}")
    cells: dict[str, list[Cell]] = {}
    refused: dict[str, str] = {}
    for variant in variants:
        reason = agents.incompatibility(variant.system, train) or _no_boxes(variant.system, store, args.test)
        if reason:
            refused[variant.label] = reason
            print(f"left out: {reason}", file=sys.stderr)
            continue
        learns = agents.find(variant.system).needs_training
        budget, evaluations = (args.budget, looks) if learns else (1.0, 0)
        where = (args.features, store.content_hash, args.train, args.test)
        fixed = (code_hash(variant.system), evaluations, share, variant.label)
        cells[variant.label] = [
            Cell(variant.system, seed, *where, budget, args.device, variant.options_for(seed), *fixed)
            for seed in range(args.seeds)
        ]
    main = Cell("", 0, args.features, store.content_hash, args.train, args.test, options={"env": _grid(args)})
    protocol = protocol_of(store, main, getattr(args, "comparison", ">="), thresholds)
    job = Job(args, store, protocol, cells, refused)
    # Two labels may stand for one cell: the same system under the paper's name and its own.
    todo = list({cell.key: cell for found in cells.values() for cell in found}.values())
    if getattr(args, "engine", "local") == "ray":
        from strong_envs.benchmarks.execution.ray_engine import run_matrix_on_ray

        job.outcome = run_matrix_on_ray(todo, job.folder, args.jobs, address=args.address)
    else:
        job.outcome = run_matrix(todo, job.folder, args.jobs)
    job.seconds = time.perf_counter() - began
    return job


def evaluations_of(args: argparse.Namespace, store: FeatureStore) -> int:
    """``--evaluations``: scores within stages of a training; by default some where there is a validation part."""
    given = getattr(args, "evaluations", None)
    if given is None:
        return EVALUATIONS if VALIDATION in store.splits else 0
    return int(given)


def _no_boxes(system: str, store: FeatureStore, test: str) -> str | None:
    """Why a system cannot be scored on a part that is not opened yet: what else it needs is in all parts or in none."""
    from strong_envs import agents

    boxed = store.has("boxes") and all(q.extra.get("track") is not None for q in store.queries if q.split == test)
    if agents.find(system).needs_boxes and not boxed:
        return f"{system} needs a true box track for every query, which '{store.name}:{test}' does not have"
    return None


def finish(job: Job) -> int:
    """Say what is missing; the exit code: 0 when every cell finished, 1 when one failed, 130 after Ctrl-C."""
    outcome, total = job.outcome, len({cell.key for cells in job.cells.values() for cell in cells})
    if outcome.interrupted:
        print(
            f"interrupted: {len(outcome.results)} of {total} training runs are stored in {job.args.out}; run the same "
            "command again to continue",
            file=sys.stderr,
        )
        return 130
    for key, reason in outcome.failed.items():
        print(f"FAILED {key}: {reason}", file=sys.stderr)
    return 1 if outcome.failed else 0


def _grid(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a job that are part of its protocol."""
    names = {name: name for name in DYNAMICS} | {f"temporal_env.{name}": name for name in DYNAMICS}
    return {names[name]: value for name, value in settings_of(args).items() if name in names}
