"""Queries with several true windows: targets, rewards and scores of systems mean any of them."""

from __future__ import annotations

import pytest
import torch

from strong_envs.agents.baselines.candidates import nearest_truth as nearest_candidate
from strong_envs.agents.baselines.sequential import nearest_truth
from strong_envs.agents.baselines.sm_rl import inside_truth
from strong_envs.agents.cli import held_out
from strong_envs.agents.registry import Prediction
from strong_envs.agents.strong.frame_attention.training import inside_shares
from strong_envs.features import FeatureBank, Query, StoreContents, StoredVideo, write_store
from strong_envs.temporal.task import make_task


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """One video of 20 s; a query with three windows and one with one, which is repeated."""
    generator = torch.Generator().manual_seed(0)
    windows = ((2.0, 4.0), (10.0, 16.0), (12.0, 18.0)), ((5.0, 6.0),)
    contents = StoreContents(
        name="several",
        videos=[StoredVideo("v", 20.0, 40)],
        queries=[Query(f"q{i}", "v", f"sentence {i}", w, "train") for i, w in enumerate(windows)],
        frames=torch.randn(40, 4, generator=generator).numpy(),
        query_vectors=torch.randn(2, 5, generator=generator).numpy(),
    )
    store = write_store(tmp_path_factory.mktemp("several") / "store", contents)
    return FeatureBank(store, "train")


def test_stretches_inside_any_window_are_inside_the_moment(bank):
    shares = inside_shares(bank.truth, 20)
    wanted = torch.zeros(2, 20)
    wanted[0, 2:4], wanted[0, 10:18], wanted[1, 5] = 1, 1, 1
    assert torch.allclose(shares, wanted)
    halves = inside_shares(torch.tensor([[[0.0, 0.25], [0.5, 0.75]]], dtype=torch.float64), 2)
    assert halves.tolist() == [[0.5, 0.5]], "two windows in one stretch add up"
    both = inside_shares(torch.tensor([[[0.1, 0.2], [0.3, 0.4]]], dtype=torch.float64), 2)
    assert torch.allclose(both, torch.tensor([[0.4, 0.0]]))


def test_concepts_are_learnt_in_every_window(bank):
    where = torch.linspace(0, 1, 201)
    at = inside_truth(bank.truth[:1].expand(201, -1, -1), where) * 20
    inside = ((at >= 2 - 1e-4) & (at <= 4 + 1e-4)) | ((at >= 10 - 1e-4) & (at <= 18 + 1e-4))
    assert inside.all() and (at < 5).any() and (at > 16.5).any()
    assert abs(float((at < 5).float().mean()) - 2 / 14) < 0.02, "in proportion to their length"
    alone = inside_truth(bank.truth[1:].expand(201, -1, -1), where) * 20
    assert torch.allclose(alone, 5 + where, atol=1e-4), "a repeated window counts once"


@pytest.mark.parametrize(("window", "nearest"), [((2.5, 4.5), 0), ((9.0, 15.0), 1), ((13.0, 19.0), 2), ((4.0, 6.0), 0)])
def test_targets_are_the_nearest_window(window, nearest, bank):
    span = torch.tensor([window], dtype=torch.float64)
    truth = bank.truth[:1]
    assert torch.equal(nearest_candidate(span / 20, truth)[0], truth[0, nearest])
    task = make_task(bank, boxes="frame")
    found = nearest_truth(task, torch.tensor([0]), span[:, 0], span[:, 1])
    assert torch.allclose(found[0], truth[0, nearest].to(torch.float32))


def test_held_out_scores_count_any_window(bank):
    class Exact:
        def predict(self, bank):
            return Prediction(torch.tensor([[12.0, 18.0], [5.0, 6.0]], dtype=torch.float64))

    assert held_out(Exact(), bank) == pytest.approx(1.0)
