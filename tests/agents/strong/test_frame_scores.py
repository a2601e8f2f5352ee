"""STRONG with the scores of its frame attention: the observation by hand, the attention frame by frame, files,
refusals."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_strong import small_strong

from strong_envs import agents, features
from strong_envs.agents.strong.agent import Strong
from strong_envs.agents.strong.cell_attention.cells import lattice
from strong_envs.agents.strong.frame_attention import scores as frame_scores
from strong_envs.agents.strong.frame_attention.attention import FrameAttention, FrameAttentionArgs
from strong_envs.agents.strong.frame_attention.scores import (
    SUREST,
    FrameScoresTask,
    clip_groups,
    cross_fitted,
    footage_recurs,
)
from strong_envs.agents.strong.frame_attention.training import FrameAttentionTraining
from strong_envs.agents.strong.presets import strong_args
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import TemporalConfig, TemporalTask


@pytest.fixture(scope="module")
def bank(ragged_store):
    return features.load(ragged_store, "train")


@pytest.mark.parametrize("context", [True, False])
def test_the_observation_has_the_means_of_the_log_odds_in_the_windows_of_f_o(context, bank):
    local, config = LocalFeatures(bank, "initial"), TemporalConfig(context=context)
    frame_logits = torch.randn(int(local.rows[-1]), generator=torch.Generator().manual_seed(0)) * 4
    task = FrameScoresTask(bank, local, config, frame_logits)
    state = task.random_states(64, torch.Generator().manual_seed(1))
    samples, start, end, t = (state[name] for name in ("sample", "start", "end", "t"))
    seen, plain = (each.observe(samples, start, end, t) for each in (task, TemporalTask(bank, local, config)))
    assert {name: tuple(part.shape[1:]) for name, part in seen.items()} == task.dims()
    assert all(torch.equal(seen[name], plain[name]) for name in plain)
    first, last = task.windows(samples, start, end)
    for row, sample in enumerate(samples.tolist()):
        mine = frame_logits[int(local.rows[sample]) : int(local.rows[sample + 1])].clamp(-SUREST, SUREST)
        for part, (low, high) in enumerate(zip(first[row].tolist(), last[row].tolist(), strict=True)):
            expected = mine[low:high].mean() if high > low else torch.tensor(0.0)
            assert torch.isclose(seen["frame_scores"][row, part], expected, atol=1e-4)


@pytest.mark.parametrize("objective", ["contrast", "labels", "both"])
@pytest.mark.parametrize("change", [0.0, 0.1])
def test_the_scores_of_a_frame_are_their_formula(change, objective, bank):
    args = FrameAttentionArgs(hidden=8, inside_hidden=8, change=change, objective=objective)
    frame_attention = FrameAttention(bank, args, seed=3)
    boxes, frame_logits = frame_attention.attend(bank)
    lengths = bank.n_frames[bank.video].tolist()
    assert len(frame_logits) == sum(lengths) and torch.equal(boxes, frame_attention.boxes(bank))
    sample = max(range(len(bank)), key=lambda s: (lengths[s] < 40, lengths[s]))
    base, n = int(bank.offsets[bank.video[sample]]), lengths[sample]
    query = frame_attention.query(bank, torch.tensor([sample]))

    def around(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack([rows[max(i - 1, 0) : i + 2].mean(0) for i in range(n)])

    cells = around(frame_attention._cells(bank.grid[base : base + n]))
    weights = around(frame_attention.attention(cells[None], query)[0]).softmax(-1)
    seen = (weights[..., None] * cells).sum(1)
    if change:
        reach = round(change * n)
        ends = [(max(i - reach, 0), min(i + reach, n - 1)) for i in range(n)]
        assert reach > 1
        seen = torch.cat((seen, torch.stack([(seen[b] - seen[a]) / (b - a) * 2 * reach for a, b in ends])), -1)
    expected = frame_attention.inside(seen[None], query)[0]
    if objective == "contrast":
        expected = (expected.softmax(0) * n).log()
    start = sum(lengths[:sample])
    assert torch.allclose(frame_logits[start : start + n], expected, atol=1e-4)


def test_frame_scores_enter_after_the_first_turn_and_survive_saving(ragged_store, bank, tmp_path):
    test = features.load(ragged_store, "test")
    system = Strong.of(bank, small_strong(learns_from="frame labels", frame_scores=True))
    assert not system.task.frame_logits.any(), "scores are 0 before the frame attention is trained"
    system.fit()
    assert torch.equal(system.task.frame_logits, system.frame_attention.attend(bank)[1])
    wanted = system.predict(test)
    for lean in (False, True):
        system.save(str(tmp_path / "system.safetensors"), lean=lean)
        found = Strong.load(str(tmp_path / "system.safetensors"), test).predict(test)
        assert all(torch.equal(getattr(found, n), getattr(wanted, n)) for n in ("spans", "length", "path", "boxes"))
    with torch.no_grad():
        system.frame_attention.inside.out.weight *= -3
    assert not torch.equal(system.predict(test).path, wanted.path), "the agent does not look at it"


def test_the_registered_system_has_it_and_blind_hides_it(bank):
    assert agents.make("strong+frame scores", bank, budget=0.01).task.dims()["frame_scores"] == (5,)
    blind = Strong.of(bank, small_strong(learns_from="frame labels", frame_scores=True, blind=True))
    state = blind.task.random_states(8, torch.Generator().manual_seed(0))
    seen = blind.task.observe(*(state[name] for name in ("sample", "start", "end", "t")))
    other = {**seen, "frame_scores": seen["frame_scores"] + 1}
    assert torch.equal(blind.temporal.q_values(seen), blind.temporal.q_values(other))


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "frames"},
        {"boxes": "frame"},
        {"learns_from": "own rewards"},
        {"spatial_env": replace(strong_args().spatial_env, reward="signed_q")},
    ],
)
def test_frame_scores_require_frame_attention(changes, bank):
    with pytest.raises(DataError, match="frame_scores=True requires frame attention"):
        Strong.of(bank, strong_args(**{"learns_from": "frame labels", "frame_scores": True, **changes}))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_loaded_system_attends_as_the_one_that_was_saved(dropout, ragged_store, bank, tmp_path):
    test = features.load(ragged_store, "test")
    attention = FrameAttentionArgs(steps=5, queries=4, frames=6, hidden=8, inside_hidden=8, dropout=dropout)
    system = Strong.of(bank, small_strong("attention", "frame labels", frame_scores=True, frame_attention=attention))
    system.fit().save(str(tmp_path / "system.safetensors"))
    loaded = Strong.load(str(tmp_path / "system.safetensors"), test)
    for wanted, found in zip(*(s.frame_attention.attend(test) for s in (system, loaded)), strict=True):
        assert torch.equal(wanted, found)


def in_groups(bank, count=5):
    """The bank as a composed one: clips of some groups recur in all videos."""
    composed = copy.copy(bank)
    composed.queries = [replace(q, extra={**q.extra, "group": str(i % count)}) for i, q in enumerate(bank.queries)]
    return composed


@pytest.mark.parametrize("lean", [False, True])
def test_predictions_average_the_frame_attentions_of_all_folds(lean, ragged_store, bank, tmp_path):
    test = features.load(ragged_store, "test")
    args = small_strong("attention", "frame labels", frame_scores=True, folds=2, average_folds=True)
    system = Strong.of(in_groups(bank), args).fit()
    members = [system.frame_attention, *system.fold_attentions]
    assert len({float(member.inside.out.bias.detach()) for member in members}) == 3, "each learnt from other groups"
    said = system._scores(test).logits
    mean = sum(member.attend(test)[1] for member in members) / 3
    assert torch.allclose(said, mean, atol=1e-5)
    path = str(tmp_path / "system.safetensors")
    system.save(path, lean=lean)
    wanted = system.predict(test)
    # No footage recurs in the test part; what was trained decides.
    found = Strong.load(path, test).predict(test)
    assert torch.equal(found.spans, wanted.spans) and torch.equal(found.boxes, wanted.boxes)


def test_where_no_footage_recurs_there_is_one_frame_attention(bank):
    system = Strong.of(bank, small_strong("attention", "frame labels", frame_scores=True, average_folds=True))
    assert system.fold_attentions is None


@pytest.mark.parametrize("every", [2, 3])
def test_a_lattice_reads_the_cells_that_all_cells_have_there(every, bank):
    args = FrameAttentionArgs(steps=2, queries=4, frames=6, hidden=4, inside_hidden=4, lattice=every)
    frame_attention = FrameAttention(bank, args)
    training = FrameAttentionTraining(frame_attention, bank, torch.Generator().manual_seed(0))
    samples = torch.arange(len(bank))[:8]
    cells, query = frame_attention.inputs(bank, samples, 6)
    at = lattice(*bank.grid_shape[:2], every, torch.Generator().manual_seed(5))
    assert 0 < len(at) < cells.shape[2]
    training.generator.manual_seed(5)
    found = training._logits(samples)
    assert torch.allclose(found, frame_attention.scores(cells[:, :, at], query), atol=1e-2)
    assert not torch.allclose(found, frame_attention.scores(cells, query), atol=1e-2)


def test_no_sample_is_answered_by_what_learnt_from_its_footage(bank, monkeypatch):
    composed = in_groups(bank)
    assert footage_recurs(composed) and not footage_recurs(bank)
    learnt: list[set[int]] = []

    class Recorded(FrameAttentionTraining):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            learnt.append(set(clip_groups(composed)[args[4]].tolist()))

    def which(self, given, wanted):
        rows = int(given.n_frames[given.video][wanted].sum())
        return torch.full((rows, 4), float(len(learnt))), torch.full((rows,), float(len(learnt)))

    monkeypatch.setattr(frame_scores, "FrameAttentionTraining", Recorded)
    monkeypatch.setattr(FrameAttention, "attend", which)
    found = cross_fitted(composed, FrameAttentionArgs(steps=2, queries=4, frames=6, hidden=4, inside_hidden=4), 0, 3)
    lengths = composed.n_frames[composed.video].tolist()
    by_sample = [part[0] for part in found.logits.split(lengths)]
    assert len(learnt) == 3 and set.union(*learnt) == set(range(5))
    for group, told in zip(clip_groups(composed).tolist(), by_sample, strict=True):
        assert group not in learnt[int(told) - 1]
    assert torch.equal(found.peaks[:, 0], found.logits)
