"""Queries with several true moments: whatever is measured or drawn looks at all of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from finished_run import finished_run
from random_stores import random_store

from strong_envs import features
from strong_envs.agents import Prediction
from strong_envs.benchmarks.commands import report
from strong_envs.benchmarks.metrics.breakdown import bins, true_windows
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.metrics.tubes import tubes_of
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures


@pytest.fixture(scope="module")
def bank(ragged_store):
    found = features.load(ragged_store, "test")
    assert {len(query.windows) for query in found.queries} == {1, 3}
    return found


def windows_of(bank, which: int) -> torch.Tensor:
    return bank.truth[:, which] * bank.duration[bank.video][:, None]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_prediction_of_any_true_moment_with_its_boxes_is_perfect(bank, which):
    boxes = LocalFeatures(bank, "truth").boxes
    found = score(Prediction(windows_of(bank, which), boxes=boxes), bank, (0.5,))
    for name in ("IoU", "Acc@.5", "dR@1 IoU=.5", "m_vIoU", "box IoU", "coverage"):
        assert found[name] == pytest.approx(1, abs=1e-5), name


def test_the_order_of_true_moments_changes_no_score(bank):
    truth = GroundTruth.of_bank(bank)
    turned = dataclasses.replace(truth, windows=truth.windows[:, ::-1])
    padded = truth.windows.copy()
    padded[[len(query.windows) == 1 for query in bank.queries], 1:] = np.nan
    rng = np.random.default_rng(0)
    spans = torch.as_tensor(np.sort(rng.random((len(bank), 2)), axis=1)) * bank.duration[bank.video][:, None]
    low = torch.as_tensor(rng.uniform(0, 0.5, (int(bank.n_frames[bank.video].sum()), 2)))
    prediction = Prediction(spans, ranked=spans[:, None], boxes=torch.cat((low, low + 0.3), 1))
    first = score(prediction, truth, (0.3,))
    for other in (turned, dataclasses.replace(truth, windows=padded)):
        found = score(prediction, other, (0.3,))
        assert set(found) == set(first)
        for name, values in found.items():
            assert values == pytest.approx(first[name], abs=1e-12), name


def test_boxes_are_judged_over_the_frames_of_all_true_moments(bank):
    prediction = Prediction(windows_of(bank, 0), boxes=LocalFeatures(bank, "truth").boxes)
    tubes = tubes_of(prediction, GroundTruth.of_bank(bank))
    assert tubes.in_truth.shape == (3, int(tubes.lengths.sum()))
    inside = tubes.in_truth.any(axis=0)
    assert inside.sum() > tubes.in_truth[0].sum()
    values = np.where(inside, 1.0, 100.0)
    assert tubes.over_moment(values) == pytest.approx(1)


def test_a_query_is_in_the_bin_of_each_of_its_moments():
    truth = [[[0.0, 0.1], [0.9, 1.0]]] * 5 + [[[0.0, 0.1]]] * 5
    found = {b.label: b.index.tolist() for b in bins(truth, "position")}
    assert list(found.values()) == [list(range(10)), list(range(5))]
    assert true_windows(truth).shape == (10, 2, 2) and true_windows([[0.1, 0.2]]).tolist() == [[[0.1, 0.2]]]
    for spoilt in ([], [[]], [[[0.1, 0.2]], []]):
        with pytest.raises(DataError, match="one true window or more"):
            true_windows(spoilt)


def test_heat_maps_and_reports_take_the_nearest_true_moment(ragged_store, tmp_path, monkeypatch):
    from strong_envs.benchmarks.results import figures

    result = finished_run(ragged_store, tmp_path)
    truth = result["per_query"]["truth"]
    assert [len(windows) for windows in truth] == [1, 3, 1, 3]
    drawn = []
    import numpy

    histogram = numpy.histogram2d
    monkeypatch.setattr(
        figures.np, "histogram2d", lambda x, y, *rest: (drawn.append((x, y)), histogram(x, y, *rest))[1]
    )
    last = np.array([windows[-1] for windows in truth])
    figures.heat_maps({"last": last}, truth, tmp_path / "heat.png")
    for true, predicted in drawn:
        assert true == pytest.approx(predicted, abs=1e-9)
    page = report.page(tmp_path, 2)
    assert page.count("Predicted against true") == 2


def test_a_store_of_single_moments_keeps_its_plain_form(tmp_path):
    store = str(random_store(tmp_path / "single", [9, 8, 7, 12]).path)
    result = finished_run(store, tmp_path / "run")
    assert all(len(window) == 2 and window[0] < window[1] for window in result["per_query"]["truth"])
