"""The row of a system in the table, from its stored cells: metrics with intervals, caveats and notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.benchmarks.execution.cell import RECALL_AT
from strong_envs.benchmarks.metrics.definitions import DISCOUNTED_AT, discounted_name, hits, per_query, recall_name
from strong_envs.benchmarks.metrics.statistics import estimates
from strong_envs.benchmarks.protocols import Protocol

IQM_RUNS = 4
"""Training runs from which on an interquartile mean leaves any out."""


def system_row(label: str, runs: list[dict], protocol: Protocol, store: Any) -> dict[str, Any]:
    """One row of the table from the stored cells of a system, one a seed."""
    from strong_envs import agents

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
    metrics |= {name: scores[name] for name in ("m_vIoU", "box IoU", "coverage") if name in known}
    if "frames_seen" in known:
        metrics["frames_seen"] = scores["frames_seen"]
    measured = estimates(metrics, groups=groups)
    if len(runs) >= IQM_RUNS:
        over = estimates({"mIoU": iou}, groups=groups, statistic="iqm")["mIoU"]
        middle = {"mIoU (IQM)": (over.iqm, [over.low, over.high])}
    else:
        middle = {}
    entry = agents.find(runs[0]["system"])
    plain = {"steps": float(scores["steps"].mean())} if "steps" in known else {}
    if all("seconds_per_query" in run for run in runs):
        plain["ms/query"] = 1000 * float(np.mean([run["seconds_per_query"] for run in runs]))
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
    """A note for the row of a system that ``--set boxes=truth`` gave what no system may see, or ``--set boxes=FILE``
    the boxes of another; nothing for others.
    """
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


def own_moves(runs: list[dict], protocol: Protocol) -> dict[str, Any]:
    """A note for the row of a system whose published moves differ from the protocol's; nothing for other systems."""
    rules, dynamics = protocol.as_dict(), runs[0].get("dynamics") or {}
    other = {name: value for name, value in dynamics.items() if value != rules[name]}
    if not other:
        return {}
    listed = ", ".join(f"{name}={value}" for name, value in other.items())
    return {"note": f"moves of its own, as published: {listed}."}
