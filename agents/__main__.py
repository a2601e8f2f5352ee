"""``python -m agents``: train a system; see ``--help`` of each command."""

from __future__ import annotations

import argparse
import sys

from agents import train_command
from agents.watch import TrainingDiverged
from features.records import DataError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code. Bad input gives one sentence and 2, a training that diverged 1."""
    parser = argparse.ArgumentParser(prog="python -m agents", description="Train systems.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    train_command.add_parser(commands)
    args = parser.parse_args(arguments)
    try:
        return args.run(args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingDiverged) else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
