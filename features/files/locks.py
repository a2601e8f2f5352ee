"""One process at a time in a folder or at a file.

The lock is the operating system's, so a killed process leaves none behind.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import ascii_safe, os_errors, shown

LOCK_NAME = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def try_lock(handle: IO) -> bool:
    """Lock an open file for this process without waiting; False where another process holds it.

    A file system without locks, and a platform without ``fcntl`` and ``msvcrt``, count as free.
    """
    try:
        import fcntl
    except ImportError:
        return _try_lock_windows(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _UNSUPPORTED
    return True


def _try_lock_windows(handle: IO) -> bool:
    try:
        import msvcrt
    except ImportError:
        return True
    try:
        handle.seek(1 << 30)  # beyond the text, which others read
        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    except OSError:
        return False
    return True


@contextmanager
def folder_lock(folder: str | os.PathLike, work: str = "work") -> Iterator[Path]:
    """Hold a folder for this process; it is created where it does not exist.

    Args:
        folder: the folder.
        work: what is done there, for the message to others, such as ``"training"``.

    Raises:
        DataError: another process holds it; the message names the process, its command and since when. Or the place
            of the lock file is taken by a link or a folder.
    """
    path = Path(folder)
    with os_errors(f"create {shown(path)}"):
        path.mkdir(parents=True, exist_ok=True)
        handle = open(path / LOCK_NAME, "a+", encoding="utf-8", opener=_own_file)  # noqa: SIM115 (closed below)
    with handle:
        if not try_lock(handle):
            raise DataError(f"{shown(path)} is in use: {_holder(handle)}; wait until it ends, or choose another folder")
        with os_errors(f"write the lock of {shown(path)}"):
            handle.seek(0)
            handle.truncate()
            handle.write(json.dumps(_this_process(work)))
            handle.flush()
        try:
            yield path
        finally:
            # The file stays: deleting it would let two later processes lock two different files of one name.
            with os_errors(f"release the lock of {shown(path)}"):
                handle.seek(0)
                handle.truncate()


class FileLock:
    """Hold a file for this process, by a hidden lock file beside it, until `release` or until it is freed.

    The lock file is removed with the lock. Of several in one process for the same file, all hold it: see `file_lock`.

    Args:
        path: the file, which need not exist.
        work: what is done to it, for the message to others.

    Raises:
        DataError: another process holds it; see `folder_lock`.
    """

    def __init__(self, path: str | os.PathLike, work: str = "work") -> None:
        self._handle: IO[str] | None = None
        target = Path(path)
        self.file = target.with_name(f".{target.name[:200]}{LOCK_NAME}")
        with os_errors(f"lock {shown(target)}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            while self._handle is None:
                handle = open(self.file, "a+", encoding="utf-8", opener=_own_file)  # noqa: SIM115 (closed below)
                if not try_lock(handle):
                    with handle:
                        raise DataError(
                            f"{shown(target)} is in use: {_holder(handle)}; wait until it ends, or choose another file"
                        )
                if _is_there(handle, self.file):
                    self._handle = handle
                else:
                    handle.close()  # its holder removed it between our opening and locking it
            self._handle.seek(0)
            self._handle.truncate()
            self._handle.write(json.dumps(_this_process(work)))
            self._handle.flush()
        self._pid = os.getpid()

    def release(self) -> None:
        """Give the file free."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            with suppress(OSError), handle:
                if os.getpid() == self._pid:  # not in a copy of this process, which holds nothing
                    os.unlink(self.file)

    def __del__(self) -> None:
        self.release()


_HELD: WeakValueDictionary[str, FileLock] = WeakValueDictionary()


def file_lock(path: str | os.PathLike, work: str = "work") -> FileLock:
    """The lock of a file, the same one for all who ask in this process; free when none of them keeps it.

    Args:
        path: the file.
        work: what is done to it, for the message to others.

    Raises:
        DataError: another process holds it.
    """
    key = os.path.realpath(path)
    held = _HELD.get(key)
    if held is None:
        held = _HELD[key] = FileLock(key, work)
    return held


def _is_there(handle: IO[str], path: Path) -> bool:
    """Whether an open file is the one that has the path."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
    except OSError:
        return False


def _own_file(path: str, flags: int) -> int:
    """Open the lock file, which a link must not lead elsewhere: what it holds is replaced.

    Opened for appending: the text of the holder must survive until the lock is ours.
    """
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise DataError(f"{shown(path)} is no regular file, so the folder cannot be locked; remove it")
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _this_process(work: str) -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "work": work,
        "command": ascii_safe(" ".join(sys.argv))[:200],
    }


def _holder(handle: IO[str]) -> str:
    try:
        handle.seek(0)
        about = json.loads(handle.read(2000))
        return (
            f"process {about['pid']} on {about['host']} ({about['command']}) has held it "
            f"since {about['since']} for {about['work']}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process holds it"
