"""Files and folders that are replaced whole or not at all.

New content is written beside the target under a hidden name, flushed to the disk, and renamed over it. A kill or a full
disk at any moment leaves the old content or the new one. Hidden leftovers of killed processes are removed by the next
write of the same target.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.files.locks import try_lock

PathLike = str | os.PathLike
STALE_SECONDS = 600.0
"""A leftover that nobody holds is removed once it is this old; a younger one may be about to be locked."""
_EXCHANGE, _AT_FDCWD = 2, -100


@contextmanager
def replaced_file(path: PathLike) -> Iterator[Path]:
    """Yield a name to write to; on success it is flushed and renamed to ``path``, on failure removed.

    The suffix of the name is that of ``path``, because some writers choose the format by it.

    Raises:
        DataError: the file cannot be written; what was at ``path`` is untouched.
    """
    target = Path(path)
    with os_errors(f"write {shown(target)}"):
        if target.is_dir():
            raise DataError(f"cannot write {shown(target)}: it is a folder")
        if target.exists() and not target.is_file():
            raise DataError(f"cannot write {shown(target)}: it is a device or a pipe, which a file must not replace")
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        handle, name = tempfile.mkstemp(prefix=_prefix(target), suffix=target.suffix, dir=target.parent)
        staging = Path(name)
        with os.fdopen(handle, "rb") as held:
            try_lock(held)
            try:
                yield staging
                mode = target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~_umask()
                with open(staging, "rb+") as written:
                    os.fsync(written.fileno())
                os.chmod(staging, mode)
                os.replace(staging, target)
                _sync_folder(target.parent)
            finally:
                with suppress(OSError):
                    staging.unlink(missing_ok=True)


def write_bytes(path: PathLike, content: bytes) -> Path:
    """Write a small file whole or not at all."""
    with replaced_file(path) as staging:
        staging.write_bytes(content)
    return Path(path)


def write_text(path: PathLike, text: str) -> Path:
    """Write a small UTF-8 file whole or not at all."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def refuse_replacing(path: PathLike, replaceable: Callable[[Path], bool] | None, what: str) -> None:
    """Raise `DataError` unless ``path`` is free, or holds what ``replaceable`` accepts.

    Args:
        path: where something is to be written.
        replaceable: whether the folder there may be replaced; None where nothing may be.
        what: what is written, such as ``"a feature store"``.
    """
    target = Path(path)
    with os_errors(f"write {shown(target)}"):
        if not os.path.lexists(target):
            return
        if target.is_symlink():
            raise DataError(f"{shown(target)} is a symbolic link; name the folder itself")
        if replaceable is None:
            raise DataError(f"{shown(target)} exists; choose another path or pass overwrite=True (--overwrite)")
        if not target.is_dir() or not replaceable(target):
            raise DataError(f"{shown(target)} is not {what}; only {what} is replaced. Choose another path")


@contextmanager
def replaced_folder(
    path: PathLike, replaceable: Callable[[Path], bool] | None = None, what: str = "a folder of this kind"
) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes the place of ``path``, on failure it is removed.

    An old folder is exchanged for the new one in one step where the operating system can (Linux); elsewhere by two
    renames, and `recover` brings the old one back if a kill falls between them.

    Args:
        path: the folder.
        replaceable: see `refuse_replacing`; asked before the work and again before the rename.
        what: see `refuse_replacing`.

    Raises:
        DataError: something is there that may not be replaced, or the folder cannot be written.
    """
    target = Path(path)
    recover(target)
    refuse_replacing(target, replaceable, what)
    with os_errors(f"write {shown(target)}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        staging = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        lock = open(staging.with_name(f"{staging.name}.lock"), "w")  # noqa: SIM115 (closed below)
        try:
            try_lock(lock)
            yield staging
            for file in staging.rglob("*"):
                if file.is_file():
                    with open(file, "rb+") as written:
                        os.fsync(written.fileno())
            os.chmod(staging, 0o777 & ~_umask())
            refuse_replacing(target, replaceable, what)
            _take_place(staging, target)
            _sync_folder(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            lock.close()
            with suppress(OSError):
                os.unlink(lock.name)


def recover(path: PathLike) -> None:
    """Bring back a folder whose replacement was killed between two renames. Cheap where nothing is to be done."""
    target = Path(path)
    if target.name in ("", ".."):
        return  # "." and its like are there
    old = _old(target)
    with suppress(OSError):
        if not os.path.lexists(target) and old.is_dir():
            os.rename(old, target)


def _take_place(staging: Path, target: Path) -> None:
    if not os.path.lexists(target):
        try:
            os.rename(staging, target)
            return
        except OSError:
            if not os.path.lexists(target):
                raise
            raise DataError(f"{shown(target)} was created by another process meanwhile; it is untouched") from None
    if _exchange(staging, target):
        return  # what stood there lies at `staging` now, which the caller removes
    old = _old(target)
    shutil.rmtree(old, ignore_errors=True)
    os.rename(target, old)
    os.rename(staging, target)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (``renameat2`` of Linux); False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def _prefix(target: Path) -> str:
    return f".{target.name[:100]}.staging-"


def _sweep(target: Path) -> None:
    """Remove what killed processes left of earlier writes of ``target``."""
    pattern = re.compile(re.escape(_prefix(target)) + r"[a-z0-9_]{8}(\.[^.]+)?")
    old = _old(target)
    with suppress(OSError):
        if target.exists() and old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        for left in [p for p in target.parent.iterdir() if pattern.fullmatch(p.name)]:
            with suppress(OSError):
                if time.time() - left.lstat().st_mtime >= STALE_SECONDS:
                    _remove_if_free(left)


def _remove_if_free(left: Path) -> None:
    """Remove a leftover with its lock unless a process holds it."""
    if left.suffix == ".lock" and left.with_suffix("").is_dir():
        return  # goes with its folder
    lock = left.with_name(f"{left.name}.lock") if left.is_dir() else left
    if lock.exists():
        with open(lock, "rb") as handle:
            if not try_lock(handle):
                return
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    lock.unlink(missing_ok=True)
    if left != lock and not left.is_dir():
        left.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
