"""Videos and sentences that several splits share: a system may remember their answers instead of finding them."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Mapping
from itertools import combinations

from strong_envs.features.datasets.parsing import strip_video_suffix
from strong_envs.features.datasets.types import Query, Report
from strong_envs.features.encoders.hashed_words import words

_ORDER = {"train": 0, "val": 1, "test": 2}


def find_leaks(queries: Iterable[Query], source: str = "queries") -> Report:
    """Videos and sentences of one split that occur in another as well.

    Sentences are compared without case, punctuation and spaces, ids of videos without the suffix of a file and the
    ``v_`` of ActivityNet. Each video, and each query of the later split whose
    sentence occurs in the earlier one, counts once; splits come in the order train, val, test, others.

    Args:
        queries: of all splits.
        source: name of the report.

    Returns:
        A report of doubtful rows, without findings where no split shares anything.
    """
    report = Report(source)
    queries = list(queries)
    splits = sorted({q.split for q in queries}, key=_rank)
    if len(splits) < 2:
        return report
    videos: dict[str, dict[str, str]] = {split: {} for split in splits}
    texts: dict[str, dict[str, Query]] = {split: {} for split in splits}
    plain = {text: plain_text(text) for text in {q.text for q in queries}}
    for query in queries:
        videos[query.split].setdefault(_plain_id(query.video), query.video)
        texts[query.split].setdefault(plain[query.text], query)
    for a, b in combinations(splits, 2):
        for key, video in videos[b].items():
            if key in videos[a]:
                named = video if videos[a][key] == video else f"{videos[a][key]} and {video}"
                report.add(f"a video of {a} is in {b} as well", "doubtful", named)
        for query in queries:
            if query.split == b and plain[query.text] in texts[a]:
                first = texts[a][plain[query.text]]
                example = f"{query.text!r}: {first.qid} ({a}) and {query.qid} ({b})"
                report.add(f"a sentence of {a} is in {b} as well", "doubtful", example)
    return report


def find_copies(digests: Mapping[str, Hashable], queries: Iterable[Query], report: Report) -> None:
    """Add a doubtful row for each pair of different videos of two splits whose features are the same.

    Args:
        digests: video id to a hash of its features.
        queries: of all splits.
        report: takes the rows.
    """
    splits: dict[str, set[str]] = {}
    for query in queries:
        splits.setdefault(query.video, set()).add(query.split)
    first: dict[Hashable, str] = {}
    for video, digest in digests.items():
        known = first.setdefault(digest, video)
        if known != video and splits.get(known, set()) | splits.get(video, set()) != splits.get(known, set()):
            named = [f"{v} ({', '.join(sorted(splits.get(v, ()), key=_rank))})" for v in (known, video)]
            report.add("two videos of different splits have the same features", "doubtful", " and ".join(named))


def plain_text(text: str) -> str:
    """A sentence without case, punctuation and repeated spaces, in one Unicode form."""
    return " ".join(words(text)) or text


def _plain_id(video: str) -> str:
    return unicodedata.normalize("NFC", strip_video_suffix(video)).removeprefix("v_")


def _rank(split: str) -> tuple[int, str]:
    return _ORDER.get(split, len(_ORDER)), split
