"""``strong-envs aggregate A.json B.json``: systems over several data sets, by their interquartile mean.

After Agarwal et al. 2021: the runs of all data sets together, a quarter of them left out at each end, with an interval
from a bootstrap that draws runs within each data set.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from strong_envs.benchmarks.commands.compare import Scored, read_scored
from strong_envs.benchmarks.metrics.definitions import per_query
from strong_envs.benchmarks.metrics.statistics import caveat, stratified_interval
from strong_envs.benchmarks.protocols import Protocol, differences
from strong_envs.features.errors import DataError, nearest

OWN = ("data", "train", "test", "hashes")
"""What differs between data sets; everything else of a protocol must be the same."""


def aggregate(files: Sequence[dict[str, Scored]], metric: str = "mIoU") -> list[dict[str, Any]]:
    """A row for each system that every file has, best first: means of each data set, and over all runs.

    Args:
        files: what `benchmarks.commands.compare.read_scored` returned, one a data set.
        metric: ``mIoU`` or an ``Acc@m``.

    Raises:
        DataError: fewer than two files, the same data twice, rules that differ, or no system that all have.
    """
    if len(files) < 2:
        raise DataError("several data sets are aggregated; name two result files or more")
    shared = [label for label in files[0] if all(label in held for held in files)]
    if not shared:
        raise DataError(f"the files share no system: {[sorted(held) for held in files]}")
    first = [held[shared[0]].protocol for held in files]
    names = [protocol.data for protocol in first]
    if len({repr(protocol.hashes) for protocol in first}) < len(first):
        raise DataError(f"the same data stands in two files: {names}")
    for protocol in first[1:]:
        _same_rules(first[0], protocol)
    rows = []
    for label in shared:
        strata = [_runs(held[label], metric) for held in files]
        iqm, low, high = stratified_interval(strata, "iqm")
        means = {name: float(values.mean()) for name, values in zip(names, strata, strict=True)}
        about: dict[str, Any] = {
            "system": label,
            "knows": files[0][label].knows,
            "metric": metric,
            "runs": [len(s) for s in strata],
            "means": means,
        }
        about |= {"iqm": iqm, "low": low, "high": high, "caveat": _caveat([held[label] for held in files])}
        rows.append(about)
    return sorted(rows, key=lambda row: -row["iqm"])


def _runs(scored: Scored, metric: str) -> Any:
    """The metric of each run, (R,)."""
    found = per_query(scored.iou, scored.protocol.thresholds, scored.protocol.comparison)
    if metric not in found:
        raise DataError(f"there is no metric {metric!r}{nearest(metric, found)}; there are {list(found)}")
    return found[metric].mean(axis=1)


def _same_rules(a: Protocol, b: Protocol) -> None:
    other = {name: values for name, values in differences(a, b).items() if name not in OWN}
    if other:
        listed = "; ".join(f"{name}: {left!r} against {right!r}" for name, (left, right) in other.items())
        raise DataError(f"{a.data!r} and {b.data!r} were measured by other rules, they differ in {listed}")


def _caveat(held: Sequence[Scored]) -> str | None:
    """A reference has one row and no seeds; of a trained system, the data set with the fewest runs says it."""
    if all(scored.reference for scored in held):
        return None
    return caveat(min(len(scored.iou) for scored in held))


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``aggregate`` command."""
    parser = subparsers.add_parser(
        "aggregate",
        help="print systems over several data sets",
        description="Summarise result files of several data sets: for each system that all of them have, the "
        "interquartile mean over all training runs, its 95 % interval from a bootstrap stratified by data set, and the "
        "mean of each data set.",
    )
    parser.add_argument("files", nargs="+", metavar="RESULT.json", help="results.json, one a data set")
    parser.add_argument("--metric", default="mIoU", metavar="NAME", help="mIoU, or Acc@m such as Acc@.5 (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0."""
    rows = aggregate([read_scored(file) for file in args.files], args.metric)
    if args.json:
        print(json.dumps({"rows": rows}, indent=1))
        return 0
    names = list(rows[0]["means"])
    wide = max(len(row["system"]) for row in rows)
    print(f"{'system':<{wide}}  {'IQM':>6}  {'95 % interval':<16}" + "".join(f"  {name:>18}" for name in names))
    for row in rows:
        means = "".join(f"  {100 * row['means'][name]:>18.2f}" for name in names)
        interval = f"[{100 * row['low']:.2f}, {100 * row['high']:.2f}]"
        print(f"{row['system']:<{wide}}  {100 * row['iqm']:>6.2f}  {interval:<16}{means}")
    for row in rows:
        if row["knows"]:
            print(f"{row['system']}: {row['knows']}")
    print(f"{args.metric}; the interval draws runs within each data set, not queries")
    for text in dict.fromkeys(row["caveat"] for row in rows if row["caveat"]):
        print(f"{', '.join(row['system'] for row in rows if row['caveat'] == text)}: {text}")
    return 0
