"""Clips in folders by class, as UCF101, HMDB51, JHMDB and Kinetics come: ``ROOT/[train|val|test/]CLASS/clip.avi``.

The name of a file tells its group where the data set's names do; clips of one group never fall into two parts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from strong_envs.features.composing.clips import Clip, ClipSet, about_label, part_of
from strong_envs.features.composing.readers.tracks import Tracks
from strong_envs.features.datasets.parsing import VIDEO_SUFFIXES, is_unicode, show
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError, nearest

CLASS_FOLDERS = ("auto", "first", "last")
_UCF = re.compile(r"^v_.+_g(\d+)_c\d+$")
_KINETICS = re.compile(r"^(.{11})_\d{6}_\d{6}$")
_PART_FOLDER = re.compile(r"^(?:k\d+_)?([a-z]+)(?:_\d+)?$", re.IGNORECASE)


def read_class_folders(
    path: str | os.PathLike,
    *,
    group_pattern: str | None = None,
    boxes: Mapping[str, np.ndarray] | None = None,
    class_folder: str = "auto",
    report: Report | None = None,
) -> ClipSet:
    """Read clips from folders by class.

    Args:
        path: the folder. Its subfolders are the classes, or the parts with the classes inside (Kinetics). Where clips
            lie deeper, the first or the last folder is the class, and the report says which.
        group_pattern: regular expression that finds the group in a file's path below ``path``: the text of its
            parentheses, or of the whole match. None reads the names of UCF101 (``_g07_``), HMDB51 and JHMDB (what
            stands before the class) and Kinetics (the video's id).
        boxes: track id to (n_frames, 4) normalised corners of source frames, see
            `strong_envs.features.datasets.read_boxes`; a track is named after a clip's id, path or file.
        class_folder: which of several folders around a clip is its class: ``"first"``, ``"last"``, or ``"auto"``.
        report: takes the counts.

    Raises:
        DataError: no clip in a class folder, or a pattern that is no regular expression.
    """
    root = Path(path)
    report = report or Report(root.name)
    pattern = compiled(group_pattern)
    tracks = Tracks(boxes)
    clips: list[Clip] = []
    files = [f for f in sorted(root.rglob("*")) if f.suffix.lower() in VIDEO_SUFFIXES and f.is_file()]
    places = [(f, f.relative_to(root).parts[:-1]) for f in files]
    places = [(f, folders) for f, folders in places if not _hidden((*folders, f.name))]
    roles = _Roles([folders for _, folders in places], class_folder)
    for file, folders in places:
        place = file.relative_to(root)
        name = place.as_posix()
        if not is_unicode(name):
            report.add("a file's name is not Unicode", "dropped", show(name))
            continue
        part, classes = roles.of(folders)
        if not classes:
            report.add("a file lies in no class folder", "dropped", name)
            continue
        label = roles.label(classes)
        # Without the part: one clip in two part folders is one clip.
        clip_id = "/".join((*classes, place.stem))
        group = group_of(name, label, pattern)
        if len(set(classes)) > 1:
            chosen = "first" if label == classes[0] else "last"
            kind = f"a clip lies in folders of folders; the {chosen} one is its class (--class-folder)"
            report.add(kind, "doubtful", name)
            if pattern is None and label == classes[0]:
                group = "/".join(classes)
        if group is None:
            report.add("a file's name holds no group; the clip is a group of its own", "doubtful", name)
        about = about_label(label)
        person = tracks.of(clip_id, name)
        clips.append(
            Clip(clip_id, group or clip_id, label, about, (), part, str(file), None, person, frozenset({about}))
        )
    tracks.report_unused(report)
    if not clips:
        raise DataError(f"{str(root)!r} holds no clips in class folders (CLASS/clip.mp4 or train/CLASS/clip.mp4)")
    report.kept = len(clips)
    return ClipSet(root.resolve().name, "class folders", root, clips, report)


def _hidden(names: tuple[str, ...]) -> bool:
    """Whether a file was left by an operating system: below a hidden folder, or by the archives of a Mac."""
    return any(name.startswith(".") or name == "__MACOSX" for name in names)


class _Roles:
    """What the folders of clips stand for: parts, classes, and sources inside of classes.

    A folder around everything stands for nothing. Where most outer or most inner folders are named like parts, they
    are parts. Of two levels that are left, one is the class. A class has clips of many sources: an inner folder whose
    name stands in several outer ones is a class (``PERSON/walking``), unless it ends in a number (``Diving/001``); one
    that stands in a single outer folder is a source (``basketball/v_shooting_01``), and so are folders beside clips.

    Args:
        folders: of each clip. choice: ``"auto"``, or ``"first"`` or ``"last"`` of the levels that are left.
    """

    def __init__(self, folders: list[tuple[str, ...]], choice: str) -> None:
        if choice not in CLASS_FOLDERS:
            raise DataError(
                f"class_folder must be one of {CLASS_FOLDERS}, got {choice!r}{nearest(choice, CLASS_FOLDERS)}"
            )
        self.around = 0
        nested = [names for names in folders if names]
        while nested and all(len(names) > 1 for names in nested) and len({names[0] for names in nested}) == 1:
            if part_folder(nested[0][0]):
                break
            nested = [names[1:] for names in nested]
            self.around += 1
        self.outer_parts = _parts({names[0] for names in nested if len(names) > 1})
        inner = [names[1:] if self.outer_parts and len(names) > 1 else names for names in nested]
        self.inner_parts = _parts({names[-1] for names in inner if len(names) > 1})
        inner = [self._without_part(names)[1] for names in inner]
        self.first = choice == "first" or (choice == "auto" and _outer_is_class(inner))

    def of(self, folders: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
        """The part that a clip's folders name, or None, and the folders that may name its class."""
        names = folders[self.around :]
        if self.outer_parts and len(names) > 1 and part_folder(names[0]):
            return part_folder(names[0]), names[1:]
        return self._without_part(names)

    def _without_part(self, names: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
        if self.inner_parts and len(names) > 1 and part_folder(names[-1]):
            return part_folder(names[-1]), names[:-1]
        return None, names

    def label(self, classes: tuple[str, ...]) -> str:
        """The class among the folders that may name it."""
        return classes[0] if self.first else classes[-1]


def _parts(names: set[str]) -> bool:
    return bool(names) and 2 * sum(part_folder(name) is not None for name in names) >= len(names)


def _outer_is_class(folders: list[tuple[str, ...]]) -> bool:
    inside: dict[str, set[str]] = {}
    for names in folders:
        if len(names) > 1 and len(set(names)) > 1:
            inside.setdefault(names[-1], set()).add(names[0])
    if not inside:
        return False
    beside = {names[0] for names in folders if len(names) == 1} & {names[0] for names in folders if len(names) > 1}
    sources = sum(name[-1].isdigit() or len(outer) == 1 for name, outer in inside.items())
    return bool(beside) or 2 * sources > len(inside)


def compiled(group_pattern: str | None) -> re.Pattern[str] | None:
    """The pattern of groups; raises `DataError` for text that is no regular expression."""
    try:
        return None if group_pattern is None else re.compile(group_pattern)
    except re.error as error:
        raise DataError(f"the pattern of groups {group_pattern!r} is no regular expression: {error}") from None


def part_folder(name: str) -> str | None:
    """The part that a folder is named after, such as ``train``, ``val_256`` or ``k400_test``; or None."""
    found = _PART_FOLDER.match(name)
    return part_of(found[1]) if found else None


def group_of(name: str, label: str, pattern: re.Pattern[str] | None = None) -> str | None:
    """The group of a file by its path below the folder of clips, or None where nothing tells it."""
    if pattern is not None:
        found = pattern.search(name)
        if found is None:
            return None
        group = "/".join(g or "" for g in found.groups()) if found.groups() else found[0]
        return group if group.strip("/") else None
    stem = _stem(name)
    if found := _UCF.match(stem):
        return f"{label}/g{found[1]}"
    if source := source_in(stem):
        return source
    before, middle, _ = stem.partition(f"_{label}_")
    # HMDB51's parts keep the clips of one film apart within a class, not between classes.
    return f"{label}/{before}" if middle and before not in ("", "v") else None


def source_in(stem: str) -> str | None:
    """The video that a name of the form ``ID_000010_000020`` (Kinetics, VATEX) was cut from, or None."""
    found = _KINETICS.match(stem)
    return None if found is None else found[1]


def _stem(name: str) -> str:
    last = name.rsplit("/", 1)[-1]
    stem, suffix = os.path.splitext(last)
    return stem if suffix.lower() in VIDEO_SUFFIXES else last
