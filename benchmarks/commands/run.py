"""``strong-envs run``: the main job. It trains, scores and draws, and writes everything to one folder."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.execution.job import Job, finish, plain_variants, run_job, systems_of
from strong_envs.benchmarks.execution.predictions import PREDICTION, read_prediction
from strong_envs.benchmarks.options import add_arguments, apply_quick, held_output
from strong_envs.benchmarks.results.collect import chosen_metrics, collect
from strong_envs.benchmarks.results.files import write_json
from strong_envs.benchmarks.tuning.chosen import with_tuned
from strong_envs.features.files.atomic import write_text


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``run`` command."""
    parser = subparsers.add_parser(
        "run",
        help="train systems, score them beside baselines, write table and figures",
        description="Train every system with every seed, score it on held-out videos, and write results.json, "
        "table.md, curve.png (learning curves), episode.png and episode.mp4 (one held-out query). Finished training "
        "runs are kept: the same command continues where it stopped.",
    )
    parser.add_argument("--list", action="store_true", help="list the systems with what they see and learn from")
    add_arguments(parser)
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; 0 when every cell finished, 1 when one failed, 130 after Ctrl-C."""
    if args.list:
        list_systems()
        return 0
    apply_quick(args)
    args.out = "results/quick" if args.quick and args.out == "results/run" else args.out
    variants = with_tuned(args, plain_variants(args, systems_of(args)))
    with held_output(args) as out:
        job = run_job(args, variants)
        result = collect(job)
        write_json(out / "results.json", result)
        if result["rows"]:
            draw(result, job)
        show(result, args, out)
        if not (args.json or job.outcome.interrupted):
            say_what_next(args, out)
        return finish(job)


def list_systems() -> None:
    """Print every registered system: name, what it sees, what it learns from, and a sentence."""
    from strong_envs import agents

    head = ("system", "sees", "learns from", "description")
    lines = [(s.name, s.sees, s.learns_from, s.description) for s in agents.REGISTRY.values()]
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(3)]
    for line in (head, *lines):
        print("  ".join([*(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)), line[3]]))


def draw(result: dict[str, Any], job: Job) -> None:
    """Table, learning curve, a picture and a video of one held-out episode."""
    from strong_envs.benchmarks.results import figures, filmstrip
    from strong_envs.benchmarks.results.tables import markdown_table

    out = Path(job.args.out)
    write_text(out / "table.md", markdown_table(result["rows"], chosen_metrics(job.args, result), legend=True))
    figures.learning_curves(figures.with_traces(result), out / "curve.png", "share")
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


def say_what_next(args: argparse.Namespace, out: Path) -> None:
    """What a newcomer asks after the first table."""
    if args.quick:
        print(
            "This was a trial: one seed and a twentieth of the training, so learned rows lie near those that see "
            "nothing. Without --quick they are trained in full."
        )
    print(f"One page with figures and episodes: strong-envs report {shlex.quote(str(out))}")
