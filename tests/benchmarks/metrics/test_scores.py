"""What a row knows beside mIoU: R@n, frames looked at, parameters, boxes, the bound of candidates, and its protocol."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch

from strong_envs import agents, features
from strong_envs.agents import Prediction
from strong_envs.benchmarks.execution.cell import Cell, count_parameters, dynamics_of, protocol_of
from strong_envs.benchmarks.execution.job import Job
from strong_envs.benchmarks.execution.predictions import checked
from strong_envs.benchmarks.metrics import definitions as metrics
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.protocols import DYNAMICS, same_column
from strong_envs.benchmarks.results.reference_rows import no_oracle
from strong_envs.benchmarks.results.rows import system_row
from strong_envs.benchmarks.results.tables import ABSENT, columns_of
from strong_envs.benchmarks.results.tables import table_cells as laid
from strong_envs.features.errors import DataError
from strong_envs.features.search_windows import apply
from strong_envs.temporal.task import TemporalConfig

NAN = float("nan")


@pytest.fixture(scope="module")
def bank(ragged_store):
    return features.load(ragged_store, "test")


def truth_of(bank) -> torch.Tensor:
    return bank.truth[:, 0] * bank.duration[bank.video][:, None]


def candidates(bank) -> Prediction:
    """The third of six candidates is the truth, the others miss it."""
    true = truth_of(bank)
    far = torch.zeros_like(true)
    far[:, 1] = 1e-3
    ranked = torch.stack([far, far, true, far, far, far], 1)
    ranked[0, 3:] = NAN
    scores = torch.arange(6, 0, -1.0).repeat(len(bank), 1)
    return Prediction(far, ranked=ranked, scores=scores, frames_seen=torch.full((len(bank),), 0.25))


def run_of(bank, prediction: Prediction, system: str = "ctrl", **more) -> tuple[dict, Prediction]:
    """A stored cell, as far as a row needs it, and its prediction."""
    videos = [query.video for query in bank.queries]
    return {"system": system, "seconds": 1.0, "videos": videos, **more}, prediction


def row_of(bank, runs: list[tuple[dict, Prediction]], comparison: str = ">=", **options) -> dict:
    protocol = protocol_of(bank.store, Cell("ctrl", 0, "", "", options=options), comparison)
    scores = [score(prediction, bank, protocol.thresholds, comparison) for _, prediction in runs]
    return system_row("ctrl", [run for run, _ in runs], scores, protocol)


def test_recall_at_n_is_that_of_the_definition(bank):
    found = score(candidates(bank), bank, (0.3, 0.5, 0.9))
    top = candidates(bank).ranked.numpy()
    every = (bank.truth * bank.duration[bank.video][:, None, None]).numpy()
    for n in (1, 5):
        for m in (0.3, 0.5, 0.9):
            wanted = metrics.recall(top, every, n, m)
            assert found[f"R@{n} IoU={m:g}".replace("=0", "=")].tolist() == wanted.tolist()
            assert metrics.hits(found[f"IoU@{n}"], m).tolist() == wanted.astype(bool).tolist()
    assert np.array_equal(found["IoU@1"], found["IoU"])
    assert found["IoU@5"] == pytest.approx(1)


def test_a_row_has_intervals_and_the_table_shows_what_is_known(bank):
    runs = [run_of(bank, candidates(bank), parameters=1234)] * 2
    row = row_of(bank, runs)
    assert row["metrics"]["R@5 IoU=.5"] == 1 and row["metrics"]["R@1 IoU=.5"] == row["metrics"]["Acc@.5"]
    assert row["metrics"]["frames_seen"] == 0.25 and row["metrics"]["params"] == 1234
    assert {"R@5 IoU=.5", "frames_seen"} <= set(row["intervals"])
    plain = run_of(bank, Prediction(truth_of(bank)), parameters=None)
    other = {**row_of(bank, [plain]), "system": "plain"}
    shown = columns_of([row, other])
    assert "R@5 IoU=.7" in shown and not any(name.startswith("R@1") for name in shown)
    body = {line[0]: dict(zip(laid([row, other]).header, line, strict=True)) for line in laid([row, other]).body}
    assert body["ctrl"]["params"] == "1,234" and body["ctrl"]["frames_seen"].startswith("25.00")
    assert body["plain"]["params"] == body["plain"]["frames_seen"] == body["plain"]["R@5 IoU=.5"] == ABSENT


def test_candidates_and_their_bound_stand_in_the_row(bank):
    bound = score(Prediction(truth_of(bank)), bank)["IoU"] * 0.9
    row = row_of(bank, [run_of(bank, candidates(bank), candidate_oracle=bound.tolist())])
    assert row["candidate_oracle"] == pytest.approx(0.9) and "mIoU of 90.00 at best." in row["note"]
    assert any(note.startswith("ctrl: its candidates reach") for note in laid([row]).notes)
    broken = row_of(bank, [run_of(bank, Prediction(truth_of(bank)), candidate_oracle=bound.tolist())])
    assert "lie above that bound" in broken["note"]


def test_a_tracked_box_is_scored_by_its_overlap_too(bank):
    from strong_envs.local_features import LocalFeatures

    true = LocalFeatures(bank, "truth").boxes
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(len(true), 4)
    exact, large = (score(Prediction(truth_of(bank), boxes=b), bank) for b in (true, whole))
    assert exact["box IoU"] == pytest.approx(1, abs=1e-5) and large["coverage"] == pytest.approx(1, abs=1e-5)
    assert (large["box IoU"] < 0.3).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: {"ranked": p.ranked[0]}, "must rank windows of shape"),
        (lambda p: {"ranked": p.ranked.flip(1)}, "not the first of those it ranks"),
        (lambda p: {"scores": p.scores[:, :2]}, "gives scores of shape"),
        (lambda p: {"scores": p.scores.flip(1)}, "rank the best window first"),
        (lambda p: {"frames_seen": p.frames_seen * 8}, "the share of each video's frames"),
    ],
)
def test_a_ranking_that_is_none_is_refused(change, words, bank):
    good = candidates(bank)
    assert checked(good, bank, "mine") is good
    with pytest.raises(DataError, match=words):
        checked(Prediction(**{**vars(good), **change(good)}), bank, "mine")


def test_trained_numbers_are_counted_without_copies(ragged_store):
    class Two:
        def parameters(self):
            return [torch.zeros(3, 4), torch.zeros(5)]

    assert count_parameters(Two()) == 17 and count_parameters(object()) is None
    train = features.load(ragged_store, "train")
    system = agents.make("trl", train)
    own = [p for name, p in system.temporal.named_parameters() if "target" not in name]
    assert count_parameters(system) == sum(p.numel() for p in own) > 0
    plain = {ours: getattr(TemporalConfig(), theirs) for theirs, ours in DYNAMICS.items()}
    assert (
        dynamics_of(system) == plain | {"multi_scale": True, "initial_span": [0.25, 0.75]}
        and dynamics_of(Two()) is None
    )


# Protocols ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 5),
        ("z_e", 5.0),
        ("step_scale", 2.0),
        ("multi_scale", True),
        ("invalid", "terminate"),
        ("initial_span", (0.0, 1.0)),
    ],
)
def test_other_moves_are_another_protocol(name, value, bank):
    plain, other = (protocol_of(bank.store, Cell("trl", 0, "", "", options=o)) for o in ({}, {"env": {name: value}}))
    with pytest.raises(DataError, match=f"differ in {DYNAMICS[name]}"):
        same_column(plain, other)
    assert type(other).from_json(other.to_json()) == other and str(other) != str(plain)
    # What only pays or shows something else is no other protocol.
    same_column(plain, protocol_of(bank.store, Cell("trl", 0, "", "", options={"env": {"phi": 0.3, "context": False}})))


def test_windows_are_another_protocol_than_full_videos(ragged_store):
    full = features.open_store(ragged_store)
    cut = apply(full, "window", fps=10, sizes=(64,))
    cell = Cell("trl", 0, "", "")
    assert protocol_of(full, cell).window == "full video" and "windows of 64 frames" in protocol_of(cut, cell).window
    with pytest.raises(DataError, match="differ in .*window"):
        same_column(protocol_of(full, cell), protocol_of(cut, cell))


def test_a_system_without_moves_takes_the_protocol_of_the_job(bank):
    grid = {"env": {"z_e": 5.0, "multi_scale": True}}
    protocol = protocol_of(bank.store, Cell("", 0, "", "", options=grid), ">")
    cells = {"mine": [Cell("collections:OrderedDict", 0, "", "")], "trl": [Cell("trl", 0, "", "", options=grid)]}
    job = Job(argparse.Namespace(), bank.store, protocol, cells, {})
    assert job.protocol_for("mine") == job.protocol_for("trl") == protocol


def test_published_moves_of_a_system_are_said_in_its_row(bank):
    dynamics = {ours: getattr(TemporalConfig(), theirs) for theirs, ours in DYNAMICS.items()}
    dynamics["initial_span"] = list(dynamics["initial_span"])
    same = row_of(bank, [run_of(bank, candidates(bank), dynamics=dynamics)])
    own = row_of(bank, [run_of(bank, candidates(bank), dynamics=dynamics | {"steps": 10})])
    assert "note" not in same and own["note"] == "moves of its own: steps=10."


def test_a_bound_that_does_not_fit_the_moves_is_left_out(bank):
    def reason(**env):
        return no_oracle(protocol_of(bank.store, Cell("", 0, "", "", options={"env": env})))

    assert reason() is None and reason(multi_scale=True) is None
    assert "whole number" in reason(z_e=7.5) and "step_scale" in reason(step_scale=0.5)


def test_strictly_above_counts_one_hit_less_at_a_tie(bank):
    true = truth_of(bank)
    alone = GroundTruth(true[:, None].numpy(), bank.duration[bank.video].numpy())
    half = torch.stack((true[:, 0], true.mean(1)), 1)
    run, prediction = run_of(bank, Prediction(half, ranked=half[:, None]))
    for comparison, share in ((">=", 1), (">", 0)):
        protocol = protocol_of(bank.store, Cell("ctrl", 0, "", ""), comparison)
        row = system_row("ctrl", [run], [score(prediction, alone, protocol.thresholds, comparison)], protocol)
        assert row["metrics"]["Acc@.5"] == row["metrics"]["R@5 IoU=.5"] == share


# Several true windows, several annotators ---------------------------------------------------------------------------


def test_several_true_windows_count_by_the_best_everywhere(bank):
    truth = [[[0, 10], [50, 60]], [[0, 10], [NAN, NAN]]]
    top = [[[20, 30], [50, 60]], [[20, 30], [50, 60]]]
    assert metrics.recall(top, truth, 2, 0.5).tolist() == [1, 0]
    assert metrics.discounted_recall(top, truth, [100, 100], 2, 0.5).tolist() == [1, 0]
    several = bank.truth.shape[1] > 1
    last = bank.truth[:, -1] * bank.duration[bank.video][:, None]
    assert several and score(Prediction(last), bank)["IoU"] == pytest.approx(1)


def test_annotators_who_agree_outweigh_one_who_does_not():
    agree, apart = [[0, 10], [0, 10], [0, 10], [50, 60]], [[0, 10], [20, 30], [40, 50], [50, 60]]
    assert metrics.annotator_iou([[0, 10], [0, 10]], [agree, apart]).tolist() == pytest.approx([1, 1 / 3])
    assert metrics.annotator_iou([[50, 60]], [agree]).tolist() == pytest.approx([1 / 3])
    assert metrics.annotator_iou([[50, 60]], [agree], best=1).tolist() == [1]
