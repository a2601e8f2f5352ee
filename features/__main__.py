"""``python -m features``: extract, import, check, show and size up features."""

from __future__ import annotations

import argparse
import sys

from features import check, extract, import_command, show, sizes
from features.records import DataError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code. Bad input gives one sentence and 2."""
    parser = argparse.ArgumentParser(prog="python -m features", description="Features of videos and sentences.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for module in (extract, import_command, check, show, sizes):
        module.add_parser(commands)
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
