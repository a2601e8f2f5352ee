"""``python -m benchmarks run``: the main job. Trains, evaluates, draws; everything lands in one folder."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import Cell, write_json
from benchmarks.matrix import Outcome, run_matrix
from benchmarks.metrics import per_query
from benchmarks.protocols import Protocol, content_hashes
from benchmarks.statistics import estimates
from features.records import DataError

SYSTEMS = ("random policy", "blind", "trl", "strong", "true boxes")
UNTRAINED = ("random policy",)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``run`` command."""
    parser = subparsers.add_parser(
        "run",
        help="train and evaluate systems beside their references (the main job)",
        description="Train every system with every seed, score it on held-out videos, and write results.json, "
        "table.md, a learning curve, a picture and a video of an episode. What is finished is kept: the same command "
        "goes on where it stopped.",
    )
    parser.add_argument("--features", default="shapes-v0-medium", help="a key or the path of a store (%(default)s)")
    parser.add_argument("--train", default="train", help="training split (%(default)s)")
    parser.add_argument("--test", default="test", help="held-out split (%(default)s)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated; module:Class takes yours")
    parser.add_argument("--seeds", type=int, default=3, help="training runs of each system (%(default)s)")
    parser.add_argument("--budget", type=float, default=1.0, help="factor on the training steps (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at a time (%(default)s)")
    parser.add_argument(
        "--multi-scale", action="store_true", help="finer moves too, for long videos with short moments"
    )
    parser.add_argument("--device", default="cpu", help="torch device (%(default)s)")
    parser.add_argument("--out", default="results/run", help="folder of the results (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="small build, one seed, a tenth of the steps")
    parser.add_argument("--json", action="store_true", help="print results.json instead of the table")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; 0 when every cell finished, 1 when one failed, 130 after Ctrl-C."""
    import agents
    import features

    if args.quick:
        args.seeds, args.budget = 1, min(args.budget, 0.05)
        args.features = "shapes-v0" if args.features == "shapes-v0-medium" else args.features
        args.out = "results/quick" if args.out == "results/run" else args.out
    if args.seeds < 1 or args.jobs < 1 or not args.budget > 0:
        raise DataError(f"seeds, jobs and budget must be positive, got {args.seeds}, {args.jobs}, {args.budget}")
    out = Path(args.out)
    began = time.perf_counter()
    store = features.open_store(args.features)
    bank = features.load(args.features, args.test)
    features.load(args.features, args.train)
    names = [name.strip() for name in args.systems.split(",") if name.strip()]
    cells, refused = [], {}
    for name in names:
        agents.find(name)
        reason = agents.why_not(name, bank)
        if reason:
            refused[name] = reason
            print(f"left out: {reason}", file=sys.stderr)
            continue
        for seed in range(args.seeds):
            budget = 1.0 if name in UNTRAINED else args.budget
            options = {"env": {"multi_scale": True}} if args.multi_scale else {}
            where = (args.features, store.content_hash, args.train, args.test)
            cells.append(Cell(name, seed, *where, budget, args.device, options))
    outcome = run_matrix(cells, out / "cells", args.jobs)
    result = collect(store, args, cells, outcome)
    result["refused"] = refused
    result["wall_seconds"] = time.perf_counter() - began
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", result)
    if result["rows"]:
        draw(result, outcome, bank, cells, out)
    show(result, args, out)
    if outcome.interrupted:
        left = len(cells) - len(outcome.results)
        print(
            f"interrupted: {len(outcome.results)} cells are kept in {out}, {left} are left; run the same command "
            "again to go on",
            file=sys.stderr,
        )
        return 130
    for key, reason in outcome.failed.items():
        print(f"FAILED {key}: {reason}", file=sys.stderr)
    return 1 if outcome.failed else 0


def collect(store: Any, args: argparse.Namespace, cells: list[Cell], outcome: Outcome) -> dict[str, Any]:
    """The result file: protocol, rows, curves, failures, and what made them."""
    from benchmarks.reference_table import reference_rows

    protocol = Protocol("main", store.name, args.train, args.test, hashes=content_hashes(store, args.train, args.test))
    draws = 50 if args.quick else 200
    rows = reference_rows(store, args.train, args.test, draws, protocol=protocol, multi_scale=args.multi_scale)
    oracle = [row for row in rows if row["reference"] == "oracle"]
    rows = [row for row in rows if row["reference"] != "oracle"]
    curves = {}
    for system in dict.fromkeys(cell.system for cell in cells):
        done = [outcome.results[c.key] for c in cells if c.system == system and c.key in outcome.results]
        if done:
            rows.append(system_row(system, done, protocol, store))
            curves[system] = [run["history"] for run in done]
    return {
        "protocol": protocol.as_dict(),
        "rows": rows + oracle,
        "curves": curves,
        "failed": outcome.failed,
        "about": about(args),
    }


def system_row(system: str, runs: list[dict], protocol: Protocol, store: Any) -> dict[str, Any]:
    """One row of the table from the stored cells of a system, one a seed."""
    import agents

    iou = np.array([run["scores"]["IoU"] for run in runs])
    video = {q.qid: q.video for q in store.queries}
    groups = [video[qid] for qid in runs[0]["queries"]]
    metrics = per_query(iou, protocol.thresholds, protocol.comparison)
    for name in ("v-IoU", "coverage"):
        if name in runs[0]["scores"]:
            metrics[name] = np.array([run["scores"][name] for run in runs])
    measured = estimates(metrics, groups=groups)
    plain = {"moves": float(np.mean([run["scores"]["moves"] for run in runs]))} if "moves" in runs[0]["scores"] else {}
    return {
        "system": system,
        "description": agents.find(system).description,
        "protocol": protocol.as_dict(),
        "seeds": len(runs),
        "queries": iou.shape[1],
        "metrics": {name: e.mean for name, e in measured.items()}
        | plain
        | {"train s": float(np.mean([run["seconds"] for run in runs]))},
        "intervals": {name: [e.low, e.high] for name, e in measured.items()},
        "caveat": measured["mIoU"].caveat,
    }


def about(args: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions and command of a run."""
    import gymnasium
    import torch

    from strong_envs import __version__

    settings = {k: v for k, v in vars(args).items() if k != "run" and not callable(v)}
    return {
        "command": "python -m benchmarks " + shlex.join(sys.argv[1:]),
        "settings": settings,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {
            "strong-envs": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "gymnasium": gymnasium.__version__,
            "numpy": np.__version__,
        },
    }


def draw(result: dict[str, Any], outcome: Outcome, bank: Any, cells: list[Cell], out: Path) -> None:
    """Table, learning curve, a picture and a video of one held-out episode."""
    from benchmarks import figures
    from benchmarks.tables import markdown_table

    (out / "table.md").write_text(markdown_table(result["rows"]), encoding="utf-8")
    figures.learning_curves(result, out / "curve.png")
    best = [c for c in cells if c.key in outcome.results and c.seed == 0 and c.system not in (*UNTRAINED, "blind")]
    for name in ("strong", "trl"):
        for cell in best:
            if cell.system == name:
                weights = out / "cells" / f"{cell.key}.safetensors"
                figures.episode(weights, bank, out / "episode.png", out / "episode.mp4")
                return


def show(result: dict[str, Any], args: argparse.Namespace, out: Path) -> None:
    """Print the table, or the result file with ``--json``."""
    import json

    import rich
    from rich.console import Console

    from benchmarks.tables import console_table

    if args.json:
        print(json.dumps(result))
        return
    if result["rows"]:
        title = f"{result['protocol']['data']}, {args.test}: {result['rows'][0]['queries']:,} queries"
        Console(width=max(rich.get_console().width, 140)).print(console_table(result["rows"], title=title))
    print(f"{out}: results.json, table.md, curve.png, episode.png, episode.mp4 ({result['wall_seconds']:.0f} s)")
