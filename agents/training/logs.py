"""The log of a training: a CSV file that any program reads, and TensorBoard's event files where it is installed."""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec

from strong_envs.agents.training.checkpoint import Count
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.files.untrusted_json import as_type, read_text

MAX_LOG = 2**30
"""Most bytes of a log that are read."""

COLUMNS = (
    "stage",
    "step",
    "total",
    "steps",
    "seconds",
    "steps_per_second",
    "estimate",
    "return",
    "critic_loss",
    "q",
    "entropy",
    "epsilon",
    "mIoU",
    "other",
)
"""Of every row: ``step`` of ``total`` in the stage, ``steps`` over all stages, ``seconds`` since the training began,
``estimate`` seconds until the stage ends; ``mIoU`` is held-out and is set in rows of evaluations; ``other`` has the
scalars without a column, as ``name=value``, separated by spaces. What a row does not have is empty."""


class LogState(msgspec.Struct):
    """Where a log stands: rows, seconds, steps of earlier stages, and the stage with its steps."""

    rows: Count = 0
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    before: Count = 0
    stage: str = ""
    total: Count = 0


class Logger:
    """Appends one row a report to ``folder/log.csv``, and scalars to event files in the same folder.

    Args:
        folder: made where it does not exist.
        state: `state` at the checkpoint from which the training is resumed: later rows are cut
            off, for they will come again. None begins a new log.
        tensorboard: write event files where the package is installed; one line on the error stream where it is not.
    """

    def __init__(
        self, folder: str | os.PathLike, state: dict[str, Any] | None = None, tensorboard: bool = True
    ) -> None:
        self.path = Path(folder) / "log.csv"
        place = LogState() if state is None else as_type(state, LogState, "the log of the checkpoint")
        self._rows, self._before, self._stage, self._total = place.rows, place.before, place.stage, place.total
        self._began = time.perf_counter() - place.seconds
        # Speed is measured in this process alone: the time between a kill and the resumption does not count.
        self._from: tuple[int, float] | None = None
        with os_errors(f"write {shown(self.path)}"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._cut()
        self._file = open(self.path, "a", newline="", encoding="utf-8")  # noqa: SIM115 (open as long as the training)
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
        self.speed = self.estimate = float("nan")
        self.last: dict[str, float] = {}
        self._board = self._events(self._before) if tensorboard else None

    def report(self, stage: str, step: int, total: int, scalars: dict[str, float]) -> None:
        """Log scalars of a stage, a `ProgressCallback`; ``speed`` and ``estimate`` are then up to date."""
        now = time.perf_counter()
        if stage != self._stage:
            self._before += self._total
            self._stage, self._total, self._from = stage, total, None
        if self._from is None:
            self._from = step, now
        made, spent = step - self._from[0], now - self._from[1]
        # The first report of a stage knows no speed yet.
        self.speed = made / spent if made > 0 and spent > 0 else float("nan")
        self.estimate = max(total - step, 0) / self.speed if made > 0 else float("nan")
        self.last |= scalars
        known = {name: value for name, value in scalars.items() if name in COLUMNS}
        other = " ".join(f"{name}={_short(value)}" for name, value in scalars.items() if name not in COLUMNS)
        self._write(
            {
                "stage": stage,
                "step": step,
                "total": total,
                "steps": self._before + step,
                "seconds": f"{now - self._began:.2f}",
                "steps_per_second": _short(self.speed),
                "estimate": _short(self.estimate),
                **{name: _short(value) for name, value in known.items()},
                "other": other,
            }
        )
        if self._board is not None:
            for name, value in {**scalars, "steps_per_second": self.speed, "estimate": self.estimate}.items():
                if value == value:
                    self._board.add_scalar(f"{stage}/{name}", value, self._before + step)
            if "mIoU" in scalars:
                self._board.add_scalar("mIoU", scalars["mIoU"], self._before + step)

    def state(self) -> dict[str, Any]:
        """JSON-ready state from which a later `Logger` continues."""
        seconds = time.perf_counter() - self._began
        before, stage, total = self._before, self._stage, self._total
        return {"rows": self._rows, "seconds": seconds, "before": before, "stage": stage, "total": total}

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _write(self, row: dict[str, Any]) -> None:
        with os_errors(f"write {shown(self.path)}"):
            self._writer.writerow(row)
            self._file.flush()
        self._rows += 1

    def _cut(self) -> None:
        """Keep the header and the rows that the checkpoint knows of."""
        head = ",".join(COLUMNS) + "\n"
        lines = [head]
        if self._rows:
            lines = read_text(self.path, MAX_LOG).splitlines(keepends=True)
            if lines[:1] != [head] or len(lines) <= self._rows:
                raise DataError(f"{str(self.path)!r} is not the log that its checkpoint knows, of {self._rows} rows")
        write_text(self.path, "".join(lines[: self._rows + 1]))

    def _events(self, before: int) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("no event files: tensorboard is not installed (extra tensorboard)", file=sys.stderr)
            return None
        # Events after the checkpoint will come again, and TensorBoard then leaves out the old ones.
        purge = None if not self._rows else self._last_steps() + 1
        return SummaryWriter(str(self.path.parent), purge_step=purge)

    def _last_steps(self) -> int:
        with open(self.path, newline="", encoding="utf-8") as file:
            try:
                return max(int(row["steps"]) for row in csv.DictReader(file))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{shown(self.path)} is damaged: its column steps holds {error}") from None


def _short(value: float) -> str:
    """Six digits; empty where there is no number."""
    return "" if value != value else f"{value:.6g}"
