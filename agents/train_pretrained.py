"""Trains the system that ships for the default world; ``strong-envs train-pretrained`` runs this.

STRONG with its defaults, from its own rewards alone, on the train split of the standard level: seed 0 of `strong` in
the table of the full build. Weights that predictions do not use, those of the targets, are left out of the file. With
``--looks`` it is the look predictor of ``strong-envs demo``, which reads a few frames of a video.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from strong_envs import features
from strong_envs.agents.cli import held_out
from strong_envs.agents.inference import WEIGHTS
from strong_envs.agents.looks.posterior import CLIPS, LookPosterior, seen_of
from strong_envs.agents.looks.posterior import WEIGHTS as TRUST
from strong_envs.agents.model_card import THRESHOLDS, Card, card_of, world_of, write_card
from strong_envs.agents.overrides import check_settings, parse_settings, with_settings
from strong_envs.agents.ranges import check_value
from strong_envs.agents.registry import make
from strong_envs.agents.training.session import Session
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.files.errors import check_output

SYSTEM = "strong"
SETTINGS: dict[str, Any] = {}
"""As in the table of the full build."""
LOOKS_WEIGHTS = WEIGHTS.with_name("looks_shapes.safetensors")
LOOKS, FIRST = 20, 8
"""Looks of a search whose scores the card has, and how many of them are even."""


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
    parser.add_argument("--looks", action="store_true", help="train the look predictor of strong-envs demo instead")
    parser.add_argument(
        "--out", help=f"file to write (default: {WEIGHTS.name}, or {LOOKS_WEIGHTS.name}, in the package)"
    )
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Train and write the system."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    settings = SETTINGS | parse_settings(args.set)
    check_value("budget", args.budget, float)
    check_value("seed", args.seed, int)
    args.out = args.out or str(LOOKS_WEIGHTS if args.looks else WEIGHTS)
    if args.looks:
        try:
            return train_looks(args)
        except KeyboardInterrupt:
            print("interrupted; the look predictor writes no checkpoints: nothing was written", file=sys.stderr)
            return 130
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


def train_looks(args: argparse.Namespace) -> int:
    """Train a `LookPredictor`, choose how far its posterior trusts a look on validation, write it and its card."""
    from itertools import product

    from strong_envs.agents.looks.predict import LookPredictor
    from strong_envs.agents.looks.search import uncertainty_rows
    from strong_envs.agents.looks.sensor import SensorArgs

    check_output(args.out, "file")
    store = features.split_validation(args.features)
    bank, validation = (features.load(store, split) for split in ("train", "val"))
    steps = max(round(SensorArgs.steps * args.budget), 1)
    predictor = LookPredictor.fit(bank, SensorArgs(steps=steps), args.seed)

    def searcher(part: FeatureBank) -> Callable[[LookPosterior], Tensor]:
        table, n_frames = predictor.sensor.table(part), part.n_frames[part.video]

        def windows(posterior: LookPosterior) -> Tensor:
            rows = uncertainty_rows(posterior, table, n_frames, LOOKS, FIRST)
            return posterior.answer(seen_of(table, torch.arange(len(part)), rows), n_frames)

        return windows

    posterior, search = predictor.posterior, searcher(validation)

    def trusted(trust: tuple[float, float]) -> float:
        posterior.weight, posterior.clip = trust
        return _ious(search(posterior), validation).mean().item()

    posterior.weight, posterior.clip = max(product(TRUST, CLIPS), key=trusted)
    predictor.save(args.out)
    test = features.load(store, "test")
    iou = _ious(searcher(test)(posterior), test)
    reached = {f"Acc@{m:g}".replace("0.", "."): (iou >= m - 1e-9).double().mean().item() for m in THRESHOLDS}
    scores = {"mIoU": iou.mean().item(), **reached}
    card = Card(
        system="uncertainty search",
        description=f"looks at {LOOKS} frames of a video, each where it is least sure, and answers",
        sees="grid",
        learns_from="frame labels",
        data=test.store.name,
        data_hash=test.store.content_hash,
        world=world_of(test.store.manifest),
        train="train",
        test="test",
        queries=len(test),
        protocol=f"full videos, clamped IoU with the nearest true window, {LOOKS} looks",
        scores=scores,
        seed=args.seed,
        budget=args.budget,
        settings={"looks": LOOKS, "weight": posterior.weight, "clip": posterior.clip},
        backbone=str((test.store.manifest.get("backbone") or {}).get("name", "")),
        text_encoder=str((test.store.manifest.get("text") or {}).get("name", "")),
    )
    write_card(args.out, card, readme=False)
    print(f"{args.out}: mIoU {card.scores['mIoU']:.3f} with {LOOKS} looks on {len(test)} test queries of {card.data}")
    return 0


def _ious(fractions: Tensor, bank: FeatureBank) -> Tensor:
    """Clamped IoU of windows (S, 2), fractions of their videos, with the nearest true ones: (S,)."""
    from strong_envs.core.spans import span_iou

    return span_iou(fractions[:, 0], fractions[:, 1], bank.truth, "clamped")
