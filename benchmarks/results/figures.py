"""Figures of results: curves, tables as dots with intervals, profiles, breakdowns, heat maps, sweeps.

All take a result file's dict and a path; the suffix (``.png``, ``.svg``) is the format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.benchmarks.metrics.breakdown import true_windows
from strong_envs.benchmarks.metrics.ground_truth import units_of
from strong_envs.core.spans import nearest_window
from strong_envs.features.files.atomic import replaced_file

# Colour-blind safe (Okabe and Ito), in the order of the systems.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"
SIZE = (7.0, 4.2)
SMALL = 8
"""Points of the smallest text."""
LEVELS = np.round(np.linspace(0, 1, 41), 3)
AXES = {
    "seconds": "seconds of training",
    "share": "share of the training (seconds)",
    "stage": "iteration (0: pre-training)",
}
"""Labels of what learning curves are drawn over."""
OMITTED = ("random_window", "whole")
"""Baselines that the curves leave out because they crowd the lower edge."""


def save(figure: Any, path: Path) -> None:
    """Write a matplotlib figure whole or not at all."""
    import matplotlib.pyplot as plt

    # A date in the file would make every drawing of the same numbers another file.
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    try:
        with replaced_file(path) as staging:
            figure.savefig(staging, dpi=130, bbox_inches="tight", metadata=metadata)
    finally:
        plt.close(figure)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions moved apart so that any two lie at least ``gap`` apart, each as near to its own as possible.

    Groups of crowded positions are spread around their mean; the order is kept.
    """
    order = np.argsort(positions, kind="stable")
    groups: list[list[float]] = []
    for position in np.asarray(positions, np.float64)[order]:
        groups.append([float(position)])
        while len(groups) > 1 and _end(groups[-2], gap) + gap > _begin(groups[-1], gap):
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = [_begin(group, gap) + gap * i for group in groups for i in range(len(group))]
    found = [0.0] * len(placed)
    for index, value in zip(order, placed, strict=True):
        found[index] = value
    return found


def _begin(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _end(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def _axes(size: tuple[float, float] = SIZE) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "strong-envs"
    figure, axes = plt.subplots(figsize=size)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label_ends(axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write (value, text, colour) at the right edge, apart from each other, with a line to its value where moved."""
    if not ends:
        return
    low, high = axes.get_ylim()
    tall = axes.get_position().height * axes.figure.get_figheight() * 72
    gap = 1.25 * SMALL / tall * (high - low)
    transform = axes.get_yaxis_transform()
    for (value, text, colour), place in zip(ends, spread([e[0] for e in ends], gap), strict=True):
        axes.plot([1.0, 1.02], [value, place], color=colour, linewidth=0.7, transform=transform, clip_on=False)
        axes.text(1.025, place, text, transform=transform, fontsize=SMALL, va="center", color=colour)


def with_traces(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with the scores within stages in place of those after each stage, where a system has them."""
    return {**result, "curves": {**result["curves"], **result.get("traces", {})}}


def learning_curves(
    result: Mapping[str, Any], path: Path, x: str = "seconds", size: tuple[float, float] = SIZE
) -> None:
    """MIoU on the validation part after every stage: a line a system, references dashed.

    Files of releases without a validation part have curves on the test part, and say so on the axis.

    A dot is a training run; shaded is the 95 % bootstrap interval of their mean.

    ``x`` is ``"seconds"`` of training, their ``"share"`` of the whole training, or ``"stage"``: the iterations of
    Figure 4a, 0 being the pre-training.
    """
    from strong_envs.benchmarks.metrics.statistics import stratified_interval

    figure, axes = _axes(size)
    ends: list[tuple[float, str, str]] = []
    for colour, (system, runs) in zip(COLOURS * 9, result["curves"].items(), strict=False):
        runs = [run for run in runs if run and "IoU" in run[0]]
        if not runs:
            continue
        stages = range(min(len(run) for run in runs))
        scores = np.array([[run[i]["IoU"] for i in stages] for run in runs])
        at = list(stages) if x == "stage" else [float(np.mean([run[i]["seconds"] for run in runs])) for i in stages]
        if x == "share":
            at = [seconds / max(at[-1], 1e-9) for seconds in at]
        axes.plot(at, scores.mean(0), color=colour, marker="o", markersize=4)
        if len(runs) > 1:
            low, high = np.array([stratified_interval([stage], "mean")[1:] for stage in scores.T]).T
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        for score in scores:
            axes.plot(at, score, ".", color=colour, alpha=0.4)
        ends.append((float(scores.mean(0)[-1]), system, colour))
    validation = result.get("validation")
    for row in result["rows"] if validation is None else validation["references"]:
        if row.get("reference") and row["reference"] not in OMITTED:
            axes.axhline(row["metrics"]["mIoU"], color=GREY, linestyle="--", linewidth=0.8)
            ends.append((row["metrics"]["mIoU"], row["system"], GREY))
    if x == "stage":
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(AXES[x])
    axes.set_ylabel("mIoU on held-out videos" if validation is None else "mIoU on validation videos")
    axes.set_ylim(0, max([*(e[0] for e in ends), 0.1]) * 1.1)
    axes.set_xlim(left=0)
    _label_ends(axes, ends)
    save(figure, path)


def table_figure(rows: Sequence[Mapping[str, Any]], path: Path, metric: str = "mIoU", size: Any = None) -> None:
    """A table as dots with their 95 % intervals, a row a system; references are hollow and grey."""
    rows = [row for row in rows if metric in row["metrics"]]
    figure, axes = _axes(size or (SIZE[0], 0.9 + 0.28 * len(rows)))
    for y, row in enumerate(rows):
        colour = GREY if row.get("reference") else COLOURS[0]
        value = row["metrics"][metric]
        low, high = (row.get("intervals") or {}).get(metric, (value, value))
        axes.plot([low, high], [y, y], color=colour, linewidth=1.6)
        axes.plot(value, y, "o", color=colour, markerfacecolor="white" if row.get("reference") else colour)
    axes.set_yticks(range(len(rows)), [row["system"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"{metric} on held-out videos, 95 % interval")
    save(figure, path)


def performance_profiles(
    per_query: Mapping[str, Any], path: Path, systems: Sequence[str] = (), size: tuple[float, float] = SIZE
) -> None:
    """Share of runs and queries whose IoU reaches m, over m: Acc@m at every threshold, with pointwise intervals."""
    from strong_envs.benchmarks.metrics.statistics import performance_profile

    figure, axes = _axes(size)
    for colour, style, label in _styled(per_query, systems):
        runs = np.array(per_query["IoU"][label])
        share, low, high = performance_profile(runs, LEVELS, groups=units_of(per_query), draws=300)
        axes.plot(LEVELS, share, color=colour, linestyle=style, label=label)
        axes.fill_between(LEVELS, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xlabel("IoU threshold m")
    axes.set_ylabel("share of queries with IoU ≥ m")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=SMALL, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), borderpad=0)
    save(figure, path)


def breakdown(
    per_query: Mapping[str, Any],
    kind: str,
    path: Path,
    systems: Sequence[str] = (),
    size: tuple[float, float] = SIZE,
) -> None:
    """MIoU with intervals by ``"length"`` or ``"position"`` of the true moment, with the queries in each bin."""
    from strong_envs.benchmarks.metrics.breakdown import KINDS, table

    rows = table(per_query, kind)
    figure, axes = _axes(size)
    chosen = list(_styled(per_query, systems))
    for i, (colour, style, label) in enumerate(chosen):
        at = np.arange(len(rows)) + (i - (len(chosen) - 1) / 2) * 0.06
        mean, low, high = np.array([row["systems"][label] for row in rows]).reshape(-1, 3).T
        around = [np.maximum(mean - low, 0), np.maximum(high - mean, 0)]
        axes.errorbar(
            at, mean, around, color=colour, linestyle=style, marker="o", markersize=3, linewidth=1.2, label=label
        )
    axes.set_xticks(range(len(rows)), [f"{row['bin']}\nn = {row['queries']:,}" for row in rows], fontsize=SMALL)
    axes.set_xlabel(f"{KINDS[kind]}, share of the video")
    axes.set_ylabel("mIoU on held-out videos")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=SMALL, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), borderpad=0)
    save(figure, path)


def heat_maps(
    predicted: Mapping[str, Any], truth: Any, path: Path, bins: int = 20, size: tuple[float, float] | None = None
) -> None:
    """Predicted against true start (left) and length (right), a row a system; what is perfect lies on the diagonal.

    Args:
        predicted: label to (S, 2), or (R, S, 2) over runs, windows as fractions of the video.
        truth: (S, 2) fractions, or (S, K, 2), of which the nearest to each prediction is drawn.
        path: of the figure.
        bins: of each axis.
        size: inches.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known, count = true_windows(truth), len(predicted)
    figure, panels = plt.subplots(count, 2, figsize=size or (4.4, 2.3 * count), squeeze=False, layout="constrained")
    for row, (label, windows) in zip(panels, predicted.items(), strict=True):
        runs = np.asarray(windows, np.float64).reshape(-1, len(known), 2)
        nearest = [nearest_window(run[:, 0], run[:, 1], known) for run in runs]
        true = np.stack([known[np.arange(len(known)), index] for index in nearest])
        for axes, what in zip(row, ("start", "length"), strict=True):
            x, y = (w[..., 0] if what == "start" else w[..., 1] - w[..., 0] for w in (true, runs))
            counts, _, _ = np.histogram2d(x.ravel(), y.ravel(), bins, [[0, 1 + 1e-9], [0, 1 + 1e-9]])
            # Square roots: a constant prediction would else make everything beside it invisible.
            axes.imshow(np.sqrt(counts.T), origin="lower", extent=(0, 1, 0, 1), cmap="Blues", aspect="equal")
            axes.plot([0, 1], [0, 1], color=COLOURS[1], linewidth=0.8, linestyle="--")
            axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=SMALL)
            axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=SMALL)
            axes.set_xlabel(f"true {what}", fontsize=SMALL + 1)
            axes.set_ylabel(f"predicted {what}", fontsize=SMALL + 1)
        row[0].set_title(label, fontsize=9, loc="left")
    save(figure, path)


def sweep(result: Mapping[str, Any], path: Path, metric: str = "mIoU", size: tuple[float, float] = SIZE) -> None:
    """After Figure 4: a metric over the values of one setting, a line a system, its 95 % interval shaded.

    References are dashed.
    """
    figure, axes = _axes(size)
    values = result["values"]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    for colour, system in zip(COLOURS * 9, dict.fromkeys(p["system"] for p in result["points"]), strict=False):
        points = [p for p in result["points"] if p["system"] == system]
        at = [p["value"] if numeric else values.index(p["value"]) for p in points]
        mean = [p["metrics"][metric] for p in points]
        low, high = np.array([p["intervals"][metric] for p in points]).T
        axes.plot(at, mean, color=colour, marker="o", label=system)
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    ends = []
    for kind in ("constant", "knn", "oracle"):
        rows = [row for row in result.get("references", ()) if row["reference"] == kind]
        if rows:
            at = [row["value"] if numeric else values.index(row["value"]) for row in rows]
            axes.plot(at, [row["metrics"][metric] for row in rows], color=GREY, linestyle="--", linewidth=0.8)
            ends.append((rows[-1]["metrics"][metric], rows[-1]["system"], GREY))
    if numeric:
        axes.set_xticks(values, [f"{v:g}" for v in values], fontsize=8)
    else:
        axes.set_xticks(range(len(values)), [str(v) for v in values], fontsize=8)
    axes.set_xlabel(result["parameter"])
    axes.set_ylabel(f"{metric} on held-out videos")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), borderpad=0)
    _label_ends(axes, ends)
    save(figure, path)


def _styled(per_query: Mapping[str, Any], systems: Sequence[str]) -> list[tuple[str, str, str]]:
    """(colour, line style, label) of the chosen systems, or of all; the dashes change when the colours run out."""
    labels = [label for label in (systems or per_query["IoU"]) if label in per_query["IoU"]]
    styles = ("-", "--", ":")
    return [
        (COLOURS[i % len(COLOURS)], styles[i // len(COLOURS) % len(styles)], label) for i, label in enumerate(labels)
    ]
