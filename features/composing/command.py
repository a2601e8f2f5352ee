"""``strong-envs compose CLIPS --layout sequence|mosaic --out STORE``: trimmed clips become untrimmed videos.

CLIPS is a folder of clips by class (UCF101, HMDB51, Kinetics, JHMDB), a list of clips with captions or labels (jsonl,
json, csv), a store of extracted features, or 'shapes' for clips of the drawn world. Each clip is decoded and encoded
once, into STORE.clips; kill it at any moment and run it again. Videos are then composed from the clips' features in
seconds, the same ones for the same seed. No clip, group or sentence stands in two parts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from strong_envs.features.composing.assemble import assemble, tile_cells
from strong_envs.features.composing.clips import PARTS, ClipSet
from strong_envs.features.composing.encoding import (
    EncodeOptions,
    blank_features,
    doubt_encoding,
    encode_clips,
    with_rows,
)
from strong_envs.features.composing.options import BOXES, VIDEOS, ComposeOptions, Layout
from strong_envs.features.composing.parts import (
    CONFLICTS,
    assign_parts,
    find_leaks,
    one_part_a_sentence,
    refuse_leaks,
)
from strong_envs.features.composing.plan import PlannedVideo, check_pools, plan_fitting
from strong_envs.features.composing.readers.class_folders import CLASS_FOLDERS
from strong_envs.features.composing.readers.fields import FIELDS
from strong_envs.features.composing.sentences import Wording, word_classes
from strong_envs.features.composing.sources import ClipOptions, open_clips, refuse_own_source
from strong_envs.features.datasets.types import Report
from strong_envs.features.encoders.text import load as load_text
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.options import DTYPES
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.store.store import FeatureStore, check_target, write_store

UNEVEN = 1.05
"""Rates of a store's videos that differ by more than this factor are reported."""
ENCODED_PCA = 128
Say = Callable[[str], object]


def compose(
    source: str | os.PathLike | FeatureStore,
    out: str | os.PathLike,
    options: ComposeOptions | None = None,
    *,
    clips: ClipOptions | None = None,
    encode: EncodeOptions | None = None,
    encoded: str | os.PathLike | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[FeatureStore, Report]:
    """Compose untrimmed videos from trimmed clips.

    Args:
        source: see `strong_envs.features.composing.sources.open_clips`.
        out: folder of the store.
        options: layout, numbers of videos, seed, text encoder. None takes the defaults.
        clips: how clips are read and dealt to parts.
        encode: how clips are encoded, where they are not yet.
        encoded: folder of the encoded clips; ``OUT.clips`` by default. It is used again by later calls.
        overwrite: replace a store at ``out``.
        progress: show bars, and a line for each stage, on the standard error stream.

    Returns:
        The composed store, and the report of what was read, left out and found doubtful.

    Raises:
        DataError: nothing usable at ``source``, clips, groups or sentences in two parts, too few clips for the layout.
    """
    options, reading, encode = options or ComposeOptions(), clips or ClipOptions(), encode or EncodeOptions()
    say: Say = (lambda line: print(line, file=sys.stderr, flush=True)) if progress else len
    target = Path(out)
    place = target.with_name(target.name + ".clips") if encoded is None else Path(encoded)
    check_target(target, overwrite)
    refuse_own_source(target, source, place)
    started = time.perf_counter()
    found, store, wording = open_clips(source, reading)
    if store is not None:
        doubt_encoding(encode, encoded, found.report)
    try:
        return _compose(
            found, store, wording, target, place, options, reading, encode, overwrite, say, progress, started
        )
    except DataError as error:
        # What was left out often says why the rest is not enough.
        if found.report.findings and str(found.report) not in str(error):
            say(str(found.report))
        raise


def _compose(
    found: ClipSet, store: FeatureStore | None, wording: Wording | None, target: Path, place: Path,
    options: ComposeOptions, reading: ClipOptions, encode: EncodeOptions, overwrite: bool, say: Say, progress: bool,
    started: float,
) -> tuple[FeatureStore, Report]:  # fmt: skip
    """The clips of a source, dealt to parts, worded, encoded, planned and written."""
    assign_parts(found, options.seed, reading.val_share, reading.test_share, reading.conflicts)
    word_classes(found, wording)
    one_part_a_sentence(found)
    say(_summary(found))
    check_pools(found.clips, options.videos, options.layout)
    if store is None:
        if not place.exists():
            # A missing text encoder is reported before hours of encoding.
            load_text(options.text, options.device, options.text_weights)
        store = encode_clips(found, place, encode, say, progress)
        found.clips = with_rows(found, store)
        rate = encode.fps
    else:
        rate = _rate(store, found.report)
    say(f"clips are read and encoded after {time.perf_counter() - started:.1f} s")
    begun = time.perf_counter()
    layout, plan = plan_fitting(found.clips, options.videos, options.layout, rate, options.seed, found.report)
    options = replace(options, layout=layout)
    made = _write(target, found, store, plan, options, rate, encode, overwrite)
    size = sum(f.stat().st_size for f in made.path.iterdir())
    say(
        f"wrote {target}: {len(made.videos):,} videos, {len(made.queries):,} queries, {size / 1e6:.1f} MB, composed in "
        f"{time.perf_counter() - begun:.1f} s; no clip, group or sentence stands in two parts"
    )
    found.report.kept = len({p.clip for v in plan for p in v.pieces})
    return made, found.report


def _write(
    target: Path, found: ClipSet, store: FeatureStore, plan: list[PlannedVideo], options: ComposeOptions, rate: float,
    encode: EncodeOptions, overwrite: bool,
) -> FeatureStore:  # fmt: skip
    name = f"{found.name}-{options.layout.name}-composed"
    with os_errors(f"compose into {shown(target)}"), tempfile.TemporaryFile(dir=target.absolute().parent) as scratch:
        contents = assemble(
            name,
            store,
            found.clips,
            plan,
            options,
            rate,
            lambda: blank_features(store, encode.device, encode.weights),
            scratch,
            found.report,
        )
        refuse_leaks(find_leaks(contents.videos, contents.queries))
        contents.extra["composed"] = _composed(found, store, plan, options)
        contents.extra["report"] = found.report.as_dict()
        return write_store(target, contents, overwrite=overwrite)


def _composed(found: ClipSet, store: FeatureStore, plan: list[PlannedVideo], options: ComposeOptions) -> dict[str, Any]:
    """What the manifest says about how the store was composed."""
    by_part = {part: [c for c in found.clips if c.part == part] for part in PARTS}
    used: dict[str, Counter[int]] = {part: Counter() for part in PARTS}
    for video in plan:
        used[video.part].update(p.clip for p in video.pieces)
    layout = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options.layout).items()}
    return {
        "note": "composed from trimmed clips: every boundary is a cut",
        "source": found.name,
        "kind": found.kind,
        "clips_hash": store.content_hash,
        "layout": options.layout.name,
        "options": layout,
        "tile_cells": list(tile_cells(store, options)) if options.layout.streams > 1 else None,
        "seed": options.seed,
        "parts": {
            part: {
                "clips": len(clips),
                "groups": len({c.group for c in clips}),
                "clips_used": len(used[part]),
                "uses_of_a_clip": round(sum(used[part].values()) / max(len(used[part]), 1), 2),
                "videos": sum(v.part == part for v in plan),
            }
            for part, clips in by_part.items()
        },
        "leaks": "none: no clip, group or sentence stands in two parts",
    }


def _summary(found: ClipSet) -> str:
    counts = Counter(c.part for c in found.clips)
    parts = ", ".join(f"{part} {counts[part]:,}" for part in PARTS)
    labels = len({c.label for c in found.clips if c.label is not None})
    of = f" of {labels:,} classes" if labels else ""
    return f"{found.name}: {len(found.clips):,} clips{of} in {len({c.group for c in found.clips}):,} groups ({parts})"


def _rate(store: FeatureStore, report: Report) -> float:
    """Feature rows a second of a store."""
    rates = [v.n_frames / v.duration for v in store.videos]
    middle = float(store.manifest.get("fps") or statistics.median(rates))
    for video, rate in zip(store.videos, rates, strict=True):
        if not middle / UNEVEN <= rate <= middle * UNEVEN and video.n_frames > 1:
            kind = "a video has another number of rows a second; its clips are timed by their rows"
            report.add(kind, "doubtful", f"{video.id}: {rate:.3g} against {middle:.3g}")
    return middle


def span(text: str) -> tuple[float, float]:
    """``"4-8"`` or ``"5"`` as a range of numbers."""
    low, dash, high = text.partition("-")
    try:
        return float(low), float(high if dash else low)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number and no range such as 4-8") from None


def whole_span(text: str) -> tuple[int, int]:
    """``"4-8"`` or ``"5"`` as a range of whole numbers."""
    low, high = span(text)
    if not (math.isfinite(low) and math.isfinite(high)) or low != int(low) or high != int(high):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of whole numbers")
    return int(low), int(high)


def _renamed(text: str) -> tuple[str, str]:
    ours, sign, theirs = text.partition("=")
    if not sign or not ours or not theirs:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form sentences=NAME; fields are {', '.join(FIELDS)}")
    return ours, theirs


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add ``compose`` to a command line; ``main`` takes what it parses."""
    parser = subparsers.add_parser(
        "compose", help="make untrimmed videos with exact truth from trimmed clips", description=__doc__
    )
    parser.add_argument("clips", metavar="CLIPS", help="folder of classes, list of clips, store, or 'shapes'")
    parser.add_argument("--out", required=True, type=Path, metavar="STORE", help="folder of the store to write")
    _layout_arguments(parser.add_argument_group("what is composed"))
    _reading_arguments(parser.add_argument_group("how clips are read and dealt to parts"))
    _encoding_arguments(parser.add_argument_group("how clips are encoded"))
    parser.add_argument("--overwrite", action="store_true", help="replace the store if there is one")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.set_defaults(run=main)
    return parser


def _layout_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--layout", default="sequence", help="sequence, mosaic (2x2), or rows x columns of streams up to 3x3")
    counts = " ".join(str(VIDEOS[p]) for p in PARTS)
    add("--videos", nargs=3, type=int, metavar=("TRAIN", "VAL", "TEST"), help=f"videos of each part ({counts})")
    add("--clips-per-stream", type=whole_span, metavar="N|A-B", help="clips of a stream (8; mosaics 5)")
    add("--seconds", type=span, metavar="A-B", help="length of the videos; streams are filled to it")
    add("--clip-seconds", type=span, metavar="A-B", help="cut clips to a length drawn from this range")
    add("--gaps", type=float, default=0.0, metavar="P", help="chance of an empty stretch before a clip (0)")
    add("--gap-seconds", type=span, default=(0.5, 2.0), metavar="A-B", help="length of the gaps (0.5-2)")
    add("--repeats", type=float, default=0.0, metavar="P", help="chance that a clip repeats a class or sentence (0)")
    add("--repeat-classes", action="store_true", help="draw clips without regard to what the others show")
    add("--background", type=float, default=0.0, metavar="P", help="chance that a clip gets no query (0)")
    add("--sentences-per-clip", type=int, default=2, metavar="N", help="most sentences asked about a clip (2)")
    add("--tile-cells", type=int, metavar="N", help="cells a side of a mosaic's tile (the grid's by the tiles)")
    add("--true-boxes", choices=BOXES, default="auto", help="what a query's true box is (person, else tile)")
    add("--seed", type=int, default=0, help="of every draw (0)")
    add("--text", default="minilm", help="text encoder (minilm; hashed-words needs no package)")
    add("--text-weights", metavar="FILE", help="weights of the text encoder")


def _reading_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--files", type=Path, metavar="FOLDER", help="folder of the files that a list of clips names")
    add(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="boxes.json with tracks named after clips, for clips whose rows have none",
    )
    add("--sentences", type=Path, metavar="FILE", help="json that puts classes into words, by part")
    add("--split-files", nargs="+", type=Path, default=[], metavar="PATH", help="published files of parts")
    add("--split", type=int, default=1, metavar="N", help="which of several splits counts (1)")
    add("--groups", metavar="REGEX", help="finds the group in a file's path; its clips stay in one part")
    add("--field", action="append", type=_renamed, default=[], metavar="OURS=NAME", help="name of a field in the list")
    add("--whole-videos", action="store_true", help="clips of a store are its videos, not its queries' windows")
    add("--class-folder", choices=CLASS_FOLDERS, default="auto", help="which of several folders is the class (auto)")
    add("--val-share", type=float, default=0.1, metavar="P", help="validation groups where none are given (0.1)")
    add("--test-share", type=float, default=0.25, metavar="P", help="test groups where none are given (0.25)")
    add("--conflicts", choices=CONFLICTS, default="refuse", help="groups given in two parts (refuse)")


def _encoding_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--encoded", type=Path, metavar="FOLDER", help="store of encoded clips, made or used again (STORE.clips)")
    add("--backbone", default="efficientnet-lite0", help="%(default)s; colour-cells needs no package")
    add("--weights", metavar="FILE", help="weights of the backbone")
    add("--fps", type=float, default=2.0, help="feature rows per second (%(default)s)")
    add("--grid", action=argparse.BooleanOptionalAction, default=True, help="keep the frame grid")
    add("--pca", type=int, metavar="N", help=f"channels, fitted on training clips ({ENCODED_PCA} for clips; 0: all)")
    add("--keep-channels", action="store_true", help="encode all channels, reduce while composing: serves every split")
    add("--dtype", choices=DTYPES, help="of the features (float16)")
    add("--batch", type=int, default=32, help="frames a call of the backbone (%(default)s)")
    add("--workers", type=int, default=1, help="processes over clips (%(default)s)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")


def options_of(args: argparse.Namespace) -> tuple[ComposeOptions, ClipOptions, EncodeOptions]:
    """The options that a command line gives."""
    layout = Layout(
        layout=args.layout,
        clips=args.clips_per_stream,
        seconds=args.seconds,
        clip_seconds=args.clip_seconds,
        gaps=args.gaps,
        gap_seconds=args.gap_seconds,
        repeats=args.repeats,
        repeat_classes=args.repeat_classes,
        background=args.background,
        sentences=args.sentences_per_clip,
        tile_cells=args.tile_cells,
        boxes=args.true_boxes,
    )
    encoded_pca: int | None = ENCODED_PCA if args.pca is None else args.pca
    counts: Mapping[str, int] = VIDEOS if args.videos is None else dict(zip(PARTS, args.videos, strict=True))
    options = ComposeOptions(
        layout=layout,
        videos=counts,
        seed=args.seed,
        text=args.text,
        text_weights=args.text_weights,
        pca=(encoded_pca if args.keep_channels else args.pca) or None,
        dtype=args.dtype,
        grid=args.grid,
        device=args.device,
    )
    reading = ClipOptions(
        files=args.files,
        boxes=args.boxes,
        sentences=args.sentences,
        split_files=tuple(args.split_files),
        split=args.split,
        group_pattern=args.groups,
        fields=dict(args.field),
        whole_videos=args.whole_videos,
        class_folder=args.class_folder,
        val_share=args.val_share,
        test_share=args.test_share,
        conflicts=args.conflicts,
    )
    encode = EncodeOptions(
        backbone=args.backbone,
        weights=args.weights,
        fps=args.fps,
        grid=args.grid,
        dtype=args.dtype or "float16",
        pca=encoded_pca or None,
        keep_channels=args.keep_channels,
        batch=args.batch,
        workers=args.workers,
        device=args.device,
    )
    return options, reading, encode


def main(args: argparse.Namespace) -> int:
    """Run ``compose``; 0 when the store is written (what was left out is printed), 130 after Ctrl-C."""
    started = time.perf_counter()
    options, reading, encode = options_of(args)
    try:
        store, report = compose(
            args.clips,
            args.out,
            options,
            clips=reading,
            encode=encode,
            encoded=args.encoded,
            overwrite=args.overwrite,
        )
    except KeyboardInterrupt:
        print(f"\nstopped; encoded clips are kept: the same command continues into {args.out}", file=sys.stderr)
        return 130
    if args.json:
        summary = {
            "store": str(store.path),
            "name": store.name,
            "seconds": round(time.perf_counter() - started, 2),
            "bytes": sum(f.stat().st_size for f in store.path.iterdir()),
            "shapes": {name: list(store.shape(name)) for name in store.manifest["tensors"]},
            "queries": dict(sorted(Counter(q.split for q in store.queries).items())),
            "composed": store.manifest["extra"]["composed"],
            "content_hash": store.content_hash,
            "report": report.as_dict(),
        }
        print(json.dumps(summary))
    else:
        print(report)
    return 0
