"""Clips listed in a file: JSON lines, JSON or csv with a file, sentences or a label, and a source for each clip.

Every spelling of a field in `FIELDS` is known; ``fields`` renames others. A clip may have several lines, one a
sentence. What cannot be used is counted in the report: rows without an id, empty sentences, missing files, repeats.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.composing.clips import Clip, ClipSet, about_label, part_of, sentence_key
from strong_envs.features.datasets.boxes import corners
from strong_envs.features.datasets.parsing import (
    MAX_ID_LENGTH,
    VIDEO_SUFFIXES,
    PathOrPaths,
    number,
    parse_json,
    read_json,
    read_lines,
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
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".ndjson")


def read_captions(
    path: PathOrPaths,
    *,
    videos: str | os.PathLike | None = None,
    split: int = 1,
    fields: Mapping[str, str] | None = None,
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
        report: takes the counts.

    Raises:
        DataError: no usable row, or a clip that is put into two parts.
    """
    files = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(p) for p in path]
    file = files[0]
    label = file.name if len(files) == 1 else file.parent.name
    report = report or Report(label)
    names = _names(fields)
    merged: dict[str, dict[str, Any]] = {}
    for one in files:
        part = split_of(one) if len(files) > 1 else None
        for where, row in _rows(one, report):
            _add(merged, row, where, names, split, part, report)
    _refuse_two_parts(merged)
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
        clips.append(_clip(clip_id, known, found, report))
    if not clips:
        raise DataError(f"none of the {len(merged):,} clips of {label!r} can be used:\n{report}")
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


def _rows(file: Path, report: Report) -> Iterator[tuple[str, dict]]:
    """Rows of a file as objects, with the place of each."""
    if file.suffix.lower() in (".csv", ".tsv"):
        yield from _csv_rows(file, report)
        return
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        for where, line in read_lines(file, report):
            try:
                row = parse_json(line, report, where)
            except DataError as error:
                report.add("a line cannot be read as JSON", "dropped", str(error))
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                report.add("a row is not an object", "dropped", f"{where}: {show(row)}")
        return
    tree = read_json(file, report)
    yield from _json_rows(tree, file.name, report)


def _json_rows(tree: object, name: str, report: Report) -> Iterator[tuple[str, dict]]:
    if isinstance(tree, dict) and isinstance(tree.get("sentences"), list):
        lists = [tree["sentences"], tree.get("videos", [])]
    elif isinstance(tree, dict) and isinstance(tree.get("annotations"), list):
        lists = [tree["annotations"], tree.get("images", []), tree.get("videos", [])]
    elif isinstance(tree, dict) and tree and all(isinstance(v, (dict, list, str)) for v in tree.values()):
        lists = [[{"id": k, **(v if isinstance(v, dict) else {"captions": v})} for k, v in tree.items()]]
    elif isinstance(tree, list):
        lists = [tree]
    else:
        raise DataError(f"{name} is no list of clips: it holds {show(tree)}")
    for rows in lists:
        for number_, row in enumerate(rows if isinstance(rows, list) else []):
            if isinstance(row, dict):
                yield f"{name}:{number_}", row
            else:
                report.add("a row is not an object", "dropped", f"{name}:{number_}: {show(row)}")


def _csv_rows(file: Path, report: Report) -> Iterator[tuple[str, dict]]:
    lines = [text for _, text in read_lines(file, report)]
    sample = "\n".join(lines[:20])
    delimiter = "\t" if file.suffix.lower() == ".tsv" or sample.count("\t") > sample.count(",") else ","
    reader = csv.DictReader(io.StringIO("\n".join(lines)), delimiter=delimiter)
    try:
        for count, row in enumerate(reader, 2):
            yield f"{file.name}:{count}", {k: v for k, v in row.items() if isinstance(k, str) and isinstance(v, str)}
    except csv.Error as error:
        raise DataError(f"{file.name} is not a csv table: {error}") from None


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


def _add(
    merged: dict[str, dict[str, Any]], raw: dict, where: str, names: dict[str, tuple[str, ...]], split: int,
    named: str | None, report: Report,
) -> None:  # fmt: skip
    row = {str(k).strip().lower(): v for k, v in raw.items()}
    file = _pick(row, names["file"])
    clip_id = _text_id(_pick(row, names["id"]))
    if clip_id is None:
        report.add("a row names no clip", "dropped", f"{where}: {show(raw)}")
        return
    if len(clip_id) > 2 * MAX_ID_LENGTH:
        report.add("an id is longer than 510 characters", "dropped", f"{where}: {show(clip_id)}")
        return
    known = merged.setdefault(clip_id, {"sentences": {}, "parts": {}})
    if isinstance(file, str):
        known.setdefault("file", file)
    for name in ("group", "label"):
        value = _text_id(_pick(row, names[name]))
        if value is not None and known.setdefault(name, value) != value:
            report.add(f"a clip has two {name}s; the first counts", "doubtful", f"{clip_id}: {show(value)}")
    for name in ("fps", "frames", "width", "height", "boxes"):
        value = _pick(row, names[name])
        if value is not None:
            known.setdefault(name, value)
    value = _pick(row, names["part"])
    _add_part(known, named if value is None else value, where, clip_id, split, report)
    _add_sentences(known, _pick(row, names["sentences"]), where, clip_id, report)


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
        try:
            parsed = json.loads(value)
            value = parsed if isinstance(parsed, list) else value
        except (ValueError, RecursionError):
            pass
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


def _clip(clip_id: str, known: dict[str, Any], file: Path, report: Report) -> Clip:
    fps, frames = number(known.get("fps")), whole(known.get("frames"))
    duration = frames / fps if fps and frames and fps > 0 and frames > 0 else None
    group, label = known.get("group"), known.get("label")
    if group is None:
        report.add("a clip has no source; it is a group of its own", "doubtful", clip_id)
        group = clip_id
    part = next(iter(known["parts"]), None)
    sentences = tuple(known["sentences"].values())
    boxes = _boxes(clip_id, known, report)
    if sentences:
        return Clip(
            clip_id, group, label, None, sentences, part, str(file), duration, boxes, frozenset(known["sentences"])
        )
    if label is None:
        report.add("a clip has no usable caption and is used as background", "doubtful", clip_id)
        return Clip(clip_id, group, None, None, (), part, str(file), duration, boxes)
    about = about_label(label)
    return Clip(clip_id, group, label, about, (), part, str(file), duration, boxes, frozenset({about}))


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
    return out


def _same_sentences(clips: list[Clip], report: Report) -> None:
    seen: dict[str, str] = {}
    for clip in clips:
        for text in clip.sentences:
            first = seen.setdefault(sentence_key(text), clip.id)
            if first != clip.id:
                report.add("a caption stands at several clips", "doubtful", f"{clip.id} and {first}: {show(text)}")


class FileFinder:
    """Files of clips by what a list calls them: a path, a name, or an id with or without a suffix.

    Folders are searched once, when the first clip is not found at the path that its row names.
    """

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base
        self._by_name: dict[str, Path | None] | None = None

    def find(self, file: str | None, clip_id: str) -> Path | None:
        """The file of a clip, or None."""
        for name in (file, clip_id):
            if not name or "\0" in name:
                continue
            for root in (self.folder, self.base):
                path = root / name
                try:
                    if path.is_file() and path.suffix.lower() not in SUFFIXES:
                        return path
                except OSError:
                    continue
        return self._named(file, clip_id)

    def _named(self, file: str | None, clip_id: str) -> Path | None:
        if self._by_name is None:
            self._by_name = {}
            for path in sorted(self.folder.rglob("*")):
                if path.suffix.lower() in VIDEO_SUFFIXES:
                    for name in (path.name, path.stem):
                        # Two files of one name in two folders name no clip.
                        self._by_name[name] = None if name in self._by_name else path
        for called in (file, clip_id):
            if called:
                last = called.replace("\\", "/").rsplit("/", 1)[-1]
                for key in (last, strip_video_suffix(last)):
                    if (found := self._by_name.get(key)) is not None:
                        return found
        return None
