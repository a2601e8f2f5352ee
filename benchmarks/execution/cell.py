"""One cell of a benchmark: one system, trained with one seed and scored on held-out videos."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strong_envs.benchmarks.metrics.definitions import (
    DISCOUNTED_AT,
    THRESHOLDS,
    annotator_iou,
    annotator_rank,
    box_coverage,
    box_iou,
    discounted_name,
    discounted_recall,
    temporal_iou,
    v_iou,
)
from strong_envs.benchmarks.protocols import DYNAMICS, Protocol, content_hashes
from strong_envs.features.errors import DataError
from strong_envs.features.search_windows import searched
from strong_envs.temporal.task import TemporalConfig

if TYPE_CHECKING:
    from signal import Signals

Report = Callable[[str, int, int, dict[str, float]], None]

RECALL_AT = (1, 5)
"""The n of R@n: how many of its candidates a system may be judged by."""


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
    """Hash of the file that defines an outsider's system (`code_hash`): changed code is another cell."""
    evaluations: int = 0
    """Held-out scores on the way, in each stage of the training."""

    @property
    def key(self) -> str:
        """Names the file of the cell; changes with everything that its numbers depend on, and with nothing else."""
        from strong_envs import __version__

        about = {k: v for k, v in asdict(self).items() if k not in ("features", "device")} | {"version": __version__}
        # Left out where they say nothing, so that cells of before these fields keep their names.
        about = {k: v for k, v in about.items() if v or k not in ("code", "evaluations")}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:10]
        slug = "".join(c if c.isalnum() else "-" for c in self.system.lower())
        return f"{slug}-s{self.seed}-{digest}"


def run_cell(
    cell: Cell,
    folder: Path,
    report: Report | None = None,
    checkpoint_every: float | None = 60.0,
    signals: tuple[Signals, ...] = (),
) -> dict[str, Any]:
    """Train and score one cell; its agent and its result are written to ``folder`` before this returns.

    A cell that was killed goes on from its last checkpoint where its system stores its training; the numbers are those
    of a cell that was not.

    Args:
        checkpoint_every: seconds between checkpoints; None writes none.
        signals: what stops the training between two updates with a checkpoint, as `KeyboardInterrupt`.
    """
    import torch

    from strong_envs import agents, features
    from strong_envs.benchmarks.execution.predictions import PREDICTION, checked, write_prediction
    from strong_envs.benchmarks.execution.provenance import commit, machine
    from strong_envs.benchmarks.execution.timed_training import TimedTraining

    device = cell.device
    train_bank = features.load(cell.features, cell.train, device)
    test_bank = features.load(cell.features, cell.test, device)

    def judged(system: Any) -> tuple[Any, dict[str, np.ndarray]]:
        prediction = checked(system.predict(test_bank), test_bank, cell.system)
        return prediction, score(prediction, test_bank)

    made_by = [commit(), device]
    training = TimedTraining(folder / cell.key, judged, report, cell.evaluations, checkpoint_every, made_by)
    system = agents.make(cell.system, train_bank, seed=cell.seed, budget=cell.budget, **cell.options)
    training.fit(system, signals)
    seconds = training.clock.seconds
    start = time.perf_counter()
    prediction = checked(system.predict(test_bank), test_bank, cell.system)
    predict_seconds = time.perf_counter() - start
    scores = score(prediction, test_bank)
    result = {
        **asdict(cell),
        "key": cell.key,
        "seconds": seconds,
        "seconds_per_query": predict_seconds / len(test_bank),
        "parameters": count_parameters(system),
        "dynamics": dynamics_of(system),
        "history": getattr(system, "history", []),
        **({"trace": training.trace} if cell.evaluations else {}),
        "threads": torch.get_num_threads(),
        "protocol": protocol_of(test_bank.store, cell).as_dict(),
        "commit": commit(),
        "machine": machine(cell.device),
        "queries": test_bank.qids,
        "videos": [query.video for query in test_bank.queries],
        "spans": np.round(prediction.spans.cpu().numpy(), 4).tolist(),
        "scores": {name: np.round(values, 6).tolist() for name, values in scores.items()},
    }
    if agents.find(cell.system).ranks_candidates and hasattr(system, "oracle"):
        result["candidate_oracle"] = np.round(system.oracle(test_bank).cpu().numpy(), 6).tolist()
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
    grid = {DYNAMICS[name]: value for name, value in env.items() if name in DYNAMICS}
    hashes = content_hashes(store, cell.train, cell.test)
    window = searched(store)
    rules = {"window": window, "comparison": comparison, "thresholds": thresholds, "hashes": hashes}
    return Protocol("main", store.name, cell.train, cell.test, **rules, **grid)


def dynamics_of(system: Any) -> dict[str, Any] | None:
    """The moves that a system really makes, by their names in `Protocol`; None for one that makes none or hides
    them.
    """
    config = getattr(system, "config", None)
    if config is None:
        config = getattr(getattr(getattr(system, "strong", None), "args", None), "temporal_env", None)
    if not isinstance(config, TemporalConfig):
        return None
    values = {ours: getattr(config, theirs) for theirs, ours in DYNAMICS.items()}
    return values | {"initial_span": list(config.initial_span)}


def count_parameters(system: Any) -> int | None:
    """Trained numbers of a system with a method ``parameters``; None where nobody knows."""
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


def score(prediction: Any, bank: Any) -> dict[str, np.ndarray]:
    """Per-query scores, (S,) float64 each, of whatever a prediction has.

    ``IoU``; ``IoU signed`` and ``IoU legacy`` as older code has them; ``dR@n IoU=m``; ``IoU@n`` for the n of
    `RECALL_AT`, the best IoU among the first n candidates, so that R@n IoU=m is the share of queries where it reaches
    m; ``annotator IoU`` and ``annotator rank`` where the annotations keep every annotator's window (DiDeMo);
    ``frames_seen``, the share of frames looked at; ``moves``; and for tracked boxes ``v-IoU``, ``box IoU`` and
    ``coverage``.
    """
    duration = bank.duration[bank.video].cpu().numpy()
    truth = (bank.truth * bank.duration[bank.video][:, None, None]).cpu().numpy()
    spans = prediction.spans.cpu().numpy()
    top = spans[:, None] if prediction.ranked is None else prediction.ranked.cpu().numpy()
    out = {"IoU": temporal_iou(spans, truth)}
    out |= {f"IoU {kind}": temporal_iou(spans, truth, kind) for kind in ("signed", "legacy")}
    if prediction.ranked is not None:
        each = temporal_iou(top, truth)
        out |= {f"IoU@{n}": np.fmax.reduce(each[:, :n], axis=1) for n in RECALL_AT}
    # What an answer says outside the video counts for nothing either way.
    inside = np.clip(top, 0.0, duration[:, None, None])
    for n in RECALL_AT if prediction.ranked is not None else (1,):
        out |= {discounted_name(n, m): discounted_recall(inside, truth, duration, n, m) for m in DISCOUNTED_AT}
    annotators = annotators_of(bank)
    if annotators is not None:
        out["annotator IoU"] = annotator_iou(spans, annotators)
        if prediction.ranked is not None:
            # JSON has no infinity: a rank behind every candidate says the same.
            out["annotator rank"] = np.minimum(annotator_rank(top, annotators), top.shape[1] + 1.0)
    if prediction.frames_seen is not None:
        out["frames_seen"] = prediction.frames_seen.cpu().numpy().astype(np.float64)
    if prediction.length is not None:
        out["steps"] = prediction.length.cpu().numpy().astype(np.float64)
    if prediction.boxes is not None and bank.has_boxes:
        out |= _spatial_scores(prediction.boxes.cpu().numpy(), spans, bank)
    return out


def annotators_of(bank: Any) -> np.ndarray | None:
    """Every annotator's window in seconds, (S, A, 2) filled up with rows of NaN; None where a query does not tell."""
    each = [query.extra.get("annotators") for query in bank.queries]
    if not each or not all(each):
        return None
    found = np.full((len(each), max(map(len, each)), 2), np.nan)
    for row, windows in zip(found, each, strict=True):
        row[: len(windows)] = windows
    return found


def _spatial_scores(boxes: np.ndarray, spans: np.ndarray, bank: Any) -> dict[str, np.ndarray]:
    """v-IoU of the predicted tube; IoU of the boxes and share of the true box inside, means over the true moment."""
    import torch

    video = bank.video.cpu()
    lengths = bank.n_frames.cpu()[video].numpy()
    seconds = np.repeat(bank.duration.cpu().numpy()[video] / lengths, lengths)
    frame = np.concatenate([np.arange(n) for n in lengths])
    middle = (frame + 0.5) * seconds
    query = np.repeat(np.arange(len(lengths)), lengths)
    true_spans = (bank.truth[:, 0] * bank.duration[bank.video][:, None]).cpu().numpy()
    samples = torch.as_tensor(query, device=bank.device)
    true = bank.true_box(samples, torch.as_tensor(frame, device=bank.device)).cpu().numpy().astype(np.float64)
    inside_true = (middle >= true_spans[query, 0]) & (middle < true_spans[query, 1])
    inside_pred = (middle >= spans[query, 0]) & (middle < spans[query, 1])
    # A tube needs at least one frame even where a span is shorter than a row.
    for inside, windows in ((inside_true, true_spans), (inside_pred, spans)):
        inside[_nearest_frames(windows, lengths, bank)] = True

    def over_moment(values: np.ndarray) -> np.ndarray:
        known = inside_true & ~np.isnan(values)
        total = np.bincount(query, np.where(known, values, 0.0), len(lengths))
        return total / np.maximum(np.bincount(query, known, len(lengths)), 1)

    tube = np.where(inside_pred[:, None], boxes, np.nan)
    true_tube = np.where(inside_true[:, None], true, np.nan)
    return {
        "m_vIoU": v_iou(tube, true_tube, lengths.tolist()),
        "box IoU": over_moment(box_iou(boxes, true)),
        "coverage": over_moment(box_coverage(boxes, true)),
    }


def _nearest_frames(windows: np.ndarray, lengths: np.ndarray, bank: Any) -> np.ndarray:
    """The packed row at the middle of each window."""
    duration = bank.duration.cpu().numpy()[bank.video.cpu()]
    row = np.floor(windows.mean(1) / duration * lengths).astype(np.int64).clip(0, lengths - 1)
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]) + row


def read_cell(folder: Path, cell: Cell) -> dict[str, Any] | None:
    """The stored result of a cell, or None when it has not finished."""
    file = folder / f"{cell.key}.json"
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{file} is not a readable result ({error}); delete it to compute the cell again") from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, indented, with lists of numbers on one line each."""
    staging = path.with_name(f".{path.name}.part{os.getpid()}")
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", json.dumps(value, indent=1))
    staging.write_text(text + "\n", encoding="utf-8")
    os.replace(staging, path)


_NUMBERS = re.compile(r"\[\s+((?:[-+.\deE]+|null),?(?:\s+(?:[-+.\deE]+|null),?)*)\s+\]")
