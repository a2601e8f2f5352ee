"""``strong-envs looks``: how good an answer is after few looks, on `TemporalLook-v0`.

Every row uses one sensor and one rule for the answer; rows differ in which frames they look at. Weights of the sensor
and finished rows are kept in ``--out``, so that a killed command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strong_envs.benchmarks.execution.provenance import about
from strong_envs.benchmarks.execution.time_left import time_left_text
from strong_envs.benchmarks.results.files import read_tree, write_json
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.atomic import write_bytes, write_text
from strong_envs.features.files.errors import check_output
from strong_envs.features.files.locks import folder_lock
from strong_envs.features.store.store import FeatureStore

if TYPE_CHECKING:
    from strong_envs.benchmarks.looks.world import Budgets

RESULT = "looks.json"
LOOKS = {0: (2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 48, 64), 200: (20, 40, 60, 90, 120), 2000: (60, 120, 240)}
"""Numbers of looks by the least length of the videos, in frames."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``looks`` command."""
    parser = subparsers.add_parser(
        "looks",
        help="quality over the number of frames looked at",
        description="Compare ways to choose the frames that are looked at (TemporalLook-v0): mIoU and Acc@.5 over the "
        "number of looks, with a table, a figure (looks.png), one search (search.png), the area under each curve, and "
        "the looks that reach 95 % of what all frames give. A command that was stopped goes on where it stopped.",
    )
    parser.add_argument(
        "--features",
        default="shapes-v0-medium",
        metavar="STORES",
        help="comma-separated keys or paths, such as shapes-v0-medium,shapes-v0-long (%(default)s)",
    )
    parser.add_argument(
        "--train-on", metavar="STORE", help="where agents are trained, such as shapes-v0-long for 6,000 frames"
    )
    parser.add_argument("--looks", metavar="NUMBERS", help="comma-separated numbers of looks (default: by length)")
    parser.add_argument("--rows", metavar="NAMES", help="comma-separated rows (default: all that can be run here)")
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="training runs of rows that learn (%(default)s)"
    )
    parser.add_argument(
        "--budget", type=float, default=1.0, metavar="FACTOR", help="factor on the training (%(default)s)"
    )
    parser.add_argument(
        "--own-sensor", action="store_true", help="every seed trains a sensor of its own, in place of one for all rows"
    )
    parser.add_argument(
        "--whole-frames", action="store_true", help="let the sensor see whole frames in place of their cells"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a trial: small data, one seed, a twentieth of the training"
    )
    parser.add_argument("--out", default="results/looks", metavar="FOLDER", help="folder of the results (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0."""
    from strong_envs.benchmarks.looks.figure import draw
    from strong_envs.benchmarks.looks.result import markdown
    from strong_envs.benchmarks.looks.world import Budgets

    if args.quick:
        args.seeds, args.budget = 1, min(args.budget, 0.05)
        args.features = "shapes-v0" if args.features == "shapes-v0-medium" else args.features
    if args.seeds < 1 or not 0 < args.budget <= 100:
        raise DataError(f"--seeds must be 1 or more and --budget in (0, 100], got {args.seeds} and {args.budget:g}")
    rows, begun = rows_of(args.rows), time.perf_counter()
    names = [name.strip() for name in args.features.split(",") if name.strip()]
    if not names:
        raise DataError("--features names no store")
    if args.looks is not None:
        looks_of(args.looks, 1)
    check_stores(names, args.train_on)
    out = check_output(args.out)
    with folder_lock(out, "strong-envs looks") as folder:
        worlds = [run_world(args, name, rows, Budgets().scaled(args.budget), folder) for name in names]
        pictures = [world.pop("picture") for world in worlds]
        write_bytes(folder / "search.png", pictures[0].read_bytes())
        result: dict[str, Any] = {"about": about(args) | {"seeds": list(range(args.seeds))}, "worlds": worlds}
        result["wall_seconds"] = time.perf_counter() - begun
        write_json(folder / RESULT, result)
        write_text(folder / "looks.md", markdown(result))
        draw(worlds, folder / "looks.png")
    if args.json:
        print(json.dumps(result))
    else:
        print(markdown(result))
        print(f"{out}: {RESULT}, looks.md, looks.png ({result['wall_seconds']:.0f} s)")
    return 0


def rows_of(text: str | None) -> list[str]:
    """The rows that ``--rows`` names; without it all, but the library's where it is not installed."""
    from importlib.util import find_spec

    from strong_envs.benchmarks.looks.frontier import LIBRARY, ROWS

    if text is None:
        return [name for name in ROWS if name != LIBRARY or find_spec("sb3_contrib")]
    found = [name.strip() for name in text.split(",") if name.strip()]
    for name in found:
        if name not in ROWS:
            raise DataError(f"--rows are of {ROWS}, got {name!r}{nearest(name, ROWS)}")
    if not found:
        raise DataError(f"--rows names no row; valid are {ROWS}")
    return list(dict.fromkeys(found))


def looks_of(text: str | None, frames: int) -> tuple[int, ...]:
    """``--looks`` as numbers, or those that suit the length of the videos, which have more rows than looks."""
    if text is None:
        table = next(numbers for least, numbers in sorted(LOOKS.items(), reverse=True) if frames >= least)
        return tuple(k for k in table if k < frames) or (1,)
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and len(word) <= 9 and 1 <= int(word) <= 4096 for word in words):
        raise DataError(f"--looks are whole numbers in [1, 4096], comma-separated; got {text!r}")
    return tuple(sorted({int(word) for word in words}))


def check_stores(names: Sequence[str], train_on: str | None) -> None:
    """Refuse stores that lack a part, or that differ from ``--train-on``, before anything is computed."""
    from strong_envs.features.registry import split_validation
    from strong_envs.looks.task import load_rows

    def sizes(part: str, store: FeatureStore) -> tuple[Any, ...]:
        if part not in store.splits:
            raise DataError(
                f"store {store.name!r} has no part {part!r}, which strong-envs looks needs; it has {store.splits}"
            )
        bank = load_rows(store, part)
        return bank.query_dim, bank.frame_dim, bank.grid_shape if bank.has_grid else None

    for name in names:
        store = split_validation(name)
        parts = {part: sizes(part, store) for part in ("val", "test", *(() if train_on else ("train",)))}
        if train_on and (other := sizes("train", split_validation(train_on))) != parts["test"]:
            raise DataError(
                f"--train-on {train_on} has other features than {name}: sentence, frame and grid are {other} and "
                f"{parts['test']}"
            )


def contents_of(name: str, train_on: str | None) -> list[str | None]:
    """What decides cells beside settings: the contents of both stores, as a path may hold other features tomorrow."""
    from strong_envs.features.registry import split_validation

    return [None if one is None else split_validation(one).content_hash for one in (name, train_on)]


def time_left(left: Sequence[tuple[str, int]], taken: Mapping[str, Sequence[float]]) -> str:
    """``, about 4 min left`` from the seconds of finished cells; a row without one is taken for their mean.

    Args:
        left: rows and seeds to come.
        taken: seconds of finished cells, by row.
    """
    if not left:
        return ""
    means = {row: sum(seconds) / len(seconds) for row, seconds in taken.items()}
    usual = sum(means.values()) / len(means)
    return time_left_text(sum(means.get(row, usual) for row, _ in left))


def run_world(args: argparse.Namespace, name: str, rows: list[str], budgets: Budgets, folder: Path) -> dict[str, Any]:
    """All rows of one store; what is stored already is read."""
    import torch

    from strong_envs.benchmarks.looks.filmstrip import draw_search
    from strong_envs.benchmarks.looks.frontier import ALL, FIRSTS, LEARNS, RANDOM, UNCERTAIN, run_all, run_row, searcher
    from strong_envs.benchmarks.looks.result import world_result
    from strong_envs.benchmarks.looks.speed import seconds_per_answer
    from strong_envs.benchmarks.looks.world import World, digest_of
    from strong_envs.features.registry import split_validation
    from strong_envs.looks.task import load_rows

    def say(line: str) -> None:
        print(f"{name}: {line}", file=sys.stderr, flush=True)

    bank = load_rows(split_validation(name), "test")
    looks = looks_of(args.looks, int(bank.n_frames.double().mean()))
    worlds: dict[int, World] = {}

    def world_of(seed: int) -> World:
        number = seed if args.own_sensor else 0
        if number not in worlds:
            worlds[number] = World(
                name, looks, budgets, args.train_on, number, say, folder=folder, whole_frames=args.whole_frames
            )
        return worlds[number]

    data = contents_of(name, args.train_on)
    files: dict[tuple[str, int], Path] = {}
    for row in [*rows, ALL]:
        repeated = args.own_sensor or LEARNS.get(row, "nothing") != "nothing" or row == RANDOM
        for seed in range(args.seeds if repeated else 1):
            settings = [data, row, seed, list(looks), budgets.of(row), args.own_sensor, args.whole_frames]
            files[row, seed] = folder / "cells" / f"{digest_of(settings)}.json"
    left = [cell for cell, file in files.items() if not file.is_file()]
    taken: dict[str, list[float]] = {}
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for (row, seed), file in files.items():
        if (row, seed) in left:
            file.parent.mkdir(exist_ok=True)
            world, begun = world_of(seed), time.perf_counter()
            found = run_all(world) if row == ALL else run_row(world, row, seed)
            write_json(file, found)
            left.remove((row, seed))
            taken.setdefault(row, []).append(time.perf_counter() - begun)
            say(f"{row}, seed {seed}: done, {len(files) - len(left)} of {len(files)}{time_left(left, taken)}")
        cells.setdefault(row, []).append(read_tree(file))
    shown = [data, world_of(0).name_of_sensor, list(looks)]
    picture = folder / "cells" / f"search-{digest_of(shown)}.png"
    if not picture.is_file():
        one = world_of(0)
        budget, sample = looks[len(looks) // 2], torch.tensor([0])
        search = searcher(one, UNCERTAIN, 0)
        draw_search(one, search.rows(one.part, budget, FIRSTS[2], sample)[0].tolist(), 0, picture)
    middle = looks[len(looks) // 2]
    speed = {"looks": middle, "seconds": seconds_per_answer(world_of(0), middle, int(0.4 * middle))}
    return world_result(world_of(0), cells) | {"speed": speed, "picture": picture}
