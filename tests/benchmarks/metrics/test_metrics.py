"""Metrics against hand-made cases and exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strong_envs.benchmarks.metrics import definitions as metrics
from strong_envs.features import DataError

NAN = float("nan")

hundredths = st.tuples(st.integers(0, 40_000), st.integers(1, 20_000)).map(lambda w: (w[0], w[0] + w[1]))


def exact_iou(pred: tuple[int, int], truth: tuple[int, int]) -> Fraction:
    inter = max(0, min(pred[1], truth[1]) - max(pred[0], truth[0]))
    return Fraction(inter, pred[1] - pred[0] + truth[1] - truth[0] - inter)


@settings(max_examples=300, deadline=None)
@given(hundredths, st.lists(hundredths, min_size=1, max_size=3))
def test_iou_and_hits_agree_with_exact_arithmetic(pred, truths):
    best = max(exact_iou(pred, t) for t in truths)
    iou = metrics.temporal_iou([[p / 100 for p in pred]], [[[x / 100 for x in t] for t in truths]])
    assert iou[0] == pytest.approx(float(best), abs=1e-12)
    for tenths in (1, 3, 5, 7, 9):
        m = Fraction(tenths, 10)
        assert metrics.hits(iou, tenths / 10)[0] == (best >= m)
        assert metrics.hits(iou, tenths / 10, ">")[0] == (best > m)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 30_000), st.integers(1, 9), st.integers(1, 3000))
def test_an_iou_that_is_exactly_the_threshold_counts(start, tenths, unit):
    # A window that covers exactly tenths / 10 of the truth: rounding may put the quotient on either side.
    truth = (start, start + 10 * unit)
    pred = (start, start + tenths * unit)
    iou = metrics.temporal_iou([[p / 100 for p in pred]], [[t / 100 for t in truth]])
    assert metrics.hits(iou, tenths / 10)[0] and not metrics.hits(iou, tenths / 10, ">")[0]


def test_a_tie_that_plain_floats_miss():
    iou = metrics.temporal_iou([[2.1, 2.4]], [[2.1, 2.7]])
    assert iou[0] < 0.5 and metrics.hits(iou, 0.5)[0]


def test_iou_of_each_kind_by_hand():
    pred = [[0, 4], [0, 2], [0, 2], [3, 3]]
    truth = [[2, 6], [6, 8], [2, 4], [2, 4]]
    assert metrics.temporal_iou(pred, truth).tolist() == pytest.approx([1 / 3, 0, 0, 0])
    assert metrics.temporal_iou(pred, truth, "signed").tolist() == pytest.approx([1 / 3, -0.5, 0, 0])
    assert metrics.temporal_iou(pred, truth, "legacy").tolist() == pytest.approx([1 / 3, 0.5, 0, 0])


def test_iou_agrees_with_the_environments():
    from strong_envs.core.spans import span_iou

    rng = np.random.default_rng(0)
    pred, truth = np.sort(rng.random((50, 2))), np.sort(rng.random((50, 3, 2)))
    for kind in metrics.IOU_KINDS:
        assert np.array_equal(metrics.temporal_iou(pred, truth, kind), span_iou(pred[:, 0], pred[:, 1], truth, kind))


def test_the_best_of_several_true_windows_counts():
    truth = [[[0, 1], [4, 8]], [[0, 2], [NAN, NAN]]]
    assert metrics.temporal_iou([[4, 8], [0, 4]], truth).tolist() == [1.0, 0.5]


def test_didemo_counts_the_best_three_of_four_annotators():
    annotators = [[[0, 10], [0, 10], [5, 10], [20, 30]], [[0, 5], [0, 5], [NAN, NAN], [NAN, NAN]]]
    pred = [[0, 10], [0, 5]]
    assert metrics.annotator_iou(pred, annotators).tolist() == pytest.approx([(1 + 1 + 0.5) / 3, 1.0])
    ranked = [[[5, 10], [0, 10], [20, 30]], [[5, 10], [20, 30], [NAN, NAN]]]
    assert metrics.annotator_rank(ranked, annotators).tolist() == [pytest.approx((1 + 2 + 2) / 3), np.inf]


def test_summary_names_and_values():
    found = metrics.summary([0.0, 0.5, 1.0, 0.3])
    assert list(found) == ["mIoU", "Acc@.1", "Acc@.3", "Acc@.5", "Acc@.7", "Acc@.9"]
    assert list(found.values()) == [0.45, 0.75, 0.75, 0.5, 0.25, 0.25]
    assert metrics.summary([0.0, 0.5, 1.0, 0.3], [0.5], ">")["Acc@.5"] == 0.25


def test_nms_keeps_the_best_and_drops_what_overlaps_it():
    windows = [[0, 10], [1, 10], [20, 30], [0, 5], [21, 29]]
    scores = [0.9, 0.95, 0.1, 0.5, 0.8]
    assert metrics.nms(windows, scores, 0.5).tolist() == [1, 4, 3]
    assert metrics.nms(windows, scores, 1.0).tolist() == [1, 0, 4, 3, 2]
    assert metrics.nms(windows, scores, 0.5, limit=2).tolist() == [1, 4]
    # [0, 5] overlaps [0, 10] by exactly a half, which is not more than the threshold.
    assert metrics.nms([[0, 10], [0, 5]], [1, 0], 0.5).tolist() == [0, 1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(hundredths, st.integers(0, 5)), min_size=1, max_size=12), st.sampled_from([0.3, 0.5, 0.8]))
def test_nms_agrees_with_the_definition(rows, threshold):
    kept: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -rows[i][1]):
        if all(exact_iou(rows[i][0], rows[j][0]) <= Fraction(str(threshold)) for j in kept):
            kept.append(i)
    assert metrics.nms([w for w, _ in rows], [s for _, s in rows], threshold).tolist() == kept


def test_recall_at_n_with_and_without_nms():
    candidates = [[[0, 10], [0, 9], [20, 30]], [[0, 1], [5, 6], [NAN, NAN]]]
    scores = [[3, 2, 1], [1, 2, NAN]]
    truth = [[21, 30], [0, 1]]
    top = metrics.top_candidates(candidates, scores, 2)
    assert top.tolist() == [[[0, 10], [0, 9]], [[5, 6], [0, 1]]]
    assert metrics.recall(top, truth, 2, 0.5).tolist() == [0, 1]
    assert metrics.recall(top, truth, 1, 0.5).tolist() == [0, 0]
    top = metrics.top_candidates(candidates, scores, 2, nms_threshold=0.5)
    assert metrics.recall(top, truth, 2, 0.5).tolist() == [1, 1]
    assert np.isnan(metrics.top_candidates(candidates, scores, 4)[1, 2:]).all()


def test_discounted_recall_by_hand():
    # Hit with IoU 0.8; the start is off by 0.1 and the end by 0.1 of the duration.
    assert metrics.discounted_recall([[[0, 10]]], [[1, 9]], [10], 1, 0.5)[0] == pytest.approx(0.9 * 0.9)
    # Too small an overlap is worth nothing, an exact one everything.
    assert metrics.discounted_recall([[[0, 10]]], [[1, 9]], [10], 1, 0.9)[0] == 0
    assert metrics.discounted_recall([[[0, 10], [1, 9]]], [[1, 9]], [10], 2, 0.5)[0] == 1
    # The whole video finds every moment at a small m, and is paid by how well it fits.
    assert metrics.discounted_recall([[[0, 100]]], [[40, 60]], [100], 1, 0.1)[0] == pytest.approx(0.36)


def test_box_iou_and_coverage_by_hand():
    pred = [[0, 0, 2, 2], [0, 0, 2, 2], [NAN] * 4, [0, 0, 1, 1], [0, 0, 4, 4]]
    truth = [[1, 1, 3, 3], [5, 5, 6, 6], [0, 0, 1, 1], [NAN] * 4, [1, 1, 3, 3]]
    assert metrics.box_iou(pred, truth).tolist() == pytest.approx([1 / 7, 0, 0, NAN, 0.25], nan_ok=True)
    assert metrics.box_coverage(pred, truth).tolist() == pytest.approx([0.25, 0, 0, NAN, 1], nan_ok=True)


def test_v_iou_divides_by_the_frames_of_either_tube():
    box, none = [0, 0, 1, 1], [NAN] * 4
    half = [0, 0, 1, 0.5]
    pred, truth = [box, half, box, none, none], [none, box, box, box, none]
    assert metrics.v_iou(pred, truth).tolist() == [(0.5 + 1) / 4]
    assert metrics.v_iou(pred * 2, truth * 2, [5, 5]).tolist() == [0.375, 0.375]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.temporal_iou([[0, NAN]], [[0, 1]]), "finite"),
        (lambda: metrics.temporal_iou([[3, 1]], [[0, 1]]), "starts after its end"),
        (lambda: metrics.temporal_iou([[0, 1]], [[1, 1]]), "does not start before"),
        (lambda: metrics.temporal_iou([[0, 1], [0, 2]], [[0, 1]]), "2 queries"),
        (lambda: metrics.temporal_iou([0, 1], [[0, 1]]), r"shape"),
        (lambda: metrics.temporal_iou([[0, 1]], [[[0, 1], [2]]]), "not an array"),
        (lambda: metrics.temporal_iou([[0, 1]], [[[NAN, NAN]]]), "no true window"),
        (lambda: metrics.temporal_iou([[0, 1]], [[0, 1]], "giou"), "giou"),
        (lambda: metrics.hits([0.5], 50), r"\[0, 1\], got 50"),
        (lambda: metrics.hits([0.5], 0.5, "<"), "comparison"),
        (lambda: metrics.summary([]), "no queries"),
        (lambda: metrics.summary([NAN]), "not finite"),
        (lambda: metrics.nms([[0, 1]], [NAN], 0.5), "NaN"),
        (lambda: metrics.discounted_recall([[[0, 1]]], [[0, 1]], [0], 1, 0.5), "positive duration"),
        (lambda: metrics.discounted_recall([[[0, 100]]], [[0, 1]], [1], 1, 0.0), "in seconds"),
        (lambda: metrics.box_iou([[0, 0, -1, 1]], [[0, 0, 1, 1]]), "wrong order"),
        (lambda: metrics.box_iou([[0, 0, 1, 1]], [[0, 0, 0, 1]]), "no area"),
        (lambda: metrics.v_iou([[NAN] * 4], [[NAN] * 4]), "neither"),
        (lambda: metrics.v_iou([[0, 0, 1, 1]], [[0, 0, 1, 1]], [2]), "add up to 2"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, says):
    with pytest.raises(DataError, match=says):
        call()
