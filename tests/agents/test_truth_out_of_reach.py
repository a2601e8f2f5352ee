"""An agent that predicts gets features and sentences, no truth; ``info`` withholds the truth of a test part."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from strong_envs import agents, features
from strong_envs.agents.registry import shown_to
from strong_envs.benchmarks.execution.cell import Cell, run_cell
from strong_envs.core.env_base import TRUTH
from strong_envs.features.bank.masked import TruthRefused
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import TemporalConfig, TemporalTask

LOOKS = {
    "truth": lambda bank: bank.truth,
    "true boxes": lambda bank: bank.true_boxes,
    "track base": lambda bank: bank.track_base,
    "one true box": lambda bank: bank.true_box(torch.tensor([0]), torch.tensor([0])),
    "windows of a query": lambda bank: bank.queries[0].windows[0],
    "their number": lambda bank: len(bank.queries[0].windows),
    "windows in a loop": lambda bank: [start for start, _ in bank.queries[0].windows],
    "windows of the store": lambda bank: bank.store.queries[0].windows[-1],
    "boxes of the store": lambda bank: bank.store.tensor("boxes"),
    "maps of the boxes": lambda bank: bank.store.maps("boxes"),
    "tracks": lambda bank: bank.store.tracks,
    "boxes as a source": lambda bank: LocalFeatures(bank, "truth"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_masked_bank_refuses_every_way_to_the_truth(look, ragged_store: str) -> None:
    bank = features.load(ragged_store, "test")
    look(bank)
    with pytest.raises(TruthRefused, match="hidden: an agent predicts without the truth. Read it in fit"):
        look(bank.masked())


def test_a_masked_bank_is_the_same_bank_otherwise(ragged_store: str) -> None:
    bank = features.load(ragged_store, "test")
    masked = bank.masked()
    assert masked is bank.masked() is masked.masked() and isinstance(masked, features.FeatureBank)
    for name in ("query", "frames", "duration", "n_frames", "offsets", "video", "grid"):
        assert getattr(masked, name) is getattr(bank, name), name
    assert masked.frame_means is bank.frame_means and masked.grid_prefix[0] is bank.grid_prefix[0]
    assert (masked.qids, masked.texts, len(masked), masked.name) == (bank.qids, bank.texts, len(bank), bank.name)
    assert masked.has_boxes and masked.store.content_hash == bank.store.content_hash
    assert [q.text for q in masked.queries] == bank.texts and masked.max_frames == bank.max_frames
    assert np.array_equal(masked.store.tensor("frames"), bank.store.tensor("frames"))
    drawn = features.load("shapes-v0", "test").masked()
    assert not any(q.extra for q in drawn.queries) and not any(v.extra for v in (*drawn.videos, *drawn.store.videos))
    assert not {"queries", "videos", "tracks"} & drawn.store.manifest.keys()


def test_a_task_observes_and_moves_without_the_truth(ragged_store: str) -> None:
    bank = features.load(ragged_store, "test")
    seen, open_ = (TemporalTask(b, LocalFeatures(b, "frame"), TemporalConfig()) for b in (bank.masked(), bank))
    samples = torch.arange(len(bank))
    start, end = seen.initial(samples)
    t = torch.zeros_like(samples)
    for name, part in seen.observe(samples, start, end, t).items():
        assert torch.equal(part, open_.observe(samples, start, end, t)[name])
    for action in range(seen.n_actions):
        actions = torch.full_like(samples, action)
        moved = open_.move(samples, start, end, t, open_.iou(samples, start, end), actions)
        assert all(torch.equal(a, b) for a, b in zip(seen.shift(start, end, actions), moved[:2], strict=False))
        assert torch.equal(seen.shift(start, end, actions)[2], moved.terminated)
    with pytest.raises(TruthRefused):
        seen.iou(samples, start, end)


SYSTEMS = [name for name, spec in agents.REGISTRY.items() if not spec.needs_objects]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_predicts_the_same_without_the_truth(name: str, ragged_store: str) -> None:
    if name.startswith("sb3") and importlib.util.find_spec("stable_baselines3") is None:
        pytest.skip("Stable-Baselines3 is not installed")
    train, test = (features.load(ragged_store, split) for split in ("train", "test"))
    if agents.incompatibility(name, train):
        train, test = (features.load("shapes-v0", split) for split in ("train", "test"))
    system = agents.make(name, train, seed=0, budget=1e-3)
    if name == "random policy" or name.startswith("sb3"):
        system.fit()  # others answer untrained
    shown = shown_to(name, {}, test)
    assert (shown is test) == agents.find(name).upper_bound
    if not agents.find(name).upper_bound:
        assert torch.equal(predicted(system, shown), predicted(system, test))


def predicted(system, bank) -> torch.Tensor:
    torch.manual_seed(0)
    return system.predict(bank).spans


CHEAT = """
class Cheat:
    '''Looks.'''
    {declared}

    def __init__(self, bank, seed=0, budget=1.0):
        self.bank = bank

    def fit(self, report=None, evaluate=None):
        assert self.bank.truth.shape[0] == len(self.bank)
        return self

    def predict(self, bank):
        return bank.truth[:, 0] * bank.duration[bank.video][:, None]
"""


def test_an_agent_that_looks_is_refused_unless_it_says_that_it_is_an_upper_bound(
    ragged_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "cheat_unsaid.py").write_text(CHEAT.format(declared=""))
    (tmp_path / "cheat_said.py").write_text(CHEAT.format(declared="upper_bound = True"))
    data = features.open_store(ragged_store).content_hash
    with pytest.raises(TruthRefused, match="an upper bound registers with upper_bound=True"):
        run_cell(Cell("cheat_unsaid:Cheat", 0, ragged_store, data), tmp_path)
    result = run_cell(Cell("cheat_said:Cheat", 0, ragged_store, data), tmp_path)
    assert min(result["scores"]["IoU"]) > 0.99


@pytest.mark.parametrize(
    ("env", "options", "entries"),
    [
        ("TemporalMoment-v0", {}, {"tiou", "true_span", "true_spans"}),
        ("TemporalOneShot-v0", {}, {"tiou", "true_span", "true_spans"}),
        ("TemporalLook-v0", {}, {"tiou", "true_span", "true_spans"}),
        ("SpatialTrack-v0", {"reward": "box_iou"}, {"box_iou", "coverage", "true_spans"}),
    ],
)
def test_info_withholds_the_truth_of_a_test_part_unless_it_is_asked_for(env, options, entries, ragged_store) -> None:
    options = {**options, "features": ragged_store, "info": "full"}

    def told(split: str, **more: bool) -> list[set[str]]:
        one = gym.make(env, split=split, **options, **more)
        found = [one.reset(seed=0)[1]]
        found.append(one.step(one.action_space.sample())[4])
        many = gym.make_vec(env, 2, split=split, vectorization_mode="vector_entry_point", **options, **more)
        found.append(many.reset(seed=0)[1])
        arguments = {**options, **more, "autoreset_mode": "SameStep"}
        same = gym.make_vec(env, 2, split=split, vectorization_mode="vector_entry_point", **arguments)
        same.reset(seed=0)
        for _ in range(25):
            info = same.step(same.action_space.sample())[4]
            found += [info, *([info["final_info"]] if "final_info" in info else [])]
        return [{name.lstrip("_") for name in one} & {*TRUTH} for one in found]

    assert all(names == entries for names in told("train"))
    assert all(names == entries for names in told("val"))
    assert all(names == set() for names in told("test"))
    assert all(names == entries for names in told("test", reveal_truth=True))
    assert all(names == set() for names in told("train", reveal_truth=False))
    with pytest.raises(features.DataError, match="reveal_truth must be True, False or None, got 'yes'"):
        gym.make(env, **options, reveal_truth="yes")
