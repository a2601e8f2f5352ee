"""``strong-envs import ANNOTATIONS --features PATH... --out STORE``: a store from feature files of other projects.

Features are h5, npy or npz files. A ``feature_all_*.npy`` of the paper's authors is converted on its own: give it as
ANNOTATIONS, with --allow-pickle and --split.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from strong_envs.features.datasets import READERS, read
from strong_envs.features.datasets.types import Report
from strong_envs.features.encoders.text import TextEncoder
from strong_envs.features.errors import DataError
from strong_envs.features.importing.importer import import_store
from strong_envs.features.importing.options import ImportOptions
from strong_envs.features.importing.strong_release import import_authors_file
from strong_envs.features.store.store import FeatureStore


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the ``import`` command to ``strong-envs``."""
    default = ImportOptions()
    parser = subparsers.add_parser(
        "import", help="make a store from annotations and feature files of other projects", description=__doc__
    )
    parser.add_argument("annotations", help="annotations: a file, or a folder in its data set's own layout")
    parser.add_argument("--features", nargs="+", help="feature files: one stream, or several that are concatenated")
    parser.add_argument("--out", required=True, help="folder of the store to make")
    parser.add_argument("--text", help="a folder of qid*.npz, or the name of a text encoder (default: hashed words)")
    parser.add_argument("--grid", help="spatial maps by video, arrays (n, h, w, C), which STRONG needs")
    parser.add_argument("--pca", metavar="N|STORE", help="reduce the grid (or the features) to N channels, or as STORE")
    parser.add_argument("--boxes", help="a boxes.json")
    parser.add_argument("--objects", help="detector features by video: an h5 file or a folder of arrays (n, K, C)")
    parser.add_argument("--format", choices=sorted(READERS), help="format of the annotations, if not recognised")
    parser.add_argument("--key", default=default.key, help="name of the array in npz files and h5 groups (%(default)s)")
    parser.add_argument("--name", help="name of the store (default: that of the annotations)")
    parser.add_argument("--prefix", default="", help="what file names have before the video's id, such as v_")
    parser.add_argument("--suffix", default="", help="what file names have after the video's id, such as _clip")
    parser.add_argument("--transposed", action="store_true", help="arrays are (channels, rows)")
    parser.add_argument("--seconds-per-row", type=float, help="seconds that one feature row covers (default: inferred)")
    parser.add_argument("--split", help="split of a feature_all_*.npy")
    parser.add_argument("--allow-pickle", action="store_true", help="unpickle a feature_all_*.npy of a trusted source")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing store")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=main)
    return parser


def options_of(args: argparse.Namespace) -> ImportOptions:
    """The options that a command line gives."""
    return ImportOptions(
        text=_text(args.text),
        boxes=args.boxes,
        objects=args.objects,
        grid=args.grid,
        pca=int(args.pca) if args.pca is not None and args.pca.lstrip("-").isdigit() else args.pca,
        name=args.name,
        key=args.key,
        prefix=args.prefix,
        suffix=args.suffix,
        transposed=args.transposed,
        seconds_per_row=args.seconds_per_row,
        overwrite=args.overwrite,
        progress=sys.stderr.isatty(),
        say=lambda line: print(line, file=sys.stderr),
    )


def main(args: argparse.Namespace) -> int:
    """Run the command and return its exit code: 0 a store was made (what it left out is printed), 2 none was."""
    try:
        store, report = _run(args)
    except DataError as error:
        if args.json:
            print(json.dumps({"error": str(error)}))
        else:
            print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"store": str(store.path), "content_hash": store.content_hash, "report": report.as_dict()}))
    else:
        print(f"{report}\nwrote {store.path}: {len(store.videos)} videos, {len(store.queries)} queries")
    return 0


def _run(args: argparse.Namespace) -> tuple[FeatureStore, Report]:
    if not args.features and not args.grid:
        if Path(args.annotations).suffix != ".npy":
            raise DataError("pass --features (or --grid) with an h5 file, or a folder of npy or npz files")
        if not args.split:
            raise DataError("pass --split with the split of this file: train or test")
        return import_authors_file(
            args.out, args.annotations, split=args.split, allow_pickle=args.allow_pickle, overwrite=args.overwrite
        )
    annotations = read(args.annotations, args.format)
    store, report = import_store(args.out, annotations, args.features or None, options_of(args))
    report.merge(annotations.report)
    report.kept = len(store.queries)
    return store, report


def _text(name: str | None) -> TextEncoder | str | None:
    if name is None or Path(name).exists():
        return name
    from strong_envs.features.encoders.text import load

    return load(name)
