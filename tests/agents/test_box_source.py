"""Other systems look through the boxes of a trained STRONG."""

from __future__ import annotations

import pytest
import torch

from strong_envs import agents, features
from strong_envs.agents.box_source import local_features, tracked_boxes
from strong_envs.agents.strong.agent import Strong
from strong_envs.benchmarks.results.rows import given_boxes
from strong_envs.features.errors import DataError

QUICK = {
    "mcn": dict(steps=10),
    "read": dict(steps=640, num_envs=8),
    "sm-rl": dict(steps=5, early_stopping=False),
    "tsp-prl": dict(steps=640),
}


@pytest.fixture(scope="module")
def test_bank():
    return features.load("shapes-v0", "test")


@pytest.mark.parametrize("name", QUICK)
def test_a_system_looks_through_the_boxes_that_ship(name, test_bank, tmp_path):
    boxes = tracked_boxes("pretrained", test_bank)
    assert boxes.shape == (int(local_features(test_bank, "truth", 0.0).rows[-1]), 4)
    named = agents.make(name, test_bank, boxes="pretrained", **QUICK[name]).fit()
    given = agents.make(name, test_bank, boxes=boxes, **QUICK[name]).fit()
    whole = agents.make(name, test_bank, **QUICK[name]).fit()
    spans = [system.predict(test_bank).spans for system in (named, given, whole)]
    assert torch.equal(spans[0], spans[1]) and not torch.equal(spans[0], spans[2])
    path = str(tmp_path / "saved.safetensors")
    named.save(path)
    assert torch.equal(type(named).load(path, test_bank).predict(test_bank).spans, spans[0])


def test_the_boxes_that_ship_lie_on_the_named_object(test_bank):
    boxes = tracked_boxes("pretrained", test_bank)
    true = local_features(test_bank, "truth", 0.0)
    middle = (true.boxes[:, :2] + true.boxes[:, 2:]) / 2
    inside = ((boxes[:, :2] <= middle) & (middle <= boxes[:, 2:])).all(-1)
    assert float(inside.float().mean()) > 0.8


def test_a_bank_is_tracked_once_for_a_file_as_it_stands(ragged_store, tmp_path, monkeypatch):
    bank = features.load(ragged_store, "test")
    path = tmp_path / "strong.safetensors"
    system = agents.make("strong", bank, budget=0.001, rounds=1).fit()
    system.save(str(path))
    tracks = []
    plain = Strong.boxes
    monkeypatch.setattr(Strong, "boxes", lambda self, *given: tracks.append(1) or plain(self, *given))
    first = tracked_boxes(str(path), bank)
    assert torch.equal(first, system.predict(bank).boxes)
    tracks.clear()
    assert tracked_boxes(str(path), bank) is first and not tracks
    other = agents.make("strong", bank, seed=1, budget=0.001, rounds=1).fit()
    other.save(str(path))
    tracks.clear()
    tracked_boxes(str(path), bank)
    assert tracks == [1], "a file written anew is another tracker"


def test_files_that_track_nothing_are_refused(ragged_store, tmp_path):
    bank = features.load(ragged_store, "test")
    with pytest.raises(DataError, match="there is no saved system at"):
        agents.make("ctrl", bank, boxes=str(tmp_path / "no.safetensors"))
    for name, options, says in (("trl", {}, "tracks nothing, it was trained with 'frame'"), ("mcn", {}, "not a saved")):
        path = str(tmp_path / f"{name}.safetensors")
        agents.make(name, bank, budget=0.001, **options).fit().save(path)
        with pytest.raises(DataError, match=says):
            agents.make("read", bank, boxes=path)
    with pytest.raises(DataError, match="trained on other features"):
        agents.make("ctrl", bank, boxes="pretrained")


def test_the_row_says_whose_boxes():
    def note(system, boxes):
        return given_boxes([{"system": system, "options": {"boxes": boxes}}]).get("note")

    assert note("mcn", "results/a/strong.safetensors") == "looks through the boxes of strong.safetensors."
    assert note("read", "pretrained") == "looks through the boxes of pretrained."
    assert note("ctrl", "truth") == "trained and scored on true boxes: an upper bound."
    assert note("blind", "truth") is note("ctrl", "frame") is note("ctrl", None) is note("GT boxes", "truth") is None
