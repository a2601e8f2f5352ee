"""The command line ``strong-envs``: one command for everything; see ``strong-envs --help``."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, TextIO

from strong_envs.benchmarks.peak_memory import LONG, peak_memory
from strong_envs.version import __version__

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Train and compare": {
        "run": ("benchmarks.commands.run", "train systems, score them beside baselines, write table and figures"),
        "train": ("agents.cli", "train one system, with a log and checkpoints"),
        "tune": (
            "benchmarks.tuning.command",
            "choose settings on the validation part, as many trials for every system",
        ),
        "looks": ("benchmarks.looks.command", "quality over the number of frames that a search looks at"),
        "references": ("benchmarks.commands.references", "score baselines that ignore the video"),
    },
    "Data": {
        "check": ("features.commands.check", "identify data, list its problems and what to do about each"),
        "extract": ("features.commands.extract", "make a feature store from videos and annotations"),
        "import": ("features.commands.import_features", "make a feature store from existing feature files"),
        "compose": ("features.composing.command", "make untrimmed videos with exact truth from trimmed clips"),
        "show": ("features.commands.show", "draw one video of a store with its moments and boxes"),
        "sizes": ("features.commands.sizes", "print the size of a store on disk, in memory and on a device"),
    },
    "Results of a run": {
        "report": ("benchmarks.commands.report", "write one HTML page with tables, figures and episodes"),
        "compare": ("benchmarks.commands.compare", "print paired differences between systems of two result files"),
        "aggregate": ("benchmarks.commands.aggregate", "print systems over several data sets"),
        "merge": ("benchmarks.results.merge", "put the systems of several result files into one"),
        "recompute": ("benchmarks.results.recompute", "compute the rows of a result file again from what it holds"),
        "episode": ("benchmarks.commands.episode", "draw one query, step by step"),
        "videos": ("benchmarks.commands.videos", "write videos of held-out queries with tracked boxes"),
    },
    "Show and share": {
        "demo": ("benchmarks.demo.command", "open a local page that searches your video"),
        "gallery": ("benchmarks.sharing.gallery", "write a GIF of every environment"),
        "offline-data": ("benchmarks.sharing.offline_data", "record episodes as a data set of Minari"),
    },
    "Experiments of the paper": {
        "table1": ("benchmarks.commands.paper_tables", "Table 1: comparison of the systems"),
        "table2": ("benchmarks.commands.paper_tables", "Table 2: variants of the spatial level"),
        "sweep": ("benchmarks.commands.sweep", "Figure 4: one setting over several values"),
        "walk": ("benchmarks.commands.walk", "from the letter of the paper to the default STRONG, one change a row"),
        "converge": ("benchmarks.commands.converge", "Figure 4a: learning curves over iterations and seconds"),
    },
    "Speed": {
        "throughput": ("benchmarks.speed.throughput", "environment steps per second against alternatives"),
        "pooling": ("benchmarks.speed.pooling", "attention and spatial pyramids against direct implementations"),
        "replay": ("benchmarks.speed.replay", "replay of indices against replay of observations"),
        "scale": ("benchmarks.speed.scale", "memory and steps per second at the size of Charades-STA"),
        "device": ("benchmarks.speed.device", "equality, speed, waits, precision and training on an accelerator"),
    },
    "Maintenance of this project": {
        "document": ("benchmarks.commands.document", "update tables and figures in the documents from result files"),
        "train-reference-critic": (
            "agents.strong.train_reference_critic",
            "train the default critic of SpatialTrack-v0",
        ),
        "train-pretrained": ("agents.train_pretrained", "train the system that agents.pretrained() loads"),
    },
}
"""Commands by group: name to module below ``strong_envs`` and summary. A module is imported when its command runs."""

MODULES = {name: module for group in GROUPS.values() for name, (module, _) in group.items()}
CONTINUES = "the same command continues where it stopped"
FILES_KEPT = "files that were finished are kept"
STOPPED = "nothing was written"
INTERRUPTED = {
    **dict.fromkeys(("run", "table1", "table2", "sweep", "walk", "converge", "looks", "tune"), CONTINUES),
    **dict.fromkeys(("extract", "compose", "train-pretrained"), CONTINUES),
    **dict.fromkeys(("gallery", "videos", "episode"), FILES_KEPT),
    "train": "before the training began; run the same command again",
    "device": "the stages that had ended are in --out",
    "document": "documents that were finished are kept; run the same command again",
}
"""By command, the message after Ctrl-C that says which results are kept; `STOPPED` is that of the other commands."""
PIPE_CLOSED = 128 + 13
"""Exit code where the reader of the output went away, as of a program that SIGPIPE ended."""


def help_page() -> str:
    """The text of ``strong-envs --help``."""
    width = max(map(len, MODULES))
    lines = [
        "usage: strong-envs COMMAND [options]",
        "",
        "Gymnasium environments for video moment localisation, with agents and a benchmark.",
        "",
        "First run, with data that is drawn on this machine (two cores: half a minute with --quick, 11 without):",
        "  strong-envs run --quick",
        "",
    ]
    for group, commands in GROUPS.items():
        lines += [f"{group}:", *(f"  {name:<{width}}  {summary}" for name, (_, summary) in commands.items()), ""]
    lines += [
        "strong-envs COMMAND --help   options of a command with their defaults",
        "strong-envs --version        installed version",
        "",
        "A feature STORE is given by a path or by the key of a data set that ships with the project:",
        "  shapes-v0, shapes-v0-medium, shapes-v0-full, and with long videos shapes-v0-long, shapes-v0-long-6000",
        "Exit codes: 0 success; 1 a training run or a check failed; 2 input that cannot be used; 130 Ctrl-C.",
    ]
    return "\n".join(lines)


class Formatter(argparse.HelpFormatter):
    """Help of a command: wide enough for its texts, and with the default of every option that has one."""

    def __init__(self, prog: str, **options: Any) -> None:
        width = options.pop("width", None) or min(_columns(), 110)
        super().__init__(prog, max_help_position=30, width=width, **options)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = action.default
        named = action.option_strings and default not in (None, False, True, "", [], (), argparse.SUPPRESS)
        if named and "%(default)" not in text and f"({default}" not in text and "default" not in text:
            plain = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else "%(default)s"
            return f"{text} ({plain})".strip()
        return text


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns - 2


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: words of the command line; those of the process by default.

    Returns:
        The exit code: 0; 1 for a failed training or check; 2, with one sentence, for bad input; 130 after Ctrl-C; 141
        where the reader of the output has gone.
    """
    if arguments is None:
        _print_anything()
    try:
        with _flushed(sys.stdout):
            return _run(sys.argv[1:] if arguments is None else list(arguments))
    except BrokenPipeError:
        _discard_output(sys.stdout, sys.stderr)
        return PIPE_CLOSED
    except OSError as error:
        _discard_output(sys.stdout)
        print(f"error: cannot write the output: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        words = sys.argv[1:] if arguments is None else arguments
        print(f"interrupted; {INTERRUPTED.get(words[0] if words else '', STOPPED)}", file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        if len(words) > 1 and words[1] in MODULES:
            return _run([words[1], "--help"])
        print(help_page())
        return 0 if words else 2
    if words[0] in ("--version", "-V"):
        print(f"strong-envs {__version__}")
        return 0
    name = words[0]
    if name not in MODULES:
        from difflib import get_close_matches

        close = get_close_matches(name, MODULES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        print(f"error: there is no command {name!r}{hint} See strong-envs --help", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="strong-envs")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    module = import_module(f"strong_envs.{MODULES[name]}")
    from strong_envs.features.errors import DataError

    module.add_parser(commands)
    for one in commands.choices.values():
        one.formatter_class = Formatter
        one.description = (one.description or "").replace("``", "")  # some are docstrings of modules
    args = parser.parse_args(words)
    try:
        if "--out=" in words or ("--out", "") in itertools.pairwise(words):
            # As a path it would be the current folder, which an unset variable of a script does not mean.
            raise DataError("--out is empty; it names the place of the result ('.' is the current folder)")
        began = time.monotonic()
        code = args.run(args)
        if time.monotonic() - began > LONG and (memory := peak_memory()):
            print(memory, file=sys.stderr)
        return code
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except BrokenPipeError:
        raise
    except OSError as error:
        from strong_envs.features.files.errors import sentence

        if error.filename is None:
            raise  # about a stream: see `main`
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2


@contextmanager
def _flushed(stream: TextIO | None) -> Iterator[None]:
    """Flush at the end, also of ``--help``, so that a closed pipe is noticed here and not by the interpreter."""
    try:
        yield
    finally:
        if stream is not None and not stream.closed:
            stream.flush()


def _print_anything() -> None:
    """Let both streams escape what their encoding does not have, and lead somewhere where they are closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the rest of the process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _discard_output(*streams: TextIO | None) -> None:
    """Let the interpreter flush these streams into nothing at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        # A stream of a test has no number, and there may be none at all.
        with suppress(AttributeError, OSError, ValueError):
            if stream is not None:
                os.dup2(null, stream.fileno())
    os.close(null)
