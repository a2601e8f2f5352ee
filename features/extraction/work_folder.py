"""The work folder of an extraction: one file a finished video, so that a kill at any moment loses at most one video.

Beside the store to be, ``NAME.work`` holds ``settings.json``, a lock, and ``videos/*.safetensors``, each written under
a temporary name and renamed. Settings that shape the features must be the same when an extraction continues.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.files.locks import LOCK_NAME, folder_lock
from strong_envs.features.files.untrusted_json import read_json
from strong_envs.features.store.tensor_file import DTYPES

SETTINGS, VIDEOS, REDUCTION, MARKER = "settings.json", "videos", "pca.json", "moving.json"
"""What lies in a work folder; the marker names the store that is about to take its place."""
_STAGING = re.compile(r"\.(settings|pca|moving)\.json\.staging-.*")


@dataclass(frozen=True)
class Job:
    """One video to extract: ``n_rows`` feature rows over ``duration`` seconds of the file at ``path``."""

    video: str
    path: str
    duration: float
    n_rows: int
    reduce: bool = False

    def stamp(self) -> dict:
        """What a finished video must agree with to count as finished, the file's size and age included."""
        stat = os.stat(self.path)
        return {
            "video": self.video,
            "duration": self.duration,
            "n_rows": self.n_rows,
            "reduced": self.reduce,
            "bytes": stat.st_size,
            "modified_ns": stat.st_mtime_ns,
        }


def settings_hash(settings: dict) -> str:
    """SHA-256 of JSON-ready settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@contextmanager
def work_folder(folder: Path, settings: dict) -> Iterator[Path]:
    """Create or enter a work folder and hold it for this process alone.

    Raises:
        DataError: another process holds it, it was begun with other settings, or it is not a work folder.
    """
    check_work_folder(folder)
    with folder_lock(folder, "an extraction"):
        with os_errors(f"write to {shown(folder)}"):
            (folder / VIDEOS).mkdir(parents=True, exist_ok=True)
        file = folder / SETTINGS
        if file.is_file():
            _same_settings(read_json(file), settings, folder)
        else:
            write_text(file, json.dumps(settings, indent=1))
        with os_errors(f"write to {shown(folder)}"):
            for left in (folder / VIDEOS).glob("*.tmp"):
                left.unlink()
        yield folder


def check_work_folder(folder: Path) -> None:
    """Raise `DataError` unless ``folder`` is free, empty, or the work folder of an extraction.

    A work folder is removed when its store is written, so a folder of any other use must never become one.
    """
    with os_errors(f"read {shown(folder)}"):
        if not os.path.lexists(folder):
            return
        known = {VIDEOS, SETTINGS, MARKER, REDUCTION, LOCK_NAME}
        ours = folder.is_dir() and not folder.is_symlink()
        names = [p.name for p in folder.iterdir()] if ours else []
        strange = [name for name in names if name not in known and not _STAGING.fullmatch(name)]
        shards = (folder / VIDEOS).iterdir() if VIDEOS in names and (folder / VIDEOS).is_dir() else iter(())
        strange += [f"{VIDEOS}/{p.name}" for p in shards if p.suffix not in (".safetensors", ".tmp")]
        if not ours or strange:
            held = f"it holds {', '.join(sorted(strange)[:3])}" if strange else "it is not a folder"
            raise DataError(
                f"the work folder of the extraction would be {shown(folder)}, which is something else: {held}; "
                "choose another --out"
            )


def _same_settings(old: Any, new: dict, folder: Path) -> None:
    if not isinstance(old, dict):
        raise DataError(f"{shown(folder / SETTINGS)} holds no settings; delete the folder to begin again")
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    if changed:
        what = "; ".join(f"{k} was {json.dumps(old.get(k))[:150]}, now {json.dumps(new.get(k))[:150]}" for k in changed)
        raise DataError(
            f"{str(folder)!r} was begun with other settings ({what}): continue with the old ones, or delete the folder"
        )


def shard_path(folder: Path, video: str) -> Path:
    """File of a finished video; ids may hold characters that file names cannot."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", video)[:60]
    return folder / VIDEOS / f"{readable}-{hashlib.sha256(video.encode()).hexdigest()[:12]}.safetensors"


def write_shard(folder: Path, job: Job, tensors: dict[str, np.ndarray | None], facts: dict) -> None:
    """Write a finished video: frames (n, D), grid (n, h, w, C), objects (n, K, C), and JSON-ready facts of the file.

    Tensors that are None are left out.
    """
    from safetensors.numpy import save_file

    file = shard_path(folder, job.video)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    given = {name: rows for name, rows in tensors.items() if rows is not None}
    with os_errors(f"write the features of video {job.video!r}"):
        save_file(given, str(temporary), metadata={"facts": json.dumps({**job.stamp(), **facts})})
        os.replace(temporary, file)


def finished(folder: Path, job: Job) -> bool:
    """Whether the video was finished before, from the same file and for the same rows."""
    facts = _facts(shard_path(folder, job.video))
    return facts is not None and all(facts.get(k) == v for k, v in job.stamp().items())


def read_shard(folder: Path, job: Job, tensor: str) -> np.ndarray:
    """One tensor of a finished video."""
    from safetensors import safe_open

    with (
        os_errors(f"read the features of video {job.video!r}"),
        safe_open(str(shard_path(folder, job.video)), framework="numpy") as handle,
    ):
        return handle.get_tensor(tensor)


def shard_facts(folder: Path, job: Job) -> dict:
    """What was found out about a finished video, its tensors' shapes and types included."""
    from safetensors import safe_open

    with safe_open(str(shard_path(folder, job.video)), framework="numpy") as handle:
        facts = json.loads((handle.metadata() or {})["facts"])
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
        facts["tensors"] = {name: (rows.get_shape(), DTYPES[rows.get_dtype()]) for name, rows in slices.items()}
        return facts


def _facts(file: Path) -> dict | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="numpy") as handle:
            return json.loads((handle.metadata() or {})["facts"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


LESS = "reduce channels (--pca), drop the grid (--no-grid), lower --fps, or use --dtype float16"


def need_space(folder: Path, needed: int, instead: str = LESS) -> int:
    """Free bytes where ``folder`` will be; raises `DataError` when they are fewer than ``needed``."""
    with os_errors(f"find the free space of {shown(folder)}"):
        place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(f"{size(needed)} are needed at {str(place)!r}, {size(free)} are free: {instead}")
    return free


def size(n_bytes: float) -> str:
    """Bytes as text: ``35.7 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    raise AssertionError
