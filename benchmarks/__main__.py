"""``python -m benchmarks``: train and compare systems; see ``--help`` of each command."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from features.records import DataError

COMMANDS = (
    "run",
    "paper_tables",
    "sweep",
    "converge",
    "compare",
    "aggregate",
    "episode",
    "videos",
    "report",
    "reference_table",
    "throughput",
    "pooling_speed",
    "replay_speed",
    "scale",
    "document",
)
"""Modules of this package, each with one command or more, in the order of ``--help``."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code. Bad input gives one sentence and 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Train, evaluate and compare systems.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name in COMMANDS:
        import_module(f"benchmarks.{name}").add_parser(commands)
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
