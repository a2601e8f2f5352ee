"""Size of a store on disk and in memory: ``strong-envs sizes [STORE]``.

Without a store: a table to plan an extraction, by rate and channels. With one: every tensor, the memory of a bank,
and with ``--speed`` rows per second from memory and from disk.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence

import numpy as np

from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.memory import free_memory
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.work_folder import size
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.registry import open_store
from strong_envs.features.store.manifest import PER_ROW
from strong_envs.features.store.store import FeatureStore

SPEED_ROWS = 64


def planned(
    videos: int,
    seconds: float,
    rates: Sequence[float],
    channels: Sequence[int],
    grid: tuple[int, int] | None,
    dtype: str = "float16",
) -> list[dict]:
    """Bytes of stores for ``videos`` of ``seconds`` each, one entry for each rate (rows a second) and channel count.

    ``store`` counts the frames' vectors and the grid; ``bank`` what ``memory="device"`` holds when all is used: the
    grid as stored, frames in float32, and float32 prefix sums of both; ``mapped`` what ``memory="map"`` holds.
    """
    item, cells = np.dtype(dtype).itemsize, math.prod(grid) if grid else 0
    out = []
    for rate in rates:
        rows = videos * max(1, round(seconds * rate))
        for width in channels:
            store = rows * (cells + 1) * width * item
            prefix = 4 * (rows + videos) * (cells + 1) * width
            bank = rows * width * (4 + cells * item) + prefix
            mapped = 4 * videos * width
            numbers = {"rows_per_second": rate, "channels": width, "rows": rows}
            out.append({**numbers, "store": store, "bank": bank, "mapped": mapped})
    return out


def of_store(store: FeatureStore) -> dict:
    """Shapes and bytes of a store's tensors, of its files, and of what its banks hold (see `planned`)."""
    tensors = {}
    for name, entry in store.manifest["tensors"].items():
        count = math.prod(entry["shape"])
        bytes_ = count * np.dtype(entry["dtype"]).itemsize
        tensors[name] = {"shape": entry["shape"], "dtype": entry["dtype"], "bytes": bytes_}
    rows, videos = store.shape("frames")[0], len(store.videos)
    shared = sum(t["bytes"] for name, t in tensors.items() if name not in PER_ROW)
    bank = shared + sum(t["bytes"] for name, t in tensors.items() if name in PER_ROW and name != "frames")
    width = store.shape("frames")[1]
    bank += 4 * (2 * rows + videos) * width
    if store.has("grid"):
        bank += 4 * (rows + videos) * math.prod(store.shape("grid")[1:])
    with os_errors(f"read {shown(store.path)}"):
        files = sum(f.stat().st_size for f in store.path.iterdir() if f.is_file())
    mapped = shared + 4 * videos * width
    return {"name": store.name, "rows": rows, "tensors": tensors, "files": files, "bank": bank, "mapped": mapped}


def speed(store: FeatureStore, seconds: float = 0.3) -> dict[str, dict[str, float]]:
    """Random rows a second of each tensor with an entry a row, `SPEED_ROWS` at a time, by how the bank is held.

    ``"device"`` is left out where the tensor takes more than half of the memory that is free.
    """
    import torch

    found: dict[str, dict[str, float]] = {}
    for memory in ("device", "map"):
        for tensor in (name for name in PER_ROW if store.has(name)):
            if memory == "device" and 4 * math.prod(store.shape(tensor)) > free_memory() / 2:
                continue
            generator = torch.Generator().manual_seed(0)
            rows = getattr(FeatureBank(store, memory=memory), tensor)
            done, began = 0, time.perf_counter()
            while time.perf_counter() - began < seconds:
                rows[torch.randint(0, len(rows), (SPEED_ROWS,), generator=generator)]
                done += SPEED_ROWS
            found.setdefault(tensor, {})[memory] = done / (time.perf_counter() - began)
    return found


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add ``sizes`` to a command line; ``main`` takes what it parses."""
    parser = subparsers.add_parser(
        "sizes", help="size of a store on disk and in memory, or a table to plan with", description=__doc__
    )
    parser.add_argument("store", nargs="?", help="path of a store, or a registered key; none: a table to plan with")
    parser.add_argument("--speed", action="store_true", help="measure how fast its rows are read")
    parser.add_argument("--videos", type=int, default=6672, help="videos to plan for (%(default)s, Charades-STA)")
    parser.add_argument("--seconds", type=float, default=30.6, help="seconds of a video (%(default)s)")
    parser.add_argument("--fps", type=float, nargs="+", default=[1.0, 2.0, 3.0], help="feature rows per second")
    parser.add_argument("--channels", type=int, nargs="+", default=[1280, 256, 64, 32], help="of a cell, after --pca")
    parser.add_argument("--grid", type=int, nargs="*", default=[7, 7], metavar="N", help="height and width; or nothing")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="%(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=main)
    return parser


def main(args: argparse.Namespace) -> int:
    """Run ``sizes``; returns 0."""
    if args.store is None:
        if args.speed:
            raise DataError("--speed needs a store")
        if len(args.grid) not in (0, 2) or min([args.videos, *args.channels, *args.grid]) < 1:
            raise DataError(f"videos, channels and the grid's two sides are at least 1, got {vars(args)}")
        if min([args.seconds, *args.fps]) <= 0:
            raise DataError(f"seconds and fps are positive, got {args.seconds} and {args.fps}")
        rows = planned(args.videos, args.seconds, args.fps, args.channels, tuple(args.grid) or None, args.dtype)
        if args.json:
            print(json.dumps(rows))
            return 0
        grid = f"a {args.grid[0]} x {args.grid[1]} grid" if args.grid else "no grid"
        print(f"{args.videos:,} videos of {args.seconds:g} s, {grid}, {args.dtype}")
        print(f"{'rows/s':>7}{'channels':>10}{'rows':>12}{'store':>11}{'in memory':>11}{'mapped':>11}")
        for row in rows:
            print(f"{row['rows_per_second']:>7g}{row['channels']:>10,}{row['rows']:>12,}", end="")
            print("".join(f"{size(row[name]):>11}" for name in ("store", "bank", "mapped")))
        return 0
    store = open_store(args.store)
    found = of_store(store)
    if args.speed:
        found["rows_per_s"] = speed(store)
    if args.json:
        print(json.dumps(found))
        return 0
    print(f"{found['name']}: {len(store.videos):,} videos, {found['rows']:,} rows, {size(found['files'])} on disk")
    print(f"{'tensor':<9}{'shape':<22}{'dtype':<9}{'bytes':>10}{'rows/s, memory':>16}{'rows/s, mapped':>16}")
    for name, entry in found["tensors"].items():
        shape = " x ".join(f"{n:,}" for n in entry["shape"])
        rates = found.get("rows_per_s", {}).get(name, {})
        shown = "".join(f"{rates[m]:>16,.0f}" if m in rates else f"{'':>16}" for m in ("device", "map"))
        print(f"{name:<9}{shape:<22}{entry['dtype']:<9}{size(entry['bytes']):>10}{shown}".rstrip())
    print(f"a bank of all splits holds {size(found['bank'])} in memory, {size(found['mapped'])} with memory='map'")
    return 0
