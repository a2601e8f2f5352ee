"""``strong-envs scale``: memory, load time and steps a second on features of the size of Charades-STA.

Random features for 16,000 queries on 6,672 videos of 30 s at 3 rows a second, and for shares of that, each measured in
a process of its own for both ways to hold a bank: in memory, and mapped from disk. The store was just written, so the
system has its pages at hand: a first epoch from a cold disk is slower.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.benchmarks.speed.harness import machine, write
from strong_envs.features import DataError, FeatureBank, FeatureStore, Query, StoreContents, StoredVideo, write_store
from strong_envs.features.bank.bank import MEMORY
from strong_envs.features.bank.memory import free_memory
from strong_envs.features.extraction.work_folder import need_space, size
from strong_envs.features.files.errors import check_output
from strong_envs.features.store.tensor_file import RowBlocks

QUERIES, VIDEOS, SECONDS, RATE = 16_000, 6_672, 30.0, 3.0
SHARES = (1 / 64, 1 / 16, 1 / 4, 1.0)
CHILD = (
    "import json, sys; from strong_envs.benchmarks.speed.scale import measure_store; "
    "print(json.dumps(measure_store(*json.loads(sys.argv[1]))))"
)
MEASURES = ("store_bytes", "write_s", "load_s", "held_bytes", "peak_bytes", "steps_per_s", "boxes_per_s")
BLOCK, MOST_SECONDS = 4096, 3600


def blocks(rows: int, shape: tuple[int, ...], seed: int) -> RowBlocks:
    """(rows, *shape) float16 numbers of unit scale, made block by block; no two rows are the same."""
    rng = np.random.default_rng(seed)
    pattern = rng.standard_normal((BLOCK, *shape), np.float32)

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, rows, BLOCK):
            # Drawing every number anew would take longer than all that is measured.
            shift = rng.standard_normal(shape, np.float32) / 4
            yield (np.roll(pattern, int(rng.integers(BLOCK)), 0)[: rows - start] + shift).astype(np.float16)

    return RowBlocks((rows, *shape), "float16", parts())


def write_synthetic(folder: Path, share: float, dim: int, words: int, grid: tuple[int, ...] | None) -> FeatureStore:
    """A store with ``share`` of Charades-STA's videos and queries, all in the split ``train``."""
    rng = np.random.default_rng(0)
    count, rows = max(1, round(VIDEOS * share)), round(SECONDS * RATE)
    videos = [StoredVideo(f"v{i}", SECONDS, rows) for i in range(count)]
    queries = []
    for i in range(max(1, round(QUERIES * share))):
        low, high = np.sort(rng.uniform(0, SECONDS, 2))
        queries.append(Query(f"q{i}", f"v{i % count}", f"sentence {i}", ((float(low), float(high)),)))
    return write_store(
        folder,
        StoreContents(
            name=f"synthetic, {share:g} of Charades-STA",
            videos=videos,
            queries=queries,
            frames=blocks(count * rows, (dim,), 1),
            query_vectors=rng.standard_normal((len(queries), words), np.float32),
            grid=None if grid is None else blocks(count * rows, tuple(grid), 2),
            fps=RATE,
            backbone={"name": "random"},
            text={"name": "random"},
        ),
    )


def measure_store(path: str, memory: str, dtype: str | None, envs: int, seconds: float) -> dict[str, float | None]:
    """Open a store and step through it; run in a process of its own, so that memory and load time are the store's.

    Returns:
        ``load_s`` until the first observation, ``held_bytes`` of memory that the process took for it (without pages of
        mapped files, which the system can drop), ``peak_bytes`` with them, ``steps_per_s`` of all environments
        together, and ``boxes_per_s``: means inside boxes over half-length windows (None without a grid).
    """
    import torch

    from strong_envs.temporal.env import TemporalMomentVectorEnv

    torch.set_num_threads(1)
    before = resident()
    began = time.perf_counter()
    bank = FeatureBank(FeatureStore.open(path), "train", memory=memory, dtype=dtype)
    env = TemporalMomentVectorEnv(envs, bank, autoreset_mode="SameStep", info="light")
    env.reset(seed=0)
    loaded = time.perf_counter() - began
    boxes = None
    if bank.has_grid:
        boxes = _boxes_per_second(bank, envs, seconds)
    actions = np.random.default_rng(0).integers(0, 7, (64, envs))
    env.step(actions[0])
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        env.step(actions[steps % len(actions)])
        steps += 1
    rate = steps * envs / (time.perf_counter() - began)
    after = resident()
    return {
        "load_s": loaded,
        "held_bytes": after["anonymous"] - before["anonymous"],
        "peak_bytes": after["peak"] - before["now"],
        "steps_per_s": rate,
        "boxes_per_s": boxes,
    }


def _boxes_per_second(bank: FeatureBank, count: int, seconds: float) -> float:
    import torch

    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(count, 4)

    def one() -> None:
        samples = torch.randint(0, len(bank), (count,), generator=generator)
        videos, n = bank.video[samples], bank.n_frames[bank.video[samples]]
        bank.box_sums(videos, n // 4, 3 * n // 4, corners)

    one()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        one()
        done += count
    return done / (time.perf_counter() - began)


def resident() -> dict[str, int]:
    """Bytes of memory of this process: now, at most so far, and without pages of mapped files. Linux only."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        raise DataError("the scale run reads /proc/self/status, which only Linux has") from None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = {"now": "VmRSS", "peak": "VmHWM", "anonymous": "RssAnon"}
    return {name: int(fields[field].split()[0]) * 1024 for name, field in names.items()}


def exponent(sizes: list[float], values: list[float | None]) -> float | None:
    """P of value ~ size ** p by least squares over the logarithms; None where there are fewer than two values."""
    pairs = [(s, v) for s, v in zip(sizes, values, strict=True) if v is not None and v > 0]
    if len(pairs) < 2:
        return None
    x, y = np.log(np.array(pairs)).T
    return float(np.polyfit(x, y, 1)[0])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Write a store of each size, measure it in both ways of holding a bank, and remove it."""
    grid = tuple(args.grid) if args.grid else None
    numbers = args.dim + (int(np.prod(grid)) if grid else 0)
    rows = [max(1, round(VIDEOS * share)) * round(SECONDS * RATE) for share in args.shares]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="scale.") as name:
        need_space(Path(name), 2 * max(rows) * numbers + 4 * QUERIES * args.words)
        for share, count in zip(args.shares, rows, strict=True):
            began = time.perf_counter()
            store = write_synthetic(Path(name) / "store", share, args.dim, args.words, grid)
            common = {
                "share": share,
                "queries": len(store.queries),
                "videos": len(store.videos),
                "rows": count,
                "store_bytes": sum(f.stat().st_size for f in store.path.iterdir()),
                "write_s": time.perf_counter() - began,
            }
            for memory in args.memory:
                if memory == "device" and not _fits(count, args.dim, grid, len(store.queries) * args.words):
                    found.append({**common, "memory": memory, "left_out": "it would not fit in this machine's memory"})
                    continue
                given = json.dumps([str(store.path), memory, args.dtype, args.envs, args.seconds])
                done = subprocess.run(
                    [sys.executable, "-c", CHILD, given], capture_output=True, text=True, env=_environment()
                )
                if done.returncode:
                    raise DataError(f"the process that opens the store failed: {done.stderr.strip()[-500:]}")
                found.append({**common, "memory": memory, **json.loads(done.stdout)})
            for file in store.path.iterdir():
                file.unlink()
            store.path.rmdir()
    growth = {}
    for memory in args.memory:
        mine = [row for row in found if row["memory"] == memory]
        sizes = [row["rows"] for row in mine]
        growth[memory] = {key: exponent(sizes, [row.get(key) for row in mine]) for key in MEASURES}
    dims = {"frame": args.dim, "query": args.words, "grid": grid, "envs": args.envs, "dtype": args.dtype}
    return {"machine": machine(), "dims": dims, "rows": found, "growth": growth}


def _environment() -> dict[str, str]:
    """That of this process; the child imports what this process imports, wherever it was started."""
    path = os.pathsep.join(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))
    return {**os.environ, "PYTHONPATH": path}


def _fits(rows: int, dim: int, grid: tuple[int, ...] | None, words: int) -> bool:
    """Whether frames, their prefix sums, the grid and its prefix sums go into the memory that is free."""
    needed = 8 * rows * dim + (6 * rows * int(np.prod(grid)) if grid else 0) + 4 * words
    return needed < 0.8 * free_memory()


def show(result: dict[str, Any]) -> None:
    """Print what was measured and how it grows."""
    print(", ".join(f"{name} {value}" for name, value in result["machine"].items()))
    dims = result["dims"]
    grid = "no grid" if dims["grid"] is None else "grid " + " x ".join(map(str, dims["grid"]))
    print(f"frames {dims['frame']}, sentences {dims['query']}, {grid}, {dims['envs']} environments\n")
    print(f"{'bank':<8}{'queries':>8}{'videos':>8}{'rows':>9}{'store':>10}{'written':>9}{'load':>9}", end="")
    print(f"{'memory':>10}{'peak':>10}{'steps/s':>10}{'boxes/s':>10}")
    for row in result["rows"]:
        print(f"{row['memory']:<8}{row['queries']:>8,}{row['videos']:>8,}{row['rows']:>9,}", end="")
        print(f"{size(row['store_bytes']):>10}{row['write_s']:>8.1f}s", end="")
        if "left_out" in row:
            print(f"  {row['left_out']}")
            continue
        boxes = "" if row["boxes_per_s"] is None else f"{row['boxes_per_s']:,.0f}"
        print(f"{row['load_s']:>8.2f}s{size(row['held_bytes']):>10}{size(row['peak_bytes']):>10}", end="")
        print(f"{row['steps_per_s']:>10,.0f}{boxes:>10}")
    print("\nhow each grows: value ~ rows ** p")
    for memory, powers in result["growth"].items():
        known = ", ".join(f"{name} {power:.2f}" for name, power in powers.items() if power is not None)
        print(f"  {memory}: {known or 'needs two sizes or more'}")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``scale`` command to ``strong-envs``."""
    parser = subparsers.add_parser(
        "scale",
        help="memory and steps per second at the size of Charades-STA",
        description=f"Measure memory, load time and steps per second on synthetic features: {QUERIES:,} queries on "
        f"{VIDEOS:,} videos of {SECONDS:g} s at {RATE:g} rows a second, and shares "
        "of that. The defaults need less than 4 GiB of memory and 2 GB of disk.",
    )
    parser.add_argument(
        "--dim", type=int, default=256, metavar="N", help="size of a frame feature (%(default)s; the paper has 2048)"
    )
    parser.add_argument(
        "--words", type=int, default=384, metavar="N", help="size of a query feature (%(default)s; the paper has 4800)"
    )
    parser.add_argument(
        "--grid",
        type=int,
        nargs="*",
        default=[4, 4, 32],
        metavar="N",
        help="height, width and channels of the grid; without numbers no grid",
    )
    parser.add_argument(
        "--shares", type=float, nargs="+", default=list(SHARES), metavar="X", help="shares of the whole size"
    )
    parser.add_argument(
        "--memory",
        nargs="+",
        choices=MEMORY,
        default=list(MEMORY),
        help="how banks are held: in memory, mapped from disk",
    )
    parser.add_argument(
        "--dtype", choices=("float16", "float32"), help="type of the features held (default: as stored)"
    )
    parser.add_argument("--envs", type=int, default=64, metavar="N", help="environments (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, metavar="X", help="seconds to time each rate for (%(default)s)"
    )
    parser.add_argument("--folder", type=Path, help="folder of the temporary stores (default: that of the system)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder to write scale.json to (default: none)")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0."""
    if args.grid and len(args.grid) != 3:
        raise DataError(f"--grid takes height, width and channels, or nothing; got {args.grid}")
    for name in ("dim", "words", "envs"):
        if getattr(args, name) < 1:
            raise DataError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if not 0 < args.seconds <= MOST_SECONDS:
        raise DataError(f"--seconds must be positive, at most {MOST_SECONDS:,}; got {args.seconds}")
    if any(n < 1 for n in args.grid) or any(not 0 < s <= 100 for s in args.shares):
        raise DataError(f"sizes of the grid and shares are positive, got {args.grid} and {args.shares}")
    for folder, what in ((args.out, "--out"), (args.folder, "--folder")):
        if folder is not None:
            check_output(folder, what=what)
    result = measure(args)
    if args.out is not None:
        write(result, args.out, "scale")
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)
    return 0
