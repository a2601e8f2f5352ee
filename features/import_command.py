"""``python -m features import ANNOTATIONS --features PATH --out STORE``: annotations and feature files to one store."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from features.authors_file import import_authors_file
from features.datasets import READERS, read
from features.importers import import_store
from features.records import DataError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``import`` command to ``python -m features``."""
    parser = subparsers.add_parser(
        "import",
        help="make a store from annotations and feature files of other projects",
        description="Make a store from annotations and h5, npy or npz features. A feature_all_*.npy of the paper's "
        "authors is converted on its own: give it as ANNOTATIONS with --allow-pickle and --split.",
    )
    parser.add_argument("annotations", help="annotations: a file, or a folder in its data set's own layout")
    parser.add_argument("--features", nargs="+", help="feature files: one stream, or several that are concatenated")
    parser.add_argument("--out", required=True, help="folder of the store to make")
    parser.add_argument("--text", help="a folder of qid*.npz, or a text encoder's name; default: hashed words")
    parser.add_argument("--boxes", help="a boxes.json")
    parser.add_argument("--objects", help="detector features by video: an h5 file or a folder of arrays (n, K, C)")
    parser.add_argument("--format", choices=sorted(READERS), help="format of the annotations, where it cannot be told")
    parser.add_argument("--key", default="features", help="name of the array in npz files and h5 groups")
    parser.add_argument("--seconds-per-row", type=float, help="seconds one feature row covers; default: inferred")
    parser.add_argument("--split", help="split of a feature_all_*.npy")
    parser.add_argument("--allow-pickle", action="store_true", help="unpickle a feature_all_*.npy of a trusted source")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing store")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command and return its exit code: 0 a store was made (what it left out is printed), 2 none was."""
    try:
        if not args.features:
            if Path(args.annotations).suffix != ".npy":
                raise DataError("pass --features with an h5 file, or a folder of npy or npz files")
            if not args.split:
                raise DataError("pass --split with the split this file holds: train or test")
            store, report = import_authors_file(
                args.out, args.annotations, split=args.split, allow_pickle=args.allow_pickle, overwrite=args.overwrite
            )
        else:
            annotations = read(args.annotations, args.format)
            store, report = import_store(
                args.out,
                annotations,
                features=args.features,
                text=_text(args.text),
                boxes=args.boxes,
                objects=args.objects,
                key=args.key,
                seconds_per_row=args.seconds_per_row,
                overwrite=args.overwrite,
                progress=sys.stderr.isatty(),
                say=lambda line: print(line, file=sys.stderr),
            )
            report.merge(annotations.report)
            report.kept = len(store.queries)
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


def _text(name: str | None) -> object:
    if name is None or Path(name).exists():
        return name
    from features.text import load

    return load(name).encode
