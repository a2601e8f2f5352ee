"""``--engine ray``: the same cells on a Ray cluster, with the numbers of a local run.

Without ``--address`` a cluster of ``--jobs`` workers is started on this machine and stopped at the end. With it
(``--address auto`` on a node of a running cluster, or ``ray://host:10001``) cells go to that cluster: this project and
agents of your own must be installed on its nodes, and ``--features`` must be a key of the default world, which each
node draws by itself, or a path that all nodes see. Results come back over Ray, so no disk needs to be shared.

A cell whose worker or node is lost is computed again, `RETRIES` times at most. Its checkpoints are sent to the driver,
so that it continues from the last one on another node, and after the driver itself was stopped. The driver makes these
attempts, and not Ray, because what the driver has on its disk is there whichever node is lost.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.execution.cell import Cell, read_cell, run_cell
from strong_envs.benchmarks.execution.live_page import NAME
from strong_envs.benchmarks.execution.local_engine import Outcome, stored_cells
from strong_envs.benchmarks.execution.progress import ProgressBars
from strong_envs.benchmarks.execution.timed_training import checkpoint_files
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import write_bytes
from strong_envs.features.files.errors import sentence

RETRIES = 3
CHECKPOINT_EVERY = 60.0
"""Seconds between two checkpoints of a cell."""
Files = dict[str, bytes]


def run_matrix_on_ray(
    cells: Sequence[Cell],
    folder: Path,
    jobs: int,
    show: bool = True,
    address: str | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
) -> Outcome:
    """`benchmarks.execution.local_engine.run_matrix` on Ray: ``jobs`` cells at a time.

    Raises:
        DataError: Ray is not installed, there is no cluster at ``address``, or results cannot be stored.
    """
    ray = _ray()
    outcome, waiting = stored_cells(cells, folder)
    if not waiting:
        return outcome
    before = [(cell, outcome.results[cell.key]) for cell in cells if cell.key in outcome.results]
    ours = not ray.is_initialized()
    if ours:
        _start(ray, jobs, address)
    keeper = _keeper(ray)
    compute = ray.remote(num_cpus=1, max_retries=0)(_compute)
    running: dict[Any, Cell] = {}
    lost: Counter[str] = Counter()
    with ProgressBars(waiting, before, jobs, show, page=folder.parent / NAME if show else None) as bars:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    gpus = 1 if cell.device.startswith("cuda") else 0
                    reached = {file.name: file.read_bytes() for file in checkpoint_files(folder / cell.key)}
                    running[compute.options(num_gpus=gpus).remote(cell, reached, keeper, checkpoint_every)] = cell
                    bars.begin(cell)
                done, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                _note(ray, keeper, folder, bars, outcome)
                bars.tick()
                for reference in done:
                    cell = running.pop(reference)
                    again = lost[cell.key] < RETRIES
                    if _store(ray, reference, cell, folder, outcome, again):
                        bars.end(cell, outcome.results.get(cell.key))
                    else:
                        lost[cell.key] += 1
                        waiting.insert(0, cell)
        except KeyboardInterrupt:
            outcome.interrupted = True
            _note(ray, keeper, folder, bars, outcome)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            ray.kill(keeper)
            if ours:
                ray.shutdown()
    return outcome


class Keeper:
    """Holds the newest checkpoint of every running cell, and its progress; an actor beside the driver."""

    def __init__(self) -> None:
        self.files: dict[str, Files] = {}
        self.fresh: set[str] = set()
        self.progress: dict[str, tuple[str, int, int, dict[str, float]]] = {}

    def keep(self, key: str, files: Files) -> None:
        """The checkpoint of a cell."""
        self.files[key] = files
        self.fresh.add(key)

    def report(self, key: str, stage: str, done: int, total: int, scalars: dict[str, float]) -> None:
        """The progress of a cell."""
        self.progress[key] = (stage, done, total, scalars)

    def take(self) -> tuple[dict[str, Files], dict[str, tuple[str, int, int, dict[str, float]]]]:
        """Checkpoints and progress that came since the last call."""
        files = {key: self.files[key] for key in self.fresh}
        progress, self.progress = self.progress, {}
        self.fresh.clear()
        return files, progress

    def forget(self, key: str) -> None:
        """The cell is finished."""
        self.files.pop(key, None)
        self.fresh.discard(key)


def _ray() -> Any:
    # Without these, set before the import, Ray reports its use over the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise DataError(f"--engine ray needs Ray ({error}): pip install 'strong-envs[ray]'") from None
    return ray


def _start(ray: Any, jobs: int, address: str | None) -> None:
    if address is not None:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise DataError(f"there is no Ray cluster at {address!r}: {sentence(error)}") from None
        return
    # Workers on this machine import what this process imports, agents in the current folder included.
    path = os.pathsep.join(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))
    environment = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
    # Another cluster that runs on this machine is not joined.
    ray.init(address="local", num_cpus=jobs, include_dashboard=False, log_to_driver=False, runtime_env=environment)


def _keeper(ray: Any) -> Any:
    """The actor, on the node of the driver, which is the last one to be lost."""
    from ray.util.scheduling_strategies import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
        NodeAffinitySchedulingStrategy,
    )

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return (
        ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Keeper).options(scheduling_strategy=here).remote()
    )


def _compute(cell: Cell, reached: Files, keeper: Any, checkpoint_every: float) -> dict[str, Any]:
    """Body of a worker: the cell's files by name, or why it failed. Losing the worker is Ray's to notice."""
    import torch

    torch.set_num_threads(1)  # as in a local run: other thread counts add in other orders
    try:
        store = cell.store()
        if store.content_hash != cell.data:
            raise DataError(f"{cell.features!r} holds other data on the worker: {store.content_hash}, not {cell.data}")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file, content in reached.items():
                (folder / file).write_bytes(content)
            run_cell(cell, folder, _reporter(cell, folder, keeper), checkpoint_every=checkpoint_every)
            return {"files": {file.name: file.read_bytes() for file in folder.iterdir()}}
    except DataError as error:
        return {"failed": str(error)}
    except SystemExit as error:
        return {"failed": f"the system ended its process: SystemExit({error.code!r})"}
    except Exception as error:  # a cell may fail in any way; the others must go on
        return {"failed": f"{type(error).__name__}: {error}", "log": traceback.format_exc()}


def _reporter(cell: Cell, folder: Path, keeper: Any) -> Callable[[str, int, int, dict[str, float]], None]:
    """A progress callback that sends the progress, and each new checkpoint, to the keeper."""
    last, sent = 0.0, {file.name: file.stat().st_mtime_ns for file in checkpoint_files(folder / cell.key)}

    def report(stage: str, done: int, total: int, scalars: dict[str, float]) -> None:
        nonlocal last, sent
        found = {file.name: file.stat().st_mtime_ns for file in checkpoint_files(folder / cell.key)}
        if found != sent:
            sent = found
            keeper.keep.remote(cell.key, {name: (folder / name).read_bytes() for name in found})
        if time.monotonic() - last > 1.0:
            last = time.monotonic()
            keeper.report.remote(cell.key, stage, done, total, {name: float(v) for name, v in scalars.items()})

    return report


def _note(ray: Any, keeper: Any, folder: Path, bars: ProgressBars, outcome: Outcome) -> None:
    """Store new checkpoints in the folder, where a local run looks for them too, and show the progress."""
    try:
        files, progress = ray.get(keeper.take.remote(), timeout=30)
    except ray.exceptions.RayError:
        return  # the next look will find them
    for key, content in files.items():
        if key not in outcome.results:
            _write(folder, content)
    for key, found in progress.items():
        bars.update(key, *found)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        write_bytes(folder / name, content)


def _store(ray: Any, reference: Any, cell: Cell, folder: Path, outcome: Outcome, again: bool) -> bool:
    """Write what a worker sent, the result last: its file says that the cell is finished.

    Returns:
        False where the worker was lost with its answer and the cell is to be computed ``again``.
    """
    try:
        answer = ray.get(reference)
    except ray.exceptions.RayError as error:
        if again and not isinstance(error, ray.exceptions.RayTaskError):
            return False
        outcome.failed[cell.key] = f"the worker was lost {RETRIES + 1} times: {type(error).__name__}: {sentence(error)}"
        return True
    if "failed" in answer:
        outcome.failed[cell.key] = answer["failed"]
        if "log" in answer:
            _write(folder, {f"{cell.key}.log": answer["log"].encode("utf-8", "backslashreplace")})
        return True
    _write(folder, dict(sorted(answer["files"].items(), key=lambda item: item[0] == f"{cell.key}.json")))
    for file in checkpoint_files(folder / cell.key):
        file.unlink(missing_ok=True)
    stored = read_cell(folder, cell)
    if stored is not None:
        outcome.results[cell.key] = stored
    return True
