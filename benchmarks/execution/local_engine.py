"""Runs the cells of a benchmark in processes of their own: finished cells are stored, and none is computed twice."""

from __future__ import annotations

import errno
import multiprocessing as mp
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.execution.cell import Cell, read_cell, run_cell
from strong_envs.benchmarks.execution.live_page import NAME
from strong_envs.benchmarks.execution.progress import ProgressBars
from strong_envs.benchmarks.execution.time_left import by_seed
from strong_envs.benchmarks.peak_memory import note_worker, own_peak
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import os_errors, sentence, shown

NO_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors after which no other cell could be stored either."""
IMPORTED = ["torch", "torch._dynamo", "gymnasium", "msgspec", "safetensors.torch"]
"""What every cell needs and takes seconds to import. Modules of this project are not among them: their path is known
to the processes of the cells alone."""


@dataclass
class Outcome:
    """``results`` by cell key, ``failed`` reasons by cell key; ``interrupted`` after Ctrl-C."""

    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def stored_cells(cells: Sequence[Cell], folder: Path) -> tuple[Outcome, list[Cell]]:
    """The results of finished cells, and the cells that are left, those of the first seed first."""
    outcome = Outcome()
    waiting: list[Cell] = []
    with os_errors(f"write {shown(folder)}"):
        folder.mkdir(parents=True, exist_ok=True)  # by it the same command knows its own results, even without a cell
    for cell in cells:
        stored = read_cell(folder, cell)
        if stored is None:
            waiting.append(cell)
        else:
            outcome.results[cell.key] = stored
    return outcome, by_seed(waiting)


def run_matrix(
    cells: Sequence[Cell], folder: Path, jobs: int, show: bool = True, later: Sequence[Cell] = ()
) -> Outcome:
    """Compute the cells that are not stored in ``folder`` yet, ``jobs`` at a time, with progress over all of them.

    A failing cell is recorded with its reason and the others continue. Ctrl-C stops the work and returns what there is.
    ``later`` are cells that will follow in another matrix: the estimate of the time that is left counts them.

    Raises:
        DataError: results cannot be stored any more (disk full, read-only); the other cells are stopped.
    """
    outcome, waiting = stored_cells(cells, folder)
    before = [(cell, outcome.results[cell.key]) for cell in cells if cell.key in outcome.results]
    context = _context()
    messages = context.Queue()
    running: dict[str, tuple[Any, Cell]] = {}
    page = folder.parent / NAME if show else None
    with ProgressBars(waiting, before, jobs, show, later=later, page=page) as bars:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    process = context.Process(
                        target=_work, args=(cell, folder, messages, dict(os.environ)), daemon=True
                    )
                    process.start()
                    running[cell.key] = (process, cell)
                    bars.begin(cell)
                _drain(messages, bars, outcome)
                bars.tick()
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
                    bars.end(cell, outcome.results.get(key))
        except KeyboardInterrupt:
            outcome.interrupted = True
        finally:
            for process, _ in running.values():
                process.terminate()
            for process, _ in running.values():
                process.join(timeout=15)
    return outcome


def _context() -> Any:
    """Processes that are copied from one which has made the imports; on other systems than Linux fresh ones."""
    if sys.platform != "linux":
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def _work(cell: Cell, folder: Path, messages: Any, environment: dict[str, str]) -> None:
    """Body of a worker process."""
    import signal

    # A copied process has the environment that the first run of this session had.
    os.environ.clear()
    os.environ.update(environment)
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _end_with_parent()
    # One thread each: small batches lose time on a second one, and cells run side by side anyway.
    torch.set_num_threads(1)
    last = 0.0

    def report(stage: str, done: int, total: int, scalars: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.3:
            last = now
            messages.put(("progress", cell.key, stage, done, total, scalars))

    try:
        run_cell(cell, folder, report, signals=(signal.SIGTERM,))
    except KeyboardInterrupt:
        # The parent asked to stop: what was learnt so far is in the cell's checkpoint.
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        messages.put(("failed", cell.key, f"the system ended its process: SystemExit({error.code!r})"))
    except Exception as error:  # a cell may fail in any way; the others must go on
        if no_storage(error):
            messages.put(("no storage", cell.key, str(error) if isinstance(error, DataError) else sentence(error)))
        elif isinstance(error, DataError):
            messages.put(("failed", cell.key, str(error)))
        else:
            messages.put(("failed", cell.key, f"{type(error).__name__}: {error}"))
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{cell.key}.log").write_text(traceback.format_exc(), "utf-8", "backslashreplace")
    finally:
        messages.put(("memory", cell.key, own_peak()))


def _end_with_parent() -> None:
    """End this process soon after the run that started it: one that was killed must not go on beside the next one."""
    import signal

    parent = mp.parent_process()  # of a copied process, too, it is the run and not the process that it is a copy of
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)  # time for a checkpoint
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def no_storage(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that nothing more can be written."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_STORAGE:
            return True
        error = error.__cause__
    return False


def _drain(messages: Any, bars: ProgressBars, outcome: Outcome) -> None:
    deadline = time.monotonic() + 0.2
    while (left := deadline - time.monotonic()) > 0:
        try:
            kind, key, *rest = messages.get(timeout=left)
        except queue.Empty:
            return
        if kind == "progress":
            bars.update(key, *rest)
        elif kind == "memory":
            note_worker(*rest)
        elif kind == "failed":
            outcome.failed[key] = rest[0]
        else:
            raise DataError(f"{rest[0]}; finished training runs are stored, make room and run the same command again")
