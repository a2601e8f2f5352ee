"""The options of every command that trains."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strong_envs.benchmarks.execution.job import EVALUATIONS, check_arguments
from strong_envs.benchmarks.metrics.definitions import COMPARISONS, THRESHOLDS
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import check_output, os_errors, shown
from strong_envs.features.files.locks import folder_lock
from strong_envs.features.validation import SHARE

RESULTS = (
    "results.json",
    "live.html",
    "sweep.json",
    "table.md",
    "table.png",
    "curve.png",
    "converge.png",
    "seconds.png",
    "sweep.png",
    "episode.png",
    "episode.mp4",
)
"""Names of all files that commands which train write to ``--out``."""
ENGINES = ("local", "ray")
SYSTEMS = ("random policy", "blind one-shot", "blind", "trl", "frame classifier", "strong", "GT boxes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, systems, training, engine and output."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--features", default="shapes-v0-medium", metavar="STORE", help="key or path of a feature store (%(default)s)"
    )
    data.add_argument("--train", default="train", metavar="SPLIT", help="split to train on (%(default)s)")
    data.add_argument(
        "--test",
        default="test",
        metavar="SPLIT",
        help="split that the rows are of, read once training has ended (%(default)s)",
    )
    data.add_argument(
        "--validation",
        type=float,
        default=SHARE,
        metavar="SHARE",
        help="of the training videos that learning curves and choices are made on, where the store has no split 'val'; "
        "0 trains on all of them and draws no curves (%(default)s)",
    )

    systems = parser.add_argument_group("systems")
    systems.add_argument(
        "--systems",
        default=",".join(SYSTEMS),
        metavar="NAMES",
        help="comma-separated names of systems, or 'all'; module:Class is a system of your own (%(default)s)",
    )
    systems.add_argument(
        "--agent", action="append", default=[], metavar="MODULE:CLASS", help="one more system, your own; repeatable"
    )
    systems.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the systems or of their environments, such as phi=0.05 or temporal.gamma=0.4; "
        "repeatable",
    )
    systems.add_argument(
        "--boxes",
        metavar="SOURCE",
        help="trained STRONG whose boxes rows NAME+boxes look through: folder of a finished run, FILE.safetensors, "
        "or pretrained",
    )
    systems.add_argument(
        "--tuned",
        metavar="FILE",
        help="use the settings that strong-envs tune chose (its folder or tuned.json), and say so in the table; --set "
        "has the last word",
    )
    systems.add_argument(
        "--multi-scale", action="store_true", help="add finer moves, for long videos with short moments"
    )

    training = parser.add_argument_group("training")
    training.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="training runs of each system, seeds 0 to N - 1 (%(default)s)"
    )
    training.add_argument(
        "--budget", type=float, default=1.0, metavar="FACTOR", help="factor on the training steps (%(default)s)"
    )
    training.add_argument(
        "--evaluations",
        type=int,
        metavar="N",
        help="scores on validation within the first stage of a training, for the learning curves, and a quarter as "
        f"many within each later one (default: {EVALUATIONS} where there is a validation part)",
    )
    training.add_argument(
        "--quick", action="store_true", help="a trial: small data, one seed, a twentieth of the training steps"
    )
    training.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda:0 (%(default)s)")
    training.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="training runs at the same time (%(default)s, the cores of this machine)",
    )
    training.add_argument("--engine", choices=ENGINES, default="local", help="where training runs (%(default)s)")
    training.add_argument("--address", help="address of a Ray cluster (default: start one on this machine)")
    training.add_argument("--resume", action="store_true", help="continue where the last run stopped (always done)")

    output = parser.add_argument_group("output")
    output.add_argument("--out", default="results/run", metavar="FOLDER", help="folder of the results (%(default)s)")
    output.add_argument(
        "--metrics",
        metavar="NAMES",
        help="columns of the table, such as 'mIoU,dR@1 IoU=.5' (default: the usual ones; results.json has all)",
    )
    output.add_argument(
        "--thresholds",
        default=",".join(f"{m:g}" for m in THRESHOLDS),
        metavar="NUMBERS",
        help="the m of Acc@m and R@n IoU=m, comma-separated (%(default)s)",
    )
    output.add_argument(
        "--comparison", choices=COMPARISONS, default=">=", help="comparison operator for Acc@m and R@n (%(default)s)"
    )
    output.add_argument("--json", action="store_true", help="print results as JSON instead of a table")


def apply_quick(args: argparse.Namespace) -> None:
    """Set what ``--quick`` stands for."""
    if args.quick:
        check_arguments(args)  # before numbers that nothing can be made of are replaced by others
        args.seeds, args.budget = 1, min(args.budget, 0.05)
        args.features = "shapes-v0" if args.features == "shapes-v0-medium" else args.features


@contextmanager
def held_output(args: argparse.Namespace) -> Iterator[Path]:
    """The folder ``--out``: checked before any work, and held by this process until its results are written.

    Raises:
        DataError: arguments of no job, a place that cannot be written, a folder that another process works in, or files
            of the names of results that no command of this kind wrote.
    """
    check_arguments(args)
    if not _is_unicode(args.out):
        raise DataError(f"--out {shown(args.out)} is not Unicode, which the files of weights need; choose another name")
    out = check_output(args.out)
    with os_errors(f"read {shown(out)}"):
        foreign = [] if (out / "cells").is_dir() else [name for name in RESULTS if os.path.lexists(out / name)]
        folders = [name for name in RESULTS if (out / name).is_dir()]
    if folders:
        raise DataError(f"{shown(out)} has a folder {folders[0]!r}, where a result belongs; choose another --out")
    if foreign:
        raise DataError(
            f"{shown(out)} has {', '.join(foreign)} and no training runs: this command did not write them and would "
            "replace them; choose another --out"
        )
    with folder_lock(out, f"strong-envs {getattr(args, 'command', 'run')}") as held:
        yield held


def _is_unicode(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
