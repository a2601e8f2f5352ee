"""What every command does that trains: plan cells, run what is not stored yet, gather one result file."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.agents.overrides import check_settings, parse_settings, setting_paths, with_settings
from strong_envs.benchmarks.execution.cell import Cell, code_hash, protocol_of
from strong_envs.benchmarks.execution.local_engine import Outcome, run_matrix
from strong_envs.benchmarks.execution.provenance import about
from strong_envs.benchmarks.metrics.definitions import COMPARISONS, THRESHOLDS
from strong_envs.benchmarks.protocols import DYNAMICS, Protocol
from strong_envs.benchmarks.results.rows import system_row
from strong_envs.features.errors import DataError, nearest

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Variant:
    """A row of the result: a system with its options, under a label."""

    label: str
    system: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Job:
    """A matrix of variants and seeds, and what came of it. ``cells`` holds those of each label, one a seed."""

    args: argparse.Namespace
    store: Any
    bank: Any
    """The test split, on the CPU."""
    protocol: Protocol
    cells: dict[str, list[Cell]]
    refused: dict[str, str]
    """Why the store cannot serve a label."""
    outcome: Outcome = field(default_factory=Outcome)
    seconds: float = 0.0

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


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say where cells run and what is changed in them; for every command that trains."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the agents or their environments, such as phi=0.05 or temporal.gamma=0.4; repeatable",
    )
    parser.add_argument(
        "--comparison", choices=COMPARISONS, default=">=", help="what a hit of Acc@m and R@n is (default: %(default)s)"
    )
    parser.add_argument(
        "--thresholds",
        default=",".join(f"{m:g}" for m in THRESHOLDS),
        help="the m of Acc@m and R@n IoU=m, comma-separated (%(default)s)",
    )
    parser.add_argument("--metrics", help="columns of the table, such as 'mIoU,dR@1 IoU=.5'; results.json has them all")
    parser.add_argument("--agent", action="append", default=[], metavar="MODULE:CLASS", help="add your agent too")
    parser.add_argument("--resume", action="store_true", help="go on where the last run stopped (always done)")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="where cells run (%(default)s)")
    parser.add_argument("--address", help="address of a Ray cluster (default: start one on this machine)")


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
    """One variant a system, with the settings that it has."""
    names, settings = list(names), settings_of(args)
    importable_here()
    check_settings(names, {k: v for k, v in settings.items() if k != "multi_scale"})
    return [Variant(name, name, with_settings(name, settings)) for name in names]


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


def importable_here() -> None:
    """Let ``my_module:MyAgent`` be a file of the current directory, in this process and in the workers."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def run_job(args: argparse.Namespace, variants: Sequence[Variant]) -> Job:
    """Check the input, run the cells that are not stored yet, return everything.

    Raises:
        DataError: numbers that are not positive, a store that cannot be opened, a system that nobody knows.
    """
    from strong_envs import agents, features

    if args.seeds < 1 or args.jobs < 1 or not args.budget > 0:
        raise DataError(f"seeds, jobs and budget must be positive, got {args.seeds}, {args.jobs}, {args.budget}")
    began, thresholds = time.perf_counter(), thresholds_of(args)
    importable_here()
    for variant in variants:
        agents.find(variant.system)
    store = features.open_store(args.features)
    train, test = (features.load(args.features, split) for split in (args.train, args.test))
    cells: dict[str, list[Cell]] = {}
    refused: dict[str, str] = {}
    for variant in variants:
        reason = agents.incompatibility(variant.system, train) or agents.incompatibility(
            variant.system, test, training=False
        )
        if reason:
            refused[variant.label] = reason
            print(f"left out: {reason}", file=sys.stderr)
            continue
        learns = agents.find(variant.system).needs_training
        budget, evaluations = (args.budget, getattr(args, "evaluations", 0)) if learns else (1.0, 0)
        where = (args.features, store.content_hash, args.train, args.test)
        code = code_hash(variant.system)
        cells[variant.label] = [
            Cell(variant.system, seed, *where, budget, args.device, variant.options, code, evaluations)
            for seed in range(args.seeds)
        ]
    main = Cell("", 0, args.features, store.content_hash, args.train, args.test, options={"env": _grid(args)})
    protocol = protocol_of(store, main, getattr(args, "comparison", ">="), thresholds)
    job = Job(args, store, test, protocol, cells, refused)
    # Two labels may stand for one cell: the same system under the paper's name and its own.
    todo = list({cell.key: cell for found in cells.values() for cell in found}.values())
    if getattr(args, "engine", "local") == "ray":
        from strong_envs.benchmarks.execution.ray_engine import run_matrix_on_ray

        job.outcome = run_matrix_on_ray(todo, job.folder, args.jobs, address=args.address)
    else:
        job.outcome = run_matrix(todo, job.folder, args.jobs)
    job.seconds = time.perf_counter() - began
    return job


def collect(job: Job, references: bool = True) -> dict[str, Any]:
    """The result file: protocol, rows, scores per query, curves, failures, and what made them."""
    from strong_envs.benchmarks.results.reference_rows import reference_rows

    args, scores = job.args, {}
    rows: list[dict[str, Any]] = []
    if references:
        rows = reference_rows(
            job.store,
            args.train,
            args.test,
            50 if getattr(args, "quick", False) else 200,
            protocol=job.protocol,
            keep=scores,
        )
    last = [row for row in rows if row["reference"] == "oracle"]
    rows = [row for row in rows if row["reference"] != "oracle"]
    curves, traces = {}, {}
    for label in job.cells:
        runs = job.runs(label)
        if runs:
            rows.append(with_lost_runs(job, label, system_row(label, runs, job.protocol_for(label), job.store)))
            curves[label] = [run["history"] for run in runs]
            scores[label] = [run["scores"]["IoU"] for run in runs]
            if all(run.get("trace") for run in runs):
                traces[label] = [run["trace"] for run in runs]
        rows.extend(missing_row(job, label, len(runs)))
    rows.extend(_empty_row(job, label, f"absent: {reason}") for label, reason in job.refused.items())
    commits = sorted({str(run.get("commit")) for label in job.cells for run in job.runs(label)})
    notes = []
    if len(commits) > 1:
        listed = ", ".join(c[:12] + "+changes" * c.endswith("+changes") for c in commits)
        notes.append(f"These cells were computed at {len(commits)} commits: {listed}; delete the older if in doubt.")
        print(notes[-1], file=sys.stderr)
    return {
        "protocol": job.protocol.as_dict(),
        "rows": rows + last,
        "curves": curves,
        **({"traces": traces} if traces else {}),
        "cells": {label: [cell.key for cell in cells] for label, cells in job.cells.items()},
        "failed": job.outcome.failed,
        "refused": job.refused,
        "notes": notes,
        "per_query": per_query_scores(job.bank, scores),
        "wall_seconds": job.seconds,
        "about": about(args) | {"seeds": list(range(args.seeds))},
    }


def reasons_of(job: Job, label: str) -> list[str]:
    """Why cells of a label have no result, each reason once."""
    cells, failed = job.cells[label], job.outcome.failed
    return list(dict.fromkeys(failed[cell.key] for cell in cells if cell.key in failed))


def missing_row(job: Job, label: str, finished: int) -> list[dict[str, Any]]:
    """The row of a label of which no cell finished: no numbers, and why; [] where one did."""
    if finished:
        return []
    reasons = reasons_of(job, label)
    return [_empty_row(job, label, f"failed: {'; '.join(reasons)}" if reasons else "absent: not finished")]


def with_lost_runs(job: Job, label: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row with a note where cells of its label failed: its numbers are of fewer runs than were asked for."""
    failed = sum(cell.key in job.outcome.failed for cell in job.cells[label])
    if not failed:
        return row
    note = f"{failed} of {len(job.cells[label])} runs failed: {'; '.join(reasons_of(job, label))}."
    return row | {"note": " ".join(filter(None, [row.get("note"), note]))}


def _empty_row(job: Job, label: str, reason: str) -> dict[str, Any]:
    return {"system": label, "protocol": job.protocol.as_dict(), "seeds": None, "metrics": {}, "caveat": reason}


def per_query_scores(bank: Any, scores: dict[str, Any]) -> dict[str, Any]:
    """IoU of every query and run, with what comparisons and breakdowns need: videos, true windows as fractions."""
    return {
        "queries": bank.qids,
        "videos": [query.video for query in bank.queries],
        "truth": np.round(bank.truth[:, 0].cpu().numpy(), 5).tolist(),
        "IoU": {label: np.round(np.atleast_2d(values), 5).tolist() for label, values in scores.items()},
    }


def chosen_metrics(args: argparse.Namespace, result: dict[str, Any]) -> list[str] | None:
    """The columns of ``--metrics``; None for the usual ones.

    Raises:
        DataError: a metric that no row of the result has.
    """
    if not getattr(args, "metrics", None):
        return None
    names = [name.strip() for name in args.metrics.split(",") if name.strip()]
    known = list(dict.fromkeys(name for row in result["rows"] for name in row["metrics"]))
    for name in names:
        if name not in known:
            raise DataError(f"no row has the metric {name!r}{nearest(name, known)}; there are {known}")
    return names


def finish(job: Job) -> int:
    """Say what is missing; the exit code: 0 when every cell finished, 1 when one failed, 130 after Ctrl-C."""
    outcome, total = job.outcome, len({cell.key for cells in job.cells.values() for cell in cells})
    if outcome.interrupted:
        print(
            f"interrupted: {len(outcome.results)} cells are kept in {job.args.out}, {total - len(outcome.results)} are "
            "left; run the same command again to go on",
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
