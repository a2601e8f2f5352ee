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
from strong_envs.features.datasets.parsing import VIDEO_SUFFIXES, is_unicode, show, strip_video_suffix
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError

_UCF = re.compile(r"^v_.+_g(\d+)_c\d+$")
_KINETICS = re.compile(r"^(.{11})_\d{6}_\d{6}$")
_PART_FOLDER = re.compile(r"^(?:k\d+_)?([a-z]+)(?:_\d+)?$", re.IGNORECASE)


def read_class_folders(
    path: str | os.PathLike,
    *,
    group_pattern: str | None = None,
    boxes: Mapping[str, np.ndarray] | None = None,
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
        report: takes the counts.

    Raises:
        DataError: no clip in a class folder, or a pattern that is no regular expression.
    """
    root = Path(path)
    report = report or Report(root.name)
    pattern = compiled(group_pattern)
    tracks = {strip_video_suffix(track): rows for track, rows in (boxes or {}).items()}
    clips: list[Clip] = []
    files = [f for f in sorted(root.rglob("*")) if f.suffix.lower() in VIDEO_SUFFIXES and f.is_file()]
    outer = _outer_is_class([f.relative_to(root).parts[:-1] for f in files])
    for file in files:
        place = file.relative_to(root)
        name = place.as_posix()
        if not is_unicode(name):
            report.add("a file's name is not Unicode", "dropped", show(name))
            continue
        folders = place.parts[:-1]
        part = part_folder(folders[0]) if len(folders) > 1 else None
        if not folders:
            report.add("a file lies in no class folder", "dropped", name)
            continue
        # Without the part: one clip in two part folders is one clip.
        inner = place if part is None else place.relative_to(folders[0])
        classes = inner.parts[:-1]
        clip_id, label = inner.with_suffix("").as_posix(), classes[0] if outer else classes[-1]
        group = group_of(name, label, pattern)
        if len(set(classes)) > 1:
            chosen = "first" if outer else "last"
            report.add(f"a clip lies in folders of folders; the {chosen} one is its class", "doubtful", name)
            if outer and pattern is None:
                group = "/".join(classes)
        if group is None:
            report.add("a file's name holds no group; the clip is a group of its own", "doubtful", name)
        about = about_label(label)
        person = next((tracks[k] for k in (clip_id, place.stem) if k in tracks), None)
        clips.append(
            Clip(clip_id, group or clip_id, label, about, (), part, str(file), None, person, frozenset({about}))
        )
    if not clips:
        raise DataError(f"{str(root)!r} holds no clips in class folders (CLASS/clip.mp4 or train/CLASS/clip.mp4)")
    report.kept = len(clips)
    return ClipSet(root.resolve().name, "class folders", root, clips, report)


def _outer_is_class(folders: list[tuple[str, ...]]) -> bool:
    """Whether the first folder of a clip is its class, and not the last, where clips lie in folders of folders.

    A class has clips of many sources, so that an inner folder whose name stands in several outer ones is a class
    (``PERSON/walking``), unless it is a number (``Diving/001``); one that stands in a single outer folder is a source
    (``basketball/v_shooting_01``).
    """
    inside: dict[str, set[str]] = {}
    for names in folders:
        names = names[1:] if len(names) > 1 and part_folder(names[0]) else names
        if len(names) > 1 and len(set(names)) > 1:
            inside.setdefault(names[-1], set()).add(names[0])
    several = [name for name, outer in inside.items() if len(outer) > 1]
    return bool(inside) and (all(name.isdigit() for name in inside) or 2 * len(several) < len(inside))


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
        return "/".join(g or "" for g in found.groups()) if found.groups() else found[0]
    stem = _stem(name)
    if found := _UCF.match(stem):
        return f"{label}/g{found[1]}"
    if found := _KINETICS.match(stem):
        return found[1]
    before, middle, _ = stem.partition(f"_{label}_")
    # HMDB51's parts keep the clips of one film apart within a class, not between classes.
    return f"{label}/{before}" if middle and before else None


def _stem(name: str) -> str:
    last = name.rsplit("/", 1)[-1]
    stem, suffix = os.path.splitext(last)
    return stem if suffix.lower() in VIDEO_SUFFIXES else last
