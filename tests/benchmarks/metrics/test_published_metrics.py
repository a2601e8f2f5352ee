"""Figures that published evaluation code prints on the data beside it, computed by ours.

The data is not part of this project: ``STRONG_ENVS_PUBLISHED`` names a folder with checkouts of ``LocalizingMoments``
(DiDeMo) and ``moment_detr`` (QVHighlights). CTRL's code comes without predictions; its rules are tested on random ones.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from strong_envs.benchmarks.metrics import definitions as metrics
from strong_envs.benchmarks.metrics.ground_truth import annotators_of
from strong_envs.benchmarks.metrics.score import score

NAN = float("nan")


@pytest.fixture
def published() -> Path:
    folder = os.environ.get("STRONG_ENVS_PUBLISHED")
    if not folder:
        pytest.skip("set STRONG_ENVS_PUBLISHED to a folder with checkouts of published evaluation code")
    return Path(folder)


def read(path: Path) -> list:
    if not path.is_file():
        pytest.skip(f"{path.name} is absent")
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def padded(rows: list) -> np.ndarray:
    out = np.full((len(rows), max(map(len, rows)), 2), NAN)
    for line, windows in zip(out, rows, strict=True):
        line[: len(windows)] = windows
    return out


def seconds(chunks: list[int]) -> tuple[float, float]:
    """Both chunks of five seconds belong to the moment, which is the "+ 1" of the published code."""
    return 5.0 * chunks[0], 5.0 * chunks[1] + 5.0


def test_didemo_prior_scores_what_its_code_prints(published):
    rows = read(published / "LocalizingMoments" / "data" / "val_data.json")
    often = Counter(tuple(time) for row in rows for time in row["times"]).most_common()
    prior = np.array([seconds(time) for time, _ in often])
    ranked = np.broadcast_to(prior, (len(rows), *prior.shape))
    annotators = padded([[seconds(time) for time in row["times"]] for row in rows])
    # "Average rank@1: 0.186842", "Average iou: 0.252216" in its eval.py, for the prior of the training split, whose
    # most frequent moment is the same.
    assert (metrics.annotator_rank(ranked, annotators) <= 1).mean() == pytest.approx(0.186842, abs=5e-7)
    assert metrics.annotator_iou(ranked[:, 0], annotators).mean() == pytest.approx(0.252216, abs=5e-7)


def test_qvhighlights_sample_predictions_score_what_its_code_wrote(published):
    folder = published / "moment_detr"
    truth = {row["qid"]: row["relevant_windows"] for row in read(folder / "data" / "highlight_val_release.jsonl")}
    sample = read(folder / "standalone_eval" / "sample_val_preds.jsonl")
    wanted = read(folder / "standalone_eval" / "sample_val_preds_metrics_raw.json")["full"]["MR-R1"]
    windows = np.array([row["pred_relevant_windows"][0][:2] for row in sample])
    iou = metrics.temporal_iou(windows, padded([truth[row["qid"]] for row in sample]))
    assert {m: round(100 * float(metrics.hits(iou, float(m)).mean()), 2) for m in wanted} == wanted


def test_ctrl_counts_recall_with_nms_a_little_below_the_threshold_and_an_iou_that_may_be_negative():
    rng = np.random.default_rng(0)
    windows, truth = np.sort(rng.random((60, 30, 2))) * 100, np.sort(rng.random((60, 2))) * 100
    scores = rng.random((60, 30))

    def signed(a, b):
        return (min(a[1], b[1]) - max(a[0], b[0])) / (max(a[1], b[1]) - min(a[0], b[0]))

    for m in (0.1, 0.3, 0.5, 0.7):
        for n in (1, 5):
            found = 0
            for query in range(60):
                left, kept = sorted(range(30), key=lambda i, q=query: scores[q, i]), []
                while left:
                    kept.append(left.pop())
                    best = windows[query, kept[-1]]
                    left = [i for i in left if max(0.0, signed(windows[query, i], best)) <= m - 0.05]
                found += any(signed(windows[query, i], truth[query]) >= m for i in kept[:n])
            top = metrics.top_candidates(windows, scores, n, nms_threshold=m - 0.05)
            assert metrics.recall(top, truth, n, m).sum() == found
    one = windows[:, 0]
    assert metrics.temporal_iou(one, truth, "signed").tolist() == pytest.approx(list(map(signed, one, truth)))


def test_a_store_that_keeps_its_annotators_is_scored_by_them(ragged_store):
    import dataclasses

    import torch

    from strong_envs import features
    from strong_envs.agents import Prediction

    bank = features.load(ragged_store, "test")
    assert annotators_of(bank) is None
    truth = bank.truth[:, 0] * bank.duration[bank.video][:, None]
    marked = [[*map(tuple, (w, w, w)), (0.0, 1e-3)] for w in truth.tolist()]
    pairs = zip(bank.queries, marked, strict=True)
    queries = [dataclasses.replace(q, extra={**q.extra, "annotators": m}) for q, m in pairs]

    class Marked:
        def __getattr__(self, name):
            return getattr(bank, name)

    held = Marked()
    held.queries = queries
    far = torch.zeros_like(truth)
    far[:, 1] = 2e-3
    found = score(Prediction(far, ranked=torch.stack([far, truth], 1)), held)
    assert not found["Rank@1"].any() and found["Rank@5"].all()
    assert score(Prediction(truth), held)["annotator IoU"] == pytest.approx(1, abs=1e-5)
    assert "Rank@5" not in score(Prediction(truth), held)
    assert "annotator IoU" not in score(Prediction(far), bank)
