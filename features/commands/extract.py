"""``strong-envs extract VIDEOS... --annotations FILE --out STORE``: turn videos and annotations into a store.

Every video is decoded once, sampled at the centre of each feature row and sent through the backbone. Finished videos
are kept until the store is written: the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import fields
from pathlib import Path

from strong_envs.features.extraction.options import DTYPES, ExtractOptions


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add ``extract`` to a command line; ``main`` takes what it parses."""
    default = ExtractOptions()
    parser = subparsers.add_parser("extract", help="turn videos and annotations into a store", description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEOS", help="video files, or folders of them")
    parser.add_argument("--annotations", required=True, type=Path, metavar="FILE", help="annotations in a known format")
    parser.add_argument("--format", help="format of the annotations, where it is not recognised")
    parser.add_argument("--boxes", type=Path, metavar="FILE", help="boxes of source frames (boxes.json)")
    parser.add_argument("--out", required=True, type=Path, metavar="STORE", help="folder of the store to write")
    parser.add_argument("--backbone", default=default.backbone, help="network, or module:function (%(default)s)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights of the backbone")
    parser.add_argument("--text", default=default.text, help="text encoder (%(default)s)")
    parser.add_argument("--text-weights", type=Path, metavar="FILE", help="weights of the text encoder")
    parser.add_argument("--fps", type=float, default=default.fps, help="feature rows per second (%(default)s)")
    parser.add_argument("--batch", type=int, default=default.batch, help="frames in one call (%(default)s)")
    parser.add_argument(
        "--grid",
        action=argparse.BooleanOptionalAction,
        default=default.grid,
        help="store the spatial map of every row, which STRONG and SpatialTrack need",
    )
    parser.add_argument("--objects", metavar="MODULE:FUNCTION", help="detector: frames to features of K objects")
    parser.add_argument("--pca", metavar="N|STORE", help="reduce to N channels, or as the given store does")
    parser.add_argument(
        "--pca-videos", type=int, default=default.pca_videos, help="train videos to fit on (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=default.workers, help="processes over videos (%(default)s)")
    parser.add_argument("--device", default=default.device, help="cpu, cuda, cuda:1, ... (%(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default=default.dtype, help="of the stored features (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing store")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=main)
    return parser


def options_of(args: argparse.Namespace) -> ExtractOptions:
    """The options that a command line gives."""
    given = {f.name: getattr(args, f.name) for f in fields(ExtractOptions) if hasattr(args, f.name)}
    if args.pca is not None and args.pca.lstrip("-").isdigit():
        given["pca"] = int(args.pca)
    return ExtractOptions(**given)


def main(args: argparse.Namespace) -> int:
    """Run ``extract``; 0 when the store is written (what was dropped is printed), 130 after Ctrl-C."""
    from strong_envs.features.datasets import read, read_boxes
    from strong_envs.features.extraction.pipeline import extract

    started = time.perf_counter()
    options = options_of(args)
    annotations = read(args.annotations, format=args.format)
    boxes = None if args.boxes is None else read_boxes(args.boxes, annotations.report)
    try:
        store, report = extract(args.videos, annotations, args.out, options, boxes)
    except KeyboardInterrupt:
        print(f"\nstopped; finished videos are kept: run the same command to continue {args.out}", file=sys.stderr)
        return 130
    if args.json:
        summary = {
            "store": str(store.path),
            "bytes": sum(f.stat().st_size for f in store.path.iterdir()),
            "seconds": round(time.perf_counter() - started, 2),
            "shapes": {name: list(entry["shape"]) for name, entry in store.manifest["tensors"].items()},
            "content_hash": store.content_hash,
            "report": report.as_dict(),
        }
        print(json.dumps(summary))
    else:
        print(report)
    return 0
