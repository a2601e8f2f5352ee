"""Annotations and feature files for importers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from strong_envs.features.datasets.types import Annotations, Query, Report, Video

RNG = np.random.default_rng(0)


ROWS = {"a": 20, "b": 10}


def features(rows: dict[str, int] = ROWS, width: int = 6) -> dict[str, np.ndarray]:
    return {video: RNG.normal(size=(n, width)).astype(np.float32) for video, n in rows.items()}


def npy_folder(folder: Path, arrays: dict[str, np.ndarray], suffix: str = "") -> Path:
    folder.mkdir(parents=True)
    for video, array in arrays.items():
        np.save(folder / f"{video}{suffix}.npy", array)
    return folder


def annotations() -> Annotations:
    videos = {"a": Video("a", 40.0, 10.0, 400), "b": Video("b", 20.0, 10.0, 200), "c": Video("c", 5.0)}
    queries = [
        Query("1", "a", "a red ball", ((0.0, 10.0), (30.0, 40.0)), "train"),
        Query("2", "b", "a blue ball", ((5.0, 20.0),), "test", {"event": "roll"}),
        Query("3", "b", "it blinks", ((5.0, 6.0),), "test"),
        Query("4", "c", "no features", ((0.0, 2.0),), "test"),
    ]
    return Annotations("balls", videos, queries, Report("balls"))


def kinds(report: Report) -> dict[str, tuple[str, int]]:
    return {f.kind: (f.action, f.count) for f in report.findings.values()}
