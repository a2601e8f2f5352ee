"""What a path holds: clips in class folders, a list of clips, or a store; and what ``strong-envs check`` says of it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strong_envs.features.composing.clips import Clip, ClipSet
from strong_envs.features.composing.readers.captions import read_captions
from strong_envs.features.composing.readers.class_folders import part_folder, read_class_folders
from strong_envs.features.composing.readers.fields import FIELDS
from strong_envs.features.composing.readers.file_finder import LIST_SUFFIXES
from strong_envs.features.composing.readers.from_store import clips_of_store
from strong_envs.features.composing.readers.split_files import apply_split_files, read_split_files
from strong_envs.features.composing.sentences import Wording, read_sentences
from strong_envs.features.datasets.boxes import read_boxes
from strong_envs.features.datasets.parsing import VIDEO_SUFFIXES
from strong_envs.features.datasets.sniff import HEAD_BYTES, sniff_file
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import given_path, shown
from strong_envs.features.store.store import FeatureStore

_KEY = re.compile(r'"([^"\\]{1,64})"\s*:')
SENTENCES_FILE = "sentences.json"
"""A file of this name beside clips in class folders or with labels puts the classes into words."""


UNUSED = {
    "a store": ("files", "boxes", "sentences", "split_files", "group_pattern", "fields", "class_folder"),
    "a list of clips": ("whole_videos", "class_folder"),
    "class folders": ("files", "fields", "whole_videos"),
}
"""Options of `ClipOptions` that say nothing about a kind of source. They are refused there, not passed over."""
FLAGS = {"group_pattern": "--groups", "fields": "--field"}


@dataclass(frozen=True)
class ClipOptions:
    """How clips are read and dealt to parts.

    Attributes:
        files: folder of the files that a list of clips names; its own folder by default.
        boxes: a boxes.json with tracks named after clips.
        sentences: file that puts classes into words, see `strong_envs.features.composing.sentences.read_sentences`.
        split_files: published files of parts, or folders of them.
        split: which of several splits counts, from 1.
        group_pattern: regular expression that finds the group in a file's path.
        fields: names of a list's fields where they are others than those of
            `strong_envs.features.composing.readers.fields.FIELDS`.
        whole_videos: clips of a store are its whole videos, not the windows of its queries.
        class_folder: which of several folders around a clip is its class: ``"first"``, ``"last"``, or ``"auto"``.
        val_share: share of training groups that become the validation part where none is given.
        test_share: share of groups that become the test part where none is given.
        conflicts: what to do with groups that are given in two parts: ``"refuse"`` or ``"drop"``.
    """

    files: str | os.PathLike | None = None
    boxes: str | os.PathLike | None = None
    sentences: str | os.PathLike | None = None
    split_files: tuple[str | os.PathLike, ...] = ()
    split: int = 1
    group_pattern: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    whole_videos: bool = False
    class_folder: str = "auto"
    val_share: float = 0.1
    test_share: float = 0.25
    conflicts: str = "refuse"


def open_clips(
    source: str | os.PathLike | FeatureStore, options: ClipOptions
) -> tuple[ClipSet, FeatureStore | None, Wording | None]:
    """Read the clips of a source.

    Args:
        source: ``"shapes"`` or another registered key, an open store or its path, a list of clips (`read_captions`), or
            a folder with such lists or with class folders.
        options: how to read.

    Returns:
        The clips without parts where none are given; the store where they are encoded already; and the wording of
        classes where there is one.

    Raises:
        DataError: nothing there that clips can be read from, or an option that says nothing about such a source.
    """
    from strong_envs.features.registry import keys, open_store

    if isinstance(source, FeatureStore):
        _refuse_unused(options, "a store")
        return clips_of_store(source, whole=options.whole_videos), source, None
    name = str(given_path(source, "the path of the clips"))
    if not Path(name).exists() and (name == "shapes" or name in keys()):
        _refuse_unused(options, "a store")
        store = open_store("shapes-v0" if name == "shapes" else name)
        return clips_of_store(store, whole=options.whole_videos), store, None
    path = Path(name)
    if not path.exists():
        raise DataError(
            f"no clips at {name!r}: there is no such file or folder; 'shapes' takes clips of the drawn world"
        )
    if (path / "manifest.json").is_file():
        store = FeatureStore.open(path)
        if any(isinstance(v.extra.get("composed"), dict) for v in store.videos):
            raise DataError(f"store {store.name!r} is composed already; compose from its clips")
        _refuse_unused(options, "a store")
        return clips_of_store(store, whole=options.whole_videos), store, None
    lists = list_files(path)
    report = Report(path.name if lists and path.is_file() else path.resolve().name)
    boxes = None if options.boxes is None else read_boxes(options.boxes, report)
    if lists:
        _refuse_unused(options, "a list of clips")
        for other in _lists_in(path) if path.is_dir() else []:
            if other not in lists:
                report.add(
                    "a list of clips lies beside others of another format; it is not read", "doubtful", other.name
                )
        found = read_captions(
            lists,
            videos=options.files,
            split=options.split,
            fields=options.fields,
            group_pattern=options.group_pattern,
            boxes=boxes,
            report=report,
        )
    elif path.is_dir():
        _refuse_unused(options, "class folders")
        found = read_class_folders(
            path, group_pattern=options.group_pattern, boxes=boxes, class_folder=options.class_folder, report=report
        )
    else:
        raise DataError(
            f"{name!r} is no list of clips (jsonl, json or csv with a clip and a caption or label in each row)"
        )
    if options.split_files:
        apply_split_files(found, read_split_files(options.split_files, options.split, found.report))
    return found, None, _wording(path, options)


def refuse_own_source(target: Path, source: str | os.PathLike | FeatureStore, place: Path) -> None:
    """Refuse a store that would be written over the clips that it is made of."""
    own = {"the encoded clips (--encoded)": place}
    if isinstance(source, FeatureStore):
        own["its clips"] = source.path
    elif os.path.exists(source):
        own["its clips"] = Path(source)
    for what, path in own.items():
        if os.path.realpath(path) == os.path.realpath(target):
            raise DataError(f"the store cannot be written to {shown(target)}: {what} lie there; choose another --out")


def _refuse_unused(options: ClipOptions, kind: str) -> None:
    """Raise `DataError` for options that are given and say nothing about this kind of source."""
    plain = ClipOptions()
    given = [name for name in UNUSED[kind] if getattr(options, name) != getattr(plain, name)]
    if given:
        flags = ", ".join(FLAGS.get(name, f"--{name.replace('_', '-')}") for name in given)
        say, them = ("says", "it") if len(given) == 1 else ("say", "them")
        raise DataError(f"{flags} {say} nothing about {kind}; leave {them} out")


def _wording(path: Path, options: ClipOptions) -> Wording | None:
    if options.sentences is not None:
        return read_sentences(options.sentences)
    beside = (path if path.is_dir() else path.parent) / SENTENCES_FILE
    return read_sentences(beside) if beside.is_file() and not _is_list(beside) else None


def list_files(path: Path) -> list[Path]:
    """The lists of clips at a path: the file itself, or those in a folder; JSON lines before JSON before csv."""
    if path.is_file():
        return [path] if path.suffix.lower() in LIST_SUFFIXES else []
    files = _lists_in(path)
    for suffixes in ((".jsonl", ".ndjson"), (".json",), (".csv", ".tsv")):
        found = [p for p in files if p.suffix.lower() in suffixes]
        if found:
            return found
    return []


def _lists_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and _is_list(p))


def _is_list(file: Path) -> bool:
    """Whether the beginning of a file has the fields of a list of clips, and is no annotation of long videos."""
    if file.suffix.lower() not in LIST_SUFFIXES or sniff_file(file) is not None:
        return False
    try:
        with open(file, "rb") as handle:
            head = handle.read(HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return False
    if file.suffix.lower() in (".csv", ".tsv"):
        names = {w.strip().strip('"').lower() for w in re.split(r"[,;\t|]", head.partition("\n")[0])}
    else:
        names = {k.lower() for k in _KEY.findall(head)}
    says = names & {*FIELDS["sentences"], *FIELDS["label"]}
    return bool(says) and bool(names & {*FIELDS["id"], *FIELDS["file"]})


def describe(path: str | os.PathLike) -> dict[str, Any] | None:
    """What clips a path holds and the command that composes them; None where it holds none.

    Nothing is decoded. Keys: ``what``, ``clips``, ``classes`` or ``captions``, ``groups``, ``parts``, ``report`` (a
    `Report`) and ``command``.

    Raises:
        DataError: a list of clips that cannot be read.
    """
    target = given_path(path)
    if (target / "manifest.json").is_file() or not target.exists():
        return None
    if not (list_files(target) or (target.is_dir() and _has_class_folders(target))):
        return None
    found, _, wording = open_clips(target, ClipOptions())
    facts: dict[str, Any] = {"what": found.kind, "clips": len(found.clips)}
    labels = {c.label for c in found.clips if c.label is not None}
    if labels:
        facts["classes"] = len(labels)
    captions = sum(len(c.sentences) for c in found.clips)
    if captions:
        facts["captions"] = captions
    facts["groups"] = len({c.group for c in found.clips})
    facts["parts"] = dict(sorted(Counter(c.part or "not given" for c in found.clips).items()))
    boxed = sum(c.boxes is not None for c in found.clips)
    if boxed:
        facts["clips_with_boxes"] = boxed
    if wording:
        facts["classes_put_into_words"] = len(wording)
    facts["report"] = found.report
    facts["command"] = f"strong-envs compose {target} --layout {_advice(found.clips)} --out STORE"
    return facts


def _advice(clips: list[Clip]) -> str:
    kinds = len({c.about or c.id for c in clips})
    return "sequence" if kinds >= 8 else f"sequence --clips-per-stream {max(1, kinds)}"


def _has_class_folders(path: Path) -> bool:
    """Whether a folder holds clips of several classes: ``CLASS/clip``, below parts or in folders of their own or not.

    Its first folders are read.
    """
    classes = _folders(path)
    classes = [q for p in classes for q in (_folders(p) if part_folder(p.name) else [p])] or classes
    held = {p.name for p in classes if any(_has_video(q) for q in (p, *_folders(p)))}
    held |= {p.name for p in _folders(path) if part_folder(p.name) and _has_video(p)}
    # Videos that lie in train and test themselves have no class.
    return len(held) > 1 and not all(part_folder(name) for name in held)


def _folders(path: Path) -> list[Path]:
    return [p for p in sorted(path.iterdir()) if p.is_dir()][:20]


def _has_video(path: Path) -> bool:
    return any(f.suffix.lower() in VIDEO_SUFFIXES for f in path.iterdir())
