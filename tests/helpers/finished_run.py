"""A finished run made by hand: cells with known windows, written as `run` writes them, without any training."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from strong_envs import features
from strong_envs.agents import Prediction
from strong_envs.benchmarks.execution.cell import Cell, protocol_of
from strong_envs.benchmarks.execution.job import Job
from strong_envs.benchmarks.execution.predictions import PREDICTION, write_prediction
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.results.collect import collect
from strong_envs.benchmarks.results.files import write_json

SEEDS = 2


def prediction_of(bank, label: str, seed: int) -> Prediction:
    """``good`` answers near the truth, anything else at random; both come in three moves from the initial window."""
    rng = np.random.default_rng([seed, len(label)])
    duration = bank.duration[bank.video]
    truth = bank.truth[:, 0] * duration[:, None]
    if label == "good":
        spans = truth.clone()
        spans[:, 1] = (truth[:, 1] + 0.1 * torch.as_tensor(rng.random(len(bank)))).clamp(max=duration)
    else:
        spans = torch.as_tensor(np.sort(rng.random((len(bank), 2)), axis=1)) * duration[:, None]
    first = torch.stack((duration / 4, 3 * duration / 4), -1)
    path = torch.stack([first + (spans - first) * t / 3 for t in range(4)], 1)
    frames = int(bank.n_frames[bank.video].sum())
    low = torch.as_tensor(rng.uniform(0, 0.5, (frames, 2)))
    boxes = torch.cat((low, low + 0.3), 1).float() if label == "good" else None
    return Prediction(spans, torch.full((len(bank),), 3), path, boxes)


def finished_run(store_path: str, out: Path, labels: tuple[str, ...] = ("random", "good"), **changes) -> dict:
    """Write ``results.json`` and cells to ``out``; returns the result."""
    store, bank = features.open_store(store_path), features.load(store_path, "test")
    values = {"features": store_path, "train": "train", "test": "test", "seeds": SEEDS, "budget": 1.0, "jobs": 1}
    values |= {"device": "cpu", "out": str(out), "set": [], "quick": True, "multi_scale": False} | changes
    args = argparse.Namespace(**values)
    cells, results = {}, {}
    (out / "cells").mkdir(parents=True, exist_ok=True)
    for label in labels:
        cells[label] = []
        for seed in range(SEEDS):
            cell = Cell("trl", seed, store_path, store.content_hash, options={"label": label})
            found = prediction_of(bank, label, seed)
            scores = {name: values.tolist() for name, values in score(found, bank).items()}
            stored = {
                "system": "trl",
                "seed": seed,
                "features": store_path,
                "data": store.content_hash,
                "test": "test",
                "key": cell.key,
                "seconds": 1.0,
                "history": [{"stage": s, "seconds": 1.0 + i, "IoU": 0.2 + 0.1 * i} for i, s in enumerate("ab")],
                "protocol": protocol_of(store, cell).as_dict(),
                "queries": bank.qids,
                "videos": [q.video for q in bank.queries],
                "spans": found.spans.tolist(),
                "scores": scores,
            }
            write_prediction(out / "cells" / f"{cell.key}{PREDICTION}", found, [("one", found), ("two", found)])
            write_json(out / "cells" / f"{cell.key}.json", stored)
            cells[label].append(cell)
            results[cell.key] = stored
    protocol = protocol_of(store, cells[labels[0]][0])
    job = Job(args, store, protocol, cells, {})
    job.outcome.results.update(results)
    result = collect(job)
    write_json(out / "results.json", result)
    return result
