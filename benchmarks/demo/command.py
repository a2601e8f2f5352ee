"""``strong-envs demo``: a local page on which trained systems search videos, step by step."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from strong_envs.features.errors import DataError

INSTALL = 'the demo needs Gradio: pip install "strong-envs[demo]"'


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``demo`` command."""
    parser = subparsers.add_parser(
        "demo",
        help="open a local page that searches your video",
        description="Open a page on this machine: choose a video file and type a sentence, or take a held-out query, "
        "and watch the search with its window, boxes and frames. Nothing leaves this machine. Ctrl-C ends it.",
    )
    parser.add_argument(
        "models",
        nargs="*",
        default=["pretrained", "looks"],
        metavar="MODEL",
        help="folders of 'strong-envs train', files of weights (also of LookPredictor.save), or what ships: "
        "'pretrained', which reads all frames, and 'looks', which looks at a few (pretrained looks)",
    )
    parser.add_argument(
        "--features", default="shapes-v0", metavar="STORE", help="store of the queries; '' for none (%(default)s)"
    )
    parser.add_argument("--test", default="test", metavar="SPLIT", help="split of the queries (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="0 takes a free one (%(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--allow-import", action="store_true", help="import a backbone that a model names, which runs its code"
    )
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command until Ctrl-C; returns 0."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio  # type: ignore[import-not-found] # noqa: F401
    except ImportError:
        raise DataError(INSTALL) from None
    if not 0 <= args.port <= 65535:
        raise DataError(f"--port must be a number from 0 to 65535, got {args.port}")
    from strong_envs import features
    from strong_envs.benchmarks.demo.models import model_of
    from strong_envs.benchmarks.demo.page import CSS, build, theme
    from strong_envs.benchmarks.demo.server import local_server

    models = [model_of(source, args.allow_import) for source in dict.fromkeys(args.models)]
    bank = features.load(args.features, args.test) if args.features else None
    try:
        with (
            # Made here, so that Ctrl-C while the page is built leaves nothing either.
            tempfile.TemporaryDirectory(prefix="strong-envs-demo-", ignore_cleanup_errors=True) as place,
            local_server(page := build(models, bank, Path(place)), args.port, theme(), CSS) as address,
        ):
            print(f"{address}  (Ctrl-C ends it)", flush=True)
            if args.open:
                import webbrowser

                webbrowser.open(address)
            page.block_thread()
    except KeyboardInterrupt:
        pass
    print("the demo has ended; nothing was kept", file=sys.stderr)
    return 0
