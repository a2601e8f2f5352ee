"""Timing two implementations against each other: in turns, on the same work, as a ratio that has to be reached.

Also what the commands have in common that do so: one thread, the printed table, the file, the exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from strong_envs.features.bank.pooling_numba import available

REPETITIONS = 7


@dataclass
class SpeedTarget:
    """A ratio that we hold ourselves to: ``ratio`` is the median over repetitions, ``wanted`` the least that will do.

    ``ours`` and ``other`` are what both did a second (medians), in ``unit``; ``wanted`` None only informs.
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
    ours: Callable[[np.ndarray], Any], others: dict[str, Callable[[np.ndarray], Any]], actions: np.ndarray, reps: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of each contestant in each repetition, taken in turns so that a slow moment hits all of them."""
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
    """Compare seconds of two contestants that both did ``amount`` of work."""
    ratios = [other / one for one, other in zip(mine, theirs, strict=True)]
    return SpeedTarget(name, median(ratios), ratios, wanted, amount / median(mine), amount / median(theirs), unit)


def machine() -> dict[str, str]:
    """What the numbers were taken on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "system": platform.platform(), "cores": str(os.cpu_count())}
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    found["cpu"] = next((x.split(":")[1].strip() for x in lines if "model name" in x), platform.processor())
    for name in ("strong-envs", "torch", "numpy", "gymnasium", "numba", "stable-baselines3"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    found["compiled path"] = os.environ.get("STRONG_ENVS_COMPILED", "1") + " (STRONG_ENVS_COMPILED)"
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, as all bars are measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def outcome(quick: bool, targets: list[SpeedTarget], **more: Any) -> dict[str, Any]:
    """The JSON-ready result of a command: its bars, the machine, and whatever else it found."""
    return {"quick": quick, "machine": machine(), "bars": [{**asdict(one), "met": one.met} for one in targets], **more}


def met(result: dict[str, Any]) -> bool:
    """Whether no bar was missed; with ``--quick`` the ratios mean nothing."""
    return bool(result["quick"]) or all(row["met"] is not False for row in result["bars"])


def show_targets(result: dict[str, Any]) -> None:
    """Print the bars as a table."""
    head = f"{'what / against what':<66}{'ours':>12}{'theirs':>12} {'unit':<8}{'ratio':>8}"
    print(f"{head}  {'range':<21}required")
    for row in result["bars"]:
        digits = 1 if row["unit"] == "GB/s" else 0
        numbers = "".join(f"{row[key]:>12,.{digits}f}" for key in ("ours", "other"))
        spread = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
        required = "" if row["wanted"] is None else f"{row['wanted']:g} {'met' if row['met'] else 'NOT MET'}"
        print(f"{row['name']:<66}{numbers} {row['unit']:<8}{row['ratio']:>8.2f}  {spread:<21}{required}")


def show(result: dict[str, Any]) -> None:
    """Print the machine, the errors where there are any, the bars, and the notes below them."""
    print(", ".join(f"{name} {value}" for name, value in result["machine"].items()), "\n")
    for name, found in result.get("largest errors", {}).items():
        print(f"largest error of {name}: " + ", ".join(f"{k}: {v:.1e}" for k, v in found.items()))
    print()
    show_targets(result)
    for note in result.get("notes", []):
        print(f"\n{note}")


def write(result: dict[str, Any], folder: Path, name: str) -> None:
    """Write ``<name>.json``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".{name}.part{os.getpid()}.json"
    staging.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(staging, folder / f"{name}.json")


def add_options(parser: argparse.ArgumentParser, files: str) -> None:
    """The options of every command that measures; ``files`` is what ``--out`` gets."""
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; the ratios mean nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help=f"folder for {files}")


def add_command(
    subparsers: argparse._SubParsersAction,
    name: str,
    measure: Callable[[bool], dict[str, Any]],
    summary: str,
    description: str,
) -> None:
    """Add a command that calls ``measure(quick)``; it exits with 1 where a bar is not met (never with ``--quick``)."""

    def run(args: argparse.Namespace) -> int:
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
