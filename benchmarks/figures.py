"""Figures of results: learning curves, an episode after the paper's Figure 5, and its video."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from features.bank import FeatureBank
from strong_envs.viewer import Shot, Viewer, write_video

# Colour-blind safe (Okabe and Ito), in the order of the systems.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save(figure: Any, path: Path) -> None:
    """Write a matplotlib figure whole or not at all."""
    import matplotlib.pyplot as plt

    staging = path.with_name(f".{path.stem}.part{os.getpid()}{path.suffix}")
    figure.savefig(staging, dpi=130, bbox_inches="tight")
    plt.close(figure)
    os.replace(staging, path)


def _axes(width: float = 7.0, height: float = 4.2) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height))


def learning_curves(result: dict[str, Any], path: Path) -> None:
    """Held-out mIoU after every stage against seconds of training: a line a system, a dot a seed, references dashed."""
    figure, axes = _axes()
    for colour, (system, runs) in zip(COLOURS * 3, result["curves"].items(), strict=False):
        runs = [run for run in runs if run]
        if not runs:
            continue
        stages = range(min(len(run) for run in runs))
        seconds = [np.mean([run[i]["seconds"] for run in runs]) for i in stages]
        scores = np.array([[run[i]["IoU"] for i in stages] for run in runs])
        axes.plot(seconds, scores.mean(0), color=colour, marker="o", label=system)
        for run, score in zip(runs, scores, strict=True):
            axes.plot([run[i]["seconds"] for i in stages], score, ".", color=colour, alpha=0.4)
    for row in result["rows"]:
        if row.get("reference") and row["reference"] not in ("random_window", "whole"):
            axes.axhline(row["metrics"]["mIoU"], color="#888888", linestyle="--", linewidth=0.8)
            axes.text(
                1.005,
                row["metrics"]["mIoU"],
                row["system"],
                transform=axes.get_yaxis_transform(),
                fontsize=7,
                va="center",
                color="#555555",
            )
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("mIoU on held-out videos")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def episode(weights: Path, bank: FeatureBank, picture: Path, video: Path, sample: int | None = None) -> None:
    """One held-out episode of a saved agent: its windows step by step (after Figure 5), and a short mp4.

    Without ``sample`` the query is the one whose IoU is the median of the first hundred, neither best nor worst.
    """
    import cv2

    from agents.strong import Strong
    from agents.systems import Prediction
    from benchmarks.cells import score

    system = Strong.load(str(weights), bank)
    prediction = Prediction(**system.predict(bank))
    if sample is None:
        iou = score(prediction, bank)["IoU"][:100]
        sample = int(np.argsort(iou)[len(iou) // 2])
    viewer = Viewer(bank)
    pictures = list(episode_pictures(viewer, bank, prediction, sample))
    write_video(video, [p for p in pictures for _ in range(2)] + [pictures[-1]] * 6, fps=4)
    picks = np.unique(np.linspace(0, len(pictures) - 1, min(4, len(pictures))).round().astype(int))
    rows = [pictures[i] for i in picks]
    while len(rows) % 2:
        rows.append(np.full_like(rows[0], 24))
    sheet = np.concatenate([np.concatenate(rows[i : i + 2], 1) for i in range(0, len(rows), 2)])
    staging = picture.with_name(f".{picture.stem}.part{os.getpid()}.png")
    cv2.imwrite(str(staging), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    os.replace(staging, picture)


def episode_pictures(viewer: Viewer, bank: FeatureBank, prediction: Any, sample: int) -> Iterable[np.ndarray]:
    """The pictures of one episode, one a move: first, middle and last frame of the window, boxes and both windows."""
    from benchmarks.metrics import temporal_iou

    length = int(prediction.length[sample])
    video = int(bank.video[sample])
    n_frames, duration = int(bank.n_frames[video]), float(bank.duration[video])
    boxes = None
    if prediction.boxes is not None:
        begin = int(bank.n_frames[bank.video[:sample]].sum())
        boxes = prediction.boxes[begin : begin + n_frames].cpu().tolist()
    truth = (bank.truth[sample] * duration).cpu().numpy()
    for t in range(length + 1):
        start, end = prediction.path[sample, t].tolist()
        first = min(int(start / duration * n_frames), n_frames - 1)
        last = min(max(int(np.ceil(end / duration * n_frames - 1e-9)), first + 1), n_frames)
        rows = [first, (first + last - 1) // 2, last - 1]
        tiou = float(temporal_iou(np.array([[start, end]]), truth[None])[0])
        yield viewer.draw(
            Shot(
                sample,
                rows,
                (start, end),
                [boxes[row] for row in rows] if boxes else (),
                [f"{(row + 0.5) * duration / n_frames:.1f} s" for row in rows],
                footer=f"move {t} of {length}   tIoU {tiou:.2f}",
            )
        )
