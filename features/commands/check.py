"""``strong-envs check PATH``: identify data, list every problem in it and what to do about each.

Exit codes: 0 nothing would be lost (clipping and doubtful rows are no loss), 1 something would be dropped or cannot
be read, 2 nothing can be read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from strong_envs.features.composing import describe
from strong_envs.features.composing.parts import find_leaks, refuse_leaks
from strong_envs.features.composing.sources import LIST_SUFFIXES
from strong_envs.features.datasets import READERS, read, read_boxes
from strong_envs.features.datasets.advice import advice
from strong_envs.features.datasets.parsing import read_json
from strong_envs.features.datasets.sniff import sniff_file
from strong_envs.features.datasets.types import Annotations, Report
from strong_envs.features.errors import DataError
from strong_envs.features.importing.feature_files import H5_SUFFIXES, FeatureFiles, check_lengths, iter_features
from strong_envs.features.importing.untrusted_arrays import npz_keys
from strong_envs.features.store.store import FeatureStore
from strong_envs.features.store.tensor_file import check_finite

ORDER = ("dropped", "clipped", "doubtful")


@dataclass
class Item:
    """One checked part: its ``facts``, the ``report`` of findings, or the ``error`` that prevents reading it."""

    path: str
    what: str
    facts: dict[str, object] = field(default_factory=dict)
    report: Report | None = None
    error: str | None = None

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
            "findings": [{**f, "advice": advice(f["kind"])} for f in found],
        }


def check(
    path: str | os.PathLike, *, annotations: str | os.PathLike | None = None, format: str | None = None
) -> list[Item]:
    """Check a file or a folder: annotations, box tracks, features or a store.

    Args:
        path: a file or a folder.
        annotations: annotations to hold features against (missing videos, lengths that do not fit the durations).
        format: a name in `strong_envs.features.datasets.READERS`, where it is not recognised.

    Returns:
        One item for every part; unreadable parts carry an ``error``. A path that does not exist raises `DataError`.
    """
    target = Path(path)
    try:
        if not target.exists():
            raise DataError(f"no such file or folder: {str(target)!r}")
        entries = sorted(target.iterdir()) if target.is_dir() else [target]
    except (OSError, ValueError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{str(target)!r}: {error}") from None
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
    arrays = [f for f in files if f.suffix in (".npy", ".npz")]
    sources = ([target] if arrays else []) + [f for f in files if f.suffix in H5_SUFFIXES and target.is_dir()]
    if not target.is_dir() and target.suffix in H5_SUFFIXES:
        sources = [target]
    items += [_attempt(source, "features", _features, truth) for source in sources]
    known = {f for f, name in sniffed.items() if name} | set(arrays) | {f for f in files if f.suffix in H5_SUFFIXES}
    if not items and (clips := _clips(target)) is not None:
        items.append(clips)
        known |= {f for f in files if f.suffix.lower() in LIST_SUFFIXES}
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


def _features(path: Path, truth: Annotations | None) -> Item:
    from tqdm import tqdm  # type: ignore[import-untyped]

    report = Report(str(path))
    key = "features"
    with FeatureFiles(path) as files:
        ids = files.ids
        first = next((p for p in (path, path / f"{ids[0]}.npz") if p.suffix == ".npz" and p.is_file()), None)
    if first is not None and key not in (keys := npz_keys(first)):
        key = "last_hidden_state" if "last_hidden_state" in keys or not keys else keys[0]
    rows: dict[str, int] = {}
    width = 0
    wanted = None if truth is None else list(truth.videos)
    stream = iter_features(path, wanted, report, key=key)
    for video, array in tqdm(stream, "reading", len(wanted or ids), disable=None, leave=False):
        rows[video], width = len(array), array.shape[1]
    if not rows:
        raise DataError(f"no usable features:\n{report}")
    facts: dict[str, object] = {"arrays": len(rows), "dimensions": width, "rows": _spread(list(rows.values()))}
    if key != "features":
        facts["key"] = key
    if truth is not None:
        step = check_lengths(rows, {v.id: v.duration for v in truth.videos.values()}, None, report)
        facts["seconds_per_row"] = "not the same for all" if step is None else round(step, 4)
        facts["not_annotated"] = len(ids) - len(rows) if len(ids) > len(rows) else 0
    return Item(str(path), "features", facts, report)


def _store(path: Path) -> Item:
    store = FeatureStore.open(path)
    store.verify()
    for name in store.manifest["tensors"]:
        check_finite(name, store.maps(name)[0])
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
        refuse_leaks(find_leaks(store.videos, store.queries))
        facts["composed"] = f"{composed.get('layout')} of {composed.get('source')}, seed {composed.get('seed')}"
        facts["parts"] = "no clip, group or sentence stands in two"
    return Item(str(path), "feature store", facts, Report(str(path)))


def _clips(path: Path) -> Item | None:
    """Trimmed clips in class folders or in a list, with the command that composes them; None where there are none."""
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
                f"no boxes.json, no h5, npy or npz features and no store{hint}",
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
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        items = check(args.path, annotations=args.annotations, format=args.format)
    except DataError as error:
        items = [Item(str(args.path), "unknown", error=str(error))]
    code = exit_code(items)
    if args.json:
        print(json.dumps({"path": str(args.path), "exit_code": code, "items": [item.as_dict() for item in items]}))
    else:
        print(format_items(items))
    return code
