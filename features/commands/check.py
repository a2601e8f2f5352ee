"""``strong-envs check PATH``: identify data, list every problem in it and what to do about each.

Exit codes: 0 nothing would be lost (clipping and doubtful rows are no loss), 1 something would be dropped or cannot
be read, 2 nothing can be read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from strong_envs.features.composing import describe
from strong_envs.features.composing.parts import find_leaks as find_shared
from strong_envs.features.composing.parts import refuse_leaks
from strong_envs.features.composing.sources import LIST_SUFFIXES
from strong_envs.features.datasets import READERS, read, read_boxes
from strong_envs.features.datasets.advice import advice
from strong_envs.features.datasets.leaks import find_copies, find_leaks
from strong_envs.features.datasets.parsing import VIDEO_SUFFIXES, read_json
from strong_envs.features.datasets.sniff import sniff_file
from strong_envs.features.datasets.types import Annotations, Report
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import given_path, os_errors, shown
from strong_envs.features.importing.feature_files import FeatureFiles, iter_features
from strong_envs.features.importing.file_names import ARRAY_SUFFIXES, list_arrays
from strong_envs.features.importing.h5_stream import H5_SUFFIXES
from strong_envs.features.importing.lengths import check_lengths
from strong_envs.features.importing.options import FileOptions
from strong_envs.features.importing.untrusted_arrays import npz_keys
from strong_envs.features.store.store import FeatureStore
from strong_envs.features.store.tensor_file import check_finite
from strong_envs.features.video_io import Decoder

ORDER = ("dropped", "clipped", "doubtful")


@dataclass
class Item:
    """One checked part: its ``facts``, the ``report`` of findings, or the ``error`` that prevents reading it.

    ``next`` is a command that makes a store of it.
    """

    path: str
    what: str
    facts: dict[str, object] = field(default_factory=dict)
    report: Report | None = None
    error: str | None = None
    next: str | None = None

    def as_dict(self) -> dict:
        """A JSON-ready form, with the advice beside every finding."""
        found = [] if self.report is None else self.report.as_dict()["findings"]
        return {
            "path": self.path,
            "what": self.what,
            "readable": self.error is None,
            "error": self.error,
            "facts": self.facts,
            "dropped": 0 if self.report is None else self.report.count("dropped"),
            "next": self.next,
            "findings": [{**f, "advice": advice(f["kind"])} for f in found],
        }


def check(
    path: str | os.PathLike,
    *,
    annotations: str | os.PathLike | None = None,
    format: str | None = None,
    options: FileOptions | None = None,
) -> list[Item]:
    """Check a file or a folder: annotations, box tracks, features or a store.

    Args:
        path: a file or a folder.
        annotations: annotations to hold features against (missing videos, lengths that do not fit the durations).
        format: a name in `strong_envs.features.datasets.READERS`, where it is not recognised.
        options: how feature files are named and read.

    Returns:
        One item for every part; unreadable parts carry an ``error``. A path that does not exist raises `DataError`.
    """
    target = given_path(path, "the path to check")
    with os_errors(f"read {shown(path)}"):
        if not target.exists():
            raise DataError(f"no such file or folder: {str(target)!r}")
        entries = sorted(target.iterdir()) if target.is_dir() else [target]
    if format is not None:
        return _annotations(target, [target], format)
    if (target / "manifest.json").is_file():
        return [_attempt(target, "feature store", _store)]
    files = [e for e in entries if e.is_file()]
    items: list[Item] = []
    sniffed = {f: sniff_file(f) for f in files}
    groups: dict[str, list[Path]] = {}
    for file, name in sniffed.items():
        if name not in (None, "boxes"):
            groups.setdefault("tacos" if name == "tacos_tall" else name, []).append(file)
    for name, members in groups.items():
        items += _annotations(target if len(groups) == 1 and target.is_dir() else None, members, name)
    items += [_attempt(f, "box tracks", _boxes) for f, name in sniffed.items() if name == "boxes"]
    truth = read(annotations) if annotations is not None else None
    arrays = {f for f in files if f.suffix.lower() in ARRAY_SUFFIXES}
    h5 = {f for f in files if f.suffix.lower() in H5_SUFFIXES}
    videos = [f for f in files if f.suffix.lower() in VIDEO_SUFFIXES]
    clips = None if items or arrays or h5 else _clips(target)
    if clips is not None:
        items.append(clips)
        videos = []
    elif target.is_dir() and not (items or arrays or h5 or videos):
        # Nothing at the top: features or videos of each split may lie in folders of their own.
        with os_errors(f"read {shown(path)}"):
            arrays = {file for _, file in list_arrays(target)}
            videos = [] if arrays else sorted(p for p in target.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
    sources = ([target] if arrays else []) + sorted(h5)
    items += [_attempt(source, "features", _features, truth, options or FileOptions()) for source in sources]
    if videos:
        items.append(_attempt(target, "video files", _videos, videos))
    known = {f for f, name in sniffed.items() if name} | arrays | h5 | set(videos)
    if clips is not None:
        known |= {f for f in files if f.suffix.lower() in (*LIST_SUFFIXES, *VIDEO_SUFFIXES)}
    items += _others(target, [f for f in files if f not in known], entries, bool(items))
    return items


def exit_code(items: list[Item]) -> int:
    """0 clean, 1 something would be dropped or is unreadable, 2 nothing can be read."""
    if all(item.error for item in items):
        return 2
    return int(any(item.error or (item.report and item.report.count("dropped")) for item in items))


def _attempt(path: Path, what: str, function: Callable[..., Item], *args: object) -> Item:
    try:
        return function(path, *args)
    except DataError as error:
        return Item(str(path), what, error=str(error))


def _annotations(folder: Path | None, files: list[Path], name: str) -> list[Item]:
    def one(path: Path, given: object = None) -> Item:
        found = read(path, format=name) if given is None else READERS[name](given)
        return Item(str(path), f"annotations, {found.name}", _annotation_facts(found), found.report)

    if folder is not None:
        whole = _attempt(folder, f"annotations, {name}", one)
    else:
        label = files[0] if len(files) == 1 else files[0].parent
        whole = _attempt(label, f"annotations, {name}", one, files)
    # One unreadable file must not hide what the others hold.
    return [whole] if not whole.error or len(files) == 1 else [_attempt(f, f"annotations, {name}", one) for f in files]


def _annotation_facts(found: Annotations) -> dict[str, object]:
    durations = [v.duration for v in found.videos.values()]
    windows = [(e - s, found.videos[q.video].duration) for q in found.queries for s, e in q.windows]
    several = sum(len(q.windows) > 1 for q in found.queries)
    facts: dict[str, object] = {
        "queries": len(found.queries),
        "videos": len(found.videos),
        "splits": dict(sorted(Counter(q.split for q in found.queries).items())),
        "video_seconds": _spread(durations),
        "moment_seconds": _spread([w for w, _ in windows]),
        "median_share_of_video": round(statistics.median(w / d for w, d in windows), 4),
    }
    if several:
        facts["queries_with_several_windows"] = several
    boxed = sum("boxes" in q.extra for q in found.queries)
    if boxed:
        facts["queries_with_boxes"] = boxed
    return facts


def _boxes(path: Path) -> Item:
    report = Report(str(path))
    tracks = read_boxes(path, report)
    facts: dict[str, object] = {
        "tracks": len(tracks),
        "frames": sum(len(rows) for rows in tracks.values()),
        "frames_with_a_box": report.kept,
    }
    return Item(str(path), "box tracks", facts, report)


def _features(path: Path, truth: Annotations | None, options: FileOptions) -> Item:
    from tqdm import tqdm  # type: ignore[import-untyped]

    report = Report(str(path))
    with FeatureFiles(path, options) as files:
        ids, first = files.ids, files.example
        hint = "" if truth is None else files.hint(truth.videos)
    if first.suffix.lower() == ".npz" and options.key not in (keys := npz_keys(first)):
        options = replace(options, key="last_hidden_state" if "last_hidden_state" in keys or not keys else keys[0])
    rows: dict[str, int] = {}
    width = 0
    wanted = None if truth is None else list(truth.videos)
    durations = None if truth is None else {v.id: v.duration for v in truth.videos.values()}
    stream = iter_features(path, wanted, report, options, durations)
    for video, array in tqdm(stream, "reading", len(wanted or ids), disable=None, leave=False):
        rows[video], width = len(array), array.shape[1]
    if not rows:
        raise DataError(f"no usable features; {hint}\n{report}" if hint else f"no usable features:\n{report}")
    facts: dict[str, object] = {"arrays": len(rows), "dimensions": width, "rows": _spread(list(rows.values()))}
    if options.key != FileOptions().key:
        facts["key"] = options.key
    if truth is not None and durations is not None:
        slack = {v.id: v.slack for v in truth.videos.values()}
        step = check_lengths(rows, durations, None, report, slack)
        facts["seconds_per_row"] = "not the same for all" if step is None else round(step, 4)
        facts["not_annotated"] = len(ids) - len(rows) if len(ids) > len(rows) else 0
        if 2 * len(rows) < len(truth.videos):
            report.add("most videos have no features", "doubtful", hint)
    item = Item(str(path), "features", facts, report)
    if truth is None:
        item.next = f"strong-envs import ANNOTATIONS --features {path} --out STORE"
    return item


def _videos(path: Path, files: list[Path]) -> Item:
    """Video files, of which the first is opened."""
    decoder = Decoder(files[0])
    decoder.close()
    facts: dict[str, object] = {
        "files": len(files),
        "first": files[0].name,
        "pixels": f"{decoder.width} x {decoder.height}",
        "frames_per_second": round(decoder.fps, 3),
        "seconds": round(decoder.listed_seconds, 2),
    }
    command = f"strong-envs extract {path} --annotations ANNOTATIONS --out STORE"
    return Item(str(path), "video files", facts, Report(str(path)), next=command)


def _store(path: Path) -> Item:
    store = FeatureStore.open(path)
    store.verify()
    for name in store.manifest["tensors"]:
        check_finite(name, store.maps(name)[0])
    report = find_leaks(store.queries, str(path))
    find_copies(_digests(store), store.queries, report)
    facts = {
        "name": store.name,
        "videos": len(store.videos),
        "queries": len(store.queries),
        "splits": dict(sorted(Counter(q.split for q in store.queries).items())),
        "video_seconds": _spread([v.duration for v in store.videos]),
        "rows_per_second": store.manifest.get("fps"),
        "tensors": {name: list(store.shape(name)) for name in store.manifest["tensors"]},
        "content_hash": store.content_hash,
    }
    composed = store.manifest["extra"].get("composed")
    if isinstance(composed, dict):
        refuse_leaks(find_shared(store.videos, store.queries))
        facts["composed"] = f"{composed.get('layout')} of {composed.get('source')}, seed {composed.get('seed')}"
        facts["parts"] = "no clip, group or sentence stands in two"
    return Item(str(path), "feature store", facts, report)


def _digests(store: FeatureStore) -> dict[str, bytes]:
    """A hash of the frames of each video."""
    found, row = {}, 0
    for video in store.videos:
        found[video.id] = hashlib.sha256(store.tensor("frames", row, row + video.n_frames).tobytes()).digest()
        row += video.n_frames
    return found


def _clips(path: Path) -> Item | None:
    """Trimmed clips in class folders or in a list, with the command that composes them; None for other paths."""
    try:
        facts = describe(path)
    except DataError as error:
        return Item(str(path), "trimmed clips", error=str(error))
    if facts is None:
        return None
    report = facts.pop("report")
    return Item(str(path), f"trimmed clips, {facts.pop('what')}", facts, report)


def _others(target: Path, unknown: list[Path], entries: list[Path], found: bool) -> list[Item]:
    if not found:
        folders = [e.name for e in entries if e.is_dir()]
        names = ", ".join(e.name for e in entries[:8]) or "nothing"
        hint = f"; check one of its folders: {', '.join(folders[:8])}" if folders else ""
        what = "a folder with" if target.is_dir() else "the file"
        return [
            Item(
                str(target),
                "unknown",
                error=f"{what} {names} is no annotation in a known format ({', '.join(sorted(READERS))}), "
                f"no boxes.json, no h5, npy or npz features, no video and no store{hint}",
            )
        ]
    items = []
    for file in (f for f in unknown if f.suffix.lower() in (".json", ".jsonl")):
        report = Report(str(file))
        try:
            read_json(file, report)
        except DataError as error:
            items.append(Item(str(file), "a file that may have been annotations", error=str(error)))
        else:
            items.append(Item(str(file), "JSON of no known format, left aside", report=report))
    return items


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "min": round(float(min(values)), 3),
        "median": round(float(statistics.median(values)), 3),
        "max": round(float(max(values)), 3),
    }


def format_items(items: list[Item]) -> str:
    """The items as text."""
    lines: list[str] = []
    for item in items:
        lines.append(f"{item.path}: {item.what}")
        if item.error:
            lines += textwrap.indent(f"cannot be read: {item.error}", "  ").splitlines()
        lines += [f"  {name.replace('_', ' ')}: {_fact(value)}" for name, value in item.facts.items()]
        found = [] if item.report is None else list(item.report.findings.values())
        for finding in sorted(found, key=lambda f: ORDER.index(f.action)):
            lines.append(f"  {finding.count:>7,} {finding.action:<8} {finding.kind}")
            lines.append(f"{'':19}for example {finding.examples[0]}")
            lines.append(f"{'':19}-> {advice(finding.kind)}")
        if item.next is not None:
            lines.append(f"  next: {item.next}")
        if item.error is None and not found:
            lines.append("  no problem found")
        lines.append("")
    code = exit_code(items)
    dropped = sum(item.report.count("dropped") for item in items if item.report)
    broken = sum(item.error is not None for item in items)
    verdict = {0: "clean: nothing would be dropped", 2: "nothing can be read"}.get(
        code, f"{dropped:,} entries would be dropped, {broken} parts cannot be read"
    )
    lines.append(verdict)
    # Names and sentences come from the files: control characters must not reach a terminal.
    return "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines)


def _fact(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_fact(v)}" for k, v in value.items())
    return f"{value:,}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``check`` command to ``strong-envs``."""
    parser = subparsers.add_parser(
        "check",
        help="identify data, list every problem in it and what to do about each",
        description="Check annotations, box tracks, feature files or a store. "
        "Exit code 0: clean; 1: something would be dropped or cannot be read; 2: nothing can be read.",
    )
    parser.add_argument("path", help="a file, or a folder in its data set's own layout")
    parser.add_argument("--annotations", help="annotations to hold feature files against")
    parser.add_argument("--format", choices=sorted(READERS), help="format of the annotations, if not recognised")
    parser.add_argument("--prefix", default="", help="what names of feature files have before the video's id")
    parser.add_argument("--suffix", default="", help="what names of feature files have after the video's id")
    parser.add_argument("--transposed", action="store_true", help="arrays are (channels, rows)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        options = FileOptions(prefix=args.prefix, suffix=args.suffix, transposed=args.transposed)
        items = check(args.path, annotations=args.annotations, format=args.format, options=options)
    except DataError as error:
        items = [Item(str(args.path), "unknown", error=str(error))]
    code = exit_code(items)
    if args.json:
        print(json.dumps({"path": str(args.path), "exit_code": code, "items": [item.as_dict() for item in items]}))
    else:
        print(format_items(items))
    return code
