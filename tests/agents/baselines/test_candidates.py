"""Sliding windows, the matching rule, suppression and the oracle, each against the obvious slow way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strong_envs import features
from strong_envs.agents.baselines import candidates as c
from strong_envs.benchmarks.metrics.definitions import nms, temporal_iou, top_candidates
from strong_envs.core import spans
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures


def random_windows(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Steps of 1/64 give ties and exact overlaps.
    ends = torch.randint(64, (*shape, 2), generator=generator).to(torch.float64) / 64
    return torch.stack((ends.amin(-1), ends.amax(-1) + 1 / 64), -1)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_windows_of_every_length_cover_the_video(overlap):
    scales = (0.07, 0.2, 1 / 3, 1.0)
    windows = c.sliding_windows(reversed(scales), overlap)
    assert windows.dtype == torch.float64
    for scale in scales:
        rows = windows[((windows[:, 1] - windows[:, 0]) - scale).abs() < 1e-9]
        assert rows[0, 0] == 0 and rows[-1, 1] == pytest.approx(1, abs=1e-12)
        steps = rows[:, 0].diff()
        assert (steps <= (1 - overlap) * scale + 1e-6).all()
        # Not one more than that takes.
        assert len(rows) == 1 or (len(rows) - 2) * (1 - overlap) * scale < 1 - scale
    assert len(c.sliding_windows([0.2], 0.8)) == 21 and len(c.sliding_windows([1.0])) == 1


def test_lengths_come_from_the_training_moments(ragged_store):
    truth = torch.tensor([[[0.0, x]] for x in np.linspace(0.1, 0.4, 101)])
    scales = c.fit_scales(truth, 4)
    assert scales[0] == pytest.approx(0.115) and scales[-1] == pytest.approx(0.385) and len(scales) == 4
    ratios = np.diff(np.log(scales))
    assert ratios == pytest.approx(ratios.mean(), abs=1e-4)
    assert c.fit_scales(truth[:1]) == (0.1,)
    bank = features.load(ragged_store, "train")
    assert all(0 < s <= 1 for s in c.fit_scales(bank.truth))


def test_overlaps_and_positives_against_a_loop():
    windows, truth = random_windows(30), random_windows(8, 3, seed=1)
    iou, outside = c.overlaps(windows, truth)
    matches = c.tall_positives(windows, truth, 0.4, 0.3)
    for s in range(8):
        for n in range(30):
            expected = False
            for k in range(3):
                (a, b), (low, high) = windows[n].tolist(), truth[s, k].tolist()
                inter = max(0.0, min(b, high) - max(a, low))
                assert iou[s, n, k] == pytest.approx(inter / (b - a + high - low - inter))
                assert outside[s, n, k] == pytest.approx(1 - inter / (b - a))
                share = inter / (b - a + high - low - inter)
                expected |= share > 0.4 and (b - a - inter) / (b - a) < 0.3
            assert bool(matches[s, n]) == expected
    best = temporal_iou(windows.expand(8, -1, -1).numpy(), truth.numpy())
    assert c.best_iou(windows, truth).numpy() == pytest.approx(best)
    near = c.nearest_truth(windows[:8], truth)
    assert c.best_iou(windows[:8, None], near[:, None]).flatten().tolist() == pytest.approx(
        c.best_iou(windows[:8, None], truth).flatten().tolist()
    )


def test_the_rule_of_tall_by_hand():
    truth = torch.tensor([[[0.2, 0.6]]], dtype=torch.float64)
    windows = torch.tensor([[0.2, 0.6], [0.25, 0.5], [0.1, 0.5], [0.3, 0.5], [0.16, 0.6]], dtype=torch.float64)
    # The third has a quarter of itself outside; the fourth an IoU of one half, which is not above one half.
    assert c.tall_positives(windows, truth).tolist() == [[True, True, False, False, True]]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_suppression_equals_one_query_at_a_time(threshold):
    generator = torch.Generator().manual_seed(3)
    windows = random_windows(12, 40, seed=2)
    scores = torch.randint(15, (12, 40), generator=generator).to(torch.float32)
    scores[0, 5:] = float("-inf")
    scores[1, ::2] = float("nan")
    picked = spans.nms(windows, scores, threshold, 10)
    for s in range(12):
        there = torch.isfinite(scores[s]).numpy()
        rows = np.flatnonzero(there)
        expected = rows[nms(windows[s].numpy()[there], scores[s].numpy()[there], threshold, 10)]
        assert picked[s, : len(expected)].tolist() == expected.tolist()
        assert (picked[s, len(expected) :] == -1).all()


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_ranking_equals_the_metrics_module(threshold):
    generator = torch.Generator().manual_seed(3)
    windows, scores = random_windows(6, 9, seed=4), torch.randn(6, 9, generator=generator)
    ranked, values = c.rank(windows, scores, 12, threshold)
    assert ranked.shape == (6, 12, 2) and values.shape == (6, 12)
    expected = top_candidates(windows.numpy(), scores.numpy(), 12, threshold)
    np.testing.assert_array_equal(ranked.numpy(), expected)
    for s in range(6):
        known = values[s][~values[s].isnan()]
        assert known[0] == scores[s].max() and (known.diff() <= 0).all()
        assert torch.equal(values[s].isnan(), ranked[s, :, 0].isnan())


def test_draws_are_uniform_over_what_is_allowed():
    mask = torch.tensor([[True, False, True, False], [False, False, False, True]]).repeat(3000, 1)
    drawn = c.draw(mask, torch.Generator().manual_seed(0))
    assert set(drawn[1::2].tolist()) == {3}
    counts = torch.bincount(drawn[::2], minlength=4)
    assert counts[1] == counts[3] == 0 and abs(int(counts[0]) - 1500) < 150


def test_means_of_windows_and_their_context_against_slices(ragged_store):
    bank = features.load(ragged_store, "train")
    seen = LocalFeatures(bank)
    windows = c.sliding_windows((0.1, 0.37, 1.0), 0.5)
    samples = torch.arange(len(bank))
    wide = windows.expand(len(bank), -1, -1)
    parts = c.context_means(seen, samples, wide, 0.2)
    assert torch.equal(parts[:, :, 1], c.window_means(seen, samples, wide))
    for s in range(len(bank)):
        begin, end = (int(x) for x in bank.offsets[bank.video[s] : bank.video[s] + 2])
        rows = bank.frames[begin:end].double()
        n = len(rows)
        reach = max(round(0.2 * n), 1)
        for p, (a, b) in enumerate(windows.tolist()):
            first = min(int(np.floor(a * n + 1e-6 * n)), n - 1)
            last = max(min(int(np.ceil(b * n - 1e-6 * n)), n), first + 1)
            clip = rows[first:last].mean(0)
            before = rows[max(first - reach, 0) : first].mean(0) if first else clip
            after = rows[last : last + reach].mean(0) if last < n else clip
            expected = torch.stack((before, clip, after)).float()
            assert torch.allclose(parts[s, p], expected, atol=1e-4), (s, p)


def test_nothing_beats_the_oracle_of_the_candidates(ragged_store):
    bank = features.load(ragged_store, "train")
    windows = c.sliding_windows((0.15, 0.3, 0.6), 0.6)
    plain, refined = c.candidate_oracle(bank, windows), c.candidate_oracle(bank, windows, 0.25)
    every = c.best_iou(windows, bank.truth)
    assert torch.equal(plain, every.amax(-1)) and (refined >= plain).all() and (refined <= 1).all()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        offsets = torch.randn(len(bank), len(windows), 2, generator=generator) * 0.2
        tried = c.moved(windows.expand(len(bank), -1, -1), offsets, 0.25)
        assert (tried[..., 0] < tried[..., 1]).all() and tried.min() >= 0 and tried.max() <= 1
        assert (c.best_iou(tried, bank.truth).amax(-1) <= refined + 1e-12).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: c.sliding_windows([]), "scales are one or more"),
        (lambda: c.sliding_windows([0.2, 1.5]), "1.5"),
        (lambda: c.sliding_windows([0.2], 1.0), "got 1.0"),
        (lambda: c.fit_scales(torch.zeros(1, 1, 2), 0), "got 0"),
        (lambda: spans.nms(torch.zeros(1, 1, 2), torch.zeros(1, 1), 1.5, 1), "got 1.5"),
        (lambda: spans.nms(torch.zeros(1, 1, 2), torch.zeros(1, 1), 0.5, 0), "limit of 0"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, says):
    with pytest.raises(DataError, match=says):
        call()
