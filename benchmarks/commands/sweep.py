"""``strong-envs sweep gamma``: one setting over several values, after the paper's Figure 4, on validation videos."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strong_envs.agents.overrides import parse_values, with_setting
from strong_envs.benchmarks.execution.job import Job, Variant, finish, plain_variants, run_job, systems_of
from strong_envs.benchmarks.execution.predictions import PREDICTION, read_prediction
from strong_envs.benchmarks.execution.provenance import about
from strong_envs.benchmarks.options import add_arguments, apply_quick, held_output
from strong_envs.benchmarks.protocols import Protocol
from strong_envs.benchmarks.results.collect import per_query_scores, row_of
from strong_envs.benchmarks.results.files import write_json
from strong_envs.benchmarks.tuning.chosen import with_tuned
from strong_envs.features.errors import DataError
from strong_envs.features.validation import VALIDATION

VALUES: dict[str, list[Any]] = {
    "gamma": [0.0, 0.1, 0.2, 0.4, 0.6, 0.8],
    "phi": [0.0, 0.01, 0.05, 0.1, 0.2, 0.4],
    "tau": [0.005, 0.01, 0.02, 0.05, 0.1, 0.5],
    "z_e": [5.0, 7.0, 10.0, 14.0, 20.0],
    "z_s": [5.0, 10.0, 20.0],
    "max_steps": [5, 10, 20, 40],
    "multi_scale": [False, True],
}
"""Built-in values. The paper chose gamma = 0.2, phi = 0.1, tau = 0.02 and z_e = 10."""
SHOWN = ("constant", "knn", "oracle")
"""References that the table and the figure show; the result file has all of them."""
DRAWS = 50
"""Of the random window, for each protocol of the sweep."""


@dataclass(frozen=True)
class Plan:
    """What is swept: the setting, its values, and one variant per system and value, under ``label(system, value)``."""

    parameter: str
    values: list[Any]
    systems: list[str]
    variants: list[Variant]

    def label(self, system: str, value: Any) -> str:
        """``trl, phi = 0.1``: a row of the table."""
        return f"{system}, {self.parameter} = {value}"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``sweep`` command."""
    parser = subparsers.add_parser(
        "sweep",
        help="Figure 4: one setting over several values",
        description="Train systems with every value of one setting and every seed, and draw mIoU over the values. "
        "Values are compared on validation videos; choose one and run it once on the test part. "
        f"The setting is any field of the systems or of their environments; {', '.join(VALUES)} have built-in values.",
    )
    parser.add_argument(
        "parameter", metavar="SETTING", help="name of the setting, such as gamma, phi, tau, z_e or temporal.lr_actor"
    )
    parser.add_argument("--values", help="comma-separated values, such as 0,0.1,0.2 (default: the built-in ones)")
    add_arguments(parser)
    parser.set_defaults(run=main, systems="strong", out="results/sweep", test=VALIDATION, evaluations=0)


def main(args: argparse.Namespace) -> int:
    """Run the command; exit codes as of ``run``."""
    apply_quick(args)
    plan = plan_of(args)
    args.out = str(Path(args.out) / args.parameter)
    with held_output(args) as out:
        job = run_job(args, plan.variants)
        result = sweep_result(job, plan)
        write_json(out / "sweep.json", result)
        if result["points"]:
            from strong_envs.benchmarks.results import figures

            figures.sweep(result, out / "sweep.png")
        show(result, args, out)
        return finish(job)


def plan_of(args: argparse.Namespace) -> Plan:
    """The variants of a sweep.

    Raises:
        DataError: a setting that a system does not have, or without values.
    """
    name = args.parameter
    values = parse_values(args.values) if args.values else VALUES.get(name)
    if values is None:
        raise DataError(f"there are no built-in values for {name!r}; give --values (built in are {sorted(VALUES)})")
    base = with_tuned(args, plain_variants(args, systems_of(args)))
    plan = Plan(name, values, [v.system for v in base], [])
    for variant in base:
        for value in values:
            options = with_setting(variant.system, variant.options, name, value)
            plan.variants.append(Variant(plan.label(variant.system, value), variant.system, options))
    return plan


def sweep_result(job: Job, plan: Plan) -> dict[str, Any]:
    """The result file: a point per system and value, each with its protocol, and what the sweep could not change.

    ``per_query`` has the IoU of every query and run, by label.
    """
    points, scores = [], {}
    for system in plan.systems:
        for value in plan.values:
            label = plan.label(system, value)
            found = row_of(job, label)
            if found is not None:
                points.append({**found[0], "label": label, "system": system, "value": value})
                scores[label] = [values["IoU"] for values in found[1]]
    return {
        "parameter": plan.parameter,
        "values": plan.values,
        "points": points,
        "references": references(job, points),
        "options": {label: cells[0].options for label, cells in job.cells.items()},
        "notes": [*inert(job, plan), *_protocol_note(points, plan.parameter)],
        "failed": job.outcome.failed,
        "refused": job.refused,
        "per_query": per_query_scores(job.bank, scores),
        "wall_seconds": job.seconds,
        "about": about(job.args) | {"seeds": list(range(job.args.seeds))},
    }


def references(job: Job, points: Sequence[dict]) -> list[dict[str, Any]]:
    """The reference rows under the protocol of each value: ``value`` and the row, those of equal protocols alike."""
    from strong_envs.benchmarks.results.reference_rows import reference_rows

    known: dict[Protocol, list[dict]] = {}
    found: list[dict[str, Any]] = []
    for value, protocol in {repr(p["value"]): (p["value"], Protocol.from_dict(p["protocol"])) for p in points}.values():
        if protocol not in known:
            known[protocol] = reference_rows(job.store, job.args.train, job.args.test, DRAWS, protocol=protocol)
        found.extend({**row, "value": value} for row in known[protocol])
    return found


def inert(job: Job, plan: Plan) -> list[str]:
    """A sentence for each system whose predictions are the same under every value: its flat curve shows nothing."""
    notes = []
    for system in plan.systems:
        runs = [job.runs(plan.label(system, value)) for value in plan.values]
        runs = [found for found in runs if found]
        if len(runs) > 1 and _same_predictions(job.folder, runs):
            notes.append(
                f"{system}: {plan.parameter} changed nothing, every value gave the same predictions; another setting "
                "may switch it off (with learns_from='all rewards' the critic uses neither gamma, tau nor phi)."
            )
    return notes


def _same_predictions(folder: Path, runs: Sequence[Sequence[dict]]) -> bool:
    if any(run["spans"] != first["spans"] for found in runs for run, first in zip(found, runs[0], strict=False)):
        return False
    files = [read_prediction(folder / f"{found[0]['key']}{PREDICTION}")[0] for found in runs]
    boxes = [file.boxes for file in files if file.boxes is not None]
    return all(b.equal(boxes[0]) for b in boxes)


def _protocol_note(points: Sequence[dict], parameter: str) -> list[str]:
    if len({json.dumps(p["protocol"], sort_keys=True) for p in points}) > 1:
        return [f"{parameter} is part of the protocol: these rows are compared with each other and nothing else."]
    return []


def show(result: dict[str, Any], args: argparse.Namespace, out: Path) -> None:
    """Print one line a point, or the result file with ``--json``."""
    if args.json:
        print(json.dumps(result))
        return
    from strong_envs.benchmarks.results.tables import print_table

    groups: dict[str, list[dict]] = {}
    for p in result["points"]:
        groups.setdefault(json.dumps(p["protocol"], sort_keys=True), []).append({**p, "system": p["label"]})
    for protocol, rows in groups.items():
        seen = {r["system"]: r for r in result["references"] if json.dumps(r["protocol"], sort_keys=True) == protocol}
        rows += [row for row in seen.values() if row["reference"] in SHOWN]
        print_table(rows, ["mIoU", "Acc@.3", "Acc@.5", "Acc@.7"])
    for note in result["notes"]:
        print(note)
    print(f"{out}: sweep.json, sweep.png ({result['wall_seconds']:.0f} s)")
