"""``strong-envs merge A.json B.json``: one result file of several, whose systems were run apart.

Rows that take hours can run on another machine or another day. Nothing is trained and nothing is scored again. The
claims of the paper's tables are judged anew, since their p-values are adjusted for the number of claims.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.execution.provenance import about
from strong_envs.benchmarks.protocols import Protocol, same_column
from strong_envs.benchmarks.results.files import read_result, write_json
from strong_envs.benchmarks.results.tables import print_table
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import check_output, shown

BY_SYSTEM = ("curves", "traces", "cells", "failed", "refused")
"""Parts with an entry a system or a cell, which are joined."""
ALIKE = ("table", "tuned", "validation")
"""Parts that must be the same in every file that has them."""
QUERIES = ("queries", "videos", "units", "truth")
"""Parts of ``per_query`` that describe the queries."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``merge`` command."""
    parser = subparsers.add_parser(
        "merge",
        help="put the systems of several result files into one",
        description="Put the systems of several result files of one protocol into one file: rows that were run on "
        "several machines or days. A system may be in one file only; to join seeds of a system, copy the files of "
        "both folders cells into one --out and run the command again. The claims of table1 and table2 are judged anew.",
    )
    parser.add_argument("files", nargs="+", metavar="RESULT.json", help="result files of run, table1 or table2")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="file of the result, a new one")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0."""
    if len(args.files) < 2:
        raise DataError("merge puts several result files into one; name two or more")
    out = check_output(args.out, "file")
    if out.exists():
        raise DataError(f"{shown(out)} exists; choose another --out")
    results = [read_result(file, need=("protocol", "rows", "per_query")) for file in args.files]
    merged = merge(results, [shown(file) for file in args.files])
    parts = [result.get("about", {}) for result in results]
    seeds = sorted({seed for part in parts for seed in part.get("seeds", [])})
    write_json(out, merged | {"about": about(args) | {"seeds": seeds, "parts": parts}})
    rows = [row for row in merged["rows"] if row["metrics"]]
    print_table(rows, title=f"{merged['protocol']['data']}, {merged['protocol']['test']}")
    print(out)
    return 0


def merge(results: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The content of one result file with the systems of all.

    Rows keep the order of the files, with the oracle last; those of a paper's table the order of that table.

    Args:
        results: contents of checked result files with protocol, rows and ``per_query``.
        names: the files, for messages.

    Raises:
        DataError: other protocols, queries or tuned values, or a system with other numbers in two files.
    """
    from strong_envs.benchmarks.commands.paper_tables import arrange

    first, merged = results[0], dict(results[0])
    for result, name in zip(results[1:], names[1:], strict=True):
        same_column(Protocol.from_dict(first["protocol"]), Protocol.from_dict(result["protocol"]))
        for part in QUERIES:
            if first["per_query"].get(part) != result["per_query"].get(part):
                raise DataError(f"{names[0]} and {name} were scored on other queries ({part} differ)")
        for part in ALIKE:
            if part in merged and part in result and not same(merged[part], result[part]):
                raise DataError(f"{names[0]} and {name} differ in {part!r}; merge results of the same kind")
            if part in result:
                merged[part] = result[part]
        for part in BY_SYSTEM:
            if part in result:
                merged[part] = {**merged.get(part, {}), **result[part]}
    merged["rows"] = _rows(results, names)
    iou = {label: runs for result in reversed(results) for label, runs in result["per_query"]["IoU"].items()}
    merged["per_query"] = {**first["per_query"], "IoU": iou}
    merged["notes"] = list(dict.fromkeys(note for result in results for note in result.get("notes", [])))
    merged["wall_seconds"] = sum(result.get("wall_seconds", 0.0) for result in results)
    return arrange(merged) if "table" in merged else merged


def _rows(results: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of all files, each system once; a row without numbers gives way to one that has them."""
    held: dict[str, tuple[dict[str, Any], Any, str]] = {}
    for result, name in zip(results, names, strict=True):
        for row in result["rows"]:
            label, scores = row["system"], result["per_query"]["IoU"].get(row["system"])
            if label in held and held[label][0]["metrics"] and row["metrics"]:
                if scores is None or not same(held[label][1], scores):
                    raise DataError(
                        f"{held[label][2]} and {name} both have {label!r}, with other numbers; a system may be in one "
                        "of them (to join its seeds, copy both folders cells into one --out and run the command again)"
                    )
            elif label not in held or row["metrics"]:
                held[label] = (row, scores, name)
    rows = [row for row, _, _ in held.values()]
    return sorted(rows, key=lambda row: row.get("reference") == "oracle")


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, numbers up to rounding: machines add in another order."""
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
