"""Laws of the pure functions on spans, boxes and windows that hold for any numbers, in NumPy and torch alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strong_envs.core import boxes, rewards, sampling, spans
from strong_envs.core.sampling import draw, seeds_of
from strong_envs.features.bank.pooling import WindowMeans, ragged_prefix_sums

number = st.floats(0, 20)
span = st.tuples(number, number).map(sorted).filter(lambda x: x[1] - x[0] > 1e-3)


@settings(max_examples=80, deadline=None)
@given(span, st.lists(span, min_size=1, max_size=4))
def test_kinds_of_iou(window, truths):
    start, end = (np.array([x]) for x in window)
    truth = np.array([truths])
    signed, clamped, legacy = (spans.span_iou(start, end, truth, kind)[0] for kind in spans.IOU_KINDS)
    assert -1 <= signed <= 1 and 0 <= clamped <= 1 and clamped == max(signed, 0) and legacy >= clamped
    for kind in spans.IOU_KINDS:
        other = spans.span_iou(torch.tensor(start), torch.tensor(end), torch.tensor(truth), kind)
        assert float(other) == spans.span_iou(start, end, truth, kind)[0]
    itself = np.array([[window]])
    assert spans.span_iou(start, end, itself, "signed")[0] == 1


def test_disjoint_windows_by_hand():
    """[0, 5] and [15, 20]: nothing shared, a hull of 20 and a gap of 10; the legacy formula pays half."""
    window = np.array([0.0]), np.array([5.0]), np.array([[[15.0, 20.0]]])
    assert [float(spans.span_iou(*window, kind)[0]) for kind in spans.IOU_KINDS] == [-0.5, 0.0, 0.5]


def test_the_moves_of_long_videos():
    table = spans.move_table(multi_scale=True)
    assert table.shape == (19, 2) and len(spans.move_names(True)) == 19 and len(spans.move_names()) == 7
    np.testing.assert_array_equal(table[7:13], table[:6] / 4)
    np.testing.assert_array_equal(table[13:19], table[:6] / 16)
    np.testing.assert_array_equal(spans.move_table(0.5), spans.move_table() / 2)
    assert not table[spans.STOP].any()


@settings(max_examples=80, deadline=None)
@given(span, st.integers(1, 5000))
def test_the_frames_of_a_window(window, n_frames):
    first, last = spans.frame_window(np.array([window[0]]), np.array([window[1]]), 20.0, np.array([n_frames]))
    assert 0 <= first[0] < last[0] <= n_frames
    assert first[0] <= window[0] * n_frames / 20 + 1e-9
    assert last[0] >= min(window[1] * n_frames / 20, n_frames) - 1e-9
    tensors = (torch.tensor([end], dtype=torch.float64) for end in window)
    a, b = spans.frame_window(*tensors, 20.0, torch.tensor([n_frames]))
    assert abs(int(a) - first[0]) <= 0 and abs(int(b) - last[0]) <= 0


@pytest.mark.parametrize(("n_frames", "expected"), [(20, (5, 15)), (1, (0, 1)), (3, (0, 3)), (100, (25, 75))])
def test_the_frames_of_the_initial_window(n_frames, expected):
    first, last = spans.frame_window(np.array([5.0]), np.array([15.0]), 20.0, np.array([n_frames]))
    assert (first[0], last[0]) == expected


@given(st.integers(0, (1 << 62) + 4), st.integers(0, 1 << 40), st.integers(1, 1 << 40))
def test_one_draw_and_many_are_the_same_numbers(key, counter, size):
    many = sampling.draw(torch.tensor([key]), torch.tensor([counter]), size)
    assert sampling.draw_one(key, counter, size) == int(many[0]) in range(size)


def test_the_papers_first_box():
    """b0 = [.25, .25, .75, .75] as corners."""
    assert boxes.corners(np.array(boxes.INITIAL_BOX)).tolist() == [0.25, 0.25, 0.75, 0.75]


corner = st.tuples(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.06, 1), st.floats(0.06, 1)).map(
    lambda b: (b[0], b[1], min(b[0] + b[2], 1.0), min(b[1] + b[3], 1.0))
)


@settings(max_examples=80, deadline=None)
@given(corner, corner, st.integers(0, 10))
def test_boxes(a, b, action):
    a, b = np.array([a]), np.array([b])
    box = boxes.from_corners(a)
    np.testing.assert_allclose(boxes.corners(box), a, atol=1e-12)
    iou, other = boxes.box_iou(a, b)[0], boxes.box_iou(b, a)[0]
    assert 0 <= iou <= 1 + 1e-9 and iou == pytest.approx(other)
    assert boxes.box_iou(a, a)[0] == pytest.approx(1) and 0 <= boxes.coverage(a, b)[0] <= 1 + 1e-9
    assert boxes.distance_iou(a, b)[0] <= iou + 1e-9 and boxes.distance_iou(a, b)[0] >= -1
    table = boxes.move_table(box_moves="symmetric")
    moved, valid = boxes.move(box, np.array([action]), table)
    again, same = boxes.move(torch.tensor(box), torch.tensor([action]), torch.tensor(table))
    np.testing.assert_array_equal(moved, again.numpy())
    assert valid[0] == bool(same) and (valid[0] or np.array_equal(moved, box))
    edges = boxes.corners(moved)
    assert (edges >= -1e-12).all() and (edges <= 1 + 1e-12).all()
    if action in (0, 1, 2, 3):
        np.testing.assert_allclose(moved[:, 2:], box[:, 2:], atol=1e-12)


def test_a_box_goes_as_far_as_the_frame_allows():
    table = boxes.move_table()
    box = np.array([[0.98 - 0.1, 0.5, 0.2, 0.2]])
    right, valid = boxes.move(box, np.array([1]), table)
    assert valid[0] and boxes.corners(right)[0].tolist() == pytest.approx([0.8, 0.4, 1.0, 0.6])
    again, valid = boxes.move(right, np.array([1]), table)
    assert not valid[0] and np.array_equal(again, right)
    _small, valid = boxes.move(np.array([[0.5, 0.5, 0.06, 0.2]]), np.array([5]), table)
    assert not valid[0]
    assert len(boxes.move_table(box_moves="symmetric")) == 11 and len(table) == 9
    with pytest.raises(ValueError, match="box_moves must be one of"):
        boxes.move_table(box_moves="all")


def test_the_penalty_of_time_outweighs_from_the_tenth_step_on():
    better = np.array([0.2]), np.array([0.3])
    assert rewards.iou_sign(*better, np.array([9]), 0.1)[0] > 0
    assert rewards.iou_sign(*better, np.array([10]), 0.1)[0] == pytest.approx(0)


def test_means_stay_exact_over_thousands_of_frames_far_from_zero():
    lengths = [5000, 1, 4000]
    rows = torch.randn(sum(lengths), 3, generator=torch.Generator().manual_seed(0)) + 1000
    offsets = torch.tensor([0, 5000, 5001, 9001])
    prefix, mean = ragged_prefix_sums(rows, offsets)
    means = WindowMeans(prefix, mean, offsets[:-1] + torch.arange(3), torch.arange(3))
    for a, b in ((0, 5000), (4990, 5000), (2500, 2501), (17, 4999)):
        got = means(torch.tensor([0]), torch.tensor([a]), torch.tensor([b]))[0]
        np.testing.assert_allclose(got, rows[a:b].double().mean(0), rtol=1e-6)
    assert means(torch.tensor([1]), torch.tensor([1]), torch.tensor([1])).tolist() == [[0.0, 0.0, 0.0]]


def test_draws_are_even_and_differ_from_key_to_key():
    keys, episodes = torch.arange(200).repeat_interleave(50), torch.arange(50).repeat(200)
    drawn = draw(keys, episodes, 10)
    counts = torch.bincount(drawn, minlength=10).double()
    # 10,000 draws: a standard deviation of 30 around 1,000
    assert (counts - 1000).abs().max() < 150 and not torch.equal(drawn[:50], drawn[50:100])
    assert draw(torch.tensor([(1 << 62) - 1]), torch.tensor([1 << 40]), 1).tolist() == [0]
    assert seeds_of(5, 3) == [5, 6, 7] and seeds_of([1, None], 2) == [1, None] and seeds_of(None, 2) == [None, None]
    assert math.isclose(float(drawn.double().mean()), 4.5, abs_tol=0.15)


def test_relative_gains_by_hand():
    gains = np.array([[0.2, -0.4, 0.0], [0.0, 0.0, 0.0]])
    wanted = [[0.5, -1.0, 0.0], [0.0, 0.0, 0.0]]
    assert rewards.relative_gains(gains).tolist() == wanted
    assert rewards.relative_gains(torch.tensor(gains)).tolist() == wanted
