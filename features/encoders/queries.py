"""Vectors of queries, and what the encoder did not understand of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from strong_envs.features.datasets.leaks import plain_text
from strong_envs.features.datasets.types import Query, Report
from strong_envs.features.encoders.text import TextEncoder


def encode_queries(
    encoder: TextEncoder, queries: Sequence[Query], report: Report
) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """Encode queries, and report what the vectors lost.

    Doubtful rows are queries with tokens that the encoder does not know, queries of which it knows none, and different
    sentences with the same vector.

    Returns:
        Vectors (S, Dq) float32; the description of the encoder; and facts for the store's ``extra``: the share of
        unknown tokens, where the encoder can tell.
    """
    texts = [q.text for q in queries]
    vectors = encoder.encode(texts)
    counts = encoder.unknown(texts) if encoder.unknown is not None else [(0, 0)] * len(texts)
    for query, vector, (unknown, total) in zip(queries, vectors, counts, strict=True):
        if not vector.any() or (total and unknown == total):
            report.add("the text encoder knows no word of a query", "doubtful", f"{query.qid}: {query.text!r}")
        elif unknown:
            example = f"{query.qid}: {unknown} of {total} tokens of {query.text!r}"
            report.add("the text encoder does not know some words of a query", "doubtful", example)
    report_equal_vectors(queries, vectors, report)
    total = sum(n for _, n in counts)
    facts = {"unknown_tokens": round(sum(n for n, _ in counts) / total, 4)} if total else {}
    return vectors, {**encoder.describe(), "dim": vectors.shape[1]}, facts


def report_equal_vectors(queries: Sequence[Query], vectors: np.ndarray, report: Report) -> None:
    """Add a doubtful row for each query whose vector is that of another sentence."""
    first: dict[bytes, Query] = {}
    plain = {text: plain_text(text) for text in {q.text for q in queries}}
    for query, vector in zip(queries, vectors, strict=True):
        known = first.setdefault(vector.tobytes(), query)
        if plain[known.text] != plain[query.text]:
            example = f"{known.qid}: {known.text!r} and {query.qid}: {query.text!r}"
            report.add("different sentences have the same vector", "doubtful", example)
