"""Clips listed in a file: JSON lines, JSON or csv with a file, sentences or a label, and a source for each clip.

Every spelling of a field in `FIELDS` is known; ``fields`` renames others. A clip may have several lines, one a
sentence. What cannot be used is counted in the report: rows without an id, empty sentences, missing files, repeats.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.composing.clips import Clip, ClipSet, about_label, part_of, sentence_key
from strong_envs.features.composing.readers.class_folders import compiled, group_of, source_in
from strong_envs.features.composing.readers.fields import FIELDS, lower, names_of, pick, plain_path, printable, text_id
from strong_envs.features.composing.readers.file_finder import FileFinder
from strong_envs.features.composing.readers.rows import read_rows
from strong_envs.features.composing.readers.stretches import Stretch, refuse_several, stretches_of
from strong_envs.features.composing.readers.tracks import Tracks
from strong_envs.features.datasets.boxes import MAX_FRAMES, corners
from strong_envs.features.datasets.parsing import (
    MAX_ID_LENGTH,
    PathOrPaths,
    number,
    show,
    split_of,
    whole,
)
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError

MAX_SENTENCE = 20_000
MAX_CELL = 1_000_000
_PYTHON_LIST = re.compile(r"[\[(]\s*(?:['\"]|nan\b|None\b)")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")


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
    names = names_of(fields)
    pattern = compiled(group_pattern)
    folder = file.parent if videos is None else Path(videos)
    if not folder.is_dir():
        raise DataError(f"there is no folder of clips at {str(folder)!r}")
    finder = FileFinder(folder, file.parent)
    merged: dict[str, dict[str, Any]] = {}
    rows = []
    for one in files:
        part = split_of(one) if len(files) > 1 else None
        rows += [(where, lower(row), part) for where, row in read_rows(one, report)]
    sources = _sources(rows, names)
    for where, row, part in rows:
        _add(merged, row, where, names, split, part, sources, finder, report)
    if not merged:
        told = f"; its fields are {', '.join(map(repr, list(rows[0][1])[:12]))}" if rows else ""
        raise DataError(f"no row of {label!r} names a clip{told}")
    _refuse_two_parts(merged)
    placed = _placed(merged, finder, report)
    stretches: dict[str, set[Stretch]] = defaultdict(set)
    for known, found in placed.values():
        stretches[_below(found, folder, file.parent)] |= known["stretches"]
    refuse_several(stretches)
    videos_of = Counter(known["video"] for known, _ in placed.values())
    tracks = Tracks(boxes)
    clips = []
    for clip_id, (known, found) in placed.items():
        below = _below(found, folder, file.parent)
        if videos_of[known["video"]] > 1 and known["video"] is not None:
            known.setdefault("group", known["video"])  # several clips name it: it is where they were cut from
        if pattern is not None:
            known["group"] = _group_by(pattern, below, clip_id, report)
        track = tracks.of(clip_id, below, known.get("file"))
        if track is not None and "boxes" not in known:
            known["track"] = track
        clips.append(_clip(clip_id, known, found, report))
    if not clips:
        raise DataError(f"none of the {len(merged):,} clips of {label!r} can be used:\n{report}")
    tracks.report_unused(report)
    clips = _shown_labels(clips)
    _same_sentences(clips, report)
    labelled = all(c.about is not None for c in clips)
    report.kept = len(clips)
    kind = "clips with labels" if labelled else "clips with captions"
    name = file.stem if len(files) == 1 and file.stem != "clips" else file.resolve().parent.name
    return ClipSet(name, kind, folder, clips, report)


def _sources(rows: list[tuple[str, dict[str, Any], str | None]], names: dict[str, tuple[str, ...]]) -> set[str]:
    """Ids that stand beside several files: they name a source, not a clip."""
    files: dict[str, set[str]] = defaultdict(set)
    for _, row, _ in rows:
        file, clip_id = pick(row, names["file"]), text_id(pick(row, names["id"]))
        if isinstance(file, str) and clip_id is not None:
            files[clip_id].add(plain_path(file))
    several = set()
    for clip_id, stems in files.items():
        # One file may be written with and without its folder.
        apart = [a for a in stems if not any(b.endswith(f"/{a}") for b in stems)]
        if len(apart) > 1:
            several.add(clip_id)
    return several


def _identity(
    merged: Container[str], row: dict[str, Any], where: str, names: dict[str, tuple[str, ...]],
    stretches: list[Stretch], sources: set[str], finder: FileFinder, report: Report,
) -> tuple[str, str | None] | None:  # fmt: skip
    """The id of the clip that a row is about, and its source where the row's id names that; None for a row of none."""
    file, clip_id = pick(row, names["file"]), text_id(pick(row, names["id"]))
    if clip_id is None:
        report.add("a row names no clip", "dropped", f"{where}: {show(row)}")
        return None
    if clip_id not in sources:
        # Files that are called after their video and their times, as MSVD's and Kinetics' are.
        for start, end in stretches:
            for name in (f"{clip_id}_{start:g}_{end:g}", f"{clip_id}_{start:06.0f}_{end:06.0f}"):
                if finder.find(None, name) is not None:
                    return name, clip_id
        return clip_id, None
    if not isinstance(file, str):
        report.add("a row names a source with several files and none of them", "dropped", f"{where}: {clip_id}")
        return None
    other = text_id(pick(row, ("video_id", "videoid", "vid")))
    # Clips are often numbered anew in every video: a bare number names none.
    source = other if other not in (None, clip_id) else None if clip_id.isdigit() else clip_id
    kind = "an id stands beside several files; each file is a clip, and the id is its source"
    if source is None:
        kind = "a number stands beside several files; each file is a clip"
    if plain_path(file) not in merged:
        report.add(kind, "doubtful", f"{clip_id}: {file}")
    return plain_path(file), source


def _add(
    merged: dict[str, dict[str, Any]], row: dict[str, Any], where: str, names: dict[str, tuple[str, ...]], split: int,
    named: str | None, sources: set[str], finder: FileFinder, report: Report,
) -> None:  # fmt: skip
    stretches, unread = stretches_of(row, names)
    found = _identity(merged, row, where, names, stretches, sources, finder, report)
    if found is None:
        return
    clip_id, source = found
    if len(clip_id) > 2 * MAX_ID_LENGTH:
        report.add("an id is longer than 510 characters", "dropped", f"{where}: {show(clip_id)}")
        return
    if unread:
        report.add("a row has times that cannot be read; its file is taken whole", "doubtful", f"{where}: {clip_id}")
    known = merged.setdefault(clip_id, {"sentences": {}, "parts": {}, "stretches": set()})
    file = pick(row, names["file"])
    if isinstance(file, str) and source != plain_path(file):
        known.setdefault("file", file)
    for name in ("group", "label"):
        value = text_id(pick(row, names[name]))
        if value is None and name == "group":
            value = source
        if value is not None and known.setdefault(name, value) != value:
            report.add(f"a clip has two {name}s; the first counts", "doubtful", f"{clip_id}: {show(value)}")
    for name in ("fps", "frames", "width", "height", "boxes"):
        value = pick(row, names[name])
        if value is not None:
            known.setdefault(name, value)
    known["stretches"].update(stretches)
    known.setdefault("video", text_id(pick(row, ("video_id", "videoid", "vid", "video"))))
    value = pick(row, names["part"])
    _add_part(known, named if value is None else value, where, clip_id, split, report)
    _add_sentences(known, pick(row, names["sentences"]), where, clip_id, report)


def _placed(
    merged: dict[str, dict[str, Any]], finder: FileFinder, report: Report
) -> dict[str, tuple[dict[str, Any], Path]]:
    """Clips with their files, by id. Two ids of one file are one clip with the sentences of both."""
    places: dict[str, set[str]] = defaultdict(set)
    for known in merged.values():
        parent, _, last = plain_path(known.get("file", "")).rpartition("/")
        places[last] |= {parent} - {""}
    placed: dict[str, tuple[dict[str, Any], Path]] = {}
    first: dict[Path, str] = {}
    for clip_id, known in merged.items():
        parent, _, last = plain_path(known.get("file", "")).rpartition("/")
        found = finder.find(known.get("file"), clip_id)
        if found is not None and parent and found.parent.name != parent.rpartition("/")[2]:
            # Equal names in several folders tell files apart by the folder alone.
            if len(places[last]) > 1 and found.stem == last:
                found = None
            else:
                kind = "a clip's file lies in another folder than its row says"
                report.add(kind, "doubtful", f"{clip_id}: {known['file']} is {found}")
        if found is None:
            several = finder.several(known.get("file"), clip_id)
            kind = "several files have the name of a clip" if several else "a clip's file is missing"
            report.add(kind, "dropped", f"{clip_id}: {known.get('file') or clip_id}")
            continue
        other = first.setdefault(found, clip_id)
        mine = placed.get(other)
        if mine is None or {*mine[0]["parts"]} != {*known["parts"]} or mine[0].get("group") != known.get("group"):
            placed[clip_id] = known, found
            continue
        report.add("two ids name one file; it is one clip with the captions of both", "doubtful", f"{other}, {clip_id}")
        mine[0]["sentences"] |= {k: v for k, v in known["sentences"].items() if k not in mine[0]["sentences"]}
        mine[0]["stretches"] |= known["stretches"]
    return placed


def _below(file: Path, *roots: Path) -> str:
    """The path of a file below the first of the folders that it lies in; its name where it lies in none."""
    root = next((r for r in roots if file.is_relative_to(r)), file.parent)
    return file.relative_to(root).as_posix()


def _group_by(pattern: re.Pattern[str], below: str, clip_id: str, report: Report) -> str:
    """The group that the pattern finds in a file's path below the folder of files, else the clip itself."""
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
    if isinstance(value, str) and value.lstrip().startswith(("[", "(")):
        value = _list_in(value) or value
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, dict):
            text = pick({str(k).lower(): v for k, v in text.items()}, FIELDS["sentences"])
        if not isinstance(text, str):
            report.add("a caption is not text", "dropped", f"{where}: {clip_id}: {show(text)}")
            continue
        text = printable(text)
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
    """A list of sentences that a cell of a table holds as text; None for other text.

    It is spelled as JSON, or as Python or NumPy write it, with a comma between two sentences or without.
    """
    text = cell.strip()
    if len(text) > MAX_CELL or not text.endswith(("]", ")")):
        return None
    try:
        parsed = json.loads(text)
        return parsed if isinstance(parsed, list) else None
    except (ValueError, RecursionError):
        found = [a or b for a, b in _QUOTED.findall(text)] if _PYTHON_LIST.match(text) else []
        return [re.sub(r"\\(.)", r"\1", one) for one in found] or None


def _clip(clip_id: str, known: dict[str, Any], file: Path, report: Report) -> Clip:
    fps, frames = number(known.get("fps")), whole(known.get("frames"))
    duration = frames / fps if fps and frames and fps > 0 and frames > 0 else None
    group, label = known.get("group") or source_in(plain_path(clip_id)), known.get("label")
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
