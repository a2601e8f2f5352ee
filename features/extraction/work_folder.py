"""The work folder of an extraction: one file a finished video, so that a kill at any moment loses at most one video.

Beside the store to be, ``NAME.work`` holds ``settings.json``, the lock, and ``videos/*.safetensors``, each written
under a temporary name and renamed. Settings that shape the features must be the same when an extraction continues.
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
from typing import IO

import numpy as np

from strong_envs.features.errors import DataError
from strong_envs.features.store.tensor_file import DTYPES


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
        DataError: another extraction holds it, or it was begun with other settings.
    """
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        _hold(lock, folder)
        file = folder / "settings.json"
        if file.is_file():
            _same_settings(json.loads(file.read_text(encoding="utf-8")), settings, folder)
        else:
            replace_text(file, json.dumps(settings, indent=1))
        for left in (folder / "videos").glob("*.tmp"):
            left.unlink()
        yield folder


def _hold(lock: IO[str], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Only POSIX has it; elsewhere two extractions into one store are not detected.
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DataError(
            f"another extraction is working in {str(folder)!r}; wait for it or choose another --out"
        ) from None


def _same_settings(old: dict, new: dict, folder: Path) -> None:
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    if changed:
        what = "; ".join(f"{k} was {json.dumps(old.get(k))[:150]}, now {json.dumps(new.get(k))[:150]}" for k in changed)
        raise DataError(
            f"{str(folder)!r} was begun with other settings ({what}): continue with the old ones, or delete the folder"
        )


def shard_path(folder: Path, video: str) -> Path:
    """File of a finished video; ids may hold characters that file names cannot."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", video)[:60]
    return folder / "videos" / f"{readable}-{hashlib.sha256(video.encode()).hexdigest()[:12]}.safetensors"


def write_shard(folder: Path, job: Job, tensors: dict[str, np.ndarray | None], facts: dict) -> None:
    """Write a finished video: frames (n, D), grid (n, h, w, C), objects (n, K, C), and JSON-ready facts of the file.

    Tensors that are None are left out.
    """
    from safetensors.numpy import save_file

    file = shard_path(folder, job.video)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    given = {name: rows for name, rows in tensors.items() if rows is not None}
    save_file(given, str(temporary), metadata={"facts": json.dumps({**job.stamp(), **facts})})
    os.replace(temporary, file)


def finished(folder: Path, job: Job) -> bool:
    """Whether the video was finished before, from the same file and for the same rows."""
    facts = _facts(shard_path(folder, job.video))
    return facts is not None and all(facts.get(k) == v for k, v in job.stamp().items())


def read_shard(folder: Path, job: Job, tensor: str) -> np.ndarray:
    """One tensor of a finished video."""
    from safetensors import safe_open

    with safe_open(str(shard_path(folder, job.video)), framework="numpy") as handle:
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


def replace_text(file: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)


def need_space(folder: Path, needed: int) -> int:
    """Free bytes where ``folder`` will be; raises `DataError` when they are fewer than ``needed``."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"{size(needed)} are needed at {str(place)!r}, {size(free)} are free: "
            "reduce channels (--pca), drop the grid (--no-grid), lower --fps, or use --dtype float16"
        )
    return free


def size(n_bytes: float) -> str:
    """Bytes as text: ``35.7 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    raise AssertionError
