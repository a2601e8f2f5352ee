"""Progress of a matrix of cells: bars in a terminal, a line at each event elsewhere, both with the time left."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.execution.cell import Cell
from strong_envs.benchmarks.execution.live_page import LivePage
from strong_envs.benchmarks.execution.time_left import TimeLeft

EVERY = 60.0
"""Seconds between two lines without an event, where there are no bars."""


class ProgressBars:
    """One bar for the matrix and one for each running cell.

    Args:
        cells: those that will be computed, in their order.
        stored: finished before, each with its result.
        jobs: cells at a time.
        show: print anything at all.
        clock: seconds.
        page: where `live.html` is kept up to date; None for none.
        later: cells that will follow, which the time left counts.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        stored: Sequence[tuple[Cell, Mapping[str, Any]]],
        jobs: int,
        show: bool = True,
        clock: Callable[[], float] = time.monotonic,
        page: Path | None = None,
        later: Sequence[Cell] = (),
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = Console(stderr=True)
        self.live = show and self.console.is_terminal
        self.plain = show and not self.live and not os.environ.get("STRONG_ENVS_QUIET")
        self.progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            disable=not self.live,
        )
        self.total, self.done, self.clock = len(cells) + len(stored) + len(later), len(stored), clock
        self.later, self.left_to_do = len(later), len(cells)
        self.left = TimeLeft([*cells, *later], jobs, clock=clock)
        for cell, result in stored:
            self.left.stored(cell, result)
        self.whole = self.progress.add_task("training runs", total=self.total, completed=self.done, note="")
        self.tasks: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.said = clock()
        self.page = None if page is None else LivePage(page, clock)
        if self.page is not None:
            for cell, result in stored:
                self.page.finished(cell.name, result)

    def __enter__(self) -> ProgressBars:
        """Start drawing, and say where the page is."""
        if self.page is not None and self.left_to_do and (self.live or self.plain):
            self._write_page()
            print(f"{self.page.file} shows how far it is and reloads itself", file=self.console.file, flush=True)
        self.progress.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Stop drawing."""
        self.progress.stop()
        if kind is not None or self.tasks or self.done + self.later < self.total:
            self._write_page("stopped: the same command continues with what is stored")
        else:
            self._write_page("this part has ended, more follow" if self.later else "finished")

    def begin(self, cell: Cell) -> None:
        """A cell starts."""
        self.left.begin(cell)
        self.names[cell.key] = cell.name
        self.tasks[cell.key] = self.progress.add_task(self.names[cell.key], total=None, note="loading")
        self._say(f"{self.names[cell.key]}: started{self.left.text()}")

    def update(self, key: str, stage: str, done: int, total: int, scalars: Mapping[str, float]) -> None:
        """A running cell reports its progress."""
        if key not in self.tasks:
            return
        self.left.update(key, stage, done, total)
        self.notes[key] = f"{stage}{shown_number(scalars)}"
        self.progress.update(self.tasks[key], completed=done, total=total, note=self.notes[key])

    def tick(self) -> None:
        """Time has passed: the estimate is drawn anew, and without bars a line is printed now and then."""
        self._write_page()
        if self.live:
            self.progress.update(self.whole, note=self.left.text().removeprefix(", "))
        elif self.plain and self.tasks and self.clock() - self.said >= EVERY:
            running = "; ".join(f"{self.names[key]}, {self.notes.get(key, 'loading')}" for key in self.tasks)
            self._say(f"{self.done} of {self.total} finished{self.left.text()}; running: {running}")

    def end(self, cell: Cell, result: Mapping[str, Any] | None) -> None:
        """A cell has finished with a result, or failed."""
        self.left.end(cell, result)
        if self.page is not None:
            self.page.finished(self.names[cell.key], result)
        self.progress.remove_task(self.tasks.pop(cell.key))
        self.progress.advance(self.whole)
        self.done += 1
        what = "FAILED" if result is None else "finished"
        self._say(f"{cell.name}: {what} ({self.done} of {self.total}{self.left.text()})")

    def _write_page(self, ended: str = "") -> None:
        if self.page is not None:
            running = [f"{self.names[key]}: {self.notes.get(key, 'loading')}" for key in self.tasks]
            self.page.write(self.done, self.total, self.left.text(), [] if ended else running, ended)

    def _say(self, text: str) -> None:
        if self.plain:
            self.said = self.clock()
            print(text, file=self.console.file, flush=True)


def shown_number(scalars: Mapping[str, float]) -> str:
    """The number beside a bar: the return of a reinforcement learner, else the loss; nothing where there is neither."""
    for name, form in (("return", "+.2f"), ("loss", ".3g")):
        value = scalars.get(name)
        if value is not None and not math.isnan(value):
            return f"  {name} {value:{form}}"
    return ""
