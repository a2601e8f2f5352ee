"""``strong-envs run``: the main job. Trains, evaluates, draws; everything lands in one folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.execution.cell import write_json
from strong_envs.benchmarks.execution.job import (
    Job,
    add_engine_arguments,
    chosen_metrics,
    collect,
    finish,
    plain_variants,
    run_job,
    systems_of,
)
from strong_envs.benchmarks.execution.predictions import PREDICTION, read_prediction

SYSTEMS = ("random policy", "blind one-shot", "blind", "trl", "frame classifier", "strong", "GT boxes")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``run`` command."""
    parser = subparsers.add_parser(
        "run",
        help="train and evaluate systems beside their references (the main job)",
        description="Train every system with every seed, score it on held-out videos, and write results.json, "
        "table.md, a learning curve, a picture and a video of an episode. What is finished is kept: the same command "
        "goes on where it stopped.",
    )
    add_arguments(parser)
    parser.set_defaults(run=main)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that trains."""
    parser.add_argument("--features", default="shapes-v0-medium", help="a key or the path of a store (%(default)s)")
    parser.add_argument("--train", default="train", help="training split (%(default)s)")
    parser.add_argument("--test", default="test", help="held-out split (%(default)s)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated or all; module:Class is yours")
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
    add_engine_arguments(parser)


def apply_quick(args: argparse.Namespace) -> None:
    """What ``--quick`` stands for."""
    if args.quick:
        args.seeds, args.budget = 1, min(args.budget, 0.05)
        args.features = "shapes-v0" if args.features == "shapes-v0-medium" else args.features


def main(args: argparse.Namespace) -> int:
    """Run the command; 0 when every cell finished, 1 when one failed, 130 after Ctrl-C."""
    apply_quick(args)
    args.out = "results/quick" if args.quick and args.out == "results/run" else args.out
    job = run_job(args, plain_variants(args, systems_of(args)))
    result, out = collect(job), Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", result)
    if result["rows"]:
        draw(result, job)
    show(result, args, out)
    return finish(job)


def draw(result: dict[str, Any], job: Job) -> None:
    """Table, learning curve, a picture and a video of one held-out episode."""
    from strong_envs.benchmarks.results import figures, filmstrip
    from strong_envs.benchmarks.results.tables import markdown_table

    out = Path(job.args.out)
    (out / "table.md").write_text(markdown_table(result["rows"], chosen_metrics(job.args, result)), encoding="utf-8")
    figures.learning_curves(result, out / "curve.png")
    for name in ("strong", "trl"):
        runs = job.runs(name)
        if runs:
            prediction, _ = read_prediction(job.folder / f"{runs[0]['key']}{PREDICTION}")
            filmstrip.episode(prediction, job.bank, out / "episode.png", out / "episode.mp4")
            return


def show(result: dict[str, Any], args: argparse.Namespace, out: Path) -> None:
    """Print the table, or the result file with ``--json``."""
    import json

    import rich
    from rich.console import Console

    from strong_envs.benchmarks.results.tables import print_table

    if args.json:
        print(json.dumps(result))
        return
    if result["rows"]:
        title = f"{result['protocol']['data']}, {args.test}: {result['rows'][0]['queries']:,} queries"
        console = Console(width=max(rich.get_console().width, 170))
        print_table(result["rows"], chosen_metrics(args, result), title=title, console=console)
    names = ("results.json", "table.md", "curve.png", "episode.png", "episode.mp4")
    written = ", ".join(name for name in names if (out / name).is_file())
    print(f"{out}: {written} ({result['wall_seconds']:.0f} s)")
