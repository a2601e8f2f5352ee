"""Rows of baselines that ignore the video, and of the bound that the action grid sets."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from strong_envs.agents.references.heuristics import REFERENCES, QuerySet
from strong_envs.agents.registry import Prediction
from strong_envs.benchmarks.metrics.ground_truth import GroundTruth
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.protocols import FULL_VIDEO, Protocol, content_hashes
from strong_envs.benchmarks.results.rows import measured
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.search_windows import searched
from strong_envs.temporal.task import INITIAL_SPAN

DRAWS, MOST_DRAWS = 200, 1_000_000
T = TypeVar("T")


@dataclass(frozen=True)
class ReferenceScores:
    """A baseline's `score`: name to (S,) values, one a query; means over ``draws`` of a baseline that draws."""

    label: str
    description: str
    sees: str
    learns_from: str
    draws: int | None
    scores: Mapping[str, np.ndarray]


def reference_scores(
    train: QuerySet,
    test: QuerySet,
    protocol: Protocol,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    names: Iterable[str] = (),
) -> Iterator[tuple[str, ReferenceScores]]:
    """Fit each baseline on ``train`` and score it on ``test`` by the rules of a protocol.

    Args:
        train: queries to fit on.
        test: queries to score on.
        protocol: thresholds, comparison and moves.
        draws: of the random window.
        seed: of its first draw.
        names: of `agents.references.heuristics.REFERENCES`; () is all.
    """
    if not 1 <= draws <= MOST_DRAWS or seed < 0:
        raise DataError(f"draws must be 1 to {MOST_DRAWS:,} and the seed 0 or more; got {draws} and {seed}")
    truth = GroundTruth.of_queries(test)
    for name in tuple(names) or REFERENCES:
        if name not in REFERENCES:
            raise DataError(f"no reference is called {name!r}{nearest(name, REFERENCES)}; there are {list(REFERENCES)}")
        options = _grid(protocol) if name == "oracle" else {}
        drawn = name == "random_window"
        total: dict[str, np.ndarray] = {}
        for draw in range(draws if drawn else 1):
            predictor = REFERENCES[name](**({"seed": seed + draw} if drawn else options)).fit(train)
            prediction = Prediction(torch.as_tensor(predictor.predict(test)))
            for metric, values in score(prediction, truth, protocol.thresholds, protocol.comparison).items():
                total[metric] = total.get(metric, np.zeros(len(test))) + values
        scores = {metric: values / (draws if drawn else 1) for metric, values in total.items()}
        yield (
            name,
            ReferenceScores(
                predictor.label,
                predictor.description,
                predictor.sees,
                predictor.learns_from,
                draws if drawn else None,
                scores,
            ),
        )


def _grid(protocol: Protocol) -> dict[str, Any]:
    """Arguments of the oracle under a protocol; `DataError` where its moves are not those of a grid."""
    reason = no_oracle(protocol)
    if reason or protocol.z_e is None:
        raise DataError(str(reason))
    return {"steps": protocol.steps, "half_steps": int(protocol.z_e), "multi_scale": protocol.multi_scale}


def no_oracle(protocol: Protocol) -> str | None:
    """Why there is no bound of the moves under a protocol, or None: the oracle walks whole steps from [.25, .75]."""
    if protocol.steps is None or protocol.z_e is None or protocol.z_e != int(protocol.z_e):
        return f"the oracle needs a whole number of steps, got T={protocol.steps}, z_e={protocol.z_e}"
    if protocol.step_scale != 1 or protocol.initial_span != INITIAL_SPAN:
        return (
            f"the oracle walks plain steps from {INITIAL_SPAN}, got step_scale={protocol.step_scale:g}, "
            f"initial_span={protocol.initial_span}"
        )
    return None


def reference_rows(
    source: Any,
    train: str = "train",
    test: str = "test",
    draws: int = DRAWS,
    seed: int = 0,
    *,
    protocol: Protocol | None = None,
    names: Iterable[str] = (),
    progress: bool = False,
    keep: dict[str, np.ndarray] | None = None,
) -> list[dict]:
    """Rows for `benchmarks.results.tables`, one a baseline, with intervals over the test videos.

    Args:
        source: `features.Annotations` or a `features.FeatureStore` whose queries have windows and splits.
        train: split to fit on.
        test: split to score on.
        draws: of the random window.
        seed: of its first draw.
        protocol: the rules to score by; None is the main protocol (full video, clamped IoU, >=, T = 20, z_e = 10).
        names: predictors; () is all of `agents.references.heuristics.REFERENCES`.
        progress: draw a bar on standard error.
        keep: filled with the IoU of every query, label to (S,), for comparisons with other systems.
    """
    fitted, scored = QuerySet.of(source, train), QuerySet.of(source, test)
    if protocol is None:
        hashes = content_hashes(source, train, test)
        window = searched(source) if hasattr(source, "manifest") else FULL_VIDEO
        protocol = Protocol("main", source.name, train=train, test=test, window=window, hashes=hashes)
    if not names:
        reason = no_oracle(protocol)
        names = [name for name in REFERENCES if name != "oracle" or reason is None]
        if reason:
            print(f"left out: {reason}", file=sys.stderr)
    names = tuple(names)
    found = reference_scores(fitted, scored, protocol, draws=draws, seed=seed, names=names)
    rows = []
    for name, reference in _with_bar(found, len(names)) if progress else found:
        groups = scored.units or scored.videos
        metrics, intervals, caveat = measured([reference.scores], protocol, groups, deterministic=True)
        if keep is not None:
            keep[reference.label] = reference.scores["IoU"]
        rows.append(
            {
                "system": reference.label,
                "reference": name,
                "description": reference.description,
                "sees": reference.sees,
                "learns_from": reference.learns_from,
                "protocol": protocol.as_dict(),
                "seeds": None,
                "draws": reference.draws,
                "queries": len(scored),
                "metrics": metrics,
                "intervals": intervals,
                "caveat": caveat,
            }
        )
    return rows


def _with_bar(items: Iterator[T], total: int) -> Iterator[T]:
    """The items, with a progress bar on standard error while they are computed."""
    from rich.console import Console
    from rich.progress import track

    yield from track(items, "baselines", total=total, console=Console(stderr=True), transient=True)
