"""Whether a learning curve is flat at the end: the rule of the tables."""

from __future__ import annotations

import pytest

from strong_envs.benchmarks.metrics.curves import quality_markdown, quality_rows, rise, seconds_to, verdict
from strong_envs.benchmarks.protocols import Protocol
from strong_envs.benchmarks.results.collect import with_shares
from strong_envs.benchmarks.results.tables import markdown_table


def points(stage, *scores, total=100):
    """Scores at even shares of a stage, the last one at its end."""
    ends = [round(total * (i + 1) / len(scores)) for i in range(len(scores))]
    return [
        {"stage": stage, "done": done, "total": total, "seconds": float(done), "IoU": score}
        for done, score in zip(ends, scores, strict=True)
    ]


def test_the_last_quarter_of_the_training_decides():
    assert rise(points("training", 0.1, 0.2, 0.3, 0.35)) == pytest.approx(0.05)
    assert rise(points("training", 0.1, 0.34, 0.345, 0.35)) == pytest.approx(0.005)
    assert rise(points("training", 0.1, 0.2, 0.3, 0.25)) == pytest.approx(-0.05)
    assert [verdict(x) for x in (0.05, 0.01, 0.005, -0.05, None)] == ["rising", "rising", "flat", "flat", None]


def test_an_alternating_training_is_judged_by_its_last_turn():
    first = points("temporal alone", 0.1, 0.2, 0.3, 0.4)
    last = points("round 1, temporal", 0.4, 0.5, 0.55, 0.6)
    last[-1] = {**last[-1], "stage": "round 1", "done": 1, "total": 1}
    assert rise(first + last) == pytest.approx(0.05)
    mixed = points("root", 0.1, 0.2, 0.3, 0.35)
    mixed[1]["stage"] = mixed[3]["stage"] = "leaves"  # parts of one training that take turns
    assert rise(mixed) == pytest.approx(0.05)


def test_a_curve_without_a_score_before_its_last_quarter_says_nothing():
    assert rise([]) is None and rise(points("training", 0.3)) is None
    assert rise(points("training", 0.1, 0.2, 0.3, 0.4)[:2]) is None  # it did not end


def test_shares_are_of_the_seconds_of_the_whole_training():
    assert [p["share"] for p in with_shares(points("training", 0.1, 0.2, 0.3, 0.4))] == [0.25, 0.5, 0.75, 1.0]


def test_tables_say_which_curves_are_flat_and_which_budget_ended_too_early():
    rows = [
        {"system": name, "protocol": Protocol("main", "data"), "seeds": 1, "metrics": {"mIoU": 0.5, **more}}
        for name, more in (("a", {"rise": 0.002}), ("b", {"rise": 0.024}), ("constant", {}))
    ]
    table = markdown_table(rows)
    assert "validation curve flat at the end of the training" in table and "flat below 1): a." in table
    assert "the common budget ended while the validation curve rose" in table and ": b +2.4." in table


def scored(*points):
    return [{"seconds": seconds, "IoU": iou} for seconds, iou in points]


def test_seconds_to_a_level_are_those_of_the_first_score_that_reaches_it():
    trace = scored((0.0, 0.2), (5.0, 0.5), (9.0, 0.4), (12.0, 0.81))
    assert [seconds_to(trace, level) for level in (0.1, 0.5, 0.7, 0.85)] == [0.0, 5.0, 12.0, None]


def test_the_table_tells_the_spread_and_how_many_runs_reached_a_level():
    fast, slow = scored((4.0, 0.6), (8.0, 0.72)), scored((6.0, 0.55), (12.0, 0.68))
    (row,) = quality_rows({"ours": [fast, slow]}, (0.5, 0.7, 0.9))
    assert row["to"] == {0.5: [4.0, 6.0], 0.7: [8.0], 0.9: []} and row["best"] == pytest.approx(0.7)
    lines = quality_markdown({"ours": [fast, slow]}, (0.5, 0.7, 0.9)).splitlines()
    assert lines[2] == "| ours | 2 | 70.0 | 5 s (4 to 6) | 8 s, 1 of 2 | - |"
