"""Errors of the operating system as one sentence, and checks of an output path before any work is done."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strong_envs.features.errors import DataError

PathLike = str | os.PathLike


def shown(path: PathLike) -> str:
    """A path for messages: quoted, printable, and not longer than 200 characters."""
    text = ascii_safe(os.fspath(path))
    return repr(text if len(text) <= 200 else f"{text[:97]}...{text[-100:]}")


def ascii_safe(text: str | bytes) -> str:
    """Text that can be printed anywhere: bytes that are not UTF-8 are written as escapes."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")


def given_path(path: PathLike, what: str = "a path") -> Path:
    """A path; an empty one, which would stand for the current folder, is refused.

    Args:
        path: as the user wrote it.
        what: the argument, for the message.
    """
    text = os.fspath(path)
    if not text.strip():
        raise DataError(f"{what} is empty, got {text!r}; name a file or a folder (. is the current folder)")
    return Path(path)


def sentence(error: BaseException) -> str:
    """What an error says, without the number of the operating system."""
    if isinstance(error, OSError) and error.strerror:
        named = "" if error.filename is None else f": {shown(error.filename)}"
        return f"{error.strerror}{named}"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


@contextmanager
def os_errors(action: str) -> Iterator[None]:
    """Turn what a file can fail with into a `DataError` that begins with "cannot ``action``".

    Covers `OSError` (no space, no permission, read-only, a file where a folder is expected, a name that is too long),
    `SafetensorError`, and names that the file system cannot encode. A `DataError` passes as it is.

    Args:
        action: what is done and to which file, such as ``"write the store 'my_store'"``.
    """
    from safetensors import SafetensorError

    try:
        yield
    except DataError:
        raise
    except (BlockingIOError, BrokenPipeError):
        # Not about the file: a lock that somebody holds, a reader that went away.
        raise
    except (OSError, SafetensorError, UnicodeEncodeError) as error:
        raise DataError(f"cannot {action}: {sentence(error)}") from error
    except ValueError as error:
        if "embedded null" not in str(error):
            raise
        raise DataError(f"cannot {action}: the name holds a null character") from error


def check_output(path: PathLike, kind: str = "folder", what: str = "--out") -> Path:
    """Check that a result can be written to ``path`` before the work begins.

    The missing parents are created. A probe is written into the folder and removed again.

    Args:
        path: where the result goes.
        kind: ``"folder"`` or ``"file"``.
        what: the option that names it, for the message.

    Returns:
        The path.

    Raises:
        DataError: a file stands where a folder is wanted or the reverse, or the place cannot be written to.
    """
    target = Path(path)
    with os_errors(f"write to {what} {shown(target)}"):
        if kind == "folder":
            if target.exists() and not target.is_dir():
                raise DataError(f"{what} {shown(target)} is a file; a folder is needed")
            folder = target
        else:
            if target.is_dir():
                raise DataError(f"{what} {shown(target)} is a folder; a file is needed")
            if target.exists() and not target.is_file():
                raise DataError(f"{what} {shown(target)} is a device or a pipe; a file is needed")
            folder = target.parent
        above = (folder.absolute(), *folder.absolute().parents)
        blocked = next((p for p in above if p.exists() and not p.is_dir()), None)
        if blocked is not None:
            raise DataError(f"{what} {shown(target)} lies below {shown(blocked)}, which is a file")
        folder.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(prefix=".probe", dir=folder)
        os.close(handle)
        os.unlink(probe)
    return target
