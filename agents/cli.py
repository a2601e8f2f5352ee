"""``strong-envs train``: trains one system, with progress, a log, scores on validation videos and checkpoints.

The scores on the way are of the validation part; the test part is opened when the training has ended, for its result.
In the folder: ``run.json`` (its options), ``log.csv`` and event files, ``checkpoint.safetensors`` while it trains,
and at the end ``system.safetensors`` (see `agents.load`) with its model card, and ``result.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from strong_envs.agents.model_card import WEIGHTS, Card, card_of, write_card
from strong_envs.agents.ranges import check_value
from strong_envs.agents.training.checkpoint import Count
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import check_output, os_errors, shown
from strong_envs.features.files.locks import folder_lock
from strong_envs.features.files.untrusted_json import as_type, read_json
from strong_envs.features.registry import job_store, load_part
from strong_envs.features.store.store import FeatureStore
from strong_envs.features.validation import SHARE, VALIDATION

DEFAULTS = {
    "features": "shapes-v0-medium",
    "train": "train",
    "test": "test",
    "validation": SHARE,
    "system": "strong",
    "seed": 0,
    "budget": 1.0,
    "set": [],
    "device": "cpu",
}
"""Options of a run, as stored in run.json."""
FILES = (
    "run.json",
    "log.csv",
    "checkpoint.safetensors",
    "system.safetensors",
    "system.card.json",
    "README.md",
    "result.json",
)
"""What a run writes; none of them may be there before."""
MAY_CHANGE = ("device",)
"""Options that may differ when a run is resumed; on another device the result differs in the last bits."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``train`` command."""
    parser = subparsers.add_parser(
        "train",
        help="train one system, with checkpoints and a log",
        description="Train one system, evaluate it on validation videos as it learns and on test videos at the end. "
        "Ctrl-C stores the training; the same folder with --resume continues it, with the same result bit for bit.",
    )
    d = DEFAULTS
    # None means "not given": with --resume, such options keep their stored values.
    parser.add_argument("--features", help=f"a key or the path of a store ({d['features']})")
    parser.add_argument("--train", help=f"training split ({d['train']})")
    parser.add_argument("--test", help=f"split of the result, read once the training has ended ({d['test']})")
    parser.add_argument(
        "--validation",
        type=float,
        metavar="SHARE",
        help="of the training videos that the scores on the way are of, where the store has no split 'val'; 0 trains "
        f"on all of them ({d['validation']})",
    )
    parser.add_argument("--system", help=f"a registered name, or module:Class ({d['system']})")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, help=f"seed of everything random ({d['seed']})")
    parser.add_argument("--budget", type=float, help=f"factor on the training steps ({d['budget']})")
    parser.add_argument("--device", help=f"torch device ({d['device']})")
    parser.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="change a setting of the system or its environment, such as phi=0.05 or temporal.gamma=0.4; repeatable",
    )
    parser.add_argument(
        "--checkpoint-every", type=float, default=60.0, metavar="SECONDS", help="between checkpoints (%(default)s)"
    )
    parser.add_argument(
        "--evaluations", type=int, default=5, help="scores on validation in each temporal stage (%(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="resume the run in --out")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; 0 when the training ended, 130 after Ctrl-C."""
    from strong_envs import agents, features
    from strong_envs.agents.overrides import check_settings, parse_settings, with_settings
    from strong_envs.agents.training.session import Session
    from strong_envs.features.devices import usable_device

    out = Path(args.out)
    options = _options(args, out)
    if args.resume and (out / "result.json").is_file():
        print(f"{out}: this run has ended; its system is in system.safetensors")
        return 0
    name, settings = options["system"], parse_settings(options["set"])
    if args.resume and ":" in name and args.system is None:
        raise DataError(f"the run in {str(out)!r} trains the Python object {name!r}; pass --system {name} to import it")
    if args.features is None:
        features.registry.named_by_file(options["features"], shown(out / "run.json"), "--features")
    agents.find(name)
    check_settings([name], settings)
    _check_numbers(options, args)
    device = str(usable_device(options["device"]))
    store = job_store(options["features"], options["train"], options["validation"])
    _check_parts(store, options)
    train = load_part(store, options["train"], device)
    validation = load_part(store, VALIDATION, device) if VALIDATION in store.splits else None

    def test() -> FeatureBank:
        return load_part(store, options["test"], device)

    check_output(out)
    arguments = with_settings(name, settings)
    bound = agents.registry.sees_truth(name, arguments)
    try:
        system = agents.make(name, train, seed=options["seed"], budget=options["budget"], **arguments)
    except (TypeError, ValueError) as error:
        raise DataError(str(error)) from None
    if args.resume and not system.resumable:
        raise DataError(f"{name} writes no checkpoints to resume from; leave out --resume and choose another --out")
    check_output(out)
    with folder_lock(out, "training"):
        if not args.resume:
            _check_free(out)
        _write_json(out / "run.json", options)

        def card(trained: Any, bank: FeatureBank) -> Card:
            facts = {"seed": options["seed"], "budget": options["budget"], "settings": arguments, "upper_bound": bound}
            return card_of(name, trained, train, bank, **facts)

        if not system.resumable:
            return _train(system, validation, test, bound, out, args, card, None)
        with Session(out / "checkpoint.safetensors", every=args.checkpoint_every, resume=args.resume) as session:
            return _train(system, validation, test, bound, out, args, card, session)


def _train(
    system: Any,
    validation: FeatureBank | None,
    test: Callable[[], FeatureBank],
    bound: bool,
    out: Path,
    args: argparse.Namespace,
    card_for: Callable[[Any, FeatureBank], Card],
    session: Any,
) -> int:
    """Train, score the test part that ``test`` opens, and write the system, its card and its result."""
    from strong_envs.agents.training.logs import Logger

    restored = (session.restored if session is not None else None) or {}
    log = Logger(out, restored.get("log"))
    bar = TrainingProgress(log)
    evaluator = Evaluator(system, validation, bound, bar, args.evaluations, restored.get("evaluator"))
    try:
        if session is None:
            system.fit(bar.report, evaluator.after)
        else:
            session.extra = lambda: {"log": log.state(), "evaluator": evaluator.state()}
            session.watchers.append(evaluator.during)
            system.fit(bar.report, evaluator.after, checkpoint=session)
        bank = test()
        card = card_for(system, bank)
        score = card.scores["mIoU"]
    except KeyboardInterrupt:
        bar.close()
        if session is None:
            print("interrupted; this system writes no checkpoints, its training is lost", file=sys.stderr)
        else:
            print(f"interrupted; resume with: strong-envs train --out {out} --resume", file=sys.stderr)
        return 130
    except SystemExit as error:
        raise DataError(f"the system ended the program while it was trained: SystemExit({error.code!r})") from error
    finally:
        bar.close()
        log.close()
    system.save(str(out / WEIGHTS))
    if (out / WEIGHTS).is_file():  # a system may have nothing to save
        write_card(out / WEIGHTS, card)
    _write_json(out / "result.json", {"mIoU": score, "history": system.history})
    # Last: after a kill before this line, the checkpoint still leads to the same end.
    with os_errors(f"remove the checkpoint of {shown(out)}"):
        (out / "checkpoint.safetensors").unlink(missing_ok=True)
    print(f"{out}: mIoU {score:.3f} on {len(bank)} queries of {bank.split}")
    return 0


def held_out(system: Any, bank: FeatureBank, upper_bound: bool = False) -> float:
    """Mean IoU of a system's windows with the nearest true window of each query; upper bounds alone see the truth."""
    from strong_envs.core.spans import span_iou

    spans = system.predict(bank if upper_bound else bank.masked()).spans.to(bank.truth)
    truth = bank.truth * bank.duration[bank.video][:, None, None]
    return float(span_iou(spans[:, 0], spans[:, 1], truth, "clamped").mean())


class Run(msgspec.Struct):
    """The file run.json."""

    features: str
    train: str
    test: str
    system: str
    seed: int
    budget: float
    set: list[str]
    device: str
    validation: float = 0.0
    """As in runs of releases without it."""


class Place(msgspec.Struct):
    """The stage, its part and its steps at the last evaluation."""

    stage: str = ""
    part: Count = 0
    total: Count = 0


class TrainingProgress:
    """A progress bar for every stage, with return, mIoU, speed and estimate; its reports are logged."""

    def __init__(self, log: Any) -> None:
        self.log = log
        self._bar: Any = None
        self._stage = ""

    def report(self, stage: str, step: int, total: int, scalars: dict[str, float]) -> None:
        """`agents.registry.ProgressCallback`."""
        from tqdm import tqdm  # type: ignore[import-untyped]

        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = tqdm(total=total, initial=step, desc=stage, unit="step", unit_scale=True)
        self.log.report(stage, step, total, scalars)
        shown = {name: f"{self.log.last[name]:.3f}" for name in ("return", "mIoU") if name in self.log.last}
        self._bar.set_postfix(shown, refresh=False)
        if step >= self._bar.n:  # a system that begins a stage again counts from its start
            self._bar.update(step - self._bar.n)
        else:
            self._bar.reset(total)
            self._bar.update(step)

    def close(self) -> None:
        """Leave the last bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._stage = ""


class Evaluator:
    """Scores on the validation part, if there is one, ``count`` times in a temporal stage and after each stage.

    The steps alone decide when, so that a resumed run evaluates where an uninterrupted one does.
    """

    def __init__(
        self,
        system: Any,
        bank: FeatureBank | None,
        upper_bound: bool,
        bar: TrainingProgress,
        count: int,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.system, self.bank, self.upper_bound, self.bar, self.count = system, bank, upper_bound, bar, count
        place = Place() if state is None else as_type(state, Place, "the evaluator of the checkpoint")
        self.stage, self.part, self.total = place.stage, place.part, place.total

    def state(self) -> dict[str, Any]:
        """JSON-ready: where in which stage the last evaluation was due."""
        return {"stage": self.stage, "part": self.part, "total": self.total}

    def during(self, training: Any) -> None:
        """Called after each update."""
        if training.stage != self.stage:
            self.stage, self.part, self.total = training.stage, 0, training.total
        part = self.count * training.done // max(training.total, 1)
        # The boxes of the temporal level are in place while it trains; in the other stages its score is constant.
        due = part > self.part and training.done < training.total and "temporal" in training.stage
        if self.bank is not None and due:
            scores = {"mIoU": held_out(self.system, self.bank, self.upper_bound)}
            self.bar.report(training.stage, training.done, training.total, scores)
        self.part = part

    def after(self, system: Any, stage: str) -> dict[str, float]:
        """Called after each stage, for the history."""
        if self.bank is None:
            return {}
        scores = {"mIoU": held_out(system, self.bank, self.upper_bound)}
        self.bar.report(self.stage or stage, self.total, self.total, scores)
        return scores


def _options(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Options of the run: from the command line, or with --resume from its own file."""
    file = out / "run.json"
    given = {name: getattr(args, name) for name in DEFAULTS if getattr(args, name) is not None}
    if not args.resume:
        _check_free(out)
        return {**DEFAULTS, **given}
    with os_errors(f"read {shown(file)}"):
        exists = file.exists()
    if not exists:
        raise DataError(f"there is no run in {str(out)!r} to resume")
    try:
        stored = msgspec.structs.asdict(as_type(read_json(file), Run, shown(file)))
    except DataError as error:
        raise DataError(f"{str(file)!r} does not describe a run: {error}") from None
    for name, value in given.items():
        if name not in MAY_CHANGE and value != stored[name]:
            raise DataError(f"the run in {str(out)!r} has --{name} {stored[name]!r}, not {value!r}; leave it out")
    return {**stored, **{name: given[name] for name in MAY_CHANGE if name in given}}


def _check_free(out: Path) -> None:
    """Raise `DataError` where a new run would replace a file."""
    with os_errors(f"read {shown(out)}"):
        taken = [name for name in FILES if os.path.lexists(out / name)]
    if taken[:1] == ["run.json"]:
        raise DataError(f"{str(out)!r} holds a run; resume it with --resume, or choose another --out")
    if taken:
        raise DataError(f"{shown(out)} has {', '.join(taken)}, which a run would replace; choose another --out")


def _check_parts(store: FeatureStore, options: dict[str, Any]) -> None:
    """Refuse the name of a part that is not there before the training, without opening the test part."""
    for split in (options["train"], options["test"]):
        if split not in store.splits:
            raise DataError(f"store {store.name!r} has no split {split!r}; it has {store.splits}")


def _check_numbers(options: dict[str, Any], args: argparse.Namespace) -> None:
    check_value("budget", options["budget"], float)
    check_value("seed", options["seed"], int)
    if not 0 <= options["validation"] < 1:
        raise DataError(f"--validation must be a share from 0 to below 1, got {options['validation']}")
    if not 0 < args.checkpoint_every < math.inf:
        raise DataError(f"--checkpoint-every must be a positive number of seconds, got {args.checkpoint_every}")
    if not 1 <= args.evaluations <= 10_000:
        raise DataError(f"--evaluations must be a whole number in [1, 10,000], got {args.evaluations}")


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")
