"""Sentences in unknown words: read as the known ones that they are nearest to."""

from __future__ import annotations

import torch

from strong_envs import features
from strong_envs.agents.training.sentences import MOST, KnownWords, Sentences


def test_a_known_sentence_stays_and_an_unknown_one_becomes_what_it_is_nearest_to():
    known = torch.eye(4)[[0, 1, 2, 2]] * 3
    sentences = Sentences(known)
    assert torch.allclose(sentences.read(known), known, atol=1e-4)
    mixed = sentences.read(torch.tensor([[0.9, 0.2, 0.0, 0.8], [1.0, 1.0, 0.0, 0.0]]))
    assert torch.allclose(mixed[0], known[0], atol=1e-3), "what no training sentence has is left out"
    assert torch.allclose(mixed[1], (known[0] + known[1]) / 2, atol=1e-3), "as near to two: their mean"


def test_many_sentences_and_those_of_another_choice_are_read_as_they_are():
    many = torch.randn(MOST + 1, 8, generator=torch.Generator().manual_seed(0))
    new = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(Sentences(many).read(new), new)
    assert torch.equal(Sentences(many[:5], read_as_known=False).read(new), new)
    assert not torch.allclose(Sentences(many[:5]).read(new), new, atol=0.1)


def test_weights_of_one_split_load_into_a_network_made_for_another():
    one, other = Sentences(torch.eye(3)), Sentences(torch.randn(7, 3))
    other.load_state_dict(one.state_dict())
    new = torch.tensor([[0.5, 0.1, 0.0]])
    assert torch.equal(one(new), other(new))


def test_a_bank_in_known_words_shares_all_but_its_sentences():
    bank = features.load("shapes-v0", "test")
    known = features.load("shapes-v0", "train").query[:40]
    words = KnownWords(known)
    read = words.bank(bank)
    assert torch.equal(read.query, Sentences(known).read(bank.query)) and not torch.equal(read.query, bank.query)
    assert read.frames is bank.frames and read.texts == bank.texts
    assert words.bank(bank) is read, "computed once"
    assert KnownWords(torch.randn(MOST + 1, bank.query_dim)).bank(bank) is bank
