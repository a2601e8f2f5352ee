"""Tubes: predicted and true boxes of every frame of every query, with the frames that lie in either moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from strong_envs.agents.registry import Prediction
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth, spans_of
from strong_envs.features.bank.bank import FeatureBank


@dataclass(frozen=True)
class Tubes:
    """The frames of all queries one after the other, R in all; a row of NaN is a frame without a box.

    Attributes:
        boxes, true_boxes: (R, 4) corners in every frame. lengths: (S,) frames of each query.
        in_prediction, in_truth: (R,) bool, whether a frame lies in the predicted or the true window.
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
    def true(self) -> np.ndarray:
        """(R, 4) boxes of the true tube."""
        return np.where(self.in_truth[:, None], self.true_boxes, np.nan)

    def over_moment(self, values: np.ndarray) -> np.ndarray:
        """Mean of values (R,) over the frames of each true moment, NaN left out: (S,); 0 where none is left."""
        query = np.repeat(np.arange(len(self.lengths)), self.lengths)
        known = self.in_truth & ~np.isnan(values)
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
    inside = [_inside(windows, middle, query, lengths, bank) for windows in (spans_of(prediction), truth.windows[:, 0])]
    return Tubes(prediction.boxes.cpu().numpy(), true, lengths, *inside)


def _inside(
    windows: np.ndarray, middle: np.ndarray, query: np.ndarray, lengths: np.ndarray, bank: FeatureBank
) -> np.ndarray:
    """Whether the middle of a frame (R,) lies in its query's window (S, 2); the nearest frame of every window does."""
    inside = (middle >= windows[query, 0]) & (middle < windows[query, 1])
    # A tube needs a frame even where a window is shorter than a row.
    inside[_nearest_frames(windows, lengths, bank)] = True
    return inside


def _nearest_frames(windows: np.ndarray, lengths: np.ndarray, bank: FeatureBank) -> np.ndarray:
    """The packed row at the middle of each window."""
    duration = bank.duration.cpu().numpy()[bank.video.cpu()]
    row = np.floor(windows.mean(1) / duration * lengths).astype(np.int64).clip(0, lengths - 1)
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]) + row
