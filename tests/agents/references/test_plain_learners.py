"""The reference rows that keep a table honest: bilinear regression, and the rule that learns nothing."""

from __future__ import annotations

import pytest
import torch

from strong_envs import agents, features
from strong_envs.agents.references.colour_motion import meaning
from strong_envs.benchmarks.metrics.score import score
from strong_envs.features.errors import DataError
from strong_envs.features.shapes.language import COLOUR_WORDS, EVENT_PHRASES


def miou(system, bank) -> float:
    return float(score(system.predict(bank.masked()), bank)["IoU"].mean())


def test_every_sentence_of_the_default_world_is_understood():
    for split in ("train", "val", "test"):
        for query in features.load("shapes-v0", split).queries:
            assert meaning(query.text) == (query.extra["colour"], query.extra["event"]), query.text
    for event, phrases in EVENT_PHRASES.items():
        assert all(meaning(f"the red disc {phrase}")[1] == event for phrase in phrases)
    assert {meaning(f"a {word} block")[0] for words in COLOUR_WORDS.values() for word in words} == set(COLOUR_WORDS)
    assert meaning("a person opens the door") == (None, None)


def test_the_rule_learns_nothing_and_is_far_above_what_ignores_the_video():
    test = features.load("shapes-easy-v0", "test")
    rule = agents.make("colour x motion rule", features.load("shapes-easy-v0", "train"))
    before = rule.predict(test.masked()).spans
    assert torch.equal(rule.fit().predict(test.masked()).spans, before)
    assert miou(rule, test) > 0.75  # two objects of different colours: the named one decides
    standard = features.load("shapes-v0", "test")
    other = agents.make("colour x motion rule", features.load("shapes-v0", "train"))
    assert 0.35 < miou(other, standard) < 0.6  # another object of the colour does the same event


def test_the_rule_exists_for_stores_with_its_channels_alone(ragged_store):
    with pytest.raises(DataError, match="reads channels of the default world by name"):
        agents.make("colour x motion rule", features.load(ragged_store, "train"))


@pytest.mark.slow
def test_bilinear_regression_uses_the_frames():
    train, val = (features.load("shapes-easy-v0", part) for part in ("train", "val"))
    system = agents.make("bilinear regression", train, budget=0.2).fit()
    assert miou(system, train) > 0.45
    assert 0 <= float(system.confidence(val, system.predict(val)).min()) <= 1


def test_bilinear_regression_is_the_same_after_a_file(tmp_path):
    train, val = (features.load("shapes-v0", part) for part in ("train", "val"))
    system = agents.make("bilinear regression", train, budget=0.01).fit()
    system.save(str(tmp_path / "x.safetensors"))
    again = type(system).load(str(tmp_path / "x.safetensors"), train)
    assert torch.equal(system.predict(val.masked()).spans, again.predict(val.masked()).spans)
    assert (system.net.frame.weight != 0).any()


def test_an_untrained_bilinear_regression_prefers_no_frame():
    train = features.load("shapes-v0", "train")
    system = agents.make("bilinear regression", train)
    logits = system.logits(train, torch.arange(4))
    assert logits.shape == (4, 60) and not logits.any()
