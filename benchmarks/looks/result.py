"""From the cells of a frontier to its result: curves with intervals, areas, looks that are needed, differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from strong_envs.benchmarks.looks.frontier import ALL, EVEN, LEARNS, OURS, TOGETHER, UNCERTAIN
from strong_envs.benchmarks.looks.world import World
from strong_envs.benchmarks.metrics.statistics import difference_test, estimates

NEAR = 0.95
"""Share of the quality of all frames that `looks_needed` asks for."""


def world_result(world: World, cells: Mapping[str, Sequence[Mapping[str, Any]]], draws: int = 2000) -> dict[str, Any]:
    """One world: rows with curves, the bound, and paired differences of our agent with even looks and the search.

    Args:
        world: see `World`.
        cells: by row, one a seed, as of `run_row`; that of `ALL` among them.
        draws: of the bootstrap.
    """
    bank = world.bank(world.part)
    groups = [str(query.extra.get("group", query.video)) for query in bank.queries]
    bound = np.array([run["iou"][0] for run in cells[ALL]])
    frames = float(cells[ALL][0]["looks"][0])
    rows = []
    for name, runs in cells.items():
        looks = runs[0]["looks"]
        points = []
        for i, count in enumerate(looks):
            scores = np.array([run["iou"][i] for run in runs])
            found = estimates(
                {"mIoU": scores, "Acc@.5": (scores >= 0.5).astype(float)}, groups=groups, draws=draws,
                deterministic=LEARNS.get(name) == "nothing",
            )  # fmt: skip
            point: dict[str, Any] = {"looks": count}
            for metric, one in found.items():
                point[metric] = {"mean": one.mean, "low": one.low, "high": one.high}
            if name != ALL:
                point["frames"] = float(np.mean([run["frames"][i] for run in runs]))
                point["firsts"] = [run["firsts"][i] for run in runs]
                point["validation"] = float(np.mean([run["validation"][i] for run in runs]))
            points.append(point)
        row: dict[str, Any] = {
            "system": name,
            "seeds": len(runs),
            "learns_from": LEARNS.get(name, ""),
            "points": points,
        }
        if name != ALL:
            row["area"] = area(looks, [p["mIoU"]["mean"] for p in points])
            row["needed"] = needed(points, NEAR * float(bound.mean()), frames)
        trained = [run["train_seconds"] for run in runs if "train_seconds" in run]
        if trained:
            row["train_seconds"] = float(np.mean(trained))
        rows.append(row)
    return {
        "features": world.features,
        "train_on": world.train_on or world.features,
        "part": world.part,
        "queries": len(bank),
        "frames": frames,
        "neighbours": world.neighbours,
        "posterior": {"weight": world.posterior.weight, "clip": world.posterior.clip},
        "rows": rows,
        "differences": differences(cells, groups, draws),
        "seconds": world.seconds,
    }


def area(looks: Sequence[float], values: Sequence[float]) -> float | None:
    """Mean height of a curve over the logarithm of the looks, in the range of the looks; None for a single point."""
    if len(looks) < 2:
        return None
    x = np.log2(np.asarray(looks, np.float64))
    y = np.asarray(values, np.float64)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def needed(points: Sequence[Mapping[str, Any]], wanted: float, frames: float) -> dict[str, float] | None:
    """Looks and frames at which a curve first reaches a value, interpolated on the log axis; None where it does not."""
    before = None
    for point in points:
        value = point["mIoU"]["mean"]
        if value >= wanted:
            share = 1.0 if before is None else (wanted - before["mIoU"]["mean"]) / (value - before["mIoU"]["mean"])
            low = point if before is None else before
            found = {
                key: math.exp(math.log(low[key]) + share * (math.log(point[key]) - math.log(low[key])))
                for key in ("looks", "frames")
            }
            return found | {"share_of_frames": found["frames"] / frames, "share_of_looks": found["looks"] / frames}
        before = point
    return None


def differences(
    cells: Mapping[str, Sequence[Mapping[str, Any]]], groups: Sequence[str], draws: int
) -> list[dict[str, Any]]:
    """The mIoU of a row minus that of another at every number of looks, with intervals over runs and clips."""
    pairs = [(OURS, EVEN), (OURS, UNCERTAIN), (TOGETHER, UNCERTAIN), (UNCERTAIN, EVEN)]
    found = []
    for first, second in pairs:
        if first not in cells or second not in cells:
            continue
        for i, count in enumerate(cells[first][0]["looks"]):
            if count not in cells[second][0]["looks"]:
                continue
            j = cells[second][0]["looks"].index(count)
            scores = [np.array([run["iou"][at] for run in cells[name]]) for name, at in ((first, i), (second, j))]
            test = difference_test(*scores, groups=groups, draws=draws)
            found.append({"a": first, "b": second, "looks": count, **test.as_dict()})
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """Tables of all worlds, one after the other."""
    return "\n\n".join(world_markdown(world) for world in result["worlds"]) + "\n"


def world_markdown(world: Mapping[str, Any]) -> str:
    """The table of a world: mIoU at every number of looks, area, looks and frames for 95 % of all frames."""
    looks = sorted({p["looks"] for row in world["rows"] if row["system"] != ALL for p in row["points"]})
    header = ["row", *(f"{k:g}" for k in looks), "area", "95 %: looks", "frames", "seeds", "learns from"]
    lines = [header, ["---", *["---:"] * (len(looks) + 4), "---"]]
    for row in world["rows"]:
        at = {p["looks"]: f"{100 * p['mIoU']['mean']:.1f}" for p in row["points"]}
        if row["system"] == ALL:
            mean = row["points"][0]["mIoU"]["mean"]
            lines.append([ALL, *[""] * len(looks), f"{100 * mean:.1f}", "", f"{world['frames']:.0f}", "", ""])
            continue
        need = row["needed"]
        needed_ = ["-", "-"] if need is None else [f"{need['looks']:.1f}", f"{100 * need['share_of_frames']:.0f} %"]
        area_ = "" if row["area"] is None else f"{100 * row['area']:.1f}"
        lines.append(
            [row["system"], *(at.get(k, "") for k in looks), area_, *needed_, str(row["seeds"]), row["learns_from"]]
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    about = (
        f"{world['features']}: {world['queries']:,} queries of the {world['part']} part, {world['frames']:.0f} frames"
    )
    notes = (
        f"A look reads {1 + world['neighbours']} frame{'s' if world['neighbours'] else ''}. "
        if world["neighbours"]
        else ""
    )
    text = f"{about}. {notes}mIoU by number of looks.\n\n{table}"
    if "speed" in world:
        seconds = world["speed"]["seconds"]
        # Files of version 0.1 have seconds of single videos alone.
        one, batch = seconds.get("one", seconds), seconds.get("batch")
        each = ", ".join(f"{name} {1000 * taken:.2f} ms" for name, taken in one.items())
        text += f"\n\nChoosing {world['speed']['looks']} looks of one video, reading not included: {each}."
        if batch:
            many = ", ".join(f"{name} {1000 * taken:.3f} ms" for name, taken in batch.items())
            text += f" Of many videos together, each: {many}."
    return text
