"""Intervals, tests and profiles: definitions by hand, coverage by simulation, the same numbers every time."""

from __future__ import annotations

import json

import numpy as np
import pytest

from strong_envs.benchmarks.metrics import statistics
from strong_envs.features import DataError


def test_interquartile_mean_follows_the_definition():
    assert statistics.interquartile_mean([100, 1, 2, 3]) == 2.5
    assert statistics.interquartile_mean(range(8)) == 3.5
    # A quarter of five, rounded down, is one at each end; of three it is none.
    assert statistics.interquartile_mean([0, 1, 2, 6, 1000]) == 3
    assert statistics.interquartile_mean([0, 1, 5]) == 2
    assert statistics.interquartile_mean([[0, 9], [4, 5]]) == 4.5


def test_an_estimate_is_the_mean_of_the_seeds_and_repeats_exactly():
    scores = np.random.default_rng(0).random((5, 200))
    first, second = statistics.estimate(scores), statistics.estimate(scores)
    assert first == second
    assert first.mean == pytest.approx(scores.mean())
    assert first.iqm == pytest.approx(np.sort(scores.mean(1))[1:4].mean())
    assert first.low < first.mean < first.high and first.caveat is None
    assert (first.seeds, first.queries) == (5, 200)
    assert statistics.estimate(scores, seed=1) != first
    json.dumps(first.as_dict())


def test_metrics_of_one_system_share_their_draws():
    scores = np.random.default_rng(0).random((2, 50))
    found = statistics.estimates({"a": scores, "b": 1 - scores})
    assert found["a"].low == pytest.approx(1 - found["b"].high)
    assert found["a"] == statistics.estimates({"a": scores})["a"]


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        seeds = 0.5 + 0.05 * rng.normal(size=(10, 1))
        interval = statistics.estimate(seeds + 0.3 * rng.normal(size=(10, 150)), draws=400)
        inside += interval.low <= 0.5 <= interval.high
    assert 0.86 <= inside / 200 <= 0.99


def test_an_interval_covers_seeds_and_queries():
    same = np.random.default_rng(0).random((1, 300))
    noisy_seeds = same + np.linspace(-0.2, 0.2, 6)[:, None]
    only_queries = statistics.estimate(np.repeat(same, 6, axis=0))
    both = statistics.estimate(noisy_seeds)
    assert both.high - both.low > 2 * (only_queries.high - only_queries.low)
    only_seeds = statistics.estimate(np.repeat(np.linspace(0, 1, 6)[:, None], 300, axis=1))
    assert only_seeds.high - only_seeds.low > 0.3


def test_queries_of_one_video_are_drawn_together():
    videos = np.repeat(np.arange(20), 50)
    scores = np.random.default_rng(0).random(20)[videos]
    alone, grouped = statistics.estimate(scores), statistics.estimate(scores, groups=videos)
    assert grouped.mean == alone.mean
    assert grouped.high - grouped.low > 4 * (alone.high - alone.low)


def test_a_single_video_gives_no_interval_of_no_width():
    found = statistics.estimate(np.random.default_rng(0).random(40), groups=["v"] * 40, deterministic=True)
    assert found.high - found.low > 0.05
    assert "1 video" in found.caveat


def test_caveats():
    assert "1 seed" in statistics.caveat(1)
    assert "3 seeds" in statistics.caveat(3)
    assert statistics.caveat(5) is None and statistics.caveat(None) is None
    assert "4 videos" in statistics.caveat(5, 4) and statistics.caveat(5, 100) is None
    assert "1 seed" in statistics.estimate([0.1, 0.9]).caveat
    assert statistics.estimate([0.1, 0.9], deterministic=True).caveat is None


def test_stratified_interval_draws_within_each_data_set():
    value, low, high = statistics.stratified_interval([[0.2] * 5, [0.8] * 5], "mean")
    assert value == low == high == pytest.approx(0.5)
    value, low, high = statistics.stratified_interval([[0, 1, 2, 3], [4, 5, 6, 7]])
    assert value == 3.5 and low < 3.5 < high


def test_a_paired_test_sees_a_small_difference_that_separate_intervals_hide():
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    a, b = hard + 0.01 + 0.02 * rng.normal(size=(2, 500)), hard + 0.02 * rng.normal(size=(3, 500))
    found = statistics.paired_test(a, b, draws=2000)
    assert found.difference == pytest.approx((a.mean(0) - b.mean(0)).mean())
    assert found.p_value < 0.001 and 0 < found.low < found.difference < found.high
    assert statistics.paired_test(b, a, draws=2000).difference == -found.difference
    one, other = statistics.estimate(a), statistics.estimate(b)
    assert other.high > one.low
    assert found == statistics.paired_test(a, b, draws=2000)


def test_the_permutation_test_is_exact_on_few_queries():
    # Of the 2^4 sign patterns two reach the observed sum: p is near 1/8 whatever the size of the difference.
    found = statistics.paired_test([1.0, 2.0, 3.0, 4.0], [0.0] * 4, draws=20_000)
    assert found.p_value == pytest.approx(1 / 8, abs=0.01)
    assert statistics.paired_test([0.3, 0.4], [0.3, 0.4]).p_value == 1.0


def test_equal_systems_are_called_different_as_often_as_stated():
    rng = np.random.default_rng(0)
    p = [statistics.paired_test(*rng.normal(size=(2, 1, 40)), draws=200).p_value for _ in range(300)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09


def test_a_paired_test_by_video_is_more_careful():
    videos = np.repeat(np.arange(6), 100)
    difference = 0.05 * np.random.default_rng(3).normal(size=6)[videos] + 0.02
    alone = statistics.paired_test(difference, np.zeros(600), draws=1000)
    grouped = statistics.paired_test(difference, np.zeros(600), groups=videos, draws=1000)
    assert alone.p_value < 0.01 < grouped.p_value
    assert (grouped.units, grouped.queries) == (6, 600)


def test_a_performance_profile_is_the_accuracy_at_every_threshold():
    scores = np.array([[0.0, 0.2, 0.5, 0.9], [0.1, 0.5, 0.6, 1.0]])
    share, low, high = statistics.performance_profile(scores, [0, 0.5, 0.95])
    assert share.tolist() == [1.0, 0.625, 0.125]
    assert (low <= share).all() and (share <= high).all()
    assert statistics.performance_profile(scores, [0.5], comparison=">")[0].tolist() == [0.375]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: statistics.estimate([]), "shape"),
        (lambda: statistics.estimate([0.5, np.nan]), "not finite"),
        (lambda: statistics.estimate([0.5], statistic="median"), "median"),
        (lambda: statistics.estimate([0.5], confidence=95), "between 0 and 1"),
        (lambda: statistics.estimate([0.5], draws=0), "draws"),
        (lambda: statistics.estimate([0.5, 0.6], groups=["v"]), "1 groups for 2"),
        (lambda: statistics.estimates({"a": [0.5], "b": [0.5, 0.6]}), "one shape"),
        (lambda: statistics.paired_test([0.5, 0.6], [0.5]), "same queries"),
        (lambda: statistics.interquartile_mean([]), "no values"),
        (lambda: statistics.stratified_interval([[0.5], []]), "finite"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, says):
    with pytest.raises(DataError, match=says):
        call()


def test_a_difference_is_uncertain_where_its_training_runs_differ():
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    videos = np.repeat(np.arange(100), 4)
    same = hard + np.zeros((5, 1))
    runs = hard + 0.03 * np.array([-2, -1, 0, 1, 2.0])[:, None]
    steady = statistics.difference_test(same + 0.01, same, groups=videos)
    uncertain = statistics.difference_test(runs + 0.01, runs, groups=videos)
    assert steady.difference == pytest.approx(0.01) and uncertain.difference == pytest.approx(0.01)
    # The same queries differ by the same amount; only the training runs lie apart, which a test over queries misses.
    assert steady.low == pytest.approx(0.01) and steady.high == pytest.approx(0.01) and steady.p_value < 0.001
    assert uncertain.low < 0 < uncertain.high and uncertain.p_value > 0.3
    assert statistics.paired_test(runs + 0.01, runs, groups=videos).p_value < 0.001
    reverse = statistics.difference_test(runs, runs + 0.01, groups=videos)
    assert reverse.difference == pytest.approx(-uncertain.difference) and reverse.units == 100


def test_a_difference_covers_the_videos_and_is_exact_by_hand():
    videos = np.repeat(np.arange(20), 50)
    difference = np.random.default_rng(3).normal(0.02, 0.05, 20)[videos]
    alone = statistics.difference_test(difference, np.zeros(1000))
    grouped = statistics.difference_test(difference, np.zeros(1000), groups=videos)
    assert grouped.high - grouped.low > 4 * (alone.high - alone.low)
    assert statistics.difference_test(difference, difference).p_value == 1.0
    # Two queries, one better and one worse by twice as much: of four draws one has a mean above zero.
    found = statistics.difference_test([1.0, -2.0], [0.0, 0.0], draws=40_000)
    assert found.p_value == pytest.approx(2 * 1 / 4, abs=0.02) and (found.low, found.high) == (-2.0, 1.0)
    with pytest.raises(DataError, match="same queries"):
        statistics.difference_test([0.5, 0.6], [0.5])


def test_equal_systems_are_called_different_as_often_as_stated_over_runs_and_videos():
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(200):
        sides = 0.05 * rng.normal(size=(2, 10, 1)) + 0.1 * rng.normal(size=(2, 10, 100)) + rng.random(100)
        called += statistics.difference_test(*sides, draws=400).p_value <= 0.05
    assert called / 200 <= 0.12


def test_p_values_of_several_claims_are_adjusted_as_holm_says():
    # Example of Holm's procedure by hand: 4 x .01, 3 x .02, 2 x .03, 1 x .04, none below the one before it.
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.9, 0.6]) == [1.0, 1.0] and statistics.holm([0.2]) == [0.2] and statistics.holm([]) == []
    with pytest.raises(DataError, match=r"\[1.5\]"):
        statistics.holm([0.1, 1.5])
