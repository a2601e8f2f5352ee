"""CTRL, MCN and ACRN: sizes, losses by hand, gradients, ten samples, files, and the bound of their candidates."""

from __future__ import annotations

import math

import pytest
import torch
from supervised_scores import miou, only

from strong_envs import agents, features
from strong_envs.agents.baselines.acrn import AcrnArgs, TensorFusion, memory_attention
from strong_envs.agents.baselines.candidates import best_iou, candidate_oracle, rank
from strong_envs.agents.baselines.ctrl import Fusion, alignment_loss
from strong_envs.agents.baselines.mcn import McnArgs, distance, ranking_loss
from strong_envs.agents.baselines.ranking import WindowSystem, spread_frames
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures

SYSTEMS = ("ctrl", "mcn", "acrn")
KINDS = {name: agents.find(name).factory for name in SYSTEMS}
QUICK = {
    "ctrl": dict(steps=20, batch=8, embedding=16, hidden=12, scale_count=3),
    "mcn": dict(steps=20, batch=8, visual=16, language=16, embedding=8, scale_count=3),
    "acrn": dict(steps=20, batch=8, embedding=16, hidden=12, pool=4, scale_count=3),
}


@pytest.fixture(scope="module")
def train():
    return features.load("shapes-v0", "train")


@pytest.fixture(scope="module")
def test():
    return features.load("shapes-v0", "test")


def quick(name: str, bank, seed: int = 0, **changes) -> WindowSystem:
    return agents.make(name, bank, seed=seed, **{**QUICK[name], **changes})


def test_they_are_registered_and_need_no_grid(tmp_path):
    from random_stores import random_store

    bank = features.load(str(random_store(tmp_path / "flat", [12, 16, 20, 18], grid=False).path), "train")
    for name in SYSTEMS:
        entry = agents.find(name)
        assert name in agents.names() and entry.ranks_candidates and entry.needs_training
        assert agents.incompatibility(name, bank) is None
        assert isinstance(quick(name, bank, env={"multi_scale": True}), agents.System)


def test_ctrl_fuses_four_parts():
    torch.manual_seed(0)
    fusion, v, s = Fusion(6, 5), torch.randn(1, 4, 6), torch.randn(3, 1, 6)
    assert fusion.hidden.weight.shape == (5, 24) and fusion.out.weight.shape == (3, 5)
    out = fusion(v, s)
    assert out.shape == (3, 4, 3)
    for j in range(3):
        for i in range(4):
            a, b = v[0, i], s[j, 0]
            expected = fusion.out(torch.relu(fusion.hidden(torch.cat((a * b, a + b, a, b)))))
            assert torch.allclose(out[j, i], expected, atol=1e-6)


def test_acrn_attends_and_fuses_as_written():
    torch.manual_seed(0)
    parts, s = torch.randn(1, 4, 3, 8), torch.randn(2, 8)
    weights = memory_attention(parts, s)
    assert weights.shape == (2, 4, 3)
    for j in range(2):
        for i in range(4):
            e = [sum(math.tanh(s[j, d]) * math.tanh(parts[0, i, : k + 1, d].sum()) for d in range(8)) for k in range(3)]
            assert weights[j, i].tolist() == pytest.approx(torch.tensor(e).softmax(0).tolist(), abs=1e-5)
    fusion, v = TensorFusion(8, 5, 4), torch.randn(2, 4, 8)
    assert fusion.hidden.weight.shape == (5, 8 + 8 + 2 * 2)
    out = fusion(v, s)
    for j in range(2):
        for i in range(4):
            few_v, few_s = v[j, i].view(2, 4).mean(1), s[j].view(2, 4).mean(1)
            fused = torch.cat((v[j, i], s[j], torch.outer(few_v, few_s).flatten()))
            assert torch.allclose(out[j, i], fusion.out(torch.relu(fusion.hidden(fused))), atol=1e-6)
    with pytest.raises(DataError, match="pool must divide the embedding, 8; got 3"):
        AcrnArgs(embedding=8, pool=3)


def test_the_loss_of_ctrl_by_hand():
    outputs = torch.zeros(2, 2, 3)
    outputs[..., 0] = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    outputs[0, 0, 1:] = torch.tensor([0.1, -0.2])
    outputs[0, 1, 1:] = 9.0
    offsets = torch.tensor([[0.0, 0.0], [0.3, -0.4]])
    own = 1.5 * (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-3)))
    other = 0.5 * (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(0.5)))
    expected = (own + other) / 4 + 2.0 * (0.1 + 0.2 + 0.3 + 0.4) / 4
    assert float(alignment_loss(outputs, offsets, 2.0)) == pytest.approx(expected, abs=1e-6)


def test_the_loss_of_mcn_by_hand():
    windows, sentences = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), torch.tensor([[0.0, 1.0]])
    assert distance(windows, sentences).tolist() == [[2.0, 1.0]]
    own, intra, inter = torch.tensor([1.0, 0.2]), torch.tensor([0.5, 0.5]), torch.tensor([1.05, 0.0])
    # Margins 0.6 and none, 0.05 and 0.3.
    expected = 0.5 * 0.6 / 2 + 0.2 * (0.05 + 0.3) / 2
    assert float(ranking_loss(own, intra, inter, McnArgs())) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradient_reaches_every_parameter(name, train):
    system = quick(name, train)
    samples = system.examples().nonzero()[:40, 0]
    assert len(samples) == 40
    system.loss(samples, torch.Generator().manual_seed(0)).backward()
    for key, parameter in system.net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


TEN = {
    "ctrl": dict(regression=2.0),
    "mcn": dict(dropout=0.0, negative_iou=1.0, lr=0.1),
    "acrn": dict(regression=2.0, steps=1000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_ten_samples_are_learnt_by_heart(name, train):
    """From few videos: CTRL and ACRN compare the moments of a batch with each other and with nothing else."""
    ten = only(train, range(10))
    options = dict(steps=400, overlap=0.6, scale_count=4) | TEN[name]
    system = agents.make(name, ten, **options)
    bound = float(candidate_oracle(ten, system.windows).mean())
    before = miou(system, ten)
    assert bound > 0.8 and miou(system.fit(), ten) > max(bound - 0.2, before + 0.3)


@pytest.mark.parametrize("name", SYSTEMS)
def test_predictions_are_ranked_and_cannot_beat_the_oracle_of_their_windows(name, train, test):
    system = quick(name, train).fit()
    prediction = system.predict(test)
    size = len(test)
    assert prediction.spans.shape == (size, 2) and prediction.spans.dtype == torch.float64
    assert prediction.ranked.shape == (size, 10, 2) and prediction.scores.shape == (size, 10)
    assert torch.equal(prediction.spans, prediction.ranked[:, 0]) and (prediction.frames_seen == 1).all()
    absent = prediction.scores.isnan()
    assert torch.equal(absent, prediction.ranked.isnan().all(-1))
    assert (prediction.scores.diff(dim=1).nan_to_num(0.0) <= 0).all()
    seconds = prediction.ranked[~absent]
    assert (seconds[:, 0] < seconds[:, 1]).all() and seconds.min() >= 0
    assert (seconds <= test.duration.max()).all()
    found = (prediction.ranked / test.duration[test.video][:, None, None]).nan_to_num(0.0)
    reached = best_iou(found, test.truth).amax(-1)
    assert (reached <= system.oracle(test) + 1e-9).all()
    if system.reach:
        still = quick(name, train, reach=0.0).fit()
        found = still.predict(test).spans / test.duration[test.video][:, None]
        assert (best_iou(found[:, None], test.truth)[:, 0] <= candidate_oracle(test, still.windows) + 1e-9).all()


@pytest.mark.parametrize("name", [*SYSTEMS, "one-shot", "blind one-shot"])
def test_the_bound_of_candidates_stands_beside_their_row_and_is_never_beaten(name, ragged_store, tmp_path):
    from strong_envs.benchmarks.execution.cell import Cell, protocol_of, run_cell
    from strong_envs.benchmarks.metrics.ground_truth import GroundTruth
    from strong_envs.benchmarks.results.rows import scores_of, system_row

    store = features.open_store(ragged_store)
    cell = Cell(name, 0, ragged_store, store.content_hash, budget=0.01)
    result = run_cell(cell, tmp_path)
    found, bound = (torch.tensor(values) for values in (result["scores"]["IoU@5"], result["candidate_oracle"]))
    assert (found <= bound + 1e-5).all()
    protocol, bank = protocol_of(store, cell), features.load(ragged_store, "test")
    scores = scores_of(result, tmp_path, GroundTruth.of_bank(bank), protocol)
    row = system_row(name, [result], [scores], protocol)
    assert row["candidate_oracle"] == pytest.approx(float(bound.mean()), abs=1e-6)
    assert row["note"] == f"its candidates reach a mIoU of {100 * float(bound.mean()):.2f} at best."


@pytest.mark.parametrize("name", SYSTEMS)
def test_training_repeats_depends_on_the_seed_and_survives_saving(name, train, test, tmp_path):
    told, scored = [], []
    first = quick(name, train)
    state = torch.random.get_rng_state()
    first.fit(
        lambda stage, step, steps, scalars: told.append((stage, step, steps, scalars["loss"])),
        lambda system, stage: scored.append(stage) or {"IoU": miou(system, test)},
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert told[-1][:3] == ("training", 20, 20) and scored == ["training"]
    assert first.history[0]["stage"] == "training" and 0 < first.history[0]["IoU"] < 1
    again, other = quick(name, train).fit(), quick(name, train, seed=1).fit()
    one, same, different = (system.predict(test) for system in (first, again, other))
    assert torch.equal(one.scores.nan_to_num(9.0), same.scores.nan_to_num(9.0)) and torch.equal(one.spans, same.spans)
    assert not torch.equal(one.scores.nan_to_num(9.0), different.scores.nan_to_num(9.0))
    assert sum(p.numel() for p in first.parameters()) > 100

    path = str(tmp_path / "agent.safetensors")
    first.save(path)
    loaded = KINDS[name].load(path, test)
    restored = loaded.predict(test)
    assert loaded.history == first.history and loaded.args == first.args
    assert torch.equal(restored.ranked.nan_to_num(9.0), one.ranked.nan_to_num(9.0))
    assert torch.equal(restored.scores.nan_to_num(9.0), one.scores.nan_to_num(9.0))
    for wrong in set(SYSTEMS) - {name}:
        with pytest.raises(DataError, match=f"holds '{name}'"):
            KINDS[wrong].load(path, test)


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_update_on_a_device_never_waits_for_it(name, train):
    from fake_device import OnlyOn, moved

    system = quick(name, features.FeatureBank(train.store, "train"))
    samples = system.examples().nonzero()[:8, 0].to("meta")
    system.bank.frame_means  # noqa: B018  (prefix sums are made once, before training)
    moved(system.bank, "meta")
    for key, value in vars(system).items():
        if isinstance(value, torch.Tensor | torch.nn.Module):
            setattr(system, key, value.to("meta"))
    with OnlyOn():
        system.loss(samples, None).backward()
        scores, windows = system.score(system.bank, samples)
        rank(windows, scores, 5)
    assert scores.shape == (8, len(system.windows)) and windows.shape == (8, len(system.windows), 2)


@pytest.mark.parametrize("name", SYSTEMS)
def test_videos_of_any_length_and_several_true_windows(name, ragged_store):
    bank, test = features.load(ragged_store, "train"), features.load(ragged_store, "test")
    prediction = quick(name, bank, scale_count=5).fit().predict(test)
    assert prediction.spans.isfinite().all()
    assert (prediction.spans[:, 1] <= test.duration[test.video] + 1e-9).all()


BOXED = (*SYSTEMS, "one-shot")


@pytest.mark.slow
def test_boxes_replace_whole_frames_and_show_what_those_hide(train, test):
    whole = agents.make("mcn", train, budget=0.1).fit()
    boxed = agents.make("mcn", train, budget=0.1, boxes="truth", box_margin=0.05).fit()
    assert miou(boxed, test) > miou(whole, test) + 0.1


@pytest.mark.parametrize("name", BOXED)
def test_systems_over_windows_take_the_boxes_of_others(name, ragged_store, tmp_path):
    bank, test = (features.load(ragged_store, split) for split in ("train", "test"))
    options = QUICK.get(name, dict(steps=20, held_out=0.0))
    truth = [LocalFeatures(b, "truth").boxes for b in (bank, test)]
    named = agents.make(name, bank, boxes="truth", **options).fit()
    given = agents.make(name, bank, boxes=truth[0], **options).fit()
    first, second = named.predict(test), given.predict(test, truth[1])
    assert torch.equal(first.scores.nan_to_num(9.0), second.scores.nan_to_num(9.0))
    other = named.predict(test, "initial")
    assert not torch.equal(first.scores.nan_to_num(9.0), other.scores.nan_to_num(9.0))
    again = named.predict(test)
    assert torch.equal(first.scores.nan_to_num(9.0), again.scores.nan_to_num(9.0)), "boxes of one call stay with it"

    for system, file in ((named, "named"), (given, "given")):
        system.save(str(tmp_path / file))
    loaded = type(named).load(str(tmp_path / "named"), test)
    assert torch.equal(loaded.predict(test).ranked.nan_to_num(9.0), first.ranked.nan_to_num(9.0))
    with pytest.raises(DataError, match="was trained on given boxes; pass boxes="):
        type(named).load(str(tmp_path / "given"), test)
    loaded = type(named).load(str(tmp_path / "given"), test, truth[1])
    assert torch.equal(loaded.predict(test).ranked.nan_to_num(9.0), first.ranked.nan_to_num(9.0))


def test_single_frames_are_spread_over_all_samples(ragged_store):
    bank = features.load(ragged_store, "train")
    local = LocalFeatures(bank, "truth")
    total = int(local.rows[-1])
    every = spread_frames(local, total)
    expected = local.pool(local._frame_rows(torch.arange(len(bank))), local.boxes)
    assert torch.allclose(every, expected, atol=1e-4)
    assert torch.equal(spread_frames(local, total // 7), every[::7])


def test_boxes_that_a_bank_cannot_give_are_refused(train, tmp_path):
    from random_stores import random_store

    flat = features.load(str(random_store(tmp_path / "flat", [12, 16, 20, 18], grid=False).path), "train")
    with pytest.raises(DataError, match="has no true boxes|no true box"):
        agents.make("ctrl", flat, boxes="truth")
    with pytest.raises(DataError, match="did you mean 'truth'"):
        agents.make("ctrl", train, boxes="truht")


def test_the_budget_is_a_factor_on_the_updates(train):
    last = []
    quick("ctrl", train, budget=0.6).fit(lambda stage, step, steps, scalars: last.append(steps))
    assert last == [12]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("ctrl", dict(embeding=3), "did you mean 'embedding'"),
        ("ctrl", dict(steps=0), "steps must be a whole number in .*, got 0"),
        ("mcn", dict(budget=0.0), "budget must be a number in .*, got 0.0"),
        ("acrn", dict(scales=(2.0,)), "2.0"),
        ("ctrl", dict(reach=0.7), "reach"),
    ],
)
def test_wrong_options_are_explained(name, options, says, train):
    with pytest.raises(DataError, match=says):
        agents.make(name, train, **options)


def test_what_cannot_be_learnt_or_read_is_explained(train, ragged_store):
    with pytest.raises(DataError, match="no window of ctrl matches"):
        agents.make("ctrl", train, scales=(0.01,)).fit()
    one_video = only(train, (train.video == 0).nonzero()[:, 0].tolist())
    assert "needs 2 of them for training; 'shapes-v0:train' has 1" in agents.incompatibility("mcn", one_video)
    assert (
        agents.incompatibility("mcn", one_video, training=False) is None
        and agents.incompatibility("ctrl", one_video) is None
    )
    with pytest.raises(DataError, match="compares videos"):
        agents.make("mcn", one_video)
    with pytest.raises(DataError, match="diverged"):
        quick("mcn", train, lr=1e30).fit()
    with pytest.raises(DataError, match="was made for frames of 20"):
        quick("ctrl", train).predict(features.load(ragged_store, "test"))
