"""Episodes for the report: which queries, their frames as one sheet, and what each system did on them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from strong_envs.agents.registry import Prediction
from strong_envs.benchmarks.metrics.definitions import temporal_iou
from strong_envs.benchmarks.results.filmstrip import boxes_of, path_of
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.video_io import open_frames
from strong_envs.rendering.viewer import Viewer

MOST_FRAMES = 48
COLUMNS = 8
SIDES = (160, 128, 112, 96, 80, 64, 48)
"""Widths of a frame in pixels that are tried, from the largest; frames are never made larger than they are."""
QUALITY = 82


def episodes(
    bank: FeatureBank, predictions: Mapping[str, Prediction], judge: str, count: int, room: int
) -> dict[str, Any]:
    """What the page's player needs: ``episodes``, how they were chosen, and whether their frames are true pixels.

    Args:
        bank: the test split.
        predictions: of one run each, by label.
        judge: the label whose IoUs choose the queries.
        count: number of queries.
        room: bytes that all frames may take in the page.
    """
    picked = choose(bank, predictions[judge], count)
    viewer = Viewer(bank)
    found = [one(bank, viewer, predictions, sample, room // max(len(picked), 1)) for sample in picked]
    return {
        "episodes": found,
        "chosen": f"{len(found)} queries of different videos, evenly from the worst to the best IoU of {judge}, seed 0",
        "pixels": bool(picked) and _has_pixels(bank, picked[0]),
    }


def choose(bank: FeatureBank, prediction: Prediction, count: int) -> list[int]:
    """Samples evenly from the worst to the best, of different videos where there are enough."""
    order = np.argsort(_iou(bank, prediction.spans.numpy()), kind="stable")
    video = bank.video.cpu().numpy()
    picked: list[int] = []
    for at in np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int):
        near = np.argsort(abs(np.arange(len(order)) - at), kind="stable")
        free = [int(order[i]) for i in near if int(order[i]) not in picked]
        fresh = (s for s in free[: max(len(order) // max(count, 1), 1)] if video[s] not in video[picked])
        picked.append(next(fresh, free[0]))
    return picked


def one(
    bank: FeatureBank, viewer: Viewer, predictions: Mapping[str, Prediction], sample: int, room: int
) -> dict[str, Any]:
    """One query: sheet of frames with their times, true windows and boxes, and each system's moves and boxes."""
    video = int(bank.video[sample])
    n_frames, duration = int(bank.n_frames[video]), float(bank.duration[video])
    rows = np.unique(np.linspace(0, n_frames - 1, min(n_frames, MOST_FRAMES)).round().astype(int))
    uri, size = sheet([viewer.frame(video, int(row)) for row in rows], room)
    systems = {}
    for label, prediction in predictions.items():
        path = path_of(prediction, sample)
        boxes = boxes_of(prediction, bank, sample)
        iou = [float(_iou(bank, np.array([window]), [sample])[0]) for window in path]
        systems[label] = {
            "path": np.round(path, 3).tolist(),
            "iou": np.round(iou, 3).tolist(),
            "boxes": None if boxes is None else _boxes(boxes[rows]),
        }
    return {
        "id": bank.qids[sample],
        "sheet": uri,
        "size": size,
        "columns": COLUMNS,
        "times": np.round((rows + 0.5) * duration / n_frames, 3).tolist(),
        "duration": round(duration, 3),
        "boxes": _true_boxes(bank, sample, rows),
        "systems": systems,
    }


def sheet(pictures: list[np.ndarray], room: int) -> tuple[str, list[int]]:
    """Frames side by side as one JPEG within ``room`` bytes: its data URI and a frame's (width, height) in it.

    Raises:
        DataError: no size is small enough.
    """
    import cv2

    height, width = pictures[0].shape[:2]
    for w in sorted({min(side, width) for side in SIDES}, reverse=True):
        h = max(round(height * w / width), 1)
        lines = -(-len(pictures) // COLUMNS)
        canvas = np.zeros((lines * h, COLUMNS * w, 3), np.uint8)
        for i, picture in enumerate(pictures):
            y, x = (i // COLUMNS) * h, (i % COLUMNS) * w
            canvas[y : y + h, x : x + w] = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
        flipped = cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR)
        content = cv2.imencode(".jpg", flipped, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        uri = "data:image/jpeg;base64," + base64.b64encode(content).decode()
        if len(uri) <= room:
            return uri, [w, h]
    raise DataError(f"{len(pictures)} frames do not fit into {room:,} bytes; ask for fewer episodes")


def _iou(bank: FeatureBank, spans: np.ndarray, samples: list[int] | None = None) -> np.ndarray:
    rows = slice(None) if samples is None else samples
    truth = (bank.truth * bank.duration[bank.video][:, None, None]).cpu().numpy()[rows]
    return temporal_iou(spans, truth)


def _true_boxes(bank: FeatureBank, sample: int, rows: np.ndarray) -> list | None:
    import torch

    if not bank.has_boxes:
        return None
    at = torch.as_tensor(rows, device=bank.device)
    return _boxes(bank.true_box(torch.full_like(at, sample), at).cpu().numpy())


def _boxes(corners: np.ndarray) -> list:
    """Corners rounded to a thousandth of the frame; None where there is no box."""
    return [None if np.isnan(box).any() else [round(float(v), 3) for v in box] for box in corners]


def _has_pixels(bank: FeatureBank, sample: int) -> bool:
    try:
        return open_frames(bank.videos[int(bank.video[sample])])(0) is not None
    except DataError:
        return False
