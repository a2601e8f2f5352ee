"""One cell of a benchmark: one system, trained with one seed, and what it predicted of test videos."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strong_envs.agents.registry import Prediction, ProgressCallback
from strong_envs.benchmarks.metrics.definitions import THRESHOLDS
from strong_envs.benchmarks.metrics.q_ranking import q_ranking
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.protocols import DYNAMICS, Protocol, content_hashes
from strong_envs.benchmarks.results.files import read_cell_file, write_json
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import shown
from strong_envs.features.registry import job_store, load_part
from strong_envs.features.search_windows import searched
from strong_envs.features.validation import VALIDATION
from strong_envs.temporal.task import TemporalConfig

if TYPE_CHECKING:
    from signal import Signals

    from strong_envs.features.bank.bank import FeatureBank
    from strong_envs.features.store.store import FeatureStore


@dataclass(frozen=True)
class Cell:
    """What is trained and scored. ``data`` is the content hash of the store: a result never outlives its data."""

    system: str
    seed: int
    features: str
    data: str
    train: str = "train"
    test: str = "test"
    budget: float = 1.0
    device: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    """Hash of the file that defines a system of ``module:attribute`` (`code_hash`): changed code is another cell."""
    evaluations: int = 0
    """Scores on the validation part on the way, in each stage of the training."""
    validation: float = 0.0
    """Share of the training videos that validate where the store has no validation part; 0 trains on all of them."""
    label: str = field(default="", compare=False)
    """Name of its row, where that is not the system's; for progress alone."""

    @property
    def name(self) -> str:
        """``trl, phi = 0.1 seed 0``: what progress and messages call it."""
        return f"{self.label or self.system} seed {self.seed}"

    def numbers_from(self) -> dict[str, Any]:
        """The fields that its numbers depend on."""
        return {k: v for k, v in asdict(self).items() if k != "label"}

    def store(self) -> FeatureStore:
        """The store whose parts are trained and scored on."""
        return job_store(self.features, self.train, self.validation)

    @property
    def key(self) -> str:
        """Names the file of the cell; changes with everything that its numbers depend on, and with nothing else."""
        from strong_envs import __version__

        about = {k: v for k, v in self.numbers_from().items() if k not in ("features", "device")}
        about["version"] = __version__
        # Left out where they are empty, so that the names of cells do not depend on fields that are not used.
        about = {k: v for k, v in about.items() if v or k not in ("code", "evaluations", "validation")}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:10]
        slug = "".join(c if c.isalnum() else "-" for c in self.system.lower())
        return f"{slug}-s{self.seed}-{digest}"


def run_cell(
    cell: Cell,
    folder: Path,
    report: ProgressCallback | None = None,
    checkpoint_every: float | None = 60.0,
    signals: tuple[Signals, ...] = (),
) -> dict[str, Any]:
    """Train one cell and predict the test videos; its agent, predictions and result are written to ``folder``.

    A cell that was killed goes on from its last checkpoint where its system stores its training, and ends with the
    numbers of a cell that was not. Tables are computed from the predictions; ``scores`` of the result are for reading.
    Until the training has ended, the validation part alone is scored; the test part is opened afterwards.

    Args:
        cell: what is trained and predicted.
        folder: where its files are written.
        report: called with the progress of the training.
        checkpoint_every: seconds between checkpoints; None writes none.
        signals: what stops the training between two updates with a checkpoint, as `KeyboardInterrupt`.
    """
    import torch

    from strong_envs import agents
    from strong_envs.benchmarks.execution.predictions import PREDICTION, checked, write_prediction
    from strong_envs.benchmarks.execution.provenance import commit, machine
    from strong_envs.benchmarks.execution.timed_training import TimedTraining

    device, store = cell.device, cell.store()
    train_bank = load_part(store, cell.train, device)
    val_bank = load_part(store, VALIDATION, device) if VALIDATION in store.splits else None

    def visible(bank: FeatureBank) -> FeatureBank:
        return agents.registry.shown_to(cell.system, cell.options, bank)

    def judged(system: Any) -> tuple[Prediction, dict[str, np.ndarray]]:
        assert val_bank is not None
        prediction = checked(system.predict(visible(val_bank)), val_bank, cell.system)
        return prediction, score(prediction, val_bank)

    made_by = [commit(), device]
    scored = judged if val_bank is not None else None
    measure = None if val_bank is None or not val_bank.has_boxes else partial(q_ranking, bank=val_bank)
    training = TimedTraining(folder / cell.key, scored, report, cell.evaluations, checkpoint_every, made_by, measure)
    system = agents.make(cell.system, train_bank, seed=cell.seed, budget=cell.budget, **cell.options)
    training.fit(system, signals)
    seconds = training.clock.seconds
    test_bank = load_part(store, cell.test, device)
    start = time.perf_counter()
    prediction = checked(system.predict(visible(test_bank)), test_bank, cell.system)
    predict_seconds = time.perf_counter() - start
    scores = score(prediction, test_bank)
    result = {
        **cell.numbers_from(),
        "key": cell.key,
        "seconds": seconds,
        "seconds_per_query": predict_seconds / len(test_bank),
        "parameters": count_parameters(system),
        "dynamics": dynamics_of(system),
        "stages_split": None if val_bank is None else VALIDATION,
        "history": getattr(system, "history", []),
        **({"trace": training.trace} if cell.evaluations else {}),
        "threads": torch.get_num_threads(),
        "protocol": protocol_of(test_bank.store, cell).as_dict(),
        "commit": commit(),
        "machine": machine(cell.device),
        "queries": test_bank.qids,
        "videos": [query.video for query in test_bank.queries],
        **shared_units(test_bank),
        "spans": np.round(prediction.spans.cpu().numpy(), 4).tolist(),
        "scores": {name: np.round(values, 6).tolist() for name, values in scores.items()},
    }
    oracle = system.oracle(test_bank)
    if oracle is not None:
        result["candidate_oracle"] = np.round(oracle.cpu().numpy(), 6).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(system, "save"):
        system.save(str(folder / f"{cell.key}.safetensors"))
    write_prediction(folder / f"{cell.key}{PREDICTION}", prediction, training.stages)
    write_json(folder / f"{cell.key}.json", result)
    training.forget()
    return result


def protocol_of(store: Any, cell: Cell, comparison: str = ">=", thresholds: tuple[float, ...] = THRESHOLDS) -> Protocol:
    """The protocol that a cell is scored by: what its store searches, with the moves of its environment's options.

    A system whose published moves differ from the default ones (READ) keeps them under any protocol, as part of what it
    is; `dynamics_of` is stored with its result and its row says so.
    """
    env = {**(cell.options.get("temporal_env") or {}), **(cell.options.get("env") or {})}
    rules: dict[str, Any] = {DYNAMICS[name]: value for name, value in env.items() if name in DYNAMICS}
    rules |= {"window": searched(store), "comparison": comparison, "thresholds": thresholds}
    return Protocol(
        "main", store.name, cell.train, cell.test, hashes=content_hashes(store, cell.train, cell.test), **rules
    )


def dynamics_of(system: Any) -> dict[str, Any] | None:
    """The moves that a system makes, by their names in `Protocol`; None where it makes none or has no ``config``."""
    config = getattr(system, "config", None)
    if config is None:
        config = getattr(getattr(getattr(system, "strong", None), "args", None), "temporal_env", None)
    if not isinstance(config, TemporalConfig):
        return None
    values = {ours: getattr(config, theirs) for theirs, ours in DYNAMICS.items()}
    return values | {"initial_span": list(config.initial_span)}


def shared_units(bank: FeatureBank) -> dict[str, list[str]]:
    """``units`` (S,) where queries share more than their video, see `Query.unit`; nothing elsewhere."""
    units = [query.unit for query in bank.queries]
    return {"units": units} if units != [query.video for query in bank.queries] else {}


def count_parameters(system: Any) -> int | None:
    """Trained numbers of a system with a method ``parameters``; None without that method."""
    found = getattr(system, "parameters", None)
    return sum(p.numel() for p in found()) if callable(found) else None


def code_hash(system: str) -> str:
    """Hash of the file behind ``module:attribute``; empty for this project's systems, which have a version."""
    import importlib
    import inspect

    from strong_envs import agents

    if system in agents.REGISTRY or ":" not in system:
        return ""
    agents.find(system)
    try:
        source = inspect.getsourcefile(importlib.import_module(system.partition(":")[0]))
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16] if source else ""
    except (TypeError, OSError):
        return ""


def read_cell(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The stored result of a cell, or None when it has not finished."""
    file = folder / f"{cell.key}.json"
    if not file.is_file():
        return None
    try:
        stored = read_cell_file(file)
        if (stored["system"], stored["data"], stored["seed"]) != (cell.system, cell.data, cell.seed):
            raise DataError(f"{shown(file)} is the result of another cell")
        return stored
    except DataError as error:
        raise DataError(f"{error}; delete {shown(file)} to compute this cell again") from None
