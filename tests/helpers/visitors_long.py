"""The visitors video as a store, and a file of half an hour made from it in which one visitor comes once."""

from __future__ import annotations

from pathlib import Path

import cv2

from strong_envs.benchmarks.cli import main

ASKED = "a man wearing a black cap and a black jacket comes to the table"
VISIT = (22.7, 45.2)
CUT = (22.0, 46.0)
"""Seconds of the asked visit, and what is cut out of the plays in which it must not be seen."""
PLAYS, WHOLE = 16, 7
SIZE = (384, 216)


def visitors_store(folder: Path, work: Path) -> tuple[str, str]:
    """Extract the video once, two rows a second; returns the path of the store and a sentence to ask."""
    store = work / "visitors"
    if not store.exists():
        words = ["extract", str(folder / "visitors.mp4"), "--annotations", str(folder / "annotations.jsonl")]
        words += ["--fps", "2", "--pca", "64", "--out", str(store), "--backbone", "efficientnet-lite0"]
        assert main([*words, "--text", "minilm"]) == 0
    return str(store), ASKED


def half_an_hour(source: Path, target: Path) -> tuple[Path, tuple[float, float]]:
    """Write plays of the video one after another; only one of them has the asked visit. Returns its window, seconds."""
    reader = cv2.VideoCapture(str(source))
    frames = []
    while True:
        ok, frame = reader.read()
        if not ok:
            break
        frames.append(cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA))
    first, last = (round(10 * t) for t in CUT)
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), 10, SIZE)
    start = 0.0
    for play in range(PLAYS):
        shown = frames if play == WHOLE else frames[:first] + frames[last:]
        if play < WHOLE:
            start += len(shown) / 10
        for frame in shown:
            writer.write(frame)
    writer.release()
    return target, (start + VISIT[0], start + VISIT[1])
