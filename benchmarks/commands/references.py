"""``strong-envs references PATH``: scores of baselines that ignore the video, and the bound of the action grid."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from strong_envs.benchmarks.results.reference_rows import DRAWS, reference_rows
from strong_envs.benchmarks.results.tables import print_table
from strong_envs.features.datasets import READERS, read
from strong_envs.features.datasets.leaks import find_leaks
from strong_envs.features.errors import DataError


def open_source(path: str | os.PathLike, format: str | None = None) -> Any:
    """A store, by key or path, or annotations of any known format."""
    from strong_envs.features.registry import keys, open_store

    if os.fspath(path) in keys() or os.path.isfile(os.path.join(path, "manifest.json")):
        return open_store(path)
    return read(path, format)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``references`` command to ``strong-envs``."""
    parser = subparsers.add_parser(
        "references",
        help="score baselines that ignore the video",
        description="Score baselines that ignore the video (full video, initial window, constant, random window, "
        "nearest training sentences) and the best window that the moves of an agent can reach (oracle). Report these "
        "rows beside every agent.",
    )
    parser.add_argument("path", help="annotations (a file or folder), the path of a store, or a key such as shapes-v0")
    parser.add_argument(
        "--format",
        choices=sorted(READERS),
        metavar="NAME",
        help=f"format of the annotations: {', '.join(sorted(READERS))} (default: recognised from the file)",
    )
    parser.add_argument("--train", default="train", metavar="SPLIT", help="split to fit on (%(default)s)")
    parser.add_argument("--test", default="test", metavar="SPLIT", help="split to score on (%(default)s)")
    parser.add_argument(
        "--draws", type=int, default=DRAWS, metavar="N", help="draws of the random window (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the first draw (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command and return its exit code: 0, or 2 with one sentence where the input cannot be used."""
    try:
        source = open_source(args.path, args.format)
        rows = reference_rows(
            source, args.train, args.test, args.draws, args.seed, progress=not args.json and sys.stderr.isatty()
        )
    except DataError as error:
        if args.json:
            print(json.dumps({"error": str(error)}))
        else:
            print(f"error: {error}", file=sys.stderr)
        return 2
    leaks = find_leaks([q for q in source.queries if q.split in (args.train, args.test)], source.name)
    if args.json:
        print(json.dumps({"rows": rows, "leaks": leaks.as_dict()["findings"]}, indent=1))
        return 0
    report = getattr(source, "report", None)
    if report is not None:
        print(str(report).splitlines()[0])
    title = f"{source.name}, {args.test}: {rows[0]['queries']:,} queries"
    print_table(rows, title=title)
    for found in leaks.findings.values():
        print(f"note: {found.kind}: {found.count:,}, for example {found.examples[0]}")
    if leaks.findings:
        print(
            f"Rows that learn from {args.train} profit from this; strong-envs check {args.path} lists it with remedies."
        )
    return 0
