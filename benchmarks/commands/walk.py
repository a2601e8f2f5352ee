"""``strong-envs walk``: from STRONG to the letter of the paper to the default, one change a row.

With ``--back`` every row is the default with one of these changes taken back, which tells what each is worth to a
system that learns. Rows and their order are those of `agents.strong.paper_walk`. Every cell is trained on the training
part and scored on the test part once; a killed walk goes on where it stopped. All rows are measured by one protocol:
where a row changes the moves of the temporal level, a note below the table says so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strong_envs.benchmarks.execution.job import Job, Variant, finish, run_job
from strong_envs.benchmarks.metrics.ground_truth import units_of
from strong_envs.benchmarks.metrics.statistics import difference_test
from strong_envs.benchmarks.options import add_arguments, apply_quick, held_output
from strong_envs.benchmarks.protocols import Protocol
from strong_envs.benchmarks.results.collect import chosen_metrics, collect
from strong_envs.benchmarks.results.files import write_json
from strong_envs.benchmarks.results.tables import ABSENT, format_number, print_table
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import write_text

if TYPE_CHECKING:
    from strong_envs.agents.strong.args import StrongArgs
    from strong_envs.agents.strong.paper_walk import Change

SYSTEM = "strong"
SHOWN = ("mIoU", "Acc@.5", "m_vIoU", "coverage", "train s")
"""Metrics of the table, where the rows have them; the result file has all."""
KNOWS = {"sees": "learned boxes", "learns_from": "own rewards"}
"""What every row of the walk is given to predict, and what it is trained with."""
FIXED: dict[str, Any] = {"systems": "", "agent": [], "set": [], "tuned": None, "multi_scale": False}
"""Options of other commands that would change the rows."""


class WalkJob(Job):
    """A job whose rows share one protocol, whatever moves they have."""

    def protocol_for(self, label: str) -> Protocol:
        """The protocol of the job."""
        return self.protocol


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``walk`` command."""
    parser = subparsers.add_parser(
        "walk",
        help="from the letter of the paper to the default STRONG, one change a row",
        description="Train STRONG to the letter of the paper, and then with one change after the other until it is "
        "the default. The rows are fixed; docs/results/walk.json is the results.json of this command.",
    )
    parser.add_argument(
        "--back", action="store_true", help="every row is the default with one of these changes taken back"
    )
    add_arguments(parser)
    parser.set_defaults(run=main, systems="", out="results/walk", evaluations=0)


def main(args: argparse.Namespace) -> int:
    """Run the command; exit codes as of ``run``."""
    apply_quick(args)
    for name, usual in FIXED.items():
        if getattr(args, name) != usual:
            raise DataError(
                f"the rows of the walk are fixed, so --{name.replace('_', '-')} has no place here; "
                "strong-envs run --systems strong takes it"
            )
    with held_output(args) as out:
        from strong_envs.agents.strong.paper_walk import options_of, taken_back, walk

        rows = taken_back() if args.back else walk()
        # All arguments of a row are options of its cells, so that a cell never outlives a default.
        made = run_job(args, [Variant(change.label, SYSTEM, options_of(row)) for change, row in rows])
        job = WalkJob(**{part.name: getattr(made, part.name) for part in fields(made)})
        result = walk_result(job, rows)
        write_json(out / "results.json", result)
        write_text(out / "table.md", walk_markdown(result))
        show(result, args, out)
        return finish(job)


def walk_result(job: Job, rows: list[tuple[Change, StrongArgs]]) -> dict[str, Any]:
    """The result file of `collect`; each row also says what it changes, and by how much the mIoU moves.

    That is from the row above, or from the default where changes are taken back. The interval of a step covers training
    runs and videos (`difference_test`).
    """
    from strong_envs.agents.strong.paper_walk import DEFAULT, differences

    result = collect(job, references=False)
    by_label = {row["system"]: row for row in result["rows"]}
    scores = result["per_query"]["IoU"]
    for at, (change, args) in enumerate(rows):
        row = by_label[change.label]
        row |= {name: row.get(name) or value for name, value in KNOWS.items()} | {"description": change.says}
        if at:
            other, before = rows[0 if rows[0][0].label == DEFAULT else at - 1]
            row["changed"] = differences(before, args)
            if change.label in scores and other.label in scores:
                groups = units_of(result["per_query"])
                row["change"] = difference_test(scores[change.label], scores[other.label], groups=groups).as_dict()
    return result


def walk_markdown(result: Mapping[str, Any]) -> str:
    """The walk as a Markdown table: what each row changes, its numbers, and the step in mIoU (`walk_result`)."""
    from strong_envs.agents.strong.paper_walk import DEFAULT

    rows = result["rows"]
    if not any("description" in row for row in rows):
        raise DataError("a walk is the result of strong-envs walk, whose rows say what they change")
    metrics = [name for name in SHOWN if any(name in row["metrics"] for row in rows)]
    step = "mIoU minus default" if rows[0]["system"] == DEFAULT else "step in mIoU"
    header = ["row", "what changes", *metrics, step, "seeds", "learns from", "sees"]
    lines = [header, [*["---"] * 2, *["---:"] * (len(metrics) + 2), *["---"] * 2]]
    for row in rows:
        intervals, change = row.get("intervals") or {}, row.get("change")
        moved = ABSENT
        if change:
            moved = f"{100 * change['difference']:+.2f} [{100 * change['low']:+.2f}, {100 * change['high']:+.2f}]"
        numbers = [format_number(m, row["metrics"].get(m), intervals.get(m)) for m in metrics]
        seeds = ABSENT if row.get("seeds") is None else str(row["seeds"])
        lines.append(
            [row["system"], row.get("description", ""), *numbers, moved, seeds, row["learns_from"], row["sees"]]
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = [f"- {row['system']}: {row[kind]}" for row in rows for kind in ("caveat", "note") if row.get(kind)]
    return "\n".join([table, "", *dict.fromkeys(notes)]) + "\n"


def show(result: dict[str, Any], args: argparse.Namespace, out: Path) -> None:
    """Print the table, or the result file with ``--json``."""
    if args.json:
        print(json.dumps(result))
        return
    import rich
    from rich.console import Console

    metrics = chosen_metrics(args, result) or [m for m in SHOWN if any(m in r["metrics"] for r in result["rows"])]
    what = "The default with one change taken back" if args.back else "From the letter to the default"
    title = f"{what} on {result['protocol']['data']}"
    print_table(result["rows"], metrics, title=title, console=Console(width=max(rich.get_console().width, 140)))
    print(f"{out}: results.json, table.md ({result['wall_seconds']:.0f} s)")
