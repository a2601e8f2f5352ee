"""``strong-envs references PATH``: scores without a look at a pixel, and the grid's bound."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from strong_envs.agents.references.heuristics import REFERENCES, QuerySet
from strong_envs.benchmarks.metrics.definitions import (
    DISCOUNTED_AT,
    discounted_name,
    discounted_recall,
    per_query,
    temporal_iou,
)
from strong_envs.benchmarks.metrics.statistics import estimates
from strong_envs.benchmarks.protocols import FULL_VIDEO, Protocol, content_hashes
from strong_envs.benchmarks.results.tables import print_table
from strong_envs.features.datasets import READERS, read
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.search_windows import searched
from strong_envs.temporal.task import INITIAL_SPAN

DRAWS = 200


@dataclass(frozen=True)
class ReferenceScores:
    """A predictor's scores: metric name to (S,) values, one a query, averaged over ``draws`` where it draws."""

    label: str
    description: str
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
    """Fit each reference predictor on ``train`` and score it on ``test`` by the rules of a protocol.

    Args:
        draws: of the random window. seed: of its first draw. names: of `agents.references.heuristics.REFERENCES`; ()
        is all.
    """
    if draws < 1:
        raise DataError(f"draws must be 1 or more, got {draws}")
    for name in tuple(names) or REFERENCES:
        if name not in REFERENCES:
            raise DataError(f"no reference is called {name!r}{nearest(name, REFERENCES)}; there are {list(REFERENCES)}")
        grid = {}
        if name == "oracle":
            reason = no_oracle(protocol)
            if reason:
                raise DataError(reason)
            grid = {"steps": protocol.steps, "half_steps": int(protocol.z_e), "multi_scale": protocol.multi_scale}
        drawn = name == "random_window"
        total: dict[str, np.ndarray] = {}
        for draw in range(draws if drawn else 1):
            predictor = REFERENCES[name](**({"seed": seed + draw} if drawn else grid)).fit(train)
            spans = predictor.predict(test)
            iou = temporal_iou(spans, test.windows, protocol.iou)
            found = per_query(iou, protocol.thresholds, protocol.comparison)
            for m in DISCOUNTED_AT:
                hit = (test.windows, test.durations, 1, m, protocol.comparison)
                found[discounted_name(1, m)] = discounted_recall(spans[:, None], *hit)
            for metric, values in found.items():
                total[metric] = total.get(metric, 0.0) + values
        scores = {metric: values / (draws if drawn else 1) for metric, values in total.items()}
        yield name, ReferenceScores(predictor.label, predictor.description, draws if drawn else None, scores)


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
    """Rows for `benchmarks.results.tables`, one a reference predictor, with intervals over the test videos.

    Args:
        source: `features.Annotations` or a `features.FeatureStore` whose queries have windows and splits.
        train, test: names of the splits. draws, seed: of the random window.
        protocol: the rules to score by; None is the main protocol (full video, clamped IoU, >=, T = 20, z_e = 10).
        names: predictors; () is all of `agents.references.heuristics.REFERENCES`. progress: draw a bar on standard
        error.
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
    if progress:
        from tqdm import tqdm

        found = tqdm(found, "references", total=len(names), leave=False)
    rows = []
    for name, reference in found:
        measured = estimates(reference.scores, groups=scored.videos, deterministic=True)
        if keep is not None:
            keep[reference.label] = reference.scores["mIoU"]
        rows.append(
            {
                "system": reference.label,
                "reference": name,
                "description": reference.description,
                "protocol": protocol.as_dict(),
                "seeds": None,
                "draws": reference.draws,
                "queries": len(scored),
                "metrics": {metric: e.mean for metric, e in measured.items()},
                "intervals": {metric: [e.low, e.high] for metric, e in measured.items()},
                "caveat": measured["mIoU"].caveat,
            }
        )
    return rows


def open_source(path: str | os.PathLike, format: str | None = None) -> Any:
    """A store, by key or path, or annotations of any known format."""
    from strong_envs.features.registry import keys, open_store

    if os.fspath(path) in keys() or os.path.isfile(os.path.join(path, "manifest.json")):
        return open_store(path)
    return read(path, format)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``references`` command to ``strong-envs``."""
    parser = subparsers.add_parser(
        "references",
        help="score predictors that see no pixel, and the bound of the action grid",
        description="Score the reference predictors (whole video, initial window, constant, random, query only) and "
        "the oracle of the action grid on the annotations of a data set.",
    )
    parser.add_argument("path", help="annotations (a file or folder), the path of a store, or a key such as shapes-v0")
    parser.add_argument("--format", choices=sorted(READERS), help="format of the annotations, where it cannot be told")
    parser.add_argument("--train", default="train", help="split to fit on (default: %(default)s)")
    parser.add_argument("--test", default="test", help="split to score on (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of the random window (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first draw (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command and return its exit code: 0, or 2 with one sentence where the input cannot be used."""
    try:
        source = open_source(args.path, args.format)
        rows = reference_rows(
            source, args.train, args.test, args.draws, args.seed, progress=not args.json and sys.stderr.isatty()
        )
    except DataError as error:
        if args.json:
            print(json.dumps({"error": str(error)}))
        else:
            print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"rows": rows}, indent=1))
        return 0
    report = getattr(source, "report", None)
    if report is not None:
        print(str(report).splitlines()[0])
    title = f"{source.name}, {args.test}: {rows[0]['queries']:,} queries"
    print_table(rows, title=title)
    return 0
