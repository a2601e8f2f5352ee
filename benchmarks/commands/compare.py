"""``strong-envs compare A.json B.json``: paired differences over the same queries, or a refusal."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.benchmarks.metrics.definitions import per_query
from strong_envs.benchmarks.metrics.ground_truth import units_of
from strong_envs.benchmarks.metrics.statistics import difference_test
from strong_envs.benchmarks.protocols import Protocol, same_column
from strong_envs.benchmarks.results.files import read_tree
from strong_envs.benchmarks.results.schema import checked_cell, checked_result
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import shown


@dataclass(frozen=True)
class Scored:
    """The runs of one system: IoU (R, S) of each query, the queries' ids and units, and what they were scored by."""

    label: str
    iou: np.ndarray
    queries: list[str]
    units: list[str]
    """What is drawn as a whole for each query: its video, or the clip or source that it shares with others."""
    protocol: Protocol
    sees: str | None = None
    learns_from: str | None = None
    """As of the row; None where the file does not say."""
    reference: bool = False
    """Fitted without a seed: its one run is all there is."""

    @property
    def knows(self) -> str | None:
        """What the system sees and learns from, in words."""
        return None if self.sees is None else f"sees {self.sees}, learns from {self.learns_from}"


def read_scored(path: str | Path) -> dict[str, Scored]:
    """The systems of a result file (of ``run``, ``table1`` or ``table2``), or the one of a cell's file, by label.

    Raises:
        DataError: not JSON, or a file without scores per query or without its protocol.
    """
    values = read_tree(path)
    if "per_query" in values:
        checked_result(values, shown(path), ("rows",))
        scores = values["per_query"]
        protocols = {row["system"]: row["protocol"] for row in values["rows"]}
        references = {row["system"] for row in values["rows"] if row.get("reference")}
        known = {row["system"]: (row.get("sees"), row.get("learns_from")) for row in values["rows"]}
        runs = {label: iou for label, iou in scores["IoU"].items() if label in protocols}
        if not runs:
            raise DataError(f"{shown(path)} has no scores per query of any row")
    elif "scores" in values and "protocol" in values:
        checked_cell(values, shown(path), Path(path).stem)
        scores = {"queries": values["queries"], "videos": values["videos"], "units": values.get("units", [])}
        references, known = set(), {}
        runs, protocols = {values["system"]: [values["scores"]["IoU"]]}, {values["system"]: values["protocol"]}
    else:
        raise DataError(f"{shown(path)} holds no scores per query and protocol; give a results.json or a cell's file")
    return {
        label: Scored(
            label,
            np.atleast_2d(iou),
            scores["queries"],
            units_of(scores),
            Protocol.from_dict(protocols[label]),
            *known.get(label, (None, None)),
            reference=label in references,
        )
        for label, iou in runs.items()
    }


def compare(a: Scored, b: Scored) -> list[dict[str, Any]]:
    """System a minus system b, one row a metric: both means, the difference with its interval, and the p-value.

    Queries are matched by id; training runs and whole videos are drawn, see `difference_test`.

    Raises:
        DataError: two protocols, or other queries under the same protocol.
    """
    same_column(a.protocol, b.protocol)
    if set(a.queries) != set(b.queries):
        only = len(set(a.queries) ^ set(b.queries))
        raise DataError(f"{a.label!r} and {b.label!r} were scored on other queries: {only} are in one of them only")
    at = {query: i for i, query in enumerate(b.queries)}
    second = b.iou[:, [at[query] for query in a.queries]]
    rows = []
    rules = (a.protocol.thresholds, a.protocol.comparison)
    ours, theirs = per_query(a.iou, *rules), per_query(second, *rules)
    for metric in ours:
        found = difference_test(ours[metric], theirs[metric], groups=a.units)
        rows.append(
            {
                "metric": metric,
                "a": a.label,
                "b": b.label,
                "a_knows": a.knows,
                "b_knows": b.knows,
                "mean_a": float(ours[metric].mean()),
                "mean_b": float(theirs[metric].mean()),
                **found.as_dict(),
            }
        )
    return rows


def pairs(
    first: Mapping[str, Scored], second: Mapping[str, Scored], a: str | None, b: str | None, same_file: bool = False
) -> list[tuple[Scored, Scored]]:
    """Which systems are compared: those named, else those that both files have."""
    for name, held in ((a, first), (b, second)):
        if name is not None and name not in held:
            raise DataError(f"there is no system {name!r}{nearest(name, held)}; the file has {sorted(held)}")
    left, right = a or b, b or a
    if left is not None and right is not None:
        for name, held in ((left, first), (right, second)):
            if name not in held:
                raise DataError(f"there is no system {name!r} in the other file, which has {sorted(held)}; name both")
        return [(first[left], second[right])]
    if len(first) == len(second) == 1:
        return [(next(iter(first.values())), next(iter(second.values())))]
    shared = [name for name in first if name in second]
    if not shared:
        raise DataError(f"the files share no system: {sorted(first)} against {sorted(second)}; name them with --a, --b")
    if same_file:
        raise DataError(f"a file compared with itself needs two systems, --a and --b, of {sorted(first)}")
    return [(first[name], second[name]) for name in shared]


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``compare`` command."""
    parser = subparsers.add_parser(
        "compare",
        help="print paired differences between systems of two result files",
        description="Compare systems of two result files (results.json, or the file of one training run) over the same "
        "queries: the difference A - B, its 95 % interval and its p-value over training runs and videos. Results "
        "of two protocols are refused.",
    )
    parser.add_argument("first", metavar="A.json", help="a result file")
    parser.add_argument("second", metavar="B.json", help="another, or the same with --a and --b")
    parser.add_argument("--a", metavar="SYSTEM", help="system of A.json (default: every system that both files have)")
    parser.add_argument("--b", metavar="SYSTEM", help="system of B.json (default: the same as --a)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0."""
    first, second = read_scored(args.first), read_scored(args.second)
    same_file = Path(args.first).resolve() == Path(args.second).resolve()
    found = [compare(*pair) for pair in pairs(first, second, args.a, args.b, same_file)]
    if args.json:
        print(json.dumps({"comparisons": [row for rows in found for row in rows]}, indent=1))
        return 0
    for rows in found:
        print(f"{rows[0]['a']} ({args.first}) minus {rows[0]['b']} ({args.second}), {rows[0]['queries']:,} queries")
        for side in "ab":
            if rows[0][f"{side}_knows"]:
                print(f"  {rows[0][side]}: {rows[0][f'{side}_knows']}")
        print(f"  {'metric':<8}{'A':>8}{'B':>8}{'A - B':>9}   95 % interval      p")
        for row in rows:
            numbers = "".join(f"{100 * row[key]:>8.2f}" for key in ("mean_a", "mean_b"))
            interval = f"[{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"
            print(f"  {row['metric']:<8}{numbers}{100 * row['difference']:>+9.2f}   {interval:<17}{row['p_value']:.4f}")
        if rows[0]["caveat"]:
            print(f"  {rows[0]['caveat']}")
    return 0
