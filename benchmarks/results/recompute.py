"""``strong-envs recompute``: the rows of a result file once more, from the IoU of every query that the file holds.

Nothing else is read: no features, no weights, no folder of the run. What is printed beside each stored number is the
mean over training runs and queries, its bootstrap interval over runs and videos, and Acc@m.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from strong_envs.benchmarks.metrics.definitions import hits
from strong_envs.benchmarks.metrics.ground_truth import units_of
from strong_envs.benchmarks.metrics.statistics import estimates
from strong_envs.benchmarks.protocols import Protocol
from strong_envs.benchmarks.results.files import read_result
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import shown

NEAR = 1e-4
"""Largest difference of a mean or of an end of an interval: files hold an IoU with five decimals."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``recompute`` command."""
    parser = subparsers.add_parser(
        "recompute",
        help="compute the rows of a result file again from the IoU of every query in it",
        description="Compute the rows of a result file again from the IoU of every query that it holds, and print "
        "stored and computed numbers side by side. Exit code 1 where they differ.",
    )
    parser.add_argument("file", help="results.json of a run, or a file of docs/results")
    parser.add_argument("--system", metavar="NAME", help="one row (default: every row whose queries are in the file)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; 0 where all numbers agree, else 1."""
    result = read_result(args.file, need=("rows", "per_query"))
    found = recomputed(result, shown(args.file), args.system)
    if args.json:
        print(json.dumps(found))
    else:
        for row in found:
            for name, (stored, computed) in row["numbers"].items():
                mark = "  DIFFERS" if name in row["differs"] else ""
                print(f"{row['system']}: {name} {100 * stored:.2f} in the file, {100 * computed:.2f} computed{mark}")
    return 1 if any(row["differs"] for row in found) else 0


def recomputed(result: Mapping[str, Any], where: str, system: str | None = None) -> list[dict[str, Any]]:
    """Rows with ``numbers``, each as stored and as computed, and the names of those that ``differs``.

    Args:
        result: content of a result file.
        where: the file, for messages.
        system: one row; None takes all that have the IoU of every query.

    Raises:
        DataError: no such row, or a file without the IoU of every query.
    """
    scores, rows = result["per_query"], {row["system"]: row for row in result["rows"]}
    there = [name for name in rows if name in scores["IoU"]]
    if not there:
        raise DataError(f"{where} does not hold the IoU of every query, so nothing can be computed from it")
    if system is not None and system not in there:
        raise DataError(f"{where} has no queries of {system!r}{nearest(system, there)}; it has those of {there}")
    groups, found = units_of(scores), []
    for name in there if system is None else [system]:
        row = rows[name]
        if row["metrics"].get("mIoU") is None:
            raise DataError(f"{where}: the row of {name!r} has no mIoU")
        iou = np.array(scores["IoU"][name], np.float64)
        estimate = estimates({"mIoU": iou}, groups=groups, deterministic=row.get("seeds") is None)["mIoU"]
        low, high = (row.get("intervals") or {}).get("mIoU", (estimate.low, estimate.high))
        numbers = {"mIoU": (row["metrics"]["mIoU"], estimate.mean)}
        numbers |= {"mIoU, low": (low, estimate.low), "mIoU, high": (high, estimate.high)}
        differs = [name for name, (stored, computed) in numbers.items() if abs(stored - computed) > NEAR]
        # A draw many times over has the mean of its draws in the file, of which no share can be counted.
        if not row.get("draws"):
            protocol = Protocol.from_dict(row["protocol"])
            for m in protocol.thresholds:
                column = f"Acc@{m:g}".replace("0.", ".")
                if column in row["metrics"]:
                    share = float(np.mean(hits(iou, m, protocol.comparison)))
                    numbers[column] = (row["metrics"][column], share)
                    # Five decimals may bring a score to its threshold.
                    near = np.abs(iou - m) <= 1e-5
                    if abs(row["metrics"][column] - share) > float(np.mean(near)) + NEAR:
                        differs.append(column)
        found.append({"system": name, "numbers": numbers, "differs": differs})
    return found
