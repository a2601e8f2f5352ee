"""Trains the system that ships for the default world; ``strong-envs train-pretrained`` runs this.

STRONG with its defaults, from its own rewards alone, on the train split of the standard level: seed 0 of `strong` in
the table of the full build. Weights that predictions do not use, those of the targets, are left out of the file.
"""

from __future__ import annotations

import argparse
from typing import Any

from strong_envs import features
from strong_envs.agents.cli import held_out
from strong_envs.agents.inference import WEIGHTS
from strong_envs.agents.model_card import card_of, write_card
from strong_envs.agents.overrides import check_settings, parse_settings, with_settings
from strong_envs.agents.ranges import check_value
from strong_envs.agents.registry import make
from strong_envs.agents.training.session import Session
from strong_envs.features.files.errors import check_output

SYSTEM = "strong"
SETTINGS: dict[str, Any] = {}
"""As in the table of the full build."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``train-pretrained`` command."""
    summary = "Train the system that agents.pretrained() loads."
    parser = subparsers.add_parser(
        "train-pretrained",
        help=summary,
        description=f"{summary} Ctrl-C stores the training beside the file; the same command resumes it.",
    )
    parser.add_argument("--features", default="shapes-v0-full", help="a key or path (%(default)s)")
    parser.add_argument("--budget", type=float, default=1.0, help="factor on the training steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as in strong-envs train")
    parser.add_argument("--out", default=str(WEIGHTS), help="file to write")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Train and write the system."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    settings = SETTINGS | parse_settings(args.set)
    check_value("budget", args.budget, float)
    check_value("seed", args.seed, int)
    check_output(args.out, "file")
    check_settings([SYSTEM], settings)
    store = features.split_validation(args.features)
    bank, validation = (features.load(store, split) for split in ("train", "val"))
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
        system.fit(report, lambda trained, _: {"mIoU": held_out(trained, validation)}, checkpoint=session)
        # Before the session is left: it holds the lock of the file.
        system.save(args.out, lean=True)
        if session.path is not None:
            session.path.unlink(missing_ok=True)
    test = features.load(store, "test")
    card = card_of(SYSTEM, system, bank, test, seed=args.seed, budget=args.budget, settings=settings)
    write_card(args.out, card, readme=False)
    print(f"{args.out}: mIoU {card.scores['mIoU']:.3f} on {len(test)} test queries of {test.store.name}")
    return 0
