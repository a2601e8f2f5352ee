"""Candidate windows: their positions, positives, ranking, and oracle.

Shared by the systems that score sliding windows (CTRL, MCN, ACRN). Windows are (start, end) as fractions of the
duration, float64, and the same (N, 2) for every video; pure functions of tensors on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from strong_envs.core import spans
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures


def sliding_windows(scales: Sequence[float], overlap: float = 0.8, device: str | torch.device = "cpu") -> Tensor:
    """Windows of every length in ``scales``, short ones first, each from the start of the video to its end.

    Neighbours of one length share at least ``overlap`` of it, are evenly spread, and the last one ends with the video.

    Args:
        scales: lengths as fractions of the duration, in (0, 1].
        overlap: in [0, 1); CTRL slides by a fifth, 0.8.
        device: of the result.

    Returns:
        (N, 2) float64.

    Raises:
        DataError: no length, a length outside (0, 1] or an overlap outside [0, 1).
    """
    lengths = sorted({float(scale) for scale in scales})
    if not lengths or not all(0 < length <= 1 for length in lengths):
        raise DataError(f"scales are one or more fractions of the duration in (0, 1], got {list(scales)}")
    if not 0 <= overlap < 1:
        raise DataError(f"the overlap of neighbouring windows lies in [0, 1), got {overlap}")
    rows = []
    for length in lengths:
        # A hair less than the quotient, so that 0.8 / 0.2 stays 4 whatever its rounding.
        count = int(-(-((1 - length) / ((1 - overlap) * length) - 1e-6) // 1)) + 1
        start = torch.linspace(0, 1 - length, max(count, 1), dtype=torch.float64)
        rows.append(torch.stack((start, (start + length).clamp(max=1.0)), -1))
    return torch.cat(rows).to(device)


def fit_scales(truth: Tensor, count: int = 5) -> tuple[float, ...]:
    """Window lengths that suit the moments of a training split: ``count`` in geometric steps over the middle 90 %.

    Papers choose the lengths by hand for each data set.

    Args:
        truth: (S, K, 2) true windows as fractions of the duration.
        count: number of lengths.
    """
    if count < 1:
        raise DataError(f"scale_count must be 1 or more, got {count}")
    lengths = (truth[..., 1] - truth[..., 0]).flatten().clamp(1e-3, 1.0).sort().values
    low, high = (float(lengths[round(q * (len(lengths) - 1))]) for q in (0.05, 0.95))
    if count == 1 or high / low < 1.02:
        return (round((low * high) ** 0.5, 6),)
    return tuple(round(low * (high / low) ** (i / (count - 1)), 6) for i in range(count))


def overlaps(windows: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Clamped IoU with each true window, and the share of the window outside of it (nIoL of TALL).

    Args:
        windows: (N, 2), the same for all samples, or (S, N, 2).
        truth: (S, K, 2), in the same unit.

    Returns:
        Two (S, N, K) tensors in [0, 1].
    """
    wide = windows if windows.ndim == 3 else windows[None]
    start, end = wide[..., 0, None], wide[..., 1, None]
    inside = spans.intersection(start, end, truth[:, None, :, 0], truth[:, None, :, 1]).clamp(min=0)
    return spans.iou_with_each(wide, truth), 1 - inside / (end - start).clamp(min=1e-12)


def best_iou(windows: Tensor, truth: Tensor) -> Tensor:
    """Clamped IoU of windows (N, 2) or (S, N, 2) with the best of the true windows (S, K, 2): (S, N)."""
    return spans.iou_with_each(windows if windows.ndim == 3 else windows[None], truth).amax(-1)


def tall_positives(windows: Tensor, truth: Tensor, iou: float = 0.5, outside: float = 0.15) -> Tensor:
    """Mask of the training examples of a sentence, by the rule of TALL: (S, N) bool.

    IoU above ``iou`` and less than ``outside`` of the window beyond the truth, both with the same true window.
    """
    share, beyond = overlaps(windows, truth)
    return ((share > iou + spans.TIE) & (beyond < outside - spans.TIE)).any(-1)


def nearest_truth(windows: Tensor, truth: Tensor) -> Tensor:
    """The true window that each window lies nearest to: windows (S, 2) and truth (S, K, 2) to (S, 2)."""
    best = spans.nearest_window(windows[:, 0], windows[:, 1], truth)
    return truth[torch.arange(len(truth), device=truth.device), best]


def draw(mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One of the allowed columns of each row, uniformly: (B, N) bool to (B,) int64. A row needs at least one."""
    lots = torch.rand(mask.shape, device=mask.device, generator=generator)
    return lots.masked_fill(~mask, -1.0).argmax(-1)


def frame_bounds(windows: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
    """Frames that windows (B, P, 2) touch in videos of (B,) frames: first and last (exclusive), each (B, P) int64."""
    # A boundary on a frame must not be rounded over it.
    start, end = windows[..., 0] + 1e-6, windows[..., 1] - 1e-6
    count = n_frames[:, None].expand(start.shape)
    return spans.frame_window(start, end, 1.0, count)


def window_means(seen: LocalFeatures, samples: Tensor, windows: Tensor) -> Tensor:
    """Mean features in windows (B, P, 2) of samples (B,): (B, P, D) float32."""
    bank = seen.bank
    return seen.means(samples, *frame_bounds(windows, bank.n_frames[bank.video[samples]]))


def context_means(seen: LocalFeatures, samples: Tensor, windows: Tensor, context: float) -> Tensor:
    """Means left of, inside and right of windows (B, P, 2) of samples (B,): (B, P, 3, D) float32.

    The context reaches ``context`` of the duration to either side, at least one frame; where the window ends with the
    video, its own mean stands in (public code of TALL: the nearest clip there is).
    """
    bank, means = seen.bank, seen.means
    count = bank.n_frames[bank.video[samples]][:, None]
    first, last = frame_bounds(windows, count[:, 0])
    reach = (count * context).round().clamp(min=1).to(torch.int64)
    left, right = (first - reach).clamp(min=0), torch.minimum(last + reach, count)
    inside = means(samples, first, last)
    before = torch.where((first > left)[..., None], means(samples, left, first), inside)
    after = torch.where((right > last)[..., None], means(samples, last, right), inside)
    return torch.stack((before, inside, after), 2)


def rank(windows: Tensor, scores: Tensor, top: int, threshold: float | None = 0.45) -> tuple[Tensor, Tensor]:
    """The ``top`` windows of each sample, best first, with their scores; NaN where fewer are left.

    Args:
        windows: (S, N, 2).
        scores: (S, N).
        top: windows a sample.
        threshold: of `spans.nms`; None keeps overlapping windows.

    Returns:
        (S, top, 2) and (S, top), in the dtypes of ``windows`` and ``scores``.
    """
    if threshold is None:
        order = torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :top]
        order = torch.nn.functional.pad(order, (0, top - order.shape[1]), value=-1)
    else:
        order = spans.nms(windows, scores, threshold, top)
    row = order.clamp(min=0)
    absent = order < 0
    best = windows.gather(1, row[..., None].expand(-1, -1, 2))
    nan = float("nan")
    return best.masked_fill(absent[..., None], nan), scores.gather(1, row).masked_fill(absent, nan)


def moved(windows: Tensor, offsets: Tensor, reach: float) -> Tensor:
    """Windows (..., 2) with their ends moved by ``offsets`` (..., 2), in fractions of the duration, inside the video.

    No end moves further than ``reach`` of the window's length: below one half, start stays before end, and
    `candidate_oracle` is a bound.
    """
    room = reach * (windows[..., 1:] - windows[..., :1])
    return (windows + torch.minimum(torch.maximum(offsets.to(windows.dtype), -room), room)).clamp(0.0, 1.0)


def candidate_oracle(bank: FeatureBank, windows: Tensor, reach: float = 0.0) -> Tensor:
    """The best IoU that candidates reach for each query, chosen by the truth: (S,) float64.

    An upper bound of every system that ranks these windows; its mean is the bound on their mIoU.

    Args:
        bank: gives the truth.
        windows: (N, 2).
        reach: share of its length by which each end may move (`moved`), 0 without regression.
    """
    best = torch.zeros(len(bank), dtype=torch.float64, device=bank.device)
    for k in range(bank.truth.shape[1]):
        truth = bank.truth[:, k : k + 1]
        # The nearer each end comes to its own true end, the higher the IoU.
        ends = windows[None].expand(len(bank), -1, -1)
        ends = moved(ends, truth - ends, reach) if reach else ends
        best = torch.maximum(best, best_iou(ends, truth).amax(-1))
    return best
