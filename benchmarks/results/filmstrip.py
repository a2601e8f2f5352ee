"""Episodes as pictures: move by move, as an mp4, and after the paper's Figure 5, one row a stage of the training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.agents.registry import Prediction
from strong_envs.benchmarks.metrics.definitions import temporal_iou
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.atomic import write_bytes
from strong_envs.features.files.errors import shown
from strong_envs.rendering.viewer import (
    CHOSEN_COLOUR,
    INK,
    PAPER,
    TRUE_COLOUR,
    Shot,
    Viewer,
    put,
    rectangle,
    wrap,
    write_video,
)


def sample_of(bank: FeatureBank, prediction: Prediction, query: str | None = None) -> int:
    """The row of a query id; without one, the query whose IoU is the median of the first hundred: not the best.

    Raises:
        DataError: no such query in this split.
    """
    if query is None:
        truth = (bank.truth * bank.duration[bank.video][:, None, None]).cpu().numpy()
        iou = temporal_iou(prediction.spans.cpu().numpy(), truth)[:100]
        return int(np.argsort(iou, kind="stable")[len(iou) // 2])
    if query not in bank.qids:
        some = ", ".join(bank.qids[:3])
        hint = nearest(query, bank.qids)
        raise DataError(f"{bank.name} has no query {query!r}{hint}; its {len(bank):,} queries begin with {some}")
    return bank.qids.index(query)


def episode(prediction: Prediction, bank: FeatureBank, picture: Path, video: Path, sample: int | None = None) -> None:
    """One held-out episode: four of its moves as a picture, all of them as a short mp4. ``sample`` as `sample_of`."""
    sample = sample_of(bank, prediction) if sample is None else sample
    viewer = Viewer(bank)
    pictures = list(episode_pictures(viewer, bank, prediction, sample))
    write_video(video, [p for p in pictures for _ in range(2)] + [pictures[-1]] * 6, fps=4)
    picks = np.unique(np.linspace(0, len(pictures) - 1, min(4, len(pictures))).round().astype(int))
    rows = [pictures[i] for i in picks]
    while len(rows) % 2:
        rows.append(np.full_like(rows[0], 24))
    sheet = np.concatenate([np.concatenate(rows[i : i + 2], 1) for i in range(0, len(rows), 2)])
    write_picture(picture, sheet)


def episode_pictures(viewer: Viewer, bank: FeatureBank, prediction: Any, sample: int) -> Iterable[np.ndarray]:
    """The pictures of one episode, one a move: first, middle and last frame of the window, boxes and both windows."""
    video = int(bank.video[sample])
    n_frames, duration = int(bank.n_frames[video]), float(bank.duration[video])
    boxes = boxes_of(prediction, bank, sample)
    truth = (bank.truth[sample] * duration).cpu().numpy()
    path = path_of(prediction, sample)
    length = len(path) - 1
    for t, (start, end) in enumerate(path):
        first = min(int(start / duration * n_frames), n_frames - 1)
        last = min(max(int(np.ceil(end / duration * n_frames - 1e-9)), first + 1), n_frames)
        rows = [first, (first + last - 1) // 2, last - 1]
        tiou = float(temporal_iou(np.array([[start, end]]), truth[None])[0])
        yield viewer.draw(
            Shot(
                sample,
                rows,
                (start, end),
                [boxes[row] for row in rows] if boxes is not None else (),
                [f"{(row + 0.5) * duration / n_frames:.1f} s" for row in rows],
                footer=f"move {t} of {length}   tIoU {tiou:.2f}",
            )
        )


def path_of(prediction: Prediction, sample: int) -> list[tuple[float, float]]:
    """Windows passed in seconds, the first one included; of a system that makes no moves, its answer alone."""
    if prediction.path is None or prediction.length is None:
        return [tuple(prediction.spans[sample].tolist())]
    return [tuple(window) for window in prediction.path[sample, : int(prediction.length[sample]) + 1].tolist()]


def boxes_of(prediction: Prediction, bank: FeatureBank, sample: int) -> np.ndarray | None:
    """Corners of every frame of the sample's video, (n_frames, 4); None of a system that does not track."""
    if prediction.boxes is None:
        return None
    begin = int(bank.n_frames[bank.video[:sample]].sum())
    count = int(bank.n_frames[bank.video[sample]])
    return prediction.boxes[begin : begin + count].cpu().numpy()


def stages_picture(
    stages: Sequence[tuple[str, Prediction]], bank: FeatureBank, sample: int, picture: Path, frames: int = 6
) -> None:
    """After Figure 5: a row for each stage of the training, frames of its window with boxes, and both windows below.

    Raises:
        DataError: no stages, as of a system that is not trained.
    """
    if not stages:
        raise DataError("this cell has no stages of training to show")
    viewer, video = Viewer(bank), int(bank.video[sample])
    n_frames, duration = int(bank.n_frames[video]), float(bank.duration[video])
    side, gap = 128, 8
    width = gap + frames * (side + gap)
    title = np.full((34, width, 3), PAPER, np.uint8)
    put(title, wrap(bank.texts[sample], 100)[0], (gap, 22), 0.55, INK)
    rows = [title]
    for name, prediction in stages:
        start, end = prediction.spans[sample].tolist()
        row = np.full((side + 62, width, 3), PAPER, np.uint8)
        tracked = boxes_of(prediction, bank, sample)
        for i, second in enumerate(np.linspace(start, end, 2 * frames + 1)[1::2]):
            at = min(int(second / duration * n_frames), n_frames - 1)
            view = fitted(viewer.frame(video, at), side)
            if tracked is not None:
                rectangle(view, tracked[at], CHOSEN_COLOUR)
            row[26 : 26 + side, gap + i * (side + gap) : gap + i * (side + gap) + side] = view
        windows = bank.queries[sample].windows
        iou = float(temporal_iou(np.array([[start, end]]), np.array([windows]))[0])
        put(row, f"{name}: {start:.1f} to {end:.1f} s, tIoU {iou:.2f}", (gap, 18), 0.5, INK)
        _bar(row, side + 34, gap, width - gap, windows, duration, TRUE_COLOUR)
        _bar(row, side + 46, gap, width - gap, [(start, end)], duration, CHOSEN_COLOUR)
        rows.append(row)
    write_picture(picture, np.concatenate(rows))


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, whole or not at all."""
    import cv2

    written, content = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not written:
        raise DataError(f"OpenCV cannot write {shown(path)}")
    write_bytes(path, content.tobytes())


def fitted(pixels: np.ndarray, side: int) -> np.ndarray:
    """The picture in a square of ``side`` pixels, stretched to fill it: boxes are fractions of the frame."""
    import cv2

    kind = cv2.INTER_AREA if max(pixels.shape[:2]) > side else cv2.INTER_NEAREST
    return np.ascontiguousarray(cv2.resize(pixels, (side, side), interpolation=kind))


def labelled_bar(
    canvas: np.ndarray,
    y: int,
    width: int,
    label: str,
    windows: Sequence[tuple[float, float]],
    duration: float,
    colour: tuple[int, int, int],
) -> None:
    """A label and windows in seconds over the whole width of a picture, its top at ``y``."""
    put(canvas, label, (10, y + 10), 0.5, colour)
    _bar(canvas, y, 80, width - 10, windows, duration, colour)


def _bar(
    row: np.ndarray,
    y: int,
    left: int,
    right: int,
    windows: Sequence[tuple[float, float]],
    duration: float,
    colour: tuple[int, int, int],
) -> None:
    row[y : y + 8, left:right] = (52, 52, 60)
    for start, end in windows:
        a, b = (left + int((right - left) * min(max(x / duration, 0.0), 1.0)) for x in (start, end))
        row[y : y + 8, a : max(b, a + 1)] = colour
