"""Metrics of moment localisation and tracking, from their definitions, in float64.

Every function returns **one value per query** (or per box); the metric is its mean over the queries, which `summary`
takes. With the values per query `benchmarks.metrics.statistics` can compare two systems on the same queries.

Windows are (start, end) in seconds, or in any one unit shared by prediction and truth. A query may have several true
windows: the best match counts, and rows of NaN fill the array up where a query has fewer than K of them.
Boxes are corners (x1, y1, x2, y2); a row of NaN says that there is no box in that frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from strong_envs.core import boxes, spans
from strong_envs.core.spans import IOU_KINDS, TIE
from strong_envs.features.errors import DataError

COMPARISONS = (">=", ">")
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
DISCOUNTED_AT = (0.3, 0.5, 0.7)
"""The m of dR@n, IoU@m."""


def temporal_iou(pred: ArrayLike, truth: ArrayLike, kind: str = "clamped") -> np.ndarray:
    """IoU of predicted windows with the best of each query's true windows.

    Args:
        pred: (S, 2), or (S, N, 2) for N candidates a query, where rows of NaN are absent candidates.
        truth: (S, 2), or (S, K, 2) for up to K true windows a query, filled up with rows of NaN.
        kind: ``"clamped"``, the metric of the field: intersection over union, 0 when disjoint. ``"signed"``, Eq. 4 to
            the letter: (min of ends - max of starts) / (max of ends - min of starts), negative when disjoint.
            ``"legacy"``, the paper's released code: absolute values of both, which pays disjoint windows.

    Returns:
        (S,) or (S, N) float64; NaN for absent candidates.

    Raises:
        DataError: shapes that do not fit, NaN, infinities, an inverted prediction, an empty or inverted true window.
    """
    if kind not in IOU_KINDS:
        raise DataError(f"the IoU must be one of {IOU_KINDS}, got {kind!r}")
    windows, true = _predictions(pred), _truths(truth)
    _same_queries(windows, true)
    iou = _iou_with_each(windows, true, kind)
    return np.fmax.reduce(iou, axis=-1)


def annotator_iou(pred: ArrayLike, windows: ArrayLike, best: int = 3) -> np.ndarray:
    """Mean clamped IoU with the ``best`` best-matching annotators: (S,) (Hendricks et al. 2017, DiDeMo: three of four).

    Args:
        pred: (S, 2).
        windows: (S, A, 2), one window an annotator, filled up with rows of NaN.
        best: how many annotators count; where a query has fewer, all of them.
    """
    single, true = _predictions(pred), _truths(windows)
    if single.ndim != 2:
        raise DataError(f"annotator_iou takes one prediction a query, shape (S, 2); got {single.shape}")
    if best < 1:
        raise DataError(f"best must be 1 or more annotators, got {best}")
    _same_queries(single, true)
    ordered = -np.sort(-_iou_with_each(single, true, "clamped"), axis=-1)[:, :best]
    return np.nanmean(ordered, axis=-1)


def annotator_rank(candidates: ArrayLike, windows: ArrayLike, best: int = 3) -> np.ndarray:
    """Mean rank, from 1, of the ``best`` best-ranked annotators' windows: (S,) (DiDeMo's Rank@n is the share of <= n).

    Args:
        candidates: (S, N, 2) windows from the most to the least likely, filled up with rows of NaN. A window that is
            in the list must equal the annotator's to 1e-9 of IoU.
        windows: (S, A, 2), one window an annotator. Annotators whose window is not in the list are left out;
            a query where none is in the list has the rank infinity.
        best: how many annotators count; where a query has fewer, all of them.
    """
    ranked, true = _predictions(candidates), _truths(windows)
    if ranked.ndim != 3:
        raise DataError(f"annotator_rank takes ranked candidates of shape (S, N, 2); got {ranked.shape}")
    _same_queries(ranked, true)
    equal = np.nan_to_num(_iou_with_each(ranked, true, "clamped")) >= 1 - TIE
    rank = np.where(equal.any(axis=1), equal.argmax(axis=1) + 1.0, np.nan)
    ordered = np.sort(rank, axis=-1)[:, :best]
    found = np.isfinite(ordered).any(axis=-1)
    means = np.nansum(ordered, axis=-1) / np.maximum(np.isfinite(ordered).sum(axis=-1), 1)
    return np.where(found, means, np.inf)


def hits(iou: ArrayLike, m: float, comparison: str = ">=") -> np.ndarray:
    """acc(m, s) of Eq. 15 for each query: whether its IoU reaches ``m``; their mean is Acc@m. Bool, shaped as ``iou``.

    ``">="`` is what public code computes; ``">"`` is the paper's wording. An IoU within `TIE` of ``m`` equals it, so
    that [2.1, 2.4] against [2.1, 2.7] is exactly one half whatever the rounding. NaN (an absent candidate) is no hit.
    """
    if comparison not in COMPARISONS:
        raise DataError(f"the comparison must be one of {COMPARISONS}, got {comparison!r}")
    if not 0 <= m <= 1:
        raise DataError(f"a threshold of IoU lies in [0, 1], got {m}")
    values = np.asarray(iou, np.float64)
    return values >= m - TIE if comparison == ">=" else values > m + TIE


def summary(iou: ArrayLike, thresholds: Sequence[float] = THRESHOLDS, comparison: str = ">=") -> dict[str, float]:
    """MIoU and Acc@m for every threshold, as fractions: ``{"mIoU": ..., "Acc@.1": ..., ...}``. ``iou`` is (S,)."""
    return {name: float(values.mean()) for name, values in per_query(iou, thresholds, comparison).items()}


def per_query(
    iou: ArrayLike, thresholds: Sequence[float] = THRESHOLDS, comparison: str = ">="
) -> dict[str, np.ndarray]:
    """What `summary` averages: the IoUs under ``mIoU`` and the hits under each ``Acc@m``, each shaped as ``iou``.

    Raises:
        DataError: no queries, or an IoU that is NaN or infinite.
    """
    values = np.asarray(iou, np.float64)
    if values.size == 0:
        raise DataError("there are no queries to score")
    if not np.isfinite(values).all():
        raise DataError(f"{int((~np.isfinite(values)).sum())} of {values.size} IoUs are not finite numbers")
    scores = {"mIoU": values}
    for m in thresholds:
        scores[acc_name(m)] = hits(values, m, comparison).astype(np.float64)
    return scores


def acc_name(m: float) -> str:
    """``Acc@.5`` for 0.5, the way the tables of the field write it."""
    return f"Acc@{threshold_text(m)}"


def threshold_text(m: float) -> str:
    """``.5`` for 0.5."""
    return f"{m:g}".removeprefix("0") or "0"


def nms(windows: ArrayLike, scores: ArrayLike, threshold: float, limit: int | None = None) -> np.ndarray:
    """Greedy non-maximum suppression in time: indices of the kept windows, best first.

    The window with the highest score is kept, all that overlap it with a clamped IoU above ``threshold`` go, and so
    on. Of equal scores the earlier row wins.

    Args:
        windows: (N, 2).
        scores: (N,), higher is better.
        threshold: IoU in [0, 1] above which the lower of two windows is dropped.
        limit: stop after that many.
    """
    rows, value = _predictions(windows), np.asarray(scores, np.float64)
    if rows.ndim != 2 or value.shape != rows.shape[:1]:
        raise DataError(f"nms takes windows (N, 2) and scores (N,), got {rows.shape} and {value.shape}")
    if np.isnan(value).any():
        raise DataError(f"{int(np.isnan(value).sum())} of {len(value)} scores are NaN")
    if not 0 <= threshold <= 1:
        raise DataError(f"the threshold of NMS is an IoU in [0, 1], got {threshold}")
    if not len(rows) or (limit is not None and limit < 1):
        return np.empty(0, np.int64)
    chosen: np.ndarray = spans.nms(rows, value, threshold, len(rows) if limit is None else limit)
    return chosen[chosen >= 0]


def top_candidates(candidates: ArrayLike, scores: ArrayLike, n: int, nms_threshold: float | None = None) -> np.ndarray:
    """The ``n`` best candidates of each query, best first: (S, n, 2), rows of NaN where fewer are left.

    Args:
        candidates: (S, N, 2), rows of NaN for absent ones.
        scores: (S, N); those of absent candidates are ignored.
        n: candidates to keep.
        nms_threshold: overlap above which `nms` drops the lower of two; None keeps them all.
    """
    windows, value = _predictions(candidates), np.asarray(scores, np.float64)
    if windows.ndim != 3 or value.shape != windows.shape[:2]:
        raise DataError(f"candidates (S, N, 2) and scores (S, N) are needed, got {windows.shape} and {value.shape}")
    if n < 1:
        raise DataError(f"n must be 1 or more candidates, got {n}")
    present = np.isfinite(windows[..., 0])
    if np.isnan(value[present]).any():
        raise DataError(f"{int(np.isnan(value[present]).sum())} candidates have a score of NaN")
    best = np.full((len(windows), n, 2), np.nan)
    if nms_threshold is None:
        order = np.argsort(np.where(present, -value, np.inf), axis=1, kind="stable")[:, :n]
        best[:, : order.shape[1]] = np.take_along_axis(windows, order[..., None], axis=1)
        return best
    rows = spans.nms(windows, np.where(present, value, np.nan), nms_threshold, n)
    found = np.take_along_axis(windows, np.maximum(rows, 0)[..., None], axis=1)
    return np.where(rows[..., None] >= 0, found, np.nan)


def recall(top: ArrayLike, truth: ArrayLike, n: int, m: float, comparison: str = ">=") -> np.ndarray:
    """R@n, IoU=m for each query: (S,) of 0 and 1, whether one of the first ``n`` candidates reaches ``m``.

    Args:
        top: (S, N, 2) candidates, best first (`top_candidates` ranks and applies NMS).
        truth: as in `temporal_iou`.
        n: how many candidates count.
        m: threshold of IoU.
        comparison: as in `hits`.
    """
    reached: np.ndarray = hits(temporal_iou(_first(top, n), truth), m, comparison)
    return np.asarray(reached.any(axis=1), np.float64)


def discounted_recall(
    top: ArrayLike, truth: ArrayLike, duration: ArrayLike, n: int, m: float, comparison: str = ">="
) -> np.ndarray:
    """dR@n, IoU@m for each query: (S,) in [0, 1] (Yuan et al. 2021, "A closer look at temporal sentence grounding").

    A hit counts (1 - |start - true start| / duration) * (1 - |end - true end| / duration), which takes away what long
    predictions gain at small ``m``. Of several hits among the first ``n`` candidates the one that counts most is taken.

    Args:
        top: (S, N, 2) candidates, best first, inside the video.
        truth: as in `temporal_iou`.
        duration: (S,) seconds of each query's video.
        n: how many candidates count.
        m: threshold of IoU.
        comparison: as in `hits`.
    """
    windows, true = _first(top, n), _truths(truth)
    length = np.asarray(duration, np.float64)
    _same_queries(windows, true)
    if length.shape != windows.shape[:1] or not (np.isfinite(length) & (length > 0)).all():
        raise DataError(f"one positive duration a query is needed, got shape {length.shape} for {len(windows)} queries")
    iou = _iou_with_each(windows, true, "clamped")
    apart = np.abs(windows[:, :, None] - true[:, None]) / length[:, None, None, None]
    if np.nanmax(apart, initial=0.0) > 1 + TIE:
        raise DataError("a boundary is further from the truth than its video is long; are both in seconds?")
    discount = np.prod(np.clip(1 - apart, 0, 1), axis=-1)
    return np.where(hits(iou, m, comparison), discount, 0.0).max(axis=(1, 2))


def box_iou(pred: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Area IoU of boxes (..., 4): (...) float64. A missing predicted box scores 0; NaN where there is no true box."""
    inter, predicted, true = _areas(pred, truth)
    return np.where(np.isnan(true), np.nan, np.nan_to_num(inter / (predicted + true - inter)))


def box_coverage(pred: ArrayLike, truth: ArrayLike) -> np.ndarray:
    """Share of the true box (..., 4) that lies inside the predicted one: (...); NaN where there is no true box."""
    inter, _, true = _areas(pred, truth)
    return np.where(np.isnan(true), np.nan, np.nan_to_num(inter / true))


def pointing(pred: ArrayLike, regions: ArrayLike) -> np.ndarray:
    """Whether the middle of boxes (..., 4) lies in regions (..., 4): (...) of 0 and 1, 0 where there is no box."""
    box, region = (np.asarray(x, np.float64) for x in (pred, regions))
    middle = (box[..., :2] + box[..., 2:]) / 2
    inside = (middle >= region[..., :2]) & (middle < region[..., 2:])
    return np.asarray(inside.all(-1), np.float64)


def v_iou(pred: ArrayLike, truth: ArrayLike, lengths: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
    """v-IoU of tubes (Zhang et al. 2020, VidSTG): summed box IoU over the frames of either tube, one value a query.

    The sum runs over the frames where both tubes have a box and is divided by the number where at least one has.

    Args:
        pred: (N, 4) predicted boxes, the frames of all queries one after the other; NaN in frames outside the tube.
        truth: (N, 4) true boxes, likewise.
        lengths: (S,) frames of each query; None means one query.

    Returns:
        (S,) float64; a query where neither tube has a box is refused.
    """
    inter, predicted, true = _areas(pred, truth)
    if inter.ndim != 1:
        raise DataError(f"v_iou takes boxes of shape (N, 4), got {np.shape(pred)}")
    counts = np.array([len(inter)] if lengths is None else lengths, np.int64)
    if (counts < 0).any() or counts.sum() != len(inter):
        raise DataError(f"the lengths add up to {counts.sum()} frames, there are {len(inter)} boxes")
    query = np.repeat(np.arange(len(counts)), counts)
    either = np.bincount(query, ~(np.isnan(predicted) & np.isnan(true)), len(counts))
    if (either == 0).any():
        raise DataError(f"query {int((either == 0).argmax())} has neither a predicted nor a true box in any frame")
    overlap = np.nan_to_num(inter / (predicted + true - inter))
    return np.bincount(query, overlap, len(counts)) / either


def _iou_with_each(pred: np.ndarray, truth: np.ndarray, kind: str) -> np.ndarray:
    """IoU of (S, 2) or (S, N, 2) with each of (S, K, 2): (S, K) or (S, N, K), NaN where either is absent."""
    if pred.ndim == 2:
        return np.asarray(spans.iou_with_each(pred[:, None], truth, kind))[:, 0]
    return np.asarray(spans.iou_with_each(pred, truth, kind))


def _predictions(pred: ArrayLike) -> np.ndarray:
    windows = _floats(pred, "predictions")
    if windows.ndim not in (2, 3) or windows.shape[-1] != 2:
        raise DataError(f"predictions have shape (S, 2) or (S, N, 2), got {windows.shape}")
    absent = np.isnan(windows).all(axis=-1) if windows.ndim == 3 else np.zeros(len(windows), bool)
    _refuse(~np.isfinite(windows).all(axis=-1) & ~absent, windows, "prediction is not made of finite numbers")
    _refuse(windows[..., 0] > windows[..., 1], windows, "prediction starts after its end")
    return windows


def _truths(truth: ArrayLike) -> np.ndarray:
    windows = _floats(truth, "true windows")
    if windows.ndim == 2:
        windows = windows[:, None]
    if windows.ndim != 3 or windows.shape[-1] != 2:
        raise DataError(f"true windows have shape (S, 2) or (S, K, 2), got {np.shape(truth)}")
    absent = np.isnan(windows).all(axis=-1)
    _refuse(~np.isfinite(windows).all(axis=-1) & ~absent, windows, "true window is not made of finite numbers")
    _refuse(windows[..., 0] >= windows[..., 1], windows, "true window does not start before its end")
    if absent.all(axis=1).any():
        raise DataError(f"query {int(absent.all(axis=1).argmax())} has no true window")
    return windows


def _floats(values: ArrayLike, what: str) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what} are not an array of numbers; fill rows up with NaN where there are fewer") from None


def _refuse(bad: np.ndarray, windows: np.ndarray, problem: str) -> None:
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        example = windows[first].tolist()
        raise DataError(f"a {problem}, {int(bad.sum())} times of {bad.size}; the first is {example} in row {first[0]}")


def _same_queries(pred: np.ndarray, truth: np.ndarray) -> None:
    if len(pred) != len(truth):
        raise DataError(f"there are predictions for {len(pred)} queries and true windows for {len(truth)}")


def _first(top: ArrayLike, n: int) -> np.ndarray:
    windows = _predictions(top)
    if windows.ndim == 2:
        windows = windows[:, None]
    if not n >= 1:
        raise DataError(f"n must be 1 or more candidates, got {n}")
    return windows[:, :n]


def _areas(pred: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Areas of the intersection, the predicted and the true box; NaN where a box is missing."""
    predicted, true = _floats(pred, "predicted boxes"), _floats(truth, "GT boxes")
    if predicted.shape != true.shape or true.shape[-1:] != (4,):
        raise DataError(f"boxes have shape (..., 4), the same for both; got {predicted.shape} and {true.shape}")
    for box, what in ((predicted, "predicted"), (true, "true")):
        rows = box.reshape(-1, 4)
        missing = np.isnan(rows).all(axis=-1)
        _refuse(~np.isfinite(rows).all(axis=-1) & ~missing, rows, f"{what} box is not made of finite numbers")
        _refuse(np.any(rows[:, :2] > rows[:, 2:], axis=-1), rows, f"{what} box has corners in the wrong order")
    inter, area, true_area = boxes.areas(predicted, true)
    if (true_area == 0).any():
        raise DataError(f"{int((true_area == 0).sum())} true boxes have no area")
    return inter, area, true_area
