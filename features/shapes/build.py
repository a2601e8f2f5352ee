"""Building a store of the shapes world: seeds to features, on all cores, written whole or not at all.

The workers are plain child interpreters that write into one scratch file and print a line of JSON for every video.
Nothing is pickled, the caller's script needs no ``__main__`` guard, and no process is forked with threads running.
The features depend on the seed and the level alone: the number of workers changes nothing.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from strong_envs.features.datasets.types import Query
from strong_envs.features.encoders import hashed_words
from strong_envs.features.errors import DataError
from strong_envs.features.shapes.cells import CELLS, CHANNELS, MEAN, SCALE, cell_features
from strong_envs.features.shapes.drawing import draw
from strong_envs.features.shapes.events import DURATION, FPS, FRAMES
from strong_envs.features.shapes.language import describe
from strong_envs.features.shapes.scene import LEVELS, sample_scene, stream
from strong_envs.features.store.store import FeatureStore, StoreContents, StoredVideo, write_store

# Seeds of test and of validation videos start here; train videos count from 0.
TEST_SEEDS = 1_000_000_000
VAL_SEEDS = 2_000_000_000
TEXT_DIM = 128
_MAX_OBJECTS = 4
_STALE_SECONDS = 24 * 3600


Sizes = tuple[int, int, int]
"""Numbers of train, validation and test videos."""


def video_seeds(sizes: Sizes) -> list[tuple[str, int, int]]:
    """(split, number in the split, seed) of every video; a split of a larger build begins with those of a smaller."""
    train, val, test = sizes
    parts = (("train", train, 0), ("test", test, TEST_SEEDS), ("val", val, VAL_SEEDS))
    return [(split, i, first + i) for split, count, first in parts for i in range(count)]


def build(path: Path, name: str, level: str, sizes: Sizes, workers: int, progress: bool) -> FeatureStore:
    """Write the store of as many videos as ``sizes`` says to ``path`` and open it.

    With ``workers`` > 1 as many child processes share the work, else this process does it. Raises RuntimeError where a
    worker fails, and DataError where ``path`` exists or its folder cannot hold the store. Scratch files lie beside
    ``path`` and go away in any case.
    """
    seeds = video_seeds(sizes)
    _reserve(path.parent, len(seeds))
    _sweep(path.parent)
    scratch = Path(tempfile.mkdtemp(prefix=".shapes-scratch-", dir=path.parent))
    try:
        arrays = _arrays(scratch, len(seeds), "w+")
        if workers > 1 and sys.executable:
            made: Generator[tuple[int, list[dict]], None, None] = _in_children(scratch, level, sizes, workers)
        else:
            made = ((i, _fill(arrays, i, seed, level)) for i, (_, _, seed) in enumerate(seeds))
        with closing(made), tqdm(total=len(seeds), desc=f"building {name}", unit="video", disable=not progress) as bar:
            records = {}
            for row, objects in made:
                records[row] = objects
                bar.update()
        return _write(path, name, level, seeds, records, arrays)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _arrays(folder: Path, videos: int, mode: Any) -> dict[str, np.ndarray]:
    """Memory-mapped arrays that the workers fill: one row a video."""
    shapes = {
        "grid": (np.float16, (videos, FRAMES, CELLS, CELLS, len(CHANNELS))),
        "frames": (np.float32, (videos, FRAMES, len(CHANNELS))),
        "boxes": (np.float32, (videos, _MAX_OBJECTS, FRAMES, 4)),
    }
    return {k: np.memmap(folder / k, dtype, mode, shape=shape) for k, (dtype, shape) in shapes.items()}


def _fill(arrays: dict[str, np.ndarray], row: int, seed: int, level: str) -> list[dict]:
    """Make one video's features and boxes, and return its objects with their events and sentences."""
    scene = sample_scene(seed, level)
    grid = cell_features(draw(scene)).astype(np.float16)
    arrays["grid"][row] = grid
    # Sums of half-precision numbers are exact in double precision, in whatever order they are taken.
    arrays["frames"][row] = grid.mean(axis=(1, 2), dtype=np.float64)
    rng = stream(seed, level, "text")
    objects = []
    for i, body in enumerate(scene.bodies):
        arrays["boxes"][row, i] = body.boxes
        said = [describe(rng, body.colour, body.shape, act.event, LEVELS[level].plain) for act in body.acts]
        acts = [{"event": a.event, "window": a.window, "text": t} for a, t in zip(body.acts, said, strict=True)]
        objects.append({"colour": body.colour, "shape": body.shape, "acts": acts})
    return objects


def _in_children(folder: Path, level: str, sizes: Sizes, workers: int) -> Generator[tuple[int, list[dict]], None, None]:
    """Start the workers and yield (row, objects) of every video they finish; all are gone once this is closed."""
    package = str(Path(__file__).resolve().parents[1])
    # Bare stand-ins for the packages: importing the real ones loads torch, which a worker has no use for.
    code = (
        "import sys, types\n"
        "for name in ('strong_envs', 'strong_envs.features'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [sys.argv[1]] if name.endswith('features') else []\n"
        "del sys.argv[1]\n"
        "from strong_envs.features.shapes.build import work\n"
        "work()"
    )
    args = [str(folder), level, *map(str, sizes), str(workers)]
    lines: queue.SimpleQueue[str | subprocess.Popen] = queue.SimpleQueue()

    def drain(child: subprocess.Popen) -> None:
        for line in child.stdout or ():
            lines.put(line)
        lines.put(child)

    children: list[subprocess.Popen] = []
    try:
        for i in range(workers):
            command = [sys.executable, "-c", code, package, str(i), *args]
            children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            threading.Thread(target=drain, args=(children[-1],), daemon=True).start()
        running = workers
        while running:
            line = lines.get()
            if isinstance(line, str):
                row, objects = json.loads(line)
                yield row, objects
            elif line.wait():
                raise RuntimeError(f"a worker ended with exit code {line.returncode}; its output is above")
            else:
                running -= 1
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


def work() -> None:
    """What a child process runs: every ``workers``-th video, from the arguments on its command line."""
    import cv2

    # The parent ends its workers; an interrupt from the keyboard reaches both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    first, folder, level, train, val, test, workers = sys.argv[1:]
    seeds = video_seeds((int(train), int(val), int(test)))
    arrays = _arrays(Path(folder), len(seeds), "r+")
    try:
        for row in range(int(first), len(seeds), int(workers)):
            print(json.dumps((row, _fill(arrays, row, seeds[row][2], level))), flush=True)
    except BrokenPipeError:
        # The parent is gone.
        os._exit(1)


def _write(
    path: Path,
    name: str,
    level: str,
    seeds: list[tuple[str, int, int]],
    records: dict[int, list[dict]],
    arrays: dict[str, np.ndarray],
) -> FeatureStore:
    videos, queries, boxes = [], [], {}
    for row, (split, number, seed) in enumerate(seeds):
        video = f"shapes-{level}-{split}-{number:06d}"
        videos.append(StoredVideo(video, DURATION, FRAMES, extra={"seed": seed, "level": level}))
        spoken = 0
        for i, thing in enumerate(records[row]):
            track = f"{video}/{i}"
            boxes[track] = np.asarray(arrays["boxes"][row, i])
            for act in thing["acts"]:
                extra = {"track": track, "event": act["event"], "colour": thing["colour"], "shape": thing["shape"]}
                window = tuple(act["window"])
                queries.append(Query(f"{video}-{spoken}", video, act["text"], (window,), split, extra))
                spoken += 1
    contents = StoreContents(
        name=name,
        videos=videos,
        queries=queries,
        frames=arrays["frames"].reshape(-1, len(CHANNELS)),
        query_vectors=hashed_words.encode([q.text for q in queries], TEXT_DIM),
        grid=arrays["grid"].reshape(-1, CELLS, CELLS, len(CHANNELS)),
        boxes=boxes,
        fps=FPS,
        backbone={
            "name": "shapes cells",
            "channels": list(CHANNELS),
            "mean": MEAN.tolist(),
            "scale": SCALE.tolist(),
        },
        text={"name": "hashed words", "dim": TEXT_DIM},
        extra={"world": "shapes-v0", "level": level},
    )
    return write_store(path, contents)


def _sweep(folder: Path) -> None:
    """Remove what builds that were killed a day ago or earlier left behind."""
    for old in folder.glob(".shapes-scratch-*"):
        # Another process may be sweeping too.
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)


def _reserve(folder: Path, videos: int) -> None:
    """Make the folder and see that it can hold the scratch and the store."""
    needed = 2.5 * videos * FRAMES * CELLS * CELLS * len(CHANNELS) * 2
    elsewhere = "set STRONG_ENVS_CACHE or pass cache= to keep it elsewhere"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DataError(f"cannot build the world in {str(folder)!r}: {error}; {elsewhere}") from None
    if free < needed:
        raise DataError(
            f"building takes {needed / 1e6:.0f} MB in {str(folder)!r}, which has {free / 1e6:.0f} MB free; {elsewhere}"
        )
