"""A saved system carries its card: data, protocol, scores, licence; and one folder is enough to load it."""

from __future__ import annotations

import json
import shutil

import pytest

from strong_envs import agents
from strong_envs.agents.inference import WEIGHTS
from strong_envs.agents.model_card import Card, as_markdown, card_file, read_card, write_card
from strong_envs.benchmarks.cli import main
from strong_envs.features import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished training of a second."""
    out = tmp_path_factory.mktemp("card") / "run"
    words = "--features shapes-v0 --system one-shot --budget 0.01 --evaluations 1 --out"
    assert main(["train", *words.split(), str(out)]) == 0
    return out


def test_a_training_writes_a_card_with_the_score_of_its_result(folder):
    card = read_card(folder)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert card.system == "one-shot" and card.scores["mIoU"] == result["mIoU"]
    assert card.drawn and card.test == "test" and card.queries > 0 and card.data.startswith("shapes-v0")
    assert set(card.scores) == {"mIoU", "Acc@.3", "Acc@.5", "Acc@.7"} and "MIT" in card.licence
    words = (folder / "README.md").read_text(encoding="utf-8")
    assert words.startswith("---\nlicense: mit") and f"{100 * card.scores['mIoU']:.2f}" in words
    assert "drawn shapes" in words and card.data_hash[:12] in words


def test_a_copied_folder_is_all_that_loading_needs(folder, tmp_path):
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for name in ("system.safetensors", "system.card.json", "README.md"):
        shutil.copy(folder / name, copy)
    system = agents.load(copy, features="shapes-v0")
    assert system.card == read_card(folder)
    moment = system.predict("shapes-standard-test-000000", "the red circle moves left")
    assert 0 <= moment.start < moment.end <= 6.0


def test_the_shipped_system_has_a_card():
    card = agents.pretrained().card
    assert (
        card.drawn and card.scores["mIoU"] > 0.85 and "held-out queries (test) of shapes-v0-full" in card.score_line()
    )
    assert card_file(WEIGHTS).is_file()


def test_cards_are_optional_and_read_without_trust(tmp_path):
    assert read_card(tmp_path) is None
    card_file(tmp_path).write_text('{"system": 7}', encoding="utf-8")
    with pytest.raises(DataError, match="is no model card"):
        read_card(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("scores", {"mIoU": 90.6}), ("queries", -3), ("budget", 1e308)])
def test_a_card_with_impossible_numbers_is_refused(field, value, tmp_path):
    card = json.loads(card_file(WEIGHTS).read_text()) | {field: value}
    card_file(tmp_path).write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(DataError, match=f"is no model card.*{field}"):
        read_card(tmp_path)


def test_a_card_survives_writing(tmp_path):
    facts = {"data": "mine", "data_hash": "0" * 64, "world": "other", "train": "train", "test": "test", "queries": 3}
    card = Card(system="mine:Mine", description="d", protocol="p", scores={"mIoU": 0.5}, seed=1, budget=1.0, **facts)
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card and "drawn shapes" not in as_markdown(card)


def test_loading_an_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="no agent at"):
        agents.load(tmp_path)
