"""The log of a training: a CSV file that any program reads, and TensorBoard's event files where it is installed."""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path
from typing import Any

from strong_envs.features.errors import DataError

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
        state = state or {"rows": 0, "seconds": 0.0, "before": 0, "stage": "", "total": 0}
        self._rows, self._before = int(state["rows"]), int(state["before"])
        self._stage, self._total = str(state["stage"]), int(state["total"])
        self._began = time.perf_counter() - float(state["seconds"])
        # Speed is measured in this process alone: the time between a kill and the resumption does not count.
        self._from: tuple[int, float] | None = None
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
        self._writer.writerow(row)
        self._file.flush()
        self._rows += 1

    def _cut(self) -> None:
        """Keep the header and the rows that the checkpoint knows of."""
        head = ",".join(COLUMNS) + "\n"
        lines = [head]
        if self._rows:
            try:
                lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            except OSError as error:
                raise DataError(f"the log of the training to resume cannot be read: {error}") from None
            if lines[:1] != [head] or len(lines) <= self._rows:
                raise DataError(f"{str(self.path)!r} is not the log that its checkpoint knows, of {self._rows} rows")
        staging = self.path.with_name(f".{self.path.name}.part{os.getpid()}")
        staging.write_text("".join(lines[: self._rows + 1]), encoding="utf-8")
        os.replace(staging, self.path)

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
            return max(int(row["steps"]) for row in csv.DictReader(file))


def _short(value: float) -> str:
    """Six digits; empty where there is no number."""
    return "" if value != value else f"{value:.6g}"
