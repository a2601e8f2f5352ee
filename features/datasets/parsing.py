"""Reading untrusted annotation text: sizes are bounded, bad bytes and wrong types are counted, nothing is run."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.files import untrusted_json
from strong_envs.features.files.errors import given_path, os_errors, shown

MAX_JSON_BYTES = 128 * 2**20  # a JSON tree takes up to 24 times its text in memory, so this bounds it near 3 GiB
MAX_LINES_BYTES = 512 * 2**20
MAX_LINE_BYTES = 16 * 2**20
MAX_ID_LENGTH = 255
MAX_DEPTH = 32  # levels of a JSON tree; half of what a store's manifest may have, which holds extra fields of queries
VIDEO_SUFFIXES = (
    *(".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".ts", ".3gp", ".3g2"),
    *(".mts", ".m2ts", ".vob", ".asf", ".divx", ".ogg", ".gif"),
)
"""Suffixes of video files, for readers and extraction alike."""

PathOrPaths = str | os.PathLike | Sequence[str | os.PathLike]

_SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation|dev|test|testing)(?![a-z])")
_CLOCK = re.compile(r"-?\d{1,4}(:\d{1,2}){1,2}([.,]\d{1,9})?")
_UNIT = re.compile(r"-?\d{1,9}([.,]\d{1,9})? ?(ms|s|sec|secs|seconds?|m|min|mins|minutes?|h|%|frames?)", re.IGNORECASE)
_SPLIT_NAMES = {"t": "train", "v": "val", "d": "val"}


def show(value: object) -> str:
    """A short, printable form of a value from a file, for messages."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def number(value: object) -> float | None:
    """``value`` as a finite float, or None where it is not a number (text and true/false are not)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def written_time(value: object) -> str | None:
    """What is wrong with a time that is text: its form, such as "is written as minutes:seconds"; None for others."""
    if not isinstance(value, str):
        return None
    text = value.strip()
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        return f"is written as {'hours:' if text.count(':') == 2 else ''}minutes:seconds"
    if _UNIT.fullmatch(text):
        return "is written with a unit"
    try:
        return "is a number in quotation marks" if math.isfinite(float(text)) else None
    except ValueError:
        return None


def whole(value: object) -> int | None:
    """``value`` as an int when it is an integral number below 2**53, else None."""
    result = number(value)
    return int(result) if result is not None and result == int(result) and abs(result) < 2**53 else None


def is_unicode(text: str) -> bool:
    """Whether a string can be written as UTF-8 (JSON can spell half of a surrogate pair, which cannot)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def id_problem(value: object) -> str | None:
    """Why ``value`` cannot be the id of a video or query (ids become file names), or None when it can."""
    if not isinstance(value, str) or not value:
        return "an id is not a non-empty string"
    if len(value) > MAX_ID_LENGTH:
        return f"an id is longer than {MAX_ID_LENGTH} characters"
    if not value.isprintable() or not is_unicode(value):
        return "an id holds characters that cannot be printed"
    if "\\" in value or value.startswith("/") or ":" in value[:2] or ".." in value.split("/"):
        return "an id is a path that leaves its folder"
    return None


def strip_video_suffix(name: str) -> str:
    """``"s13-d21.avi"`` to ``"s13-d21"``; names without a video suffix come back as they are."""
    stem, suffix = os.path.splitext(name)
    return stem if stem and suffix.lower() in VIDEO_SUFFIXES else name


def split_of(path: str | os.PathLike) -> str | None:
    """The split in a file's name (train, val or test), or None."""
    found = _SPLIT.findall(Path(path).stem.lower())
    if not found:
        return None
    return "test" if found[-1].startswith("test") else _SPLIT_NAMES[found[-1][0]]


def check_file(path: str | os.PathLike, limit: int) -> Path:
    """The path, when it is a regular file that is neither empty nor larger than ``limit`` bytes; else `DataError`."""
    file = Path(path)
    with os_errors(f"read {shown(path)}"):
        if not file.exists():
            raise DataError(f"no such file: {str(file)!r}")
        if not file.is_file():
            raise DataError(f"{str(file)!r} is not a regular file")
        size = file.stat().st_size
    if size == 0:
        raise DataError(f"{str(file)!r} is empty")
    if size > limit:
        raise DataError(f"{str(file)!r} has {size:,} bytes; files of this kind are read up to {limit:,} bytes")
    return file


def read_json(path: str | os.PathLike, report: Report) -> Any:
    """The parsed JSON of one file; keys written twice are counted in ``report`` (the last one wins)."""
    file = check_file(path, MAX_JSON_BYTES)
    return _parse(untrusted_json.read_text(file, MAX_JSON_BYTES), report, file.name, any_text=True)


def parse_json(text: str, report: Report, where: str) -> Any:
    """Parse one line of JSON; see `strong_envs.features.files.untrusted_json.parse_json` for what is refused."""
    return _parse(text, report, where, any_text=False)


def _parse(text: str, report: Report, where: str, any_text: bool) -> Any:
    def twice(key: str) -> None:
        report.add("a JSON key is written twice; the last one counts", "doubtful", f"{where}: {show(key)}")

    return untrusted_json.parse_json(text, where, repeated_key=twice, max_depth=MAX_DEPTH, any_text=any_text)


def read_lines(path: str | os.PathLike, report: Report) -> Iterator[tuple[str, str]]:
    """Yield ``("file:line", text)`` for every line that is not blank; what is not UTF-8 is counted as dropped."""
    file = check_file(path, MAX_LINES_BYTES)
    try:
        with open(file, "rb") as handle:
            index = 0
            while raw := handle.readline(MAX_LINE_BYTES):
                index += 1
                where = f"{file.name}:{index}"
                if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
                    report.add(f"a line is longer than {MAX_LINE_BYTES:,} bytes", "dropped", where)
                    while (rest := handle.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                        pass
                    continue
                if index == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise DataError(f"{str(file)!r} is UTF-16; save it as UTF-8")
                try:
                    text = raw.decode("utf-8-sig" if index == 1 else "utf-8").strip()
                except UnicodeDecodeError:
                    report.add("a line is not UTF-8", "dropped", f"{where}: {show(raw[:40])}")
                    continue
                if text:
                    yield where, text
    except OSError as error:
        raise DataError(f"{str(file)!r} cannot be read: {error}") from None


def list_files(path: PathOrPaths, accept: Callable[[Path], bool], wanted: str) -> list[Path]:
    """The files a reader should read: the path itself, each path of a sequence, or what it accepts in a folder.

    Raises:
        DataError: nothing exists there, or a folder holds no file in the format (``wanted`` describes it).
    """
    if not isinstance(path, (str, os.PathLike)):
        files = [file for one in path for file in list_files(one, accept, wanted)]
        if not files:
            raise DataError(f"no paths were given; pass {wanted}")
        return files
    target = given_path(path, "the path of the annotations")
    with os_errors(f"read {shown(path)}"):
        if target.is_dir():
            entries = sorted(p for p in target.iterdir() if p.is_file())
            files = [p for p in entries if accept(p)]
            if not files:
                names = ", ".join(p.name for p in entries[:8]) or "nothing"
                raise DataError(f"folder {str(target)!r} holds no {wanted}; it holds {names}")
            return files
        if target.exists():
            return [target]
    raise DataError(f"no such file or folder: {str(target)!r}; pass {wanted}")
