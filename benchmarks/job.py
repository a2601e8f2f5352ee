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

from benchmarks.cells import RECALL_AT, Cell, code_hash, protocol_of
from benchmarks.matrix import Outcome, run_matrix
from benchmarks.metrics import COMPARISONS, DISCOUNTED_AT, discounted_name, hits, per_query, recall_name
from benchmarks.parameters import check_settings, parse_settings, places, with_settings
from benchmarks.protocols import DYNAMICS, Protocol
from benchmarks.provenance import about
from benchmarks.statistics import estimates
from features.records import DataError, nearest

ENGINES = ("local", "ray")
IQM_RUNS = 4
"""Training runs from which on an interquartile mean leaves any out."""


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
        if not any(name.startswith("temporal_env.") for name in places(cell.system)):
            return self.protocol
        return protocol_of(self.store, cell, self.protocol.comparison)


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
    parser.add_argument("--metrics", help="columns of the table, such as 'mIoU,dR@1 IoU=.5'; results.json has them all")
    parser.add_argument("--agent", action="append", default=[], metavar="MODULE:CLASS", help="add your agent too")
    parser.add_argument("--resume", action="store_true", help="go on where the last run stopped (always done)")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="where cells run (%(default)s)")
    parser.add_argument("--address", help="address of a Ray cluster (default: start one on this machine)")


def systems_of(args: argparse.Namespace) -> list[str]:
    """Names of ``--systems`` and ``--agent``, each once."""
    names = [name.strip() for name in args.systems.split(",") if name.strip()]
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
    import agents
    import features

    if args.seeds < 1 or args.jobs < 1 or not args.budget > 0:
        raise DataError(f"seeds, jobs and budget must be positive, got {args.seeds}, {args.jobs}, {args.budget}")
    began = time.perf_counter()
    importable_here()
    for variant in variants:
        agents.find(variant.system)
    store = features.open_store(args.features)
    bank = features.load(args.features, args.test)
    features.load(args.features, args.train)
    cells: dict[str, list[Cell]] = {}
    refused: dict[str, str] = {}
    for variant in variants:
        reason = agents.why_not(variant.system, bank)
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
    job = Job(args, store, bank, protocol_of(store, main, getattr(args, "comparison", ">=")), cells, refused)
    # Two labels may stand for one cell: the same system under the paper's name and its own.
    todo = list({cell.key: cell for found in cells.values() for cell in found}.values())
    if getattr(args, "engine", "local") == "ray":
        from benchmarks.ray_engine import run_matrix_on_ray

        job.outcome = run_matrix_on_ray(todo, job.folder, args.jobs, address=args.address)
    else:
        job.outcome = run_matrix(todo, job.folder, args.jobs)
    job.seconds = time.perf_counter() - began
    return job


def collect(job: Job, references: bool = True) -> dict[str, Any]:
    """The result file: protocol, rows, scores per query, curves, failures, and what made them."""
    from benchmarks.reference_table import reference_rows

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


def system_row(label: str, runs: list[dict], protocol: Protocol, store: Any) -> dict[str, Any]:
    """One row of the table from the stored cells of a system, one a seed."""
    import agents

    iou = np.array([run["scores"]["IoU"] for run in runs])
    video = {q.qid: q.video for q in store.queries}
    groups = [video[qid] for qid in runs[0]["queries"]]
    metrics = per_query(iou, protocol.thresholds, protocol.comparison)
    # A score counts only where every run has it: cells of older code may lack one.
    known = set.intersection(*(set(run["scores"]) for run in runs))
    scores = {name: np.array([run["scores"][name] for run in runs]) for name in known}
    for n in RECALL_AT:
        if f"IoU@{n}" in known:
            for m in protocol.thresholds:
                metrics[recall_name(n, m)] = hits(scores[f"IoU@{n}"], m, protocol.comparison).astype(np.float64)
    for n in RECALL_AT:
        for m in DISCOUNTED_AT:
            if (name := discounted_name(n, m)) in known:
                # Stored with >=; where a hit must lie above m, what only equals it goes.
                best = scores.get(f"IoU@{n}", iou)
                metrics[name] = np.where(hits(best, m, protocol.comparison), scores[name], 0.0)
    metrics |= {f"mIoU ({kind})": scores[f"IoU {kind}"] for kind in ("signed", "legacy") if f"IoU {kind}" in known}
    if "annotator IoU" in known:
        metrics["annotator IoU"] = scores["annotator IoU"]
    if "annotator rank" in known:
        metrics |= {f"Rank@{n}": (scores["annotator rank"] <= n).astype(np.float64) for n in RECALL_AT}
    metrics |= {name: scores[name] for name in ("v-IoU", "box IoU", "coverage") if name in known}
    if "looked" in known:
        metrics["frames"] = scores["looked"]
    measured = estimates(metrics, groups=groups)
    if len(runs) >= IQM_RUNS:
        over = estimates({"mIoU": iou}, groups=groups, statistic="iqm")["mIoU"]
        middle = {"mIoU (IQM)": (over.iqm, [over.low, over.high])}
    else:
        middle = {}
    entry = agents.find(runs[0]["system"])
    plain = {"moves": float(scores["moves"].mean())} if "moves" in known else {}
    if entry.needs_training:
        plain["train s"] = float(np.mean([run["seconds"] for run in runs]))
    if all(run.get("parameters") for run in runs):
        plain["params"] = float(np.mean([run["parameters"] for run in runs]))
    return {
        "system": label,
        "description": entry.description,
        "protocol": protocol.as_dict(),
        "seeds": len(runs),
        "queries": iou.shape[1],
        "metrics": {name: e.mean for name, e in measured.items()} | {n: v for n, (v, _) in middle.items()} | plain,
        "intervals": {name: [e.low, e.high] for name, e in measured.items()} | {n: v for n, (_, v) in middle.items()},
        "caveat": measured["mIoU"].caveat,
        **_said(candidate_bound(runs, iou), own_moves(runs, protocol), given_boxes(runs)),
    }


def _said(*parts: dict[str, Any]) -> dict[str, Any]:
    """Parts of a row as one, their notes one after the other."""
    notes = [part["note"] for part in parts if "note" in part]
    merged = {name: value for part in parts for name, value in part.items()}
    return merged | ({"note": " ".join(notes)} if notes else {})


def candidate_bound(runs: list[dict], iou: np.ndarray) -> dict[str, Any]:
    """What a system's candidates could reach at best, for its row: the mean and a note; nothing for other systems.

    Args:
        iou: (R, S) of the runs. A prediction above its own bound is said: then candidates or bound are wrong.
    """
    if not all("candidate_oracle" in run for run in runs):
        return {}
    bound = np.array([run["candidate_oracle"] for run in runs])
    note = f"its candidates reach a mIoU of {100 * bound.mean():.2f} at best"
    above = int((iou > bound + 1e-5).sum())
    if above:
        note += f", yet {above} of {iou.size} predictions lie above that bound: one of the two is wrong"
    return {"candidate_oracle": float(bound.mean()), "note": f"{note}."}


def given_boxes(runs: list[dict]) -> dict[str, Any]:
    """A note for the row of a system that ``--set boxes=truth`` gave what no system may see; nothing for others."""
    import agents

    boxes = (runs[0].get("options") or {}).get("boxes")
    if boxes not in ("truth", "static") or agents.find(runs[0]["system"]).upper_bound:
        return {}
    return {"note": f"trained and scored on {'true' if boxes == 'truth' else 'true static'} boxes: an upper bound."}


def own_moves(runs: list[dict], protocol: Protocol) -> dict[str, Any]:
    """A note for the row of a system whose published moves differ from the protocol's; nothing for other systems."""
    rules, dynamics = protocol.as_dict(), runs[0].get("dynamics") or {}
    other = {name: value for name, value in dynamics.items() if value != rules[name]}
    if not other:
        return {}
    listed = ", ".join(f"{name}={value}" for name, value in other.items())
    return {"note": f"moves of its own, as published: {listed}."}


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
