"""The pure functions: hand-computed values, and that no action leads out of the video or the frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strong_envs.core import boxes, rewards, spans


def kinds(*arrays):
    return [
        tuple(np.asarray(a, np.float64) for a in arrays),
        tuple(torch.tensor(a, dtype=torch.float64) for a in arrays),
    ]


@pytest.mark.parametrize("kind", [0, 1])
def test_iou_by_hand(kind):
    start, end, truth = kinds([5.0, 0.0, 12.0], [15.0, 4.0, 16.0], [[[10.0, 20.0]]] * 3)[kind]
    assert spans.span_iou(start, end, truth, "signed").tolist() == [5 / 15, -6 / 20, 4 / 10]
    assert spans.span_iou(start, end, truth, "clamped").tolist() == [5 / 15, 0.0, 4 / 10]
    assert spans.span_iou(start, end, truth, "legacy").tolist() == [5 / 15, 6 / 20, 4 / 10]
    with pytest.raises(ValueError, match="iou must be one of"):
        spans.span_iou(start, end, truth, "giou")


def test_the_best_of_several_windows_counts():
    truth = np.array([[[0.0, 1.0], [4.0, 8.0]]])
    assert spans.span_iou(np.array([4.0]), np.array([8.0]), truth, "clamped").tolist() == [1.0]


@pytest.mark.parametrize(
    ("action", "expected"),
    [(0, (6, 15)), (1, (4, 15)), (2, (5, 16)), (3, (5, 14)), (4, (6, 16)), (5, (4, 14)), (6, (5, 15))],
)
def test_the_seven_moves(action, expected):
    start, end, valid = spans.move(np.array([5.0]), np.array([15.0]), np.array([action]), spans.move_table(), 20.0)
    assert (start[0], end[0]) == expected and valid[0]


@pytest.mark.parametrize(
    ("span", "action"), [((0, 5), 1), ((0, 5), 5), ((15, 20), 2), ((15, 20), 4), ((7, 8), 0), ((7, 8), 3)]
)
def test_a_move_out_of_the_video_or_across_the_ends_is_refused(span, action):
    start, end, valid = spans.move(*(np.array([float(x)]) for x in span), np.array([action]), spans.move_table(), 20.0)
    assert (start[0], end[0]) == span and not valid[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 18), max_size=40), st.integers(1, 5000), st.floats(0.1, 4.0))
def test_no_sequence_of_moves_leaves_the_video(actions, n_frames, scale):
    table = spans.move_table(scale, multi_scale=True)
    start, end = np.array([5.0]), np.array([15.0])
    for action in actions:
        start, end, _ = spans.move(start, end, np.array([action]), table, 20.0)
        first, last = spans.frame_window(start, end, 20.0, np.array([n_frames]))
        assert 0 <= start[0] < end[0] <= 20
        assert 0 <= first[0] < last[0] <= n_frames


def test_reward_by_hand():
    before, after, t = (np.array(x) for x in ([0.2, 0.2, 0.2], [0.3, 0.2, 0.1], [0, 3, 10]))
    assert rewards.iou_sign(before, after, t, 0.1) == pytest.approx([1.0, -0.3, -2.0])


def test_comparison_has_a_tie():
    assert rewards.compare(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.9, 1.0, 1.2]), 0.01).tolist() == [1, 0, -1]


def test_scores_of_q_by_hand():
    q, known = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[1.0, -1.0, 0.0]])
    assert rewards.q_value(q, None).tolist() == [2.0]
    assert rewards.signed_q(q, known).tolist() == [1.5]
    assert rewards.q_error(q, known).tolist() == [-(0.25 + 0 + 4)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10), max_size=60), st.floats(2, 20))
def test_no_sequence_of_moves_leaves_the_frame(actions, z_s):
    table = torch.as_tensor(boxes.move_table(z_s, "symmetric"))
    box = torch.tensor([boxes.INITIAL_BOX], dtype=torch.float64)
    for action in actions:
        box, _valid = boxes.move(box, torch.tensor([action]), table)
        edges = boxes.corners(box)
        assert (edges >= -1e-9).all() and (edges <= 1 + 1e-9).all() and torch.isfinite(box).all()
        assert (box[:, 2:] >= boxes.MIN_SIZE - 1e-9).all()


def test_box_moves_keep_what_they_should():
    table = torch.as_tensor(boxes.move_table())
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]], dtype=torch.float64)
    moved = {name: boxes.move(box, torch.tensor([i]), table)[0][0].tolist() for i, name in enumerate(boxes.MOVE_NAMES)}
    assert moved["left"] == pytest.approx([0.45, 0.5, 0.4, 0.4])
    assert moved["down"] == pytest.approx([0.5, 0.55, 0.4, 0.4])
    assert moved["bigger"] == pytest.approx([0.5, 0.5, 0.45, 0.45])
    assert moved["taller"] == pytest.approx([0.5, 0.5, 0.4, 0.45])
    assert moved["stop"] == pytest.approx(box[0].tolist())


def test_box_overlaps_by_hand():
    a, b = torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([[0.25, 0.0, 0.5, 0.5]])
    assert boxes.box_iou(a, b).tolist() == [0.5]
    assert boxes.coverage(a, b).tolist() == [1.0] and boxes.coverage(b, a).tolist() == [0.5]
    assert boxes.box_iou(a, torch.full((1, 4), float("nan"))).tolist() == [0.0]
    near, far = torch.tensor([[0.5, 0.0, 0.6, 0.1]]), torch.tensor([[0.9, 0.0, 1.0, 0.1]])
    target = torch.tensor([[0.0, 0.0, 0.1, 0.1]])
    assert boxes.distance_iou(near, target) > boxes.distance_iou(far, target)


def test_reward_of_read_by_hand():
    """From overlap up, from overlap down, stay, from beside the truth into it, nearer but beside it, leaving it."""
    before = np.array([0.1, 0.4, 0.0, -0.2, -0.5, 0.2])
    after = np.array([0.3, 0.2, 0.0, 0.1, -0.1, -0.1])
    expected = np.array([1.0, 0.0, 0.0, -1.0, -1.0, -1.0]) - 0.01 * np.arange(6)
    paid = rewards.read(before, after, np.arange(6), 0.01)
    np.testing.assert_allclose(paid, expected)
    tensors = (torch.tensor(before), torch.tensor(after), torch.arange(6))
    np.testing.assert_allclose(rewards.read(*tensors, 0.01).numpy(), expected, atol=1e-7)


def test_gains_of_an_episode_add_up_to_the_iou_gained():
    ious = np.array([-0.5, -0.1, 0.3, 0.2, 0.9])
    paid = rewards.iou_delta(ious[:-1], ious[1:], np.arange(4), 0.0)
    assert paid.sum() == pytest.approx(ious[-1] - ious[0]) and paid[2] == pytest.approx(-0.1)
    tensors = (torch.tensor(ious[:-1]), torch.tensor(ious[1:]), torch.arange(4))
    taxed = rewards.iou_delta(*tensors, 0.1).tolist()
    assert taxed == pytest.approx((paid - 0.1 * np.arange(4)).tolist())
