"""What predictions are compared with: the true windows of the queries, and the bank for boxes and frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from strong_envs.agents.references.heuristics import QuerySet
    from strong_envs.agents.registry import Prediction
    from strong_envs.features.bank.bank import FeatureBank


@dataclass(frozen=True)
class GroundTruth:
    """The second argument of every metric.

    Attributes:
        windows: (S, K, 2) float64 seconds; a query has one true window or more, and what fills its row up to K is
            NaN or one of its windows once more.
        durations: (S,) float64 seconds of each query's video.
        annotators: (S, A, 2) seconds, every annotator's window, rows of NaN where a query has fewer than A; None
            where the annotations do not keep them.
        bank: the split's features and true boxes; None for annotations alone.
    """

    windows: np.ndarray
    durations: np.ndarray
    annotators: np.ndarray | None = None
    bank: FeatureBank | None = None

    @classmethod
    def of_bank(cls, bank: FeatureBank) -> GroundTruth:
        """Of all queries of a bank."""
        seconds = bank.duration[bank.video]
        windows = (bank.truth * seconds[:, None, None]).cpu().numpy()
        return cls(windows, seconds.cpu().numpy(), annotators_of(bank), bank)

    @classmethod
    def of_queries(cls, queries: QuerySet) -> GroundTruth:
        """Of annotations without features."""
        return cls(queries.windows, queries.durations)


def annotators_of(bank: FeatureBank) -> np.ndarray | None:
    """Every annotator's window, (S, A, 2) seconds filled up with rows of NaN; None where a query does not have them."""
    each = [query.extra.get("annotators") or () for query in bank.queries]
    if not each or not all(each):
        return None
    found = np.full((len(each), max(map(len, each)), 2), np.nan)
    for row, windows in zip(found, each, strict=True):
        row[: len(windows)] = windows
    return found


def units_of(scores: Mapping[str, Any]) -> list[str]:
    """What statistics draw as a whole, one a query: ``units`` of ``per_query`` or of a cell, else ``videos``."""
    return list(scores.get("units") or scores["videos"])


def spans_of(prediction: Prediction) -> np.ndarray:
    """The predicted windows, (S, 2) seconds."""
    return prediction.spans.cpu().numpy()


def candidates_of(prediction: Prediction) -> np.ndarray:
    """The ranked windows, (S, K, 2) seconds, best first; of a system that ranks none, its prediction alone."""
    return spans_of(prediction)[:, None] if prediction.ranked is None else prediction.ranked.cpu().numpy()
