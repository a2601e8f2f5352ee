"""Files that say which clip belongs to which part, as the data sets publish them.

UCF101 ``trainlist01.txt`` and ``testlist01.txt``; HMDB51 and JHMDB ``CLASS_test_split1.txt`` (1 train, 2 test, 0
neither); Kinetics csv tables (``youtube_id``, ``time_start``, ``time_end``, ``split``); and any file named after a part
with one clip a line.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from strong_envs.features.composing.clips import Clip, ClipSet, part_of
from strong_envs.features.datasets.parsing import number, read_lines, split_of, strip_video_suffix
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError

_UCF = re.compile(r"^(train|test|val)list(\d+)$", re.IGNORECASE)
_HMDB = re.compile(r"^(.+)_test_split(\d+)$")
_SUFFIXES = (".txt", ".csv", ".lst")
_FLAGS = {"1": "train", "2": "test", "0": None}


def read_split_files(
    paths: Iterable[str | os.PathLike], split: int, report: Report
) -> dict[str, tuple[str | None, str]]:
    """Clip name (without suffix) to its part, None for a clip that is in neither, and the line that says so.

    Args:
        paths: files, or folders of them.
        split: which of the numbered splits counts, from 1.
        report: takes the counts of lines that cannot be used.

    Raises:
        DataError: no usable line, or clips that are put into two parts; the message names the lines.
    """
    parts: dict[str, tuple[str | None, str]] = {}
    twice: list[str] = []
    seen = 0
    for file in _files(paths):
        for name, part, where in _lines(file, split, report):
            seen += 1
            before = parts.setdefault(name, (part, where))
            if before[0] != part:
                twice.append(f"{name} ({before[0]} at {before[1]}, {part} at {where})")
    if twice:
        raise DataError(f"{len(twice)} clips are put into two parts: {'; '.join(twice[:8])}")
    if not seen:
        raise DataError(
            f"no split {split} in {', '.join(repr(str(p)) for p in paths)}: expected are trainlist01.txt, "
            "CLASS_test_split1.txt, a csv with a column split, or files named train, val and test"
        )
    return parts


def apply_split_files(found: ClipSet, parts: dict[str, tuple[str | None, str]]) -> None:
    """Give every clip of a set its part; clips that no file names keep None and are counted."""
    used: set[str] = set()
    clips: list[Clip] = []
    for clip in found.clips:
        whole = strip_video_suffix(clip.id)
        names = (whole, *(whole.split("/", k)[-1] for k in range(1, whole.count("/") + 1)), clip.group)
        name = next((n for n in names if n in parts), None)
        if name is None:
            found.report.add("no split file names a clip", "dropped", clip.id)
            continue
        used.add(name)
        part = parts[name][0]
        if part is None:
            found.report.add("a split file puts a clip into no part", "dropped", clip.id)
            continue
        clips.append(replace(clip, part=part))
    for name, (_, where) in parts.items():
        if name not in used:
            found.report.add("a split file names a clip that is not there", "doubtful", f"{name} at {where}")
    if not clips:
        raise DataError(f"the split files name none of the {len(found.clips):,} clips of {found.name}:\n{found.report}")
    found.clips = clips


def _files(paths: Iterable[str | os.PathLike]) -> list[Path]:
    files: list[Path] = []
    for given in map(Path, paths):
        if given.is_dir():
            files += sorted(p for p in given.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        elif given.is_file():
            files.append(given)
        else:
            raise DataError(f"no split file or folder at {str(given)!r}")
    return files


def _lines(file: Path, split: int, report: Report) -> Iterator[tuple[str, str | None, str]]:
    stem = file.stem
    if found := _UCF.match(stem):
        if int(found[2]) == split:
            part = part_of(found[1])
            for where, text in read_lines(file, report):
                yield _name(text.split()[0]), part, where
    elif found := _HMDB.match(stem):
        if int(found[2]) == split:
            for where, text in read_lines(file, report):
                name, _, flag = text.rpartition(" ")
                if flag not in _FLAGS or not name.strip():
                    report.add("a line of a split file is no clip and 0, 1 or 2", "dropped", f"{where}: {text}")
                    continue
                yield f"{found[1]}/{_name(name.strip())}", _FLAGS[flag], where
    elif file.suffix.lower() == ".csv":
        yield from _table(file, report)
    elif (part := split_of(file)) is not None:
        for where, text in read_lines(file, report):
            yield _name(text.split("\t")[0]), part, where


def _table(file: Path, report: Report) -> Iterator[tuple[str, str | None, str]]:
    rows = list(read_lines(file, report))
    header = [c.strip().lower() for c in rows[0][1].split(",")] if rows else []
    named = split_of(file)
    if "youtube_id" not in header and "split" not in header and named is None:
        return
    for (where, _), row in zip(rows[1:], csv.DictReader(text for _, text in rows), strict=False):
        values = {str(k).strip().lower(): v for k, v in row.items() if isinstance(v, str)}
        part = part_of(values.get("split", "")) or named
        name = next((values[k] for k in ("clip", "video_id", "video", "id", "path", "name") if values.get(k)), None)
        if youtube := values.get("youtube_id"):
            times = [number(_as_float(values.get(k, ""))) for k in ("time_start", "time_end")]
            name = youtube if None in times else "{}_{:06d}_{:06d}".format(youtube, *(int(t or 0) for t in times))
        if not name or part is None:
            report.add("a row of a split file names no clip or no part", "dropped", where)
            continue
        yield _name(name), part, where


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _name(text: str) -> str:
    return strip_video_suffix(text.strip().replace("\\", "/").removeprefix("./"))
