"""``--engine ray``: the same cells on a Ray cluster, with the numbers of a local run.

Without ``--address`` a cluster of ``--jobs`` workers is started on this machine and stopped at the end. With it
(``--address auto`` on a node of a running cluster, or ``ray://host:10001``) cells go to that cluster: this project and
agents of your own must be installed on its nodes, and ``--features`` must be a key of the default world, which each
node draws by itself, or a path that all nodes see. Results come back over Ray, so no disk needs to be shared.

A cell whose worker or node is lost is computed again, `RETRIES` times at most.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.execution.cell import Cell, read_cell, run_cell
from strong_envs.benchmarks.execution.local_engine import Bars, Outcome
from strong_envs.features.errors import DataError

RETRIES = 3


def run_matrix_on_ray(
    cells: Sequence[Cell], folder: Path, jobs: int, show: bool = True, address: str | None = None
) -> Outcome:
    """`benchmarks.execution.local_engine.run_matrix` on Ray: ``jobs`` cells at a time.

    Raises:
        DataError: Ray is not installed, or there is no cluster at ``address``.
    """
    ray = _ray()
    outcome = Outcome()
    waiting: list[Cell] = []
    for cell in cells:
        stored = read_cell(folder, cell)
        if stored is None:
            waiting.append(cell)
        else:
            outcome.results[cell.key] = stored
    if not waiting:
        return outcome
    ours = not ray.is_initialized()
    if ours:
        _start(ray, jobs, address)
    compute = ray.remote(num_cpus=1, max_retries=RETRIES)(_compute)
    running: dict[Any, Cell] = {}
    with Bars(len(cells), len(outcome.results), show) as bars:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    gpus = 1 if cell.device.startswith("cuda") else 0
                    running[compute.options(num_gpus=gpus).remote(cell)] = cell
                    bars.begin(cell)
                done, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                for reference in done:
                    cell = running.pop(reference)
                    _keep(ray, reference, cell, folder, outcome)
                    bars.end(cell, cell.key in outcome.results)
        except KeyboardInterrupt:
            outcome.interrupted = True
            for reference in running:
                ray.cancel(reference, force=True)
        finally:
            if ours:
                ray.shutdown()
    return outcome


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
            raise DataError(f"there is no Ray cluster at {address!r}: {error}") from None
        return
    # Workers on this machine import what this process imports, agents in the current folder included.
    path = os.pathsep.join(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))
    environment = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False, runtime_env=environment)


def _compute(cell: Cell) -> dict[str, Any]:
    """Body of a worker: the cell's files by name, or why it failed. Losing the worker is Ray's to notice."""
    import torch

    from strong_envs import features

    torch.set_num_threads(1)  # as in a local run: other thread counts add in other orders
    try:
        store = features.open_store(cell.features)
        if store.content_hash != cell.data:
            raise DataError(f"{cell.features!r} holds other data on the worker: {store.content_hash}, not {cell.data}")
        with tempfile.TemporaryDirectory() as folder:
            # No checkpoints: a lost node takes its disk with it.
            run_cell(cell, Path(folder), checkpoint_every=None)
            return {"files": {file.name: file.read_bytes() for file in Path(folder).iterdir()}}
    except DataError as error:
        return {"failed": str(error)}
    except Exception as error:  # a cell may fail in any way; the others must go on
        return {"failed": f"{type(error).__name__}: {error}", "log": traceback.format_exc()}


def _keep(ray: Any, reference: Any, cell: Cell, folder: Path, outcome: Outcome) -> None:
    """Write what a worker sent, the result last: its file says that the cell is finished."""
    try:
        answer = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        outcome.failed[cell.key] = f"the worker was lost {RETRIES + 1} times: {type(error).__name__}: {reason}"
        return
    folder.mkdir(parents=True, exist_ok=True)
    if "failed" in answer:
        outcome.failed[cell.key] = answer["failed"]
        if "log" in answer:
            (folder / f"{cell.key}.log").write_text(answer["log"], encoding="utf-8")
        return
    for name in sorted(answer["files"], key=lambda name: name == f"{cell.key}.json"):
        staging = folder / f".{name}.part{os.getpid()}"
        staging.write_bytes(answer["files"][name])
        os.replace(staging, folder / name)
    stored = read_cell(folder, cell)
    if stored is not None:
        outcome.results[cell.key] = stored
