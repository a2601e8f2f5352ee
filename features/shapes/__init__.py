"""``shapes-v0``, the default world: rendered videos of coloured shapes, English queries, exact truth in time and space.

No download: everything follows from seeds. A video has 60 frames of 64 x 64 pixels at 10 frames a second. Its objects
move left, right, up or down, grow, shrink and blink; a query names one object and one of its events. Levels:

- ``easy``: two objects that differ in colour and shape do the same event at different times; one sentence pattern.
- ``standard``: four objects; others of the same colour, and others of the same shape, do the same event at other times.
- ``travel``: as standard, with every object moving across the frame, so that no static box follows an object.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import os_errors, shown

if TYPE_CHECKING:
    from strong_envs.features.store.store import FeatureStore

LEVELS = ("easy", "standard", "travel")
BUILDS = {"small": (40, 10, 12), "medium": (800, 100, 200), "full": (2400, 300, 600)}
"""Numbers of train, validation and test videos; the three parts are drawn from disjoint seeds."""
WORLD_VERSION = 0
_PARALLEL_FROM = 200
_SOURCES = ("scene", "events", "language", "drawing", "cells", "build")


def cache_dir() -> Path:
    """Where built stores are kept: STRONG_ENVS_CACHE, else ``strong_envs`` in XDG_CACHE_HOME, else in ``~/.cache``."""
    try:
        if own := os.environ.get("STRONG_ENVS_CACHE"):
            return Path(own).expanduser()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "strong_envs"
    except RuntimeError as error:
        raise DataError(f"there is no folder for the cache ({error}); set STRONG_ENVS_CACHE or pass cache=") from None


def open_store(
    level: str = "standard",
    build: str = "small",
    cache: Path | None = None,
    progress: bool = True,
    workers: int | None = None,
) -> FeatureStore:
    """The store of a level, built on first use (a second for ``small``, about a minute of two cores for ``full``).

    Args:
        level: one of `LEVELS`.
        build: a key of `BUILDS`, whose values are the numbers of train, validation and test videos. The videos of the
            small build are the first ones of the full build, part by part.
        cache: folder to keep it in; `cache_dir()` by default. The name of the store's folder holds a hash of the
            world's source, so another release never meets features that it would not make itself.
        progress: show a progress bar while building.
        workers: processes that build; by default one for each usable core, and this process alone for small builds.
            The number changes the time and nothing else.

    Raises:
        DataError: an unknown level or build, ``workers`` < 1, or a damaged store in the cache.
    """
    from strong_envs.features.store.store import FeatureStore

    check_level(level)
    if build not in BUILDS:
        raise DataError(f"unknown build {build!r}{nearest(build, BUILDS)}; builds are {list(BUILDS)}")
    if workers is not None and workers < 1:
        raise DataError(f"workers must be at least 1, got {workers}")
    sizes = BUILDS[build]
    infix, suffix = "" if level == "standard" else f"-{level}", "" if build == "small" else f"-{build}"
    name = f"shapes{infix}-v0{suffix}"
    path = Path(cache or cache_dir()).expanduser() / f"{name}-{_content_version(level, sizes)}"
    if not path.exists():
        # Not before: what builds a world imports OpenCV, which takes longer than to open one.
        from strong_envs.features.shapes import build as building

        if workers is None:
            workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            workers = workers if sum(sizes) >= _PARALLEL_FROM else 1
        try:
            with os_errors(
                f"build the default world in {shown(path.parent)}, the folder of STRONG_ENVS_CACHE or cache="
            ):
                return building.build(path, name, level, sizes, workers, progress)
        except DataError:
            # Another process built the same store first.
            if not path.exists():
                raise
    try:
        return FeatureStore.open(path)
    except DataError as error:
        raise DataError(f"{error}; delete {str(path)!r} and it will be built again") from None


def render(seed: int, level: str) -> np.ndarray:
    """(60, 64, 64, 3) uint8 RGB: the pixels of a video; ``StoredVideo.extra`` holds its ``seed`` and ``level``."""
    from strong_envs.features.shapes.drawing import draw
    from strong_envs.features.shapes.scene import sample_scene

    check_level(level)
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DataError(f"seed must be a whole number from 0, got {seed!r}")
    return draw(sample_scene(int(seed), level))


def check_level(level: str) -> None:
    """Raise DataError for a level that does not exist."""
    if level not in LEVELS:
        raise DataError(f"unknown level {level!r}{nearest(level, LEVELS)}; levels are {list(LEVELS)}")


def _content_version(level: str, sizes: tuple[int, int, int]) -> str:
    from strong_envs.features.encoders import hashed_words
    from strong_envs.features.store.manifest import FORMAT_VERSION

    digest = hashlib.sha256(repr((level, sizes, WORLD_VERSION, FORMAT_VERSION)).encode())
    here = Path(__file__).parent
    for source in [*(here / f"{name}.py" for name in _SOURCES), Path(hashed_words.__file__)]:
        digest.update(source.read_text(encoding="utf-8").encode())
    return digest.hexdigest()[:12]
