"""Runs the cells of a benchmark in processes of their own: nothing finished is lost, nothing is computed twice."""

from __future__ import annotations

import math
import multiprocessing as mp
import os
import queue
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.execution.cell import Cell, read_cell, run_cell
from strong_envs.features.errors import DataError


@dataclass
class Outcome:
    """``results`` by cell key, ``failed`` reasons by cell key; ``interrupted`` after Ctrl-C."""

    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def run_matrix(cells: Sequence[Cell], folder: Path, jobs: int, show: bool = True) -> Outcome:
    """Compute the cells that are not stored in ``folder`` yet, ``jobs`` at a time, with progress over all of them.

    A failing cell is recorded with its reason and the others go on. Ctrl-C stops the work and returns what there is.
    """
    outcome = Outcome()
    waiting: list[Cell] = []
    for cell in cells:
        stored = read_cell(folder, cell)
        if stored is None:
            waiting.append(cell)
        else:
            outcome.results[cell.key] = stored
    context = mp.get_context("spawn")
    messages = context.Queue()
    running: dict[str, tuple[Any, Cell]] = {}
    with Bars(len(cells), len(outcome.results), show) as bars:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    process = context.Process(target=_work, args=(cell, folder, messages), daemon=True)
                    process.start()
                    running[cell.key] = (process, cell)
                    bars.begin(cell)
                _drain(messages, bars, outcome)
                for key, (process, cell) in list(running.items()):
                    if process.is_alive():
                        continue
                    process.join()
                    _drain(messages, bars, outcome)
                    del running[key]
                    stored = read_cell(folder, cell)
                    if stored is not None:
                        outcome.results[key] = stored
                    elif key not in outcome.failed:
                        outcome.failed[key] = f"the process ended with exit code {process.exitcode}"
                    bars.end(cell, key in outcome.results)
        except KeyboardInterrupt:
            outcome.interrupted = True
            for process, _ in running.values():
                process.terminate()
            for process, _ in running.values():
                process.join(timeout=15)
    return outcome


def _work(cell: Cell, folder: Path, messages: Any) -> None:
    """Body of a worker process."""
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # One thread each: small batches lose time on a second one, and cells run side by side anyway.
    torch.set_num_threads(1)
    last, parent = 0.0, os.getppid()

    def report(stage: str, done: int, total: int, scalars: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.3:
            last = now
            if os.getppid() != parent:
                # The run was killed; the next one would compute this cell a second time at the same time.
                os.kill(os.getpid(), signal.SIGTERM)
                return
            messages.put(("progress", cell.key, stage, done, total, scalars))

    try:
        run_cell(cell, folder, report, signals=(signal.SIGTERM,))
    except KeyboardInterrupt:
        # The parent asked to stop: what was learnt so far is in the cell's checkpoint.
        raise SystemExit(128 + signal.SIGTERM) from None
    except DataError as error:
        messages.put(("failed", cell.key, str(error)))
    except Exception as error:  # a cell may fail in any way; the others must go on
        messages.put(("failed", cell.key, f"{type(error).__name__}: {error}"))
        log = folder / f"{cell.key}.log"
        folder.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc(), encoding="utf-8")


def _drain(messages: Any, bars: Bars, outcome: Outcome) -> None:
    deadline = time.monotonic() + 0.2
    while (left := deadline - time.monotonic()) > 0:
        try:
            kind, key, *rest = messages.get(timeout=left)
        except queue.Empty:
            return
        if kind == "progress":
            bars.update(key, *rest)
        else:
            outcome.failed[key] = rest[0]


def estimate(seconds: float, done: int, left: int) -> str:
    """``, about 5 min left``: at the pace of ``done`` cells in so many seconds; nothing where none is left or done."""
    if not left or not done:
        return ""
    minutes = seconds / done * left / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


def _progress_of(scalars: dict[str, float]) -> str:
    """The number beside a bar: the return of a learner of moves, else its loss; nothing where it reports neither."""
    for name, form in (("return", "+.2f"), ("loss", ".3g")):
        value = scalars.get(name)
        if value is not None and not math.isnan(value):
            return f"  {name} {value:{form}}"
    return ""


class Bars:
    """One bar over the matrix with an estimate, one for each cell in work."""

    def __init__(self, total: int, done: int, show: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self.console = Console(stderr=True)
        self.live = show and self.console.is_terminal
        self.plain = show and not self.live and not os.environ.get("STRONG_ENVS_QUIET")
        columns = ("[bold]{task.description}", "{task.fields[note]}")
        self.progress = Progress(
            TextColumn(columns[0]),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            Remaining(),
            TextColumn(columns[1]),
            console=self.console,
            disable=not self.live,
        )
        self.total, self.done, self.stored = total, done, done
        self.began = time.monotonic()
        self.whole = self.progress.add_task("cells", total=total, completed=done, note="")
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def begin(self, cell: Cell) -> None:
        """A cell starts."""
        self.tasks[cell.key] = self.progress.add_task(f"{cell.system} seed {cell.seed}", total=None, note="loading")
        self._say(f"{cell.system} seed {cell.seed}: started")

    def update(self, key: str, stage: str, done: int, total: int, scalars: dict[str, float]) -> None:
        """Progress of a running cell."""
        note = f"{stage}{_progress_of(scalars)}"
        if key in self.tasks:
            self.progress.update(self.tasks[key], completed=done, total=total, note=note)

    def end(self, cell: Cell, good: bool) -> None:
        """A cell has finished or failed."""
        self.progress.remove_task(self.tasks.pop(cell.key))
        self.progress.advance(self.whole)
        self.done += 1
        left = estimate(time.monotonic() - self.began, self.done - self.stored, self.total - self.done)
        what = "finished" if good else "FAILED"
        self._say(f"{cell.system} seed {cell.seed}: {what} ({self.done} of {self.total}{left})")

    def _say(self, text: str) -> None:
        if self.plain:
            print(text, file=self.console.file, flush=True)
