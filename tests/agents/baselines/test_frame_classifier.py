"""Frame classifier: the posterior over windows by hand, labels by hand, the frame attention's training, what validation
chooses, windows, files, refusals."""

from __future__ import annotations

import pytest
import torch
from supervised_scores import miou, only

from strong_envs import agents, features
from strong_envs.agents.baselines.candidates import best_iou
from strong_envs.agents.baselines.frame_classifier import FrameClassifier
from strong_envs.agents.references.heuristics import windows_on_grid
from strong_envs.agents.strong.frame_attention.attention import FrameAttention, FrameAttentionArgs, changes
from strong_envs.agents.strong.frame_attention.training import inside_shares, train_frame_attention
from strong_envs.agents.training.window_posterior import WindowPosterior
from strong_envs.features.errors import DataError

QUICK = dict(steps=20, batch=8, frames=10, hidden=8, inside_hidden=8, cells=10)


@pytest.fixture(scope="module")
def train():
    return features.load("shapes-v0", "train")


def test_the_parts_of_windows_are_those_by_hand():
    posterior = WindowPosterior(7)
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    level = scores.log_softmax(1) + torch.tensor(7.0).log()
    outside = torch.nn.functional.pad(level, (1, 1), value=-2.0)
    for part, (start, end) in enumerate((torch.as_tensor(windows_on_grid(7)) * 7).round().long().tolist()):
        total, edges, length = posterior.parts(scores)[:, part].T
        assert torch.allclose(total, level[:, start:end].sum(1), atol=1e-5)
        rise, fall = level[:, start] - outside[:, start], level[:, end - 1] - outside[:, end + 1]
        assert torch.allclose(edges, rise + fall, atol=1e-5) and (length == end - start).all()


def test_the_posterior_finds_the_factors_of_a_world_and_its_answer_maximises_expected_iou():
    """Sentences whose scores are noise around a step: sums and edges must both come out as evidence."""
    draw = torch.Generator().manual_seed(0)
    cells, count = 12, 400
    length = torch.randint(2, 5, (count,), generator=draw)
    start = (torch.rand(count, generator=draw) * (cells - length + 1)).long()
    place = torch.arange(cells)
    inside = (place >= start[:, None]) & (place < (start + length)[:, None])
    scores = 1.5 * inside + torch.randn(count, cells, generator=draw)
    truth = (torch.stack((start, start + length), -1).double() / cells)[:, None]
    posterior = WindowPosterior(cells)
    posterior.fit_lengths(truth)
    windows = torch.as_tensor(windows_on_grid(cells))
    before = best_iou(windows[posterior(scores).argmax(1)][:, None], truth).mean()
    posterior.fit(scores, truth)
    probability = posterior(scores).exp()
    assert torch.allclose(probability.sum(1), torch.ones(count), atol=1e-4)
    long = (windows[:, 1] - windows[:, 0]) > 7 / cells
    assert probability[:, long].sum(1).max() < 0.2, "no window of the training is that long"
    expected = posterior.expected_iou(scores)
    likely = best_iou(windows[probability.argmax(1)][:, None], truth).mean()
    best = best_iou(windows[expected.argmax(1)][:, None], truth).mean()
    assert best > likely - 0.01 and best > before - 0.01
    assert float(expected.max(1).values.mean()) == pytest.approx(float(best), abs=0.03), "it knows how good it is"
    by_hand = (probability[0] * best_iou(windows, windows[7].view(1, 1, 2))[0]).sum()
    assert float(expected[0, 7]) == pytest.approx(float(by_hand), abs=1e-5)


def test_labels_by_hand():
    # The second truth of the second sample is apart from its first; both samples are padded to two windows.
    truth = torch.tensor([[[0.1, 0.5], [0.1, 0.5]], [[0.0, 0.25], [0.6, 1.0]]], dtype=torch.float64)
    expected = [[0.6, 1.0, 0.0, 0.0], [1.0, 0.0, 0.6, 1.0]]
    assert inside_shares(truth, 4).tolist() == [pytest.approx(row) for row in expected]


def test_changes_by_hand():
    seen = torch.tensor([1.0, 2.0, 4.0, 8.0])[None, :, None]
    # At both ends one step is what there is of two: what it shows counts twice.
    assert changes(seen, 1).flatten().tolist() == [2.0, 3.0, 6.0, 8.0]
    assert changes(seen[:, :1], 1).flatten().tolist() == [0.0], "a single frame cannot change"


def test_gradient_reaches_every_parameter(train):
    system = agents.make("frame classifier", train, **QUICK)
    system.loss(torch.arange(64), torch.Generator()).backward()
    for key, parameter in system.net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        # A softmax does not change where all scores rise alike.
        assert parameter.grad.abs().sum() > 0 or key.endswith("out.bias"), key


@pytest.mark.slow
def test_ten_samples_are_learnt_by_heart_where_no_validation_part_stops_it(train, monkeypatch):
    monkeypatch.setattr("strong_envs.agents.baselines.frame_classifier.validation_part", lambda bank: None)
    ten = only(train, range(0, 200, 20))
    system = agents.make("frame classifier", ten, steps=300, cells=20, dropout=0.0, weight_decay=0.0)
    before, bound = miou(system, ten), float(system.oracle(ten).mean())
    assert bound > 0.85 and miou(system.fit(), ten) > max(bound - 0.15, before + 0.3)


def test_the_window_whose_frames_speak_for_the_moment_answers(train, monkeypatch):
    few = only(train, range(4))
    system = agents.make("frame classifier", few, **QUICK)
    system.net.posterior.factors.copy_(torch.tensor([1.0, 0.0, 0.0]))
    says = torch.tensor([-9.0, -9, 2, 3, 2.5, 2, -9, -9, -9, -9]).expand(4, -1)
    monkeypatch.setattr(FrameAttention, "logits", lambda *_: says)
    prediction = system.predict(few)
    assert (prediction.spans / few.duration[few.video][:, None]).tolist() == [pytest.approx([0.2, 0.6])] * 4
    confidence = system.confidence(few, prediction)
    assert confidence.tolist() == pytest.approx(prediction.scores[:, 0].tolist()) and (confidence > 0.5).all()


def test_validation_chooses_the_dropout_and_an_update_of_the_second_half(train):
    """One of the rivals is spoilt: validation must not choose it. The best weights since the middle come back."""
    system = agents.make("frame classifier", train, **QUICK)
    assert [rival.dropout for rival in system.net.rivals] == [0.0, 0.5]
    system.examples()
    good, spoilt = system.net.rivals[1], system.net.rivals[0]

    def scale(factor):
        with torch.no_grad():
            for parameter in good.parameters():
                parameter.mul_(factor)

    with torch.no_grad():
        spoilt.inside.out.weight.mul_(1000)
    system.updated(1, 20)  # The lowest loss of all, by chance, while the learning rate is high.
    scale(3)
    system.updated(10, 20)
    assert list(system.net.rivals) == [good]
    system.updated(11, 20)
    later = {k: v.clone() for k, v in good.state_dict().items()}
    scale(50)
    system.updated(20, 20)
    assert system.args.dropout == 0.5
    assert all(torch.equal(v, later[k]) for k, v in system.net.frame_attention.state_dict().items())


def test_whole_frames_need_no_grid_and_give_no_boxes(tmp_path):
    from random_stores import random_store

    store = random_store(tmp_path / "flat", [12, 16, 20, 18], grid=False)
    flat = features.load(str(store.path), "train")
    system = agents.make("frame classifier (whole frames)", flat, **QUICK).fit()
    prediction = system.predict(flat)
    assert prediction.boxes is None and prediction.spans.isfinite().all()
    path = str(tmp_path / "whole.safetensors")
    system.save(path)
    assert torch.equal(FrameClassifier.load(path, flat).predict(flat).spans, prediction.spans)


@pytest.mark.parametrize("objective", ["contrast", "labels", "both"])
def test_the_frame_attention_finds_the_object_that_the_query_names(objective):
    """Made for the purpose: three objects in each video, each on the move for a third of it; a query names one."""
    train, test = MarkedBank(seed=0), MarkedBank(seed=1)
    args = FrameAttentionArgs(steps=150, frames=9, hidden=16, objective=objective)
    frame_attention = FrameAttention(train, args, seed=0)
    train_frame_attention(frame_attention, train, torch.Generator().manual_seed(0))
    logits, inside = frame_attention.logits(test, torch.arange(len(test))), inside_shares(test.truth, 9) > 0.5
    assert logits[inside].mean() > 1 + logits[~inside].mean()
    # Outside the moment it may as well look at what else moves, which is no less of an answer.
    centre = frame_attention.boxes(test).view(len(test), 9, 2, 2).mean(2)
    near = ((centre - test.place[:, None]).abs() < 0.2).all(-1)
    assert near[inside].float().mean() > 0.8


class MarkedBank:
    """Sixty videos of 9 frames with 6 x 6 cells: channels 0 to 3 say what an object is, channel 4 that it moves."""

    def __init__(self, seed: int, count: int = 60) -> None:
        gen = torch.Generator().manual_seed(seed)
        self.grid_shape, self.query_dim, self.device = (6, 6, 5), 4, torch.device("cpu")
        self.n_frames, self.offsets = torch.full((count,), 9), torch.arange(count + 1) * 9
        self.videos, self.video = list(range(count)), torch.arange(count).repeat_interleave(3)
        grid = 0.1 * torch.randn(count, 9, 6, 6, 5, generator=gen)
        turns = torch.randint(3, (count, 3), generator=gen)
        kinds, rows, columns = (
            torch.stack([torch.randperm(limit, generator=gen)[:3] for _ in range(count)]) for limit in (4, 6, 6)
        )
        for video in range(count):
            for i in range(3):
                start, row, column = 3 * turns[video, i], rows[video, i], columns[video, i]
                grid[video, :, row, column, kinds[video, i]] += 3
                grid[video, start : start + 3, row, column, 4] += 3
        self.grid = grid.flatten(0, 1)
        self.frames = self.grid.mean((1, 2))
        self.frame_dim = 5
        self.query = torch.nn.functional.one_hot(kinds.flatten(), 4).float()
        first = turns.flatten().double() / 3
        self.truth = torch.stack((first, first + 1 / 3), -1)[:, None]
        self.place = torch.stack(((columns.flatten() + 0.5) / 6, (rows.flatten() + 0.5) / 6), -1)

    def __len__(self) -> int:
        return len(self.query)


def test_saving_seeds_and_ranks(train, tmp_path):
    test = features.load("shapes-v0", "test")
    first, again, other = (agents.make("frame classifier", train, seed=seed, **QUICK).fit() for seed in (0, 0, 1))
    one, same, different = (system.predict(test) for system in (first, again, other))
    assert torch.equal(one.scores.nan_to_num(9.0), same.scores.nan_to_num(9.0))
    assert not torch.equal(one.scores.nan_to_num(9.0), different.scores.nan_to_num(9.0))
    assert torch.equal(one.spans, one.ranked[:, 0]) and one.ranked.shape == (len(test), 10, 2)
    assert torch.equal(one.boxes, first.net.frame_attention.boxes(test)) and not torch.equal(one.boxes, different.boxes)
    path = str(tmp_path / "classifier.safetensors")
    first.save(path)
    loaded = FrameClassifier.load(path, test)
    assert loaded.args == first.args
    assert torch.equal(loaded.predict(test).ranked.nan_to_num(9.0), one.ranked.nan_to_num(9.0))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(frames=0), r"frames must be a whole number in \[1, 10,000\], got 0"),
        (dict(cells=0), "cells must be a whole number in .*, got 0"),
        (dict(change=0.7), r"change must be a number in \[0, 0.5\], got 0.7"),
        (dict(objective="windows"), "objective must be one of"),
        (dict(boxes="truth"), "must stay 'frame'"),
        (dict(hiden=3), "did you mean 'hidden'"),
    ],
)
def test_wrong_options_are_explained(options, says, train):
    with pytest.raises(DataError, match=says):
        agents.make("frame classifier", train, **options)


def test_a_store_without_places_is_refused_before_training(train, tmp_path):
    from random_stores import random_store

    flat = features.load(str(random_store(tmp_path / "flat", [12, 16, 20, 18], grid=False).path), "train")
    assert "needs a spatial grid" in agents.incompatibility("frame classifier", flat)
    system = agents.make("frame classifier", train, **QUICK)
    with pytest.raises(DataError, match="made for"):
        system.predict(flat)
