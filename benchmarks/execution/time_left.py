"""How long a matrix of cells will still take, from what is known of each cell.

A cell takes its training and a rest (start of a process, loading, predictions). The training of a system is taken, in
this order, from its finished cells, from the share of the training that a running cell has reached, and from typical
seconds that were measured on one machine (`typical_seconds.json`), scaled by how fast this machine has been. A cell of
a system that has not run yet therefore counts as what it is, not as the cells that are finished.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.execution.cell import Cell

REST = 8.0
"""Seconds of a cell beside its training, until one has finished."""
OVERRUN = 1.2
"""A running cell that has taken longer than expected is expected to take this factor of what it took."""
LEAST_SHARE = 0.02
"""Share of a training below which its speed is not trusted."""


@lru_cache(maxsize=1)
def typical() -> dict[str, dict[str, Any]]:
    """System to ``seconds`` of training at budget 1 and ``stages``, the share of each; of one machine."""
    file = Path(__file__).with_name("typical_seconds.json")
    return json.loads(file.read_text(encoding="utf-8"))["systems"]


@dataclass
class _Running:
    """A cell in work."""

    cell: Cell
    began: float
    training: float | None = None
    """When its training reported first."""
    stage: str = ""
    updated: float = 0.0
    done: float = 0.0
    stages: list[str] = field(default_factory=list)


def time_left_text(left: float) -> str:
    """Seconds that are left as the end of a line: ``, about 5 min left``."""
    minutes = left / 60
    if minutes >= 90:
        return f", about {minutes / 60:.1f} h left"
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


class TimeLeft:
    """Estimates from the events of a matrix how many seconds are left.

    Args:
        cells: all cells of the matrix, in the order in which they will start.
        jobs: how many run at a time.
        known: system to typical seconds and stages, as `typical` returns.
        clock: seconds.
    """

    def __init__(
        self,
        cells: Iterable[Cell],
        jobs: int,
        known: Mapping[str, Mapping[str, Any]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.waiting = {cell.key: cell for cell in cells}
        self.jobs, self.clock = max(jobs, 1), clock
        self.known = typical() if known is None else known
        self.running: dict[str, _Running] = {}
        self.measured: dict[str, list[tuple[Cell, float]]] = {}
        self.rests: list[float] = []

    # Events -----------------------------------------------------------------------------------------------------

    def stored(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """A cell had finished before this run."""
        self.waiting.pop(cell.key, None)
        self._measure(cell, result)

    def begin(self, cell: Cell) -> None:
        """A cell starts."""
        self.waiting.pop(cell.key, None)
        self.running[cell.key] = _Running(cell, self.clock())

    def update(self, key: str, stage: str, done: float, total: float) -> None:
        """A running cell reports its progress."""
        if (found := self.running.get(key)) is None:
            return
        if found.training is None:
            found.training = self.clock()
        if stage != found.stage:
            found.stage = stage
            found.stages.append(stage)
        found.updated = self.clock()
        found.done = min(max(done / total if total > 0 else 0.0, 0.0), 1.0)

    def end(self, cell: Cell, result: Mapping[str, Any] | None) -> None:
        """A cell has finished with a result, or failed."""
        found = self.running.pop(cell.key, None)
        if result is None or found is None:
            return
        trained = self._measure(cell, result)
        if trained is not None:
            self.rests.append(max(self.clock() - found.began - trained, 0.0))

    def _measure(self, cell: Cell, result: Mapping[str, Any]) -> float | None:
        seconds = result.get("seconds")
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < 1e9:
            return None
        self.measured.setdefault(cell.system, []).append((cell, float(seconds)))
        return float(seconds)

    # Estimates --------------------------------------------------------------------------------------------------

    def seconds(self) -> float | None:
        """What is left of the matrix; None where nothing is known of a cell, 0 where none is left."""
        now, rest = self.clock(), self._rest()
        free: list[float] = []
        for found in self.running.values():
            left = self._of_running(found, now, rest)
            if left is None:
                return None
            free.append(left)
        free = sorted(free)
        heap = free[: self.jobs] + [0.0] * max(self.jobs - len(free), 0)
        heapq.heapify(heap)
        last = max(free, default=0.0)
        for cell in self.waiting.values():
            trained = self._training(cell, now)
            if trained is None:
                return None
            ends = heapq.heappop(heap) + trained + rest
            heapq.heappush(heap, ends)
            last = max(last, ends)
        return last

    def text(self) -> str:
        """``, about 5 min left``; nothing where none is left or nothing is known."""
        left = self.seconds() if self.running or self.waiting else None
        return "" if left is None else time_left_text(left)

    def _rest(self) -> float:
        return sum(self.rests) / len(self.rests) if self.rests else REST

    def _of_running(self, found: _Running, now: float, rest: float) -> float | None:
        """Seconds that a running cell still takes."""
        expected, own, since = self._training(found.cell, now), self._extrapolated(found), found.began
        if own is not None:
            share = self._share(found) or 0.0
            # The further it is, the more its own pace counts.
            expected, since = own if expected is None else share * own + (1 - share) * expected, found.updated
        if expected is None:
            return None
        return max(expected + rest - (now - found.began), (OVERRUN - 1) * (now - since))

    def _training(self, cell: Cell, now: float) -> float | None:
        """Seconds of training of a cell."""
        alike = [s for other, s in self.measured.get(cell.system, ()) if _same_work(other, cell)]
        if alike:
            return sum(alike) / len(alike)
        reached = [found for found in self.running.values() if found.cell.system == cell.system]
        whole = [(found, e) for found in reached if (e := self._extrapolated(found)) is not None]
        if whole:
            return sum(e * cell.budget / found.cell.budget for found, e in whole) / len(whole)
        others = [s * cell.budget / other.budget for other, s in self.measured.get(cell.system, ())]
        expected = sum(others) / len(others) if others else self._typical(cell)
        if expected is None:
            expected = self._like_the_others(cell)
        elif not others:
            expected *= self._speed()
        # A cell of the same kind that runs longer than that is the better guide.
        taken = [now - found.training for found in reached if found.training and _same_work(found.cell, cell)]
        return expected if expected is None else max([expected, *(OVERRUN * seconds for seconds in taken)])

    def _typical(self, cell: Cell) -> float | None:
        """Typical seconds of training of a cell, None of a system without."""
        from strong_envs import agents

        if cell.system in self.known:
            return float(self.known[cell.system]["seconds"]) * cell.budget
        if cell.system in agents.REGISTRY and not agents.find(cell.system).needs_training:
            return 0.0
        return None

    def _speed(self) -> float:
        """Measured over typical seconds of everything that has been trained, or is in training, on this machine."""
        took = should = 0.0
        for runs in self.measured.values():
            for cell, seconds in runs:
                took, should = took + seconds, should + (self._typical(cell) or 0.0)
        for found in self.running.values():
            whole, usual = self._extrapolated(found), self._typical(found.cell)
            if whole is not None and usual:
                took, should = took + whole, should + usual
        return took / should if took > 0 and should > 0 else 1.0

    def _extrapolated(self, found: _Running) -> float | None:
        """Seconds of the whole training of a running cell at the pace so far; None where its share is unknown."""
        share = self._share(found)
        if share is None or found.training is None or found.updated <= found.training:
            return None
        return (found.updated - found.training) / share

    def _share(self, found: _Running) -> float | None:
        """The share of its training that a running cell has done; None where that is unknown or too little.

        A system with several stages needs their typical shares; of one without, a single stage is taken to be all.
        """
        shares: Mapping[str, float] = self.known.get(found.cell.system, {}).get("stages", {})
        if found.stage in shares:
            names = list(shares)
            share = sum(shares[name] for name in names[: names.index(found.stage)]) + shares[found.stage] * found.done
        elif not shares and len(found.stages) == 1:
            share = found.done
        else:
            return None
        return share if share >= LEAST_SHARE else None

    def _like_the_others(self, cell: Cell) -> float | None:
        """Of a system of which nothing is known: the mean of the trained systems of this matrix that are known."""
        cells = [*self.waiting.values(), *(found.cell for found in self.running.values())]
        done = [s * cell.budget / other.budget for runs in self.measured.values() for other, s in runs if s > 0]
        usual = [self._typical(other) for other in cells if other.system != cell.system]
        found = [*done, *(seconds * self._speed() for seconds in usual if seconds)]
        return sum(found) / len(found) if found else None


def _same_work(one: Cell, other: Cell) -> bool:
    """Whether two cells differ in their seed alone, as far as their training is concerned."""
    return (one.budget, one.evaluations, one.options) == (other.budget, other.evaluations, other.options)


def by_seed(cells: Sequence[Cell]) -> list[Cell]:
    """Cells in the order of their seeds, so that every system is seen early in a run; of a seed the longest first.

    What is short then fills the gaps at the end, where one process would work alone.
    """
    known = typical()
    return sorted(cells, key=lambda cell: (cell.seed, -known.get(cell.system, {}).get("seconds", 0.0)))
