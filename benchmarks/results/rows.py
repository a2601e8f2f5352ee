"""The row of a system in the table, from its stored cells: metrics with intervals, caveats and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.benchmarks.execution.predictions import PREDICTION, read_prediction
from strong_envs.benchmarks.metrics.catalogue import METRICS
from strong_envs.benchmarks.metrics.columns import in_order
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth, units_of
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.metrics.statistics import estimates
from strong_envs.benchmarks.protocols import Protocol


def scores_of(run: Mapping[str, Any], folder: Path, truth: GroundTruth, protocol: Protocol) -> dict[str, np.ndarray]:
    """`score` of one stored cell, from its predictions in ``folder``.

    What its predictions lack (files of older releases) is taken from the scores that the cell was stored with.
    """
    prediction, _ = read_prediction(folder / f"{run['key']}{PREDICTION}", truth.bank)
    computed = score(prediction, truth, protocol.thresholds, protocol.comparison)
    cached = {name: np.asarray(values, np.float64) for name, values in (run.get("scores") or {}).items()}
    return cached | computed


def system_row(
    label: str, runs: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, np.ndarray]], protocol: Protocol
) -> dict[str, Any]:
    """One row of the table.

    Args:
        label: of the row.
        runs: the stored cells of a system, one a seed.
        scores: of each cell, as of `scores_of`; a metric has a column where every cell has it.
        protocol: thresholds and comparison that the scores were computed with.
    """
    from strong_envs import agents

    groups = units_of(runs[0])
    metrics, intervals, caveat = measured(scores, protocol, groups)
    metrics |= _of_runs(runs)
    iou = np.array([each["IoU"] for each in scores])
    return {
        "system": label,
        "description": agents.find(runs[0]["system"]).description,
        **agents.registry.information(runs[0]["system"], runs[0].get("options")),
        "protocol": protocol.as_dict(),
        "seeds": len(runs),
        "queries": iou.shape[1],
        "metrics": {name: metrics[name] for name in in_order(metrics)},
        "intervals": intervals,
        "caveat": caveat,
        **_said(candidate_bound(runs, iou), own_moves(runs, protocol), given_boxes(runs)),
    }


def measured(
    scores: Sequence[Mapping[str, np.ndarray]], protocol: Protocol, groups: Sequence[str], deterministic: bool = False
) -> tuple[dict[str, float], dict[str, list[float]], str | None]:
    """Values and intervals of the metrics that every run has, by column, and the caveat of the intervals.

    Args:
        scores: of each run.
        protocol: its thresholds decide the columns.
        groups: (S,) video of each query.
        deterministic: no caveat about a single run.
    """
    wanted: dict[str, dict[str, np.ndarray]] = {"mean": {}, "iqm": {}}
    for entry in METRICS.values():
        if entry.per_run or len(scores) < entry.fewest_runs:
            continue
        for m in entry.levels(protocol.thresholds):
            name = entry.single or entry.column(m)
            if all(name in each for each in scores):
                wanted[entry.statistic][entry.column(m)] = np.array([each[name] for each in scores])
    values: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    caveat = None
    for statistic, columns in wanted.items():
        if columns:
            found = estimates(columns, groups=groups, statistic=statistic, deterministic=deterministic)
            values |= {name: e.mean if statistic == "mean" else e.iqm for name, e in found.items()}
            intervals |= {name: [e.low, e.high] for name, e in found.items()}
            caveat = next(iter(found.values())).caveat
    return values, intervals, caveat


def _of_runs(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the runs of the metrics of training runs, where every run has one."""
    found = {}
    for entry in METRICS.values():
        if entry.per_run:
            each = [entry.values(run) for run in runs]
            if all(value is not None for value in each):
                found[entry.column()] = float(np.mean(each))
    return found


def _said(*parts: dict[str, Any]) -> dict[str, Any]:
    """Parts of a row as one, their notes one after the other."""
    notes = [part["note"] for part in parts if "note" in part]
    merged = {name: value for part in parts for name, value in part.items()}
    return merged | ({"note": " ".join(notes)} if notes else {})


def candidate_bound(runs: Sequence[Mapping[str, Any]], iou: np.ndarray) -> dict[str, Any]:
    """What a system's candidates reach at best, for its row: the mean and a note; nothing for other systems.

    Args:
        runs: the stored cells of a system.
        iou: (R, S) of the runs. The note says so where a prediction lies above its own bound: one of them is wrong.
    """
    if not all("candidate_oracle" in run for run in runs):
        return {}
    bound = np.array([run["candidate_oracle"] for run in runs])
    note = f"its candidates reach a mIoU of {100 * bound.mean():.2f} at best"
    above = int((iou > bound + 1e-5).sum())
    if above:
        note += f", yet {above} of {iou.size} predictions lie above that bound: one of the two is wrong"
    return {"candidate_oracle": float(bound.mean()), "note": f"{note}."}


def given_boxes(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A note for the row of a system on true boxes or on those of another system (``--set boxes=``); else nothing."""
    from strong_envs import agents
    from strong_envs.agents.box_source import from_tracker

    boxes = (runs[0].get("options") or {}).get("boxes")
    entry = agents.find(runs[0]["system"])
    if not boxes or entry.upper_bound or not entry.needs_frames:
        return {}
    if from_tracker(boxes):
        return {"note": f"looks through the boxes of {Path(boxes).name}."}
    if boxes not in ("truth", "static"):
        return {}
    return {"note": f"trained and scored on {'true' if boxes == 'truth' else 'true static'} boxes: an upper bound."}


def own_moves(runs: Sequence[Mapping[str, Any]], protocol: Protocol) -> dict[str, Any]:
    """A note for the row of a system whose published moves differ from the protocol's; nothing for other systems."""
    rules, dynamics = protocol.as_dict(), runs[0].get("dynamics") or {}
    other = {name: value for name, value in dynamics.items() if value != rules[name]}
    if not other:
        return {}
    listed = ", ".join(f"{name}={value}" for name, value in other.items())
    return {"note": f"moves of its own: {listed}."}
