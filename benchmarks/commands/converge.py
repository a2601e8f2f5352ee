"""``strong-envs converge``: mIoU on validation over iterations, after the paper's Figure 4a, and over seconds.

The clock stands still while a system is scored (`benchmarks.execution.timed_training`), so that systems of any kind
can be drawn in one figure. Use ``--jobs 1`` to measure seconds: training runs at the same time slow each other down.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.agents.overrides import setting_paths
from strong_envs.benchmarks.execution.job import finish, importable_here, plain_variants, run_job, systems_of
from strong_envs.benchmarks.metrics.curves import quality_markdown
from strong_envs.benchmarks.options import add_arguments, apply_quick, held_output
from strong_envs.benchmarks.results.collect import collect
from strong_envs.benchmarks.results.files import write_json
from strong_envs.benchmarks.tuning.chosen import with_tuned
from strong_envs.features.errors import DataError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``converge`` command."""
    parser = subparsers.add_parser(
        "converge",
        help="Figure 4a: learning curves over iterations and seconds",
        description="Train systems for several iterations of the alternating training and draw the mIoU on validation "
        "after each: over iterations (converge.png) and over seconds of training (seconds.png). --evaluations "
        "sets the number of scores within the first stage of a training; later ones have a quarter as many.",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="iterations of the alternating training (%(default)s)"
    )
    add_arguments(parser)
    parser.set_defaults(run=main, systems="strong", out="results/converge")


def main(args: argparse.Namespace) -> int:
    """Run the command; exit codes as of ``run``."""
    from strong_envs.benchmarks.results import figures

    if args.rounds < 1:
        raise DataError(f"--rounds must be 1 or more, got {args.rounds}")
    apply_quick(args)
    names = systems_of(args)
    importable_here()
    if any("rounds" in setting_paths(name) for name in names):
        args.set = [f"rounds={args.rounds}", *args.set]
    variants = with_tuned(args, plain_variants(args, names))
    with held_output(args) as out:
        job = run_job(args, variants)
        result = collect(job)
        write_json(out / "results.json", result)
        if result["curves"]:
            figures.learning_curves(result, out / "converge.png", "stage")
            figures.learning_curves(figures.with_traces(result), out / "seconds.png")
        show(result, args, out)
        return finish(job)


def show(result: dict[str, Any], args: argparse.Namespace, out: Path) -> None:
    """Print the score after each stage, or the result file with ``--json``."""
    if args.json:
        print(json.dumps(result))
        return
    for label, runs in result["curves"].items():
        for i, stage in enumerate(runs[0]):
            scores = [run[i]["IoU"] for run in runs if i < len(run) and "IoU" in run[i]]
            if scores:
                spread = f" ({min(scores):.4f} to {max(scores):.4f} over {len(scores)} seeds)"
                print(f"{label}: {stage['stage']:<14} mIoU {np.mean(scores):.4f}{spread}")
    print(f"\nseconds of training to a validation mIoU\n{quality_markdown(result.get('traces') or result['curves'])}")
    print(f"{out}: results.json, converge.png, seconds.png ({result['wall_seconds']:.0f} s)")
