"""The result file of a job: rows, scores per query, curves, failures, and what made them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from strong_envs.benchmarks.execution.cell import shared_units
from strong_envs.benchmarks.execution.job import Job
from strong_envs.benchmarks.execution.learned_boxes import SUFFIX
from strong_envs.benchmarks.execution.provenance import about
from strong_envs.benchmarks.metrics.columns import known_columns
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth
from strong_envs.benchmarks.results.rows import scores_of, system_row
from strong_envs.benchmarks.tuning.chosen import read_tuned, tuned_note
from strong_envs.features.validation import VALIDATION


def row_of(job: Job, label: str) -> tuple[dict[str, Any], list[dict[str, np.ndarray]]] | None:
    """The row of a label and the scores of its runs, computed from their predictions; None where no run finished."""
    runs = job.runs(label)
    if not runs:
        return None
    protocol, truth = job.protocol_for(label), GroundTruth.of_bank(job.bank)
    scores = [scores_of(run, job.folder, truth, protocol) for run in runs]
    return with_lost_runs(job, label, system_row(label, runs, scores, protocol)), scores


def collect(job: Job, references: bool = True) -> dict[str, Any]:
    """The result file: protocol, rows, scores per query, curves, failures, and what made them.

    Curves and traces are of the validation part, with reference rows of that part under ``validation``; everything else
    is of the test part.
    """
    from strong_envs import agents
    from strong_envs.benchmarks.results.reference_rows import reference_rows

    args = job.args
    scores: dict[str, Any] = {}
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
    validation = {}
    if VALIDATION in job.store.splits:
        rules = replace(job.protocol, test=VALIDATION)
        beside = reference_rows(job.store, args.train, VALIDATION, 50, protocol=rules) if references else []
        validation = {"validation": {"split": VALIDATION, "references": beside}}
    tuned = read_tuned(args.tuned) if getattr(args, "tuned", None) else None
    last = [row for row in rows if row["reference"] == "oracle"]
    rows = [row for row in rows if row["reference"] != "oracle"]
    curves, traces = {}, {}
    for label in job.cells:
        runs, found = job.runs(label), row_of(job, label)
        if found is not None:
            row, each = found
            if tuned is not None and agents.find(job.cells[label][0].system).needs_training:
                name = job.cells[label][0].system + (SUFFIX if label.endswith(SUFFIX) else "")
                row = with_note(row, tuned_note(name, tuned, job.store.name))
            rows.append(row)
            curves[label] = [run["history"] for run in runs]
            scores[label] = [values["IoU"] for values in each]
            if all(run.get("trace") for run in runs):
                traces[label] = [with_shares(run["trace"]) for run in runs]
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
        **validation,
        "cells": {label: [cell.key for cell in cells] for label, cells in job.cells.items()},
        "failed": job.outcome.failed,
        "refused": job.refused,
        "notes": notes,
        "per_query": per_query_scores(job.bank, scores),
        **({} if tuned is None else {"tuned": msgspec.to_builtins(tuned)}),
        "wall_seconds": job.seconds,
        "about": about(args) | {"seeds": list(range(args.seeds))},
    }


def with_note(row: dict[str, Any], note: str) -> dict[str, Any]:
    """The row with one more sentence below the table."""
    return row | {"note": " ".join(filter(None, [row.get("note"), note]))}


def with_shares(trace: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A learning curve with the ``share`` of the whole training's seconds at every score."""
    whole = max(trace[-1]["seconds"], 1e-9)
    return [{**point, "share": round(point["seconds"] / whole, 4)} for point in trace]


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
    return with_note(row, note)


def _empty_row(job: Job, label: str, reason: str) -> dict[str, Any]:
    return {"system": label, "protocol": job.protocol.as_dict(), "seeds": None, "metrics": {}, "caveat": reason}


def per_query_scores(bank: Any, scores: dict[str, Any]) -> dict[str, Any]:
    """IoU of every query and run, with videos and true windows (fractions) for comparisons and breakdowns."""
    return {
        "queries": bank.qids,
        "videos": [query.video for query in bank.queries],
        **shared_units(bank),
        "truth": true_fractions(bank),
        "IoU": {label: np.round(np.atleast_2d(values), 5).tolist() for label, values in scores.items()},
    }


def true_fractions(bank: Any) -> list[Any]:
    """The true windows of each query as fractions: (start, end), or a list of them where any query has several."""
    windows = np.round(bank.truth.cpu().numpy(), 5).tolist()
    counts = [len(query.windows) for query in bank.queries]
    if max(counts) == 1:
        return [each[0] for each in windows]
    return [each[:count] for each, count in zip(windows, counts, strict=True)]


def chosen_metrics(args: argparse.Namespace, result: dict[str, Any]) -> list[str] | None:
    """The columns of ``--metrics``; None for the usual ones.

    Raises:
        DataError: a metric that no row of the result has.
    """
    if not getattr(args, "metrics", None):
        return None
    names = [name.strip() for name in args.metrics.split(",") if name.strip()]
    return known_columns(names, dict.fromkeys(name for row in result["rows"] for name in row["metrics"]))
