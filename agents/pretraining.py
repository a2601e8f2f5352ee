"""Trains the system that ships for the default world; ``python -m agents.pretrained`` runs this.

STRONG that is shown what its gaze says, in three turns (`SETTINGS`, the rest are its defaults), on the train split of
the standard level: seed 0 of `strong+evidence` in the table of the full build. What predictions do without, critics and
targets, is left out of the file.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import features
from agents.predictor import WEIGHTS
from agents.session import Session
from agents.settings import check_settings, parse_settings, with_settings
from agents.systems import make
from agents.train_command import held_out
from features.records import DataError

SYSTEM, SETTINGS = "strong+evidence", {"rounds": 3}
"""As in the table of the full build."""


def main(arguments: list[str] | None = None) -> int:
    """Train and write the system; Ctrl-C stores the training beside the file, and the same command goes on.

    Returns the exit code: 0, 130 after Ctrl-C, 2 with one sentence for bad input.
    """
    parser = argparse.ArgumentParser(prog="python -m agents.pretrained", description=__doc__.splitlines()[0])
    parser.add_argument("--features", default="shapes-v0-full", help="a key or path (%(default)s)")
    parser.add_argument("--budget", type=float, default=1.0, help="factor on the training steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as in python -m agents train")
    parser.add_argument("--out", default=str(WEIGHTS), help="file to write")
    args = parser.parse_args(arguments)
    try:
        _train(args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _train(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    settings = SETTINGS | parse_settings(args.set)
    check_settings([SYSTEM], settings)
    bank, test = features.load(args.features, "train"), features.load(args.features, "test")
    system: Any = make(SYSTEM, bank, seed=args.seed, budget=args.budget, **with_settings(SYSTEM, settings))
    bar = tqdm(unit="step", unit_scale=True)

    def report(stage: str, step: int, total: int, scalars: dict[str, float]) -> None:
        if bar.desc != f"{stage}: ":
            bar.reset(total)
            bar.set_description(stage)
        bar.n = step
        bar.set_postfix({name: f"{scalars[name]:.3f}" for name in ("return", "loss") if name in scalars})

    stored = f"{args.out}.checkpoint"
    with Session(stored, resume=True) as session, bar:
        system.fit(report, lambda trained, _: {"mIoU": held_out(trained, test)}, checkpoint=session)
    system.strong.save(args.out, lean=True)
    if session.path is not None:
        session.path.unlink(missing_ok=True)
    print(f"{args.out}: mIoU {held_out(system, test):.3f} on {len(test)} held-out queries of {test.store.name}")
