"""Clips listed in a file: JSON lines, JSON or csv with a file, sentences or a label, and a source for each clip.

Every spelling of a field in `FIELDS` is known; ``fields`` renames others. A clip may have several lines, one a
sentence. What cannot be used is counted in the report: rows without an id, empty sentences, missing files, repeats.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.composing.clips import Clip, ClipSet, about_label, part_of, sentence_key
from strong_envs.features.composing.readers.class_folders import compiled, group_of
from strong_envs.features.composing.readers.file_finder import FileFinder
from strong_envs.features.composing.readers.rows import read_rows
from strong_envs.features.composing.readers.stretches import Stretch, refuse_several, stretches_of
from strong_envs.features.datasets.boxes import MAX_FRAMES, corners
from strong_envs.features.datasets.parsing import (
    MAX_ID_LENGTH,
    PathOrPaths,
    number,
    show,
    split_of,
    strip_video_suffix,
    whole,
)
from strong_envs.features.datasets.types import Report
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
}  # fmt: skip
"""What a row says about a clip, with its names in files, compared in lower case; the first one that is there counts."""
MAX_SENTENCE = 20_000
MAX_CELL = 1_000_000


def read_captions(
    path: PathOrPaths,
    *,
    videos: str | os.PathLike | None = None,
    split: int = 1,
    fields: Mapping[str, str] | None = None,
    group_pattern: str | None = None,
    boxes: Mapping[str, np.ndarray] | None = None,
    report: Report | None = None,
) -> ClipSet:
    """Read a list of clips.

    Args:
        path: JSON lines or csv with a row a clip or a row a sentence, or JSON: a list of such rows, an object of them
            by id, or ``{"videos": [...], "sentences": [...]}`` as MSR-VTT has it. Or several files: their names then
            tell the part of clips whose rows do not.
        videos: folder of the files; the folder of ``path`` by default. A file belongs to the clip whose id or file
            name it has, with or without the suffix, in any subfolder.
        split: which of several splits counts, from 1, where a row lists its part in each of them.
        fields: `FIELDS` name to the name in the file, for files that call them otherwise.
        group_pattern: regular expression that finds the group in a file's path below the folder of files, as for class
            folders; it counts before the rows' own groups.
        boxes: track id to (n_frames, 4) normalised corners of source frames, for clips whose rows have none; a track is
            named after a clip's id or its file.
        report: takes the counts.

    Raises:
        DataError: no usable row, a clip that is put into two parts, or a file with several stretches of time.
    """
    files = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(p) for p in path]
    file = files[0]
    label = file.name if len(files) == 1 else file.parent.name
    report = report or Report(label)
    names = _names(fields)
    pattern = compiled(group_pattern)
    merged: dict[str, dict[str, Any]] = {}
    rows = []
    for one in files:
        part = split_of(one) if len(files) > 1 else None
        rows += [(where, _lower(row), part) for where, row in read_rows(one, report)]
    sources = _sources(rows, names)
    for where, row, part in rows:
        _add(merged, row, where, names, split, part, sources, report)
    if rows and not merged:
        raise DataError(
            f"no row of {label!r} names a clip; its fields are {', '.join(map(repr, list(rows[0][1])[:12]))}"
        )
    _refuse_two_parts(merged)
    stretches: dict[str, set[Stretch]] = defaultdict(set)
    for clip_id, known in merged.items():
        stretches[known.get("file", clip_id)] |= known["stretches"]
    refuse_several(stretches)
    folder = file.parent if videos is None else Path(videos)
    if not folder.is_dir():
        raise DataError(f"there is no folder of clips at {str(folder)!r}")
    finder = FileFinder(folder, file.parent)
    clips = []
    for clip_id, known in merged.items():
        found = finder.find(known.get("file"), clip_id)
        if found is None:
            report.add("a clip's file is missing", "dropped", f"{clip_id}: {known.get('file') or clip_id}")
            continue
        if pattern is not None:
            known["group"] = _group_by(pattern, found, folder, clip_id, report)
        if boxes and "boxes" not in known:
            known["track"] = next((boxes[k] for k in (clip_id, found.stem, found.name) if k in boxes), None)
        clips.append(_clip(clip_id, known, found, report))
    if not clips:
        raise DataError(f"none of the {len(merged):,} clips of {label!r} can be used:\n{report}")
    clips = _shown_labels(clips)
    _same_sentences(clips, report)
    labelled = all(c.about is not None for c in clips)
    report.kept = len(clips)
    kind = "clips with labels" if labelled else "clips with captions"
    name = file.stem if len(files) == 1 and file.stem != "clips" else file.resolve().parent.name
    return ClipSet(name, kind, folder, clips, report)


def _names(fields: Mapping[str, str] | None) -> dict[str, tuple[str, ...]]:
    names = dict(FIELDS)
    for field, own in (fields or {}).items():
        if field not in FIELDS:
            raise DataError(f"there is no field {field!r}{nearest(field, FIELDS)}; fields are {', '.join(FIELDS)}")
        names[field] = (own.lower(),)
    return names


def _pick(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first field of a row that is there under one of the names."""
    for name in names:
        value = row.get(name)
        if value is not None and value != "":
            return value
    return None


def _text_id(value: object) -> str | None:
    """An id as text: numbers become text, other values give None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        counted = whole(value)
        return str(value if counted is None else counted)
    if isinstance(value, str):
        return _printable(value) or None
    return None


def _printable(text: str) -> str:
    """Text on one line: what cannot be printed becomes a space, and spaces in a row become one."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def _lower(row: dict) -> dict[str, Any]:
    return {str(k).strip().lower(): v for k, v in row.items()}


def _stem(file: str) -> str:
    return strip_video_suffix(file.replace("\\", "/"))


def _sources(rows: list[tuple[str, dict[str, Any], str | None]], names: dict[str, tuple[str, ...]]) -> set[str]:
    """Ids that stand beside several files: they name a source, not a clip."""
    files: dict[str, set[str]] = defaultdict(set)
    for _, row, _ in rows:
        file, clip_id = _pick(row, names["file"]), _text_id(_pick(row, names["id"]))
        if isinstance(file, str) and clip_id is not None:
            files[clip_id].add(_stem(file))
    several = set()
    for clip_id, stems in files.items():
        # One file may be written with and without its folder.
        apart = [a for a in stems if not any(b.endswith(f"/{a}") for b in stems)]
        if len(apart) > 1:
            several.add(clip_id)
    return several


def _add(
    merged: dict[str, dict[str, Any]], row: dict[str, Any], where: str, names: dict[str, tuple[str, ...]], split: int,
    named: str | None, sources: set[str], report: Report,
) -> None:  # fmt: skip
    file = _pick(row, names["file"])
    clip_id = _text_id(_pick(row, names["id"]))
    if clip_id is None:
        report.add("a row names no clip", "dropped", f"{where}: {show(row)}")
        return
    source = None
    if clip_id in sources:
        if not isinstance(file, str):
            report.add("a row names a source with several files and none of them", "dropped", f"{where}: {clip_id}")
            return
        kind = "an id stands beside several files; each file is a clip, and the id is its source"
        source, clip_id = clip_id, _stem(file)
        if clip_id not in merged:
            report.add(kind, "doubtful", f"{source}: {file}")
    if len(clip_id) > 2 * MAX_ID_LENGTH:
        report.add("an id is longer than 510 characters", "dropped", f"{where}: {show(clip_id)}")
        return
    known = merged.setdefault(clip_id, {"sentences": {}, "parts": {}, "stretches": set()})
    if isinstance(file, str):
        known.setdefault("file", file)
    for name in ("group", "label"):
        value = _text_id(_pick(row, names[name]))
        if value is None and name == "group":
            value = source
        if value is not None and known.setdefault(name, value) != value:
            report.add(f"a clip has two {name}s; the first counts", "doubtful", f"{clip_id}: {show(value)}")
    for name in ("fps", "frames", "width", "height", "boxes"):
        value = _pick(row, names[name])
        if value is not None:
            known.setdefault(name, value)
    known["stretches"].update(stretches_of(row))
    value = _pick(row, names["part"])
    _add_part(known, named if value is None else value, where, clip_id, split, report)
    _add_sentences(known, _pick(row, names["sentences"]), where, clip_id, report)


def _group_by(pattern: re.Pattern[str], file: Path, folder: Path, clip_id: str, report: Report) -> str:
    """The group that the pattern finds in a file's path, else the clip itself."""
    below = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name
    group = group_of(below, "", pattern)
    if group is None:
        report.add("a file's name holds no group; the clip is a group of its own", "doubtful", below)
    return group or clip_id


def _shown_labels(clips: list[Clip]) -> list[Clip]:
    """Clips with captions of their own also show their label, where other clips of the list are asked by theirs."""
    asked = {c.about for c in clips if c.about is not None}
    out = []
    for clip in clips:
        key = None if clip.label is None else about_label(clip.label)
        out.append(replace(clip, shows=clip.shows | {key}) if clip.about is None and key in asked else clip)
    return out


def _add_part(known: dict, value: object, where: str, clip_id: str, split: int, report: Report) -> None:
    if value is None:
        return
    if isinstance(value, list):
        if not 1 <= split <= len(value):
            raise DataError(f"{where}: {clip_id!r} lists {len(value)} splits; there is no split {split}")
        value = value[split - 1]
    part = part_of(value)
    if part is None:
        report.add("a part is none of train, val and test", "doubtful", f"{where}: {clip_id}: {show(value)}")
        return
    known["parts"].setdefault(part, where)


def _refuse_two_parts(merged: dict[str, dict[str, Any]]) -> None:
    twice = [
        f"{clip_id} ({', '.join(f'{part} at {where}' for part, where in known['parts'].items())})"
        for clip_id, known in merged.items()
        if len(known["parts"]) > 1
    ]
    if twice:
        listed = "; ".join(twice[:8])
        raise DataError(f"{len(twice)} clips are put into two parts: {listed}")


def _add_sentences(known: dict, value: object, where: str, clip_id: str, report: Report) -> None:
    if value is None:
        return
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _list_in(value) or value
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, dict):
            text = _pick({str(k).lower(): v for k, v in text.items()}, FIELDS["sentences"])
        if not isinstance(text, str):
            report.add("a caption is not text", "dropped", f"{where}: {clip_id}: {show(text)}")
            continue
        text = _printable(text)
        key = sentence_key(text)
        if len(text) > MAX_SENTENCE:
            report.add(f"a caption is longer than {MAX_SENTENCE:,} characters", "dropped", f"{where}: {clip_id}")
        elif not key:
            report.add("a caption has no word", "dropped", f"{where}: {clip_id}: {show(text)}")
        elif key in known["sentences"]:
            report.add("a caption is given twice for one clip", "dropped", f"{where}: {clip_id}: {show(text)}")
        else:
            known["sentences"][key] = text


def _list_in(cell: str) -> list[Any] | None:
    """A list that a cell of a table holds as text, in the spelling of JSON or of Python; None for other text."""
    for read in (json.loads, ast.literal_eval):
        try:
            parsed = read(cell.strip()) if len(cell) <= MAX_CELL else None
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(parsed, list) and parsed and all(isinstance(text, str) for text in parsed):
            return parsed
    return None


def _clip(clip_id: str, known: dict[str, Any], file: Path, report: Report) -> Clip:
    fps, frames = number(known.get("fps")), whole(known.get("frames"))
    duration = frames / fps if fps and frames and fps > 0 and frames > 0 else None
    group, label = known.get("group"), known.get("label")
    if group is None:
        report.add("a clip has no source; it is a group of its own", "doubtful", clip_id)
        group = clip_id
    part = next(iter(known["parts"]), None)
    sentences = tuple(known["sentences"].values())
    boxes = known.get("track")
    boxes = _boxes(clip_id, known, report) if boxes is None else boxes
    about, shows = None, frozenset(known["sentences"])
    if not sentences and label is None:
        report.add("a clip has no usable caption and is used as background", "doubtful", clip_id)
    elif not sentences:
        about = about_label(str(label))
        shows = frozenset({about})
    return Clip(
        clip_id, group, label, about, sentences, part, str(file), duration, boxes, shows,
        stretch=next(iter(known["stretches"]), None),
    )  # fmt: skip


def _boxes(clip_id: str, known: dict[str, Any], report: Report) -> np.ndarray | None:
    rows = known.get("boxes")
    if rows is None:
        return None
    width, height = number(known.get("width")), number(known.get("height"))
    if not isinstance(rows, list) or not rows or not width or not height or width <= 0 or height <= 0:
        report.add("boxes need a list and the picture's width and height", "dropped", clip_id)
        return None
    out = np.full((len(rows), 4), np.nan, np.float32)
    for i, box in enumerate(rows):
        if box is None:
            continue
        found, clipped = corners(box, "xyxy", width, height)
        if found is None:
            report.add("a box is not four numbers that meet the picture", "dropped", f"{clip_id} {i}: {show(box)}")
            continue
        if clipped:
            report.add("a box reaches out of the picture", "clipped", f"{clip_id} {i}: {show(box)}")
        out[i] = found
    frames = whole(known.get("frames"))
    if frames and 0 < frames <= MAX_FRAMES and frames != len(out):
        kind = "a clip has boxes for another number of frames; they are those of its first frames"
        report.add(kind, "doubtful", f"{clip_id}: {len(out)} boxes of {frames} frames")
        rest = np.full((max(0, frames - len(out)), 4), np.nan, np.float32)
        out = np.concatenate([out[:frames], rest])
    return out


def _same_sentences(clips: list[Clip], report: Report) -> None:
    seen: dict[str, str] = {}
    for clip in clips:
        for text in clip.sentences:
            first = seen.setdefault(sentence_key(text), clip.id)
            if first != clip.id:
                report.add("a caption stands at several clips", "doubtful", f"{clip.id} and {first}: {show(text)}")
