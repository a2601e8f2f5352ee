"""What a row of a list says about a clip, by the names that data sets give it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from strong_envs.features.datasets.parsing import strip_video_suffix, whole
from strong_envs.features.errors import DataError, nearest

FIELDS: dict[str, tuple[str, ...]] = {
    "id": ("clip_id", "clip", "video_id", "videoid", "vid", "video", "path", "file", "filename", "name", "id"),
    "file": ("file", "path", "clip_path", "video_path", "filename", "video_file", "clip", "video"),
    "sentences": (
        "captions", "sentences", "caption", "sentence", "texts", "text", "encap", "description", "descriptions",
        "query", "queries", "desc",
    ),
    "label": ("label", "class", "action", "category_name", "class_name"),
    "group": (
        "group", "source_id", "source", "source_video", "youtube_id", "ytid", "yt_id", "original", "url", "movie",
        "parent",
    ),
    "part": ("split", "splits", "part", "subset", "partition", "set"),
    "fps": ("fps", "frame_rate"),
    "frames": ("frames", "num_frames", "n_frames", "frame_count"),
    "width": ("width",),
    "height": ("height",),
    "boxes": ("boxes", "person_boxes"),
    "start": (
        "start", "start_time", "start time", "starttime", "time_start", "start_sec", "start_second", "start_seconds",
        "t_start", "begin", "begin_time",
    ),
    "end": (
        "end", "end_time", "end time", "endtime", "time_end", "end_sec", "end_second", "end_seconds", "t_end", "stop",
        "finish",
    ),
    "times": ("timestamps", "timestamp", "relevant_windows", "windows", "window", "time_range"),
}  # fmt: skip
"""What a row says about a clip, with its names in files, compared in lower case; the first one that is there counts."""
JOINERS = "\u200c\u200d"
"""Tell how letters of many scripts are drawn; they have no width and belong to their word."""


def names_of(fields: Mapping[str, str] | None) -> dict[str, tuple[str, ...]]:
    """`FIELDS` with the fields that a user calls otherwise; raises `DataError` for one that is none of them."""
    names = dict(FIELDS)
    for field, own in (fields or {}).items():
        if field not in FIELDS:
            raise DataError(f"there is no field {field!r}{nearest(field, FIELDS)}; fields are {', '.join(FIELDS)}")
        names[field] = (own.lower(),)
    return names


def pick(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first field of a row that is there under one of the names."""
    for name in names:
        value = row.get(name)
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            continue
        if not (isinstance(value, str) and value.strip().lower() == "nan"):  # an empty cell, as pandas writes it
            return value
    return None


def text_id(value: object) -> str | None:
    """An id as text: numbers become text, other values give None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        counted = whole(value)
        return str(value if counted is None else counted)
    if isinstance(value, str):
        return printable(value) or None
    return None


def printable(text: str) -> str:
    """Text on one line: what cannot be printed becomes a space, and spaces in a row become one."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in JOINERS else " " for c in text)
    return " ".join(text.split())


def plain_path(name: str) -> str:
    """A path or id with forward slashes and without the suffix of a video."""
    return strip_video_suffix(name.replace("\\", "/"))


def lower(row: dict) -> dict[str, Any]:
    """A row with its names in lower case."""
    return {str(k).strip().lower(): v for k, v in row.items()}
