"""The command line ``strong-envs``: one command for everything; see ``strong-envs --help``."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from strong_envs.features.errors import DataError
from strong_envs.version import __version__

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "run": ("benchmarks.commands.run", "train and compare systems beside the reference rows (the main job)"),
        "train": ("agents.cli", "train one system, with checkpoints and a log"),
    },
    "Data": {
        "check": ("features.commands.check", "identify data, list every problem in it and what to do about each"),
        "extract": ("features.commands.extract", "turn videos and annotations into a feature store"),
        "import": (
            "features.commands.import_features",
            "turn annotations and existing feature files into a feature store",
        ),
        "compose": ("features.composing.command", "make untrimmed videos with exact truth from trimmed clips"),
        "show": ("features.commands.show", "draw one video of a store with its moments and boxes"),
        "sizes": ("features.commands.sizes", "size of a store on disk, in memory and on a device"),
    },
    "Results": {
        "references": ("benchmarks.results.reference_rows", "score baselines that ignore the video"),
        "report": ("benchmarks.commands.report", "one self-contained HTML page of a finished run"),
        "compare": ("benchmarks.commands.compare", "paired differences between two result files"),
        "aggregate": ("benchmarks.commands.aggregate", "systems over several data sets"),
        "episode": ("benchmarks.commands.episode", "draw one query of a finished run, move by move"),
        "videos": ("benchmarks.commands.videos", "render held-out queries with tracked boxes"),
        "document": ("benchmarks.commands.document", "update tables and figures of the documents from result files"),
    },
    "Experiments of the paper": {
        "table1": ("benchmarks.commands.paper_tables", "Table 1: comparison of the systems"),
        "table2": ("benchmarks.commands.paper_tables", "Table 2: ablations of the spatial level"),
        "sweep": ("benchmarks.commands.sweep", "one setting over several values (Figure 4)"),
        "converge": ("benchmarks.commands.converge", "learning curves over iterations (Figure 4a) and seconds"),
    },
    "Speed": {
        "throughput": ("benchmarks.speed.throughput", "steps per second against alternatives"),
        "pooling": ("benchmarks.speed.pooling", "attention and spatial pyramids against direct implementations"),
        "replay": ("benchmarks.speed.replay", "index replay against observation replay"),
        "scale": ("benchmarks.speed.scale", "memory and steps per second at the size of Charades-STA"),
    },
    "Files that ship with the package": {
        "train-reference-critic": (
            "agents.strong.train_reference_critic",
            "train the default critic of SpatialTrack-v0",
        ),
        "train-pretrained": ("agents.train_pretrained", "train the system that agents.pretrained() loads"),
    },
}
"""Commands by group: name to module below ``strong_envs`` and summary. A module is imported when its command runs."""

MODULES = {name: module for group in GROUPS.values() for name, (module, _) in group.items()}


def help_page() -> str:
    """The text of ``strong-envs --help``."""
    width = max(map(len, MODULES))
    lines = [
        "usage: strong-envs COMMAND [options]",
        "",
        "Gymnasium environments for video moment localisation, with agents and a benchmark.",
        "",
    ]
    for group, commands in GROUPS.items():
        lines += [f"{group}:", *(f"  {name:<{width}}  {summary}" for name, (_, summary) in commands.items()), ""]
    lines += [
        "strong-envs COMMAND --help   options of a command",
        "strong-envs --version        installed version",
        "",
        "First run (about ten minutes on two cores; --quick takes one):",
        "  strong-envs run --quick",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words of the command line; those of the process by default.

    Returns:
        The exit code: 0; 1 for a failed training or check; 2, with one sentence, for bad input; 130 after Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_page())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"strong-envs {__version__}")
        return 0
    name = words[0]
    if name not in MODULES:
        from strong_envs.features.errors import nearest

        print(f"error: no command {name!r}{nearest(name, MODULES)}; see strong-envs --help", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="strong-envs")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    import_module(f"strong_envs.{MODULES[name]}").add_parser(commands)
    args = parser.parse_args(words)
    try:
        return args.run(args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
