"""Charades-STA (Gao et al. 2017): 16,124 moments in 6,672 indoor videos of about half a minute."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path

from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.format import annotation_format
from strong_envs.features.datasets.parsing import (
    MAX_JSON_BYTES,
    PathOrPaths,
    check_file,
    id_problem,
    list_files,
    read_lines,
    show,
)
from strong_envs.features.datasets.sniff import sniff_file
from strong_envs.features.datasets.types import Annotations, Report
from strong_envs.features.errors import DataError

_LINE = re.compile(r"(\S+)\s+(\S+)\s+(\S+?)##(.*)")


@annotation_format(
    "charades_sta",
    text=re.compile(r"^\S+[ \t]+-?[\d.]+[ \t]+-?[\d.]+##", re.MULTILINE),
    advice={
        "the durations do not list its video": "Use the csv files that belong to these annotations.",
        "a csv row has no length": "The rows of this video are dropped. Add its length in seconds.",
    },
)
def read_charades_sta(
    path: PathOrPaths,
    *,
    durations: PathOrPaths | Mapping[str, float] | None = None,
    split: str | None = None,
) -> Annotations:
    """Read ``charades_sta_{train,test}.txt``: lines ``VIDEO start end##sentence`` in seconds.

    The rule of the field is applied: ``end = min(end, duration)``, and rows with start >= end are dropped. On the
    published files that leaves 12,404 of 12,408 training rows and all 3,720 test rows. Query ids are
    ``{split}_{line number}``.

    Args:
        path: a folder with the txt files, one file, or several.
        durations: ``Charades_v1_*.csv`` of the Charades data set (columns ``id`` and ``length``), or a mapping of
            video id to seconds. None takes the csv files that lie beside the txt files.
        split: name of the split; None takes it from each file's name.

    Raises:
        DataError: files that cannot be read, no durations, or nothing usable.
    """
    files = list_files(path, lambda p: sniff_file(p) == "charades_sta", "charades_sta_*.txt")
    out = Collector("Charades-STA", path)
    if isinstance(durations, Mapping):
        lengths: Mapping[str, object] = durations
    else:
        lengths = _read_lengths(durations, {f.parent for f in files}, out.report)
    for file in files:
        name = out.split(file, split)
        for where, line in read_lines(file, out.report):
            _read_line(out, line, where, name, lengths)
    return out.finish()


def _read_line(out: Collector, line: str, where: str, split: str, lengths: Mapping[str, object]) -> None:
    match = _LINE.fullmatch(line)
    if match is None:
        out.drop("a line is not 'VIDEO start end##sentence'", f"{where}: {show(line)}")
        return
    video_id, start, end, text = match.groups()
    if video_id not in lengths and not id_problem(video_id):
        out.drop("the durations do not list its video", f"{where}: {video_id}")
        return
    video = out.video(video_id, lengths.get(video_id), where)
    if video is not None:
        out.query(f"{split}_{where.rsplit(':')[-1]}", video, text, [[_seconds(start), _seconds(end)]], split, where)


def _seconds(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _read_lengths(paths: PathOrPaths | None, folders: set[Path], report: Report) -> dict[str, object]:
    files = list_files(
        sorted(folders) if paths is None else paths, _is_length_csv, "Charades_v1_*.csv with the durations"
    )
    lengths: dict[str, object] = {}
    csv.field_size_limit(2**20)
    for file in files:
        check_file(file, MAX_JSON_BYTES)
        try:
            with open(file, encoding="utf-8-sig", errors="replace", newline="") as handle:
                rows = csv.DictReader(handle)
                if not {"id", "length"} <= set(rows.fieldnames or ()):
                    raise DataError(f"{str(file)!r} lacks the columns id and length; it has {show(rows.fieldnames)}")
                for row in rows:
                    seconds = _seconds(row["length"] or "")
                    if isinstance(seconds, str):
                        report.add("a csv row has no length", "doubtful", f"{file.name}: {show(row['id'])}")
                    lengths.setdefault(row["id"] or "", seconds)
        except csv.Error as error:
            raise DataError(f"{str(file)!r} is not a readable csv file: {error}") from None
        except OSError as error:
            raise DataError(f"{str(file)!r} cannot be read: {error}") from None
    return lengths


def _is_length_csv(path: Path) -> bool:
    if path.suffix.lower() != ".csv" or not os.access(path, os.R_OK):
        return False
    with open(path, "rb") as handle:
        header = handle.readline(4096).decode("utf-8", "replace")
    return {"id", "length"} <= {name.strip().strip('"\ufeff') for name in header.split(",")}
