"""The frontier as a figure: mIoU and Acc@.5 over looks on a logarithmic axis, a pair of panels for each world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.looks.frontier import ALL, ROWS
from strong_envs.benchmarks.results.figures import COLOURS, GREY, SMALL, save

METRICS = ("mIoU", "Acc@.5")


def draw(worlds: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw all worlds, one a row of panels; bands are 95 % intervals, the dashed line is a look at every frame."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "strong-envs"
    figure, panels = plt.subplots(len(worlds), 2, figsize=(9.0, 3.1 * len(worlds)), squeeze=False)
    order = {name: i for i, name in enumerate(ROWS)}
    for world, line in zip(worlds, panels, strict=True):
        for metric, axes in zip(METRICS, line, strict=True):
            for row in world["rows"]:
                if row["system"] == ALL:
                    bound = 100 * row["points"][0][metric]["mean"]
                    axes.axhline(bound, color=GREY, linestyle="--", linewidth=1)
                    style = {"fontsize": SMALL, "ha": "right", "va": "bottom", "color": GREY}
                    axes.annotate("all frames", (1, bound), xycoords=("axes fraction", "data"), **style)
                    continue
                colour = COLOURS[order.get(row["system"], len(order)) % len(COLOURS)]
                looks = [p["looks"] for p in row["points"]]
                low, mean, high = ([100 * p[metric][key] for p in row["points"]] for key in ("low", "mean", "high"))
                axes.plot(looks, mean, color=colour, marker="o", markersize=3, label=row["system"])
                axes.fill_between(looks, low, high, color=colour, alpha=0.15, linewidth=0)
            ticks = sorted({p["looks"] for row in world["rows"] if row["system"] != ALL for p in row["points"]})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=SMALL)
            axes.minorticks_off()
            axes.set_xlabel("looks")
            axes.set_ylabel(f"{metric}, %")
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_title(f"{world['features']}, {world['frames']:.0f} frames", fontsize=9, loc="left")
        line[0].legend(fontsize=SMALL, frameon=False)
    figure.tight_layout()
    save(figure, path)
