"""Nearest sentences by TF-IDF over an inverted index: NumPy only, exact, and the same result on every machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from strong_envs.features.errors import DataError

WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, in lower case; any script that puts spaces between its words."""
    return WORD.findall(text.lower())


class TfIdf:
    """Sentences as unit vectors of term count times log(N / (1 + document frequency)), never below zero.

    Args:
        texts: the N sentences to search. Words of a query that none of them holds are ignored.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        if not texts:
            raise DataError("an index needs at least one sentence")
        postings: dict[str, tuple[list[int], list[int]]] = {}
        for row, text in enumerate(texts):
            for word, count in Counter(words(text)).items():
                rows, counts = postings.setdefault(word, ([], []))
                rows.append(row)
                counts.append(count)
        self.size = len(texts)
        self.idf = {w: max(0.0, float(np.log(self.size / (1 + len(rows))))) for w, (rows, _) in postings.items()}
        squares = np.zeros(self.size)
        self._postings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, (rows, counts) in postings.items():
            if self.idf[word] > 0:
                weight = np.array(counts, np.float64) * self.idf[word]
                self._postings[word] = (np.array(rows, np.int64), weight)
                squares[self._postings[word][0]] += weight**2
        norm = np.sqrt(np.maximum(squares, np.finfo(np.float64).tiny))
        for at, weight in self._postings.values():
            weight /= norm[at]

    def similarities(self, text: str) -> np.ndarray:
        """Cosine similarity with every sentence: (N,) float64 in [0, 1]."""
        # Sorted words: equal bags of words add up in the same order and get exactly equal similarities.
        terms = sorted((w, c) for w, c in Counter(words(text)).items() if w in self._postings)
        weights = np.array([count * self.idf[word] for word, count in terms])
        total = np.zeros(self.size)
        if not terms:
            return total
        for (word, _), weight in zip(terms, weights / np.linalg.norm(weights), strict=True):
            at, values = self._postings[word]
            total[at] += weight * values
        return total

    def nearest(self, text: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` most similar sentences: their rows in ascending order and similarities; of equals the first rows.

        All sentences if there are no more than ``k``.
        """
        similarity = self.similarities(text)
        if k >= self.size:
            return np.arange(self.size), similarity
        bar = np.partition(similarity, self.size - k)[self.size - k]
        above = np.flatnonzero(similarity > bar)
        rows = np.sort(np.concatenate([above, np.flatnonzero(similarity == bar)[: k - len(above)]]))
        return rows, similarity[rows]
