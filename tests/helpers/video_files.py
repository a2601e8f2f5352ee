"""Small video files with annotations."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from strong_envs.features.datasets.types import Annotations, Query, Report, Video

FPS = 12.5


STEP = 3  # grey levels between neighbouring frames


SMALL = {"backbone": "colour-cells", "text": "hashed-words", "progress": False}


def write_video(path: Path, n_frames: int, fps: float = FPS) -> Path:
    """Frame k is a uniform grey of level k * STEP."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    for k in range(n_frames):
        writer.write(np.full((48, 64, 3), k * STEP, np.uint8))
    writer.release()
    return path


def annotate(durations: dict[str, float], split: str = "train") -> Annotations:
    videos = {name: Video(name, seconds) for name, seconds in durations.items()}
    queries = [
        Query(f"{name}-{k}", name, f"query {k} of {name}", ((0.5, 1.5 + k),), split, {"event": "grey"})
        for name in videos
        for k in range(2)
    ]
    report = Report("made up")
    report.kept = len(queries)
    return Annotations("made up", videos, queries, report)
