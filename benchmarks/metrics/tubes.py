"""Tubes: predicted and true boxes of every frame of every query, with the frames that lie in either moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from strong_envs.agents.registry import Prediction
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth, spans_of
from strong_envs.features.composing.recipe import KEY as COMPOSED


@dataclass(frozen=True)
class Tubes:
    """The frames of all queries one after the other, R in all; a row of NaN is a frame without a box.

    Attributes:
        boxes, true_boxes: (R, 4) corners in every frame. lengths: (S,) frames of each query.
        in_prediction: (R,) bool, whether a frame lies in the predicted window.
        in_truth: (K, R) bool, whether it lies in each of its query's true windows.
    """

    boxes: np.ndarray
    true_boxes: np.ndarray
    lengths: np.ndarray
    in_prediction: np.ndarray
    in_truth: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """(R, 4) boxes of the predicted tube."""
        return np.where(self.in_prediction[:, None], self.boxes, np.nan)

    @property
    def true(self) -> list[np.ndarray]:
        """(R, 4) boxes of the true tubes, one for each of the K true windows."""
        return [np.where(inside[:, None], self.true_boxes, np.nan) for inside in self.in_truth]

    def over_moment(self, values: np.ndarray) -> np.ndarray:
        """Mean of values (R,) over the frames of all true moments, NaN left out: (S,); 0 where none is left."""
        query = np.repeat(np.arange(len(self.lengths)), self.lengths)
        known = self.in_truth.any(axis=0) & ~np.isnan(values)
        total = np.bincount(query, np.where(known, values, 0.0), len(self.lengths))
        return total / np.maximum(np.bincount(query, known, len(self.lengths)), 1)


def tubes_of(prediction: Prediction, truth: GroundTruth) -> Tubes | None:
    """The tubes of a prediction; None where it has no boxes or the data has none."""
    bank = truth.bank
    if prediction.boxes is None or bank is None or not bank.has_boxes:
        return None
    video = bank.video.cpu()
    lengths = bank.n_frames.cpu()[video].numpy()
    seconds = np.repeat(truth.durations / lengths, lengths)
    frame = np.concatenate([np.arange(n) for n in lengths])
    middle = (frame + 0.5) * seconds
    query = np.repeat(np.arange(len(lengths)), lengths)
    samples = torch.as_tensor(query, device=bank.device)
    true = bank.true_box(samples, torch.as_tensor(frame, device=bank.device)).cpu().numpy().astype(np.float64)

    def inside(windows: np.ndarray) -> np.ndarray:
        return _inside(windows, middle, query, lengths, truth.durations)

    moments = np.stack([inside(windows) for windows in np.moveaxis(_filled(truth.windows), 1, 0)])
    return Tubes(prediction.boxes.cpu().numpy(), true, lengths, inside(spans_of(prediction)), moments)


def tiles_of(truth: GroundTruth) -> np.ndarray | None:
    """Corners (S, 4) of the tile that each query of a composed mosaic is about; None of other data."""
    if truth.bank is None:
        return None
    bank, grids = truth.bank, {}
    for video in bank.videos:
        composed = video.extra.get(COMPOSED)
        grids[video.id] = composed.get("tiles") if isinstance(composed, dict) else None
    corners = []
    for query in bank.queries:
        tiles, tile = grids[query.video], query.extra.get("tile")
        if tiles is None or tile is None or tiles[0] * tiles[1] == 1:
            return None
        row, column = divmod(int(tile), tiles[1])
        corners.append((column / tiles[1], row / tiles[0], (column + 1) / tiles[1], (row + 1) / tiles[0]))
    return np.array(corners)


def _filled(windows: np.ndarray) -> np.ndarray:
    """True windows (S, K, 2) with a query's first one in place of rows of NaN."""
    return np.where(np.isnan(windows), windows[:, :1], windows)


def _inside(
    windows: np.ndarray, middle: np.ndarray, query: np.ndarray, lengths: np.ndarray, durations: np.ndarray
) -> np.ndarray:
    """Whether the middle of a frame (R,) lies in its query's window (S, 2); the nearest frame of every window does."""
    inside = (middle >= windows[query, 0]) & (middle < windows[query, 1])
    # A tube needs a frame even where a window is shorter than a row.
    row = np.floor(windows.mean(1) / durations * lengths).astype(np.int64).clip(0, lengths - 1)
    inside[np.concatenate([[0], np.cumsum(lengths)[:-1]]) + row] = True
    return inside
