"""Every metric of the tables: one function each, in the order of the columns. To add a metric, add one here.

A function takes the prediction and the ground truth of a split and returns one value a query, (S,); see
`benchmarks.metrics.metric`. What is computed from arrays alone stands in `benchmarks.metrics.definitions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from strong_envs.agents.registry import Prediction
from strong_envs.benchmarks.metrics.curves import rise
from strong_envs.benchmarks.metrics.definitions import (
    DISCOUNTED_AT,
    annotator_iou,
    annotator_rank,
    box_coverage,
    box_iou,
    discounted_recall,
    hits,
    pointing,
    recall,
    temporal_iou,
    v_iou,
)
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth, candidates_of, spans_of
from strong_envs.benchmarks.metrics.metric import METRICS, Metric, metric, register
from strong_envs.benchmarks.metrics.tubes import tiles_of, tubes_of

__all__ = ["METRICS"]

Values = np.ndarray | None

RECALL_AT = (1, 5)
"""The n of R@n: by how many of its candidates a system is judged."""
IQM_RUNS = 4
"""Training runs from which on an interquartile mean leaves any out."""


# Windows ------------------------------------------------------------------------------------------------------------


@metric("mIoU", "mean temporal IoU of the predicted with the true moment, 0 where they are disjoint", single="IoU")
def mean_iou(prediction: Prediction, truth: GroundTruth) -> Values:
    """Clamped temporal IoU; of several true windows the best counts."""
    return temporal_iou(spans_of(prediction), truth.windows)


@metric("Acc@{m}", "share of queries whose IoU reaches m, elsewhere R@1 IoU=m", drop={0.1: 4, 0.9: 5, 0.3: 9})
def accuracy(prediction: Prediction, truth: GroundTruth, m: float, comparison: str) -> Values:
    """Eq. 15 of the paper."""
    return hits(temporal_iou(spans_of(prediction), truth.windows), m, comparison)


def _recall(n: int) -> Callable[..., Values]:
    def values(prediction: Prediction, truth: GroundTruth, m: float, comparison: str) -> Values:
        if prediction.ranked is None:
            return None
        return recall(candidates_of(prediction), truth.windows, n, m, comparison)

    return values


def _discounted(n: int) -> Callable[..., Values]:
    def values(prediction: Prediction, truth: GroundTruth, m: float, comparison: str) -> Values:
        if prediction.ranked is None and n > 1:
            return None
        # The part of a window that lies outside the video counts neither for nor against it.
        inside = np.clip(candidates_of(prediction), 0.0, truth.durations[:, None, None])
        return discounted_recall(inside, truth.windows, truth.durations, n, m, comparison)

    return values


def _best_of(n: int) -> Callable[..., Values]:
    def values(prediction: Prediction, truth: GroundTruth) -> Values:
        if prediction.ranked is None:
            return None
        return np.fmax.reduce(temporal_iou(candidates_of(prediction)[:, :n], truth.windows), axis=1)

    return values


for _n in RECALL_AT:
    # R@1 is Acc once more; of R@5 the tables of the field show .5 and .7.
    _detail: Any = True if _n == 1 else (0.1, 0.3, 0.9)
    _text = f"share of queries of which one of the first {_n} candidates reaches an IoU of m"
    register(Metric(f"R@{_n} IoU={{m}}", _recall(_n), _text, detail=_detail, drop=2))
for _n in RECALL_AT:
    _text = f"R@{_n} IoU=m with hits discounted by the distance of both ends from the true ones (Yuan et al. 2021)"
    register(Metric(f"dR@{_n} IoU={{m}}", _discounted(_n), _text, detail=True, thresholds=DISCOUNTED_AT))
for _n in RECALL_AT:
    _text = f"mean of the best IoU among the first {_n} candidates"
    register(Metric(f"mIoU@{_n}", _best_of(_n), _text, detail=True, single=f"IoU@{_n}"))


@metric("mIoU (signed)", "mean IoU after Eq. 4, negative where disjoint", detail=True, single="IoU signed")
def signed_iou(prediction: Prediction, truth: GroundTruth) -> Values:
    """Eq. 4 of the paper to the letter."""
    return temporal_iou(spans_of(prediction), truth.windows, "signed")


@metric(
    "mIoU (legacy)", "mean IoU of the paper's released code, positive where disjoint", detail=True, single="IoU legacy"
)
def legacy_iou(prediction: Prediction, truth: GroundTruth) -> Values:
    """Absolute values of numerator and denominator."""
    return temporal_iou(spans_of(prediction), truth.windows, "legacy")


# Several annotators (DiDeMo) ----------------------------------------------------------------------------------------


@metric("annotator IoU", "mean IoU with the three best-matching annotators (DiDeMo)")
def iou_of_annotators(prediction: Prediction, truth: GroundTruth) -> Values:
    """Hendricks et al. 2017."""
    return None if truth.annotators is None else annotator_iou(spans_of(prediction), truth.annotators)


def _rank_within(n: int) -> Callable[..., Values]:
    def values(prediction: Prediction, truth: GroundTruth) -> Values:
        if truth.annotators is None or prediction.ranked is None:
            return None
        return annotator_rank(candidates_of(prediction), truth.annotators) <= n

    return values


for _n in RECALL_AT:
    _text = (
        f"share of queries of which the three best-ranked annotators' windows rank {_n} or better in the mean (DiDeMo)"
    )
    register(Metric(f"Rank@{_n}", _rank_within(_n), _text))


# Boxes --------------------------------------------------------------------------------------------------------------


@metric("m_vIoU", "mean vIoU: IoU of the boxes summed over the frames of either tube, divided by their number (VidSTG)")
def mean_v_iou(prediction: Prediction, truth: GroundTruth) -> Values:
    """Zhang et al. 2020; of several true windows the best counts."""
    tubes = tubes_of(prediction, truth)
    if tubes is None:
        return None
    return np.max([v_iou(tubes.predicted, true, tubes.lengths) for true in tubes.true], axis=0)


@metric("box IoU", "mean IoU of predicted and true boxes over the true moment", drop=6)
def mean_box_iou(prediction: Prediction, truth: GroundTruth) -> Values:
    """Independent of the predicted window."""
    tubes = tubes_of(prediction, truth)
    return None if tubes is None else tubes.over_moment(box_iou(tubes.boxes, tubes.true_boxes))


@metric("coverage", "mean share of the true box inside the predicted one, over the true moment")
def coverage(prediction: Prediction, truth: GroundTruth) -> Values:
    """Independent of the predicted window."""
    tubes = tubes_of(prediction, truth)
    return None if tubes is None else tubes.over_moment(box_coverage(tubes.boxes, tubes.true_boxes))


@metric("tile", "share of the true moment in which the middle of the predicted box lies in the right tile of a mosaic")
def right_tile(prediction: Prediction, truth: GroundTruth) -> Values:
    """Of composed mosaics, whose queries are about one tile each."""
    tubes = tubes_of(prediction, truth)
    tiles = None if tubes is None else tiles_of(truth)
    if tubes is None or tiles is None:
        return None
    return tubes.over_moment(pointing(tubes.boxes, np.repeat(tiles, tubes.lengths, axis=0)))


# What an answer cost ------------------------------------------------------------------------------------------------


@metric("frames_seen", "share of a video's frames that the system looked at", drop=8)
def frames_seen(prediction: Prediction, truth: GroundTruth) -> Values:
    """None of a system that does not say."""
    return None if prediction.frames_seen is None else prediction.frames_seen.cpu().numpy()


register(
    Metric(
        "mIoU (IQM)",
        mean_iou,
        "interquartile mean of mIoU over the training runs (Agarwal et al. 2021)",
        drop=3,
        single="IoU",
        statistic="iqm",
        fewest_runs=IQM_RUNS,
    )
)


@metric("steps", "moves of an episode, the mean", percent=False)
def steps(prediction: Prediction, truth: GroundTruth) -> Values:
    """None of a system that makes no moves."""
    return None if prediction.length is None else prediction.length.cpu().numpy()


@metric("ms/query", "milliseconds to answer one query, features at hand", per_run=True, percent=False, drop=1)
def milliseconds(run: Mapping[str, Any]) -> float | None:
    """Of the stored cell."""
    return 1000 * run["seconds_per_query"] if "seconds_per_query" in run else None


@metric("train s", "seconds of training", per_run=True, percent=False)
def training_seconds(run: Mapping[str, Any]) -> float | None:
    """None of a system that is not trained."""
    from strong_envs import agents

    return run["seconds"] if agents.find(run["system"]).needs_training else None


@metric(
    "rise",
    "mIoU on validation that the last quarter of the training added, in points; below one the curve counts as flat",
    per_run=True,
    drop=1,
)
def last_quarter(run: Mapping[str, Any]) -> float | None:
    """None of a system that is not trained, and of a run without a learning curve."""
    return rise(run.get("trace") or [])


@metric("params", "trained parameters", per_run=True, percent=False, drop=7)
def parameters(run: Mapping[str, Any]) -> float | None:
    """None of a system that has none."""
    return run.get("parameters") or None
