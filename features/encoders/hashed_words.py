"""Sentence vectors that need no download: every word hashes to a fixed random sign vector, a sentence is their sum.

The bag-of-words form of feature hashing (Weinberger et al., ICML 2009) with dense signs: two different words have a
cosine of about 1 / sqrt(dim). Word order is lost, and words that mean the same are unrelated until a network learns it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from strong_envs.features.errors import DataError

_WORD = re.compile(r"\w+")


def normalise(text: str) -> str:
    """One spelling for all of a text: Unicode NFKC, without case. ASCII is lower-cased and nothing else."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, with the marks that many scripts write on letters."""
    text = normalise(text)
    if text.isascii():
        return _WORD.findall(text)
    return "".join(c if c == "_" or c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split()


@lru_cache(maxsize=8192)
def _word_vector(word: str, dim: int) -> np.ndarray:
    bits = np.frombuffer(hashlib.shake_256(word.encode()).digest((dim + 7) // 8), np.uint8)
    signs = np.unpackbits(bits)[:dim].astype(np.float32) * 2 - 1
    signs.flags.writeable = False
    return signs


def encode(texts: Sequence[str], dim: int = 128) -> np.ndarray:
    """Encode sentences as (S, dim) float32 rows of Euclidean length 1, the same on every machine and in every run.

    Words are those of `words`, which disregards case and spellings of Unicode; a repeated word counts twice. Raises
    DataError for a sentence without a single word, for a lone string in place of a sequence, and for ``dim`` < 1.
    """
    if isinstance(texts, str):
        raise DataError(f"texts must be a sequence of sentences, got one string {texts!r}; pass [{texts!r}]")
    if dim < 1:
        raise DataError(f"dim must be at least 1, got {dim}")
    rows = np.zeros((len(texts), dim), np.float32)
    for i, text in enumerate(texts):
        found = words(text)
        if not found:
            raise DataError(f"sentence {i} has no words: {text!r}")
        for word in found:
            rows[i] += _word_vector(word, dim)
    # An exact cancellation of signs is possible in a handful of dimensions; such a row stays zero.
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
