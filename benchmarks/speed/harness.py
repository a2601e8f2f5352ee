"""Two implementations timed against each other: in turns, on the same work, as a ratio that has to be reached.

The commands that do so share one thread, the printed table, the file and the exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from strong_envs.benchmarks.execution import provenance
from strong_envs.features.bank.pooling_numba import available
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import check_output

REPETITIONS = 7


@dataclass
class SpeedTarget:
    """A ratio that this project must reach: ``ratio`` is the median over repetitions, ``wanted`` the least.

    ``ours`` and ``other`` are what both did per second (medians), in ``unit``; with ``wanted`` None nothing is
    required.
    """

    name: str
    ratio: float
    ratios: list[float]
    wanted: float | None
    ours: float
    other: float
    unit: str

    @property
    def met(self) -> bool | None:
        """Whether the ratio is reached; None where nothing is required."""
        return None if self.wanted is None else self.ratio >= self.wanted


def random_actions(steps: int, count: int) -> np.ndarray:
    """(steps, count) uniform actions: 1 in 7 episodes stops at each step, so resets are part of every measurement."""
    return np.random.default_rng(0).integers(0, 7, (steps, count))


def timed(step: Callable[[np.ndarray], Any], actions: np.ndarray) -> float:
    """Seconds for all ``actions``, the result of each step released when the next one comes."""
    began = time.perf_counter()
    for action in actions:
        result = step(action)
    del result
    return time.perf_counter() - began


def race(
    ours: Callable[[Any], Any], others: Mapping[str, Callable[[Any], Any]], actions: np.ndarray, reps: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of each implementation in each repetition, in turns, so that a slow moment of the machine affects all."""
    mine: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in others}
    for step in (ours, *others.values()):
        timed(step, actions[:2])
    for _ in range(reps):
        mine.append(timed(ours, actions))
        for name, step in others.items():
            theirs[name].append(timed(step, actions))
    return mine, theirs


def speed_target(
    name: str, wanted: float | None, mine: list[float], theirs: list[float], amount: float, unit: str
) -> SpeedTarget:
    """Compare seconds of two implementations that both did ``amount`` of work."""
    ratios = [other / one for one, other in zip(mine, theirs, strict=True)]
    return SpeedTarget(name, median(ratios), ratios, wanted, amount / median(mine), amount / median(theirs), unit)


def machine() -> dict[str, str]:
    """Processor, system and versions that the numbers depend on, as text."""
    found = {**provenance.machine(), **provenance.versions(), **provenance.extras("numba", "stable-baselines3")}
    compiled = os.environ.get("STRONG_ENVS_COMPILED", "1") + " (STRONG_ENVS_COMPILED)"
    return {name: str(value) for name, value in found.items()} | {"compiled path": compiled}


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, as all targets are measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def outcome(quick: bool, targets: list[SpeedTarget], **more: Any) -> dict[str, Any]:
    """The JSON-ready result of a command: its targets, the machine, and what else was measured."""
    return {
        "quick": quick,
        "machine": machine(),
        "targets": [{**asdict(one), "met": one.met} for one in targets],
        **more,
    }


def met(result: dict[str, Any]) -> bool:
    """Whether no target was missed; with ``--quick`` the ratios mean nothing."""
    return bool(result["quick"]) or all(row["met"] is not False for row in result["targets"])


def show_targets(result: dict[str, Any]) -> None:
    """Print the targets as a table."""
    head = f"{'this project / the other':<66}{'this':>12}{'other':>12} {'unit':<8}{'ratio':>8}"
    print(f"{head}  {'range':<21}required")
    for row in result["targets"]:
        digits = 1 if row["unit"] == "GB/s" else 0
        numbers = "".join(f"{row[key]:>12,.{digits}f}" for key in ("ours", "other"))
        spread = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
        required = "" if row["wanted"] is None else f"{row['wanted']:g} {'met' if row['met'] else 'NOT MET'}"
        print(f"{row['name']:<66}{numbers} {row['unit']:<8}{row['ratio']:>8.2f}  {spread:<21}{required}")


def show(result: dict[str, Any]) -> None:
    """Print the machine, errors where there are any, the targets, and the notes below them."""
    print(", ".join(f"{name} {value}" for name, value in result["machine"].items()), "\n")
    for name, found in result.get("largest errors", {}).items():
        print(f"largest error of {name}: " + ", ".join(f"{k}: {v:.1e}" for k, v in found.items()))
    print()
    show_targets(result)
    for note in result.get("notes", []):
        print(f"\n{note}")


def write(result: dict[str, Any], folder: Path, name: str) -> None:
    """Write ``<name>.json``, whole or not at all."""
    write_text(folder / f"{name}.json", json.dumps(result, indent=1) + "\n")


def add_options(parser: argparse.ArgumentParser, files: str) -> None:
    """The options of every command that measures; ``files`` is what ``--out`` gets."""
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a trial whose ratios mean nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"folder for {files} (default: none)")


def add_command(
    subparsers: argparse._SubParsersAction,
    name: str,
    measure: Callable[[bool], dict[str, Any]],
    summary: str,
    description: str,
) -> None:
    """Add a command that calls ``measure(quick)``; exit code 1: a target is missed (not with ``--quick``)."""

    def run(args: argparse.Namespace) -> int:
        if args.out is not None:
            check_output(args.out)
        result = measure(args.quick)
        if args.out is not None:
            write(result, args.out, name)
        if args.json:
            print(json.dumps(result, indent=1))
        else:
            show(result)
        if not available():
            print("numba is absent or switched off: nothing compiled was measured", file=sys.stderr)
        return int(not met(result))

    parser = subparsers.add_parser(name, help=summary, description=description)
    add_options(parser, f"{name}.json")
    parser.set_defaults(run=run)
