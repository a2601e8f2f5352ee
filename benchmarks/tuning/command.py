"""``strong-envs tune``: settings of every system, chosen on the validation part with the same number of trials.

Each system declares what is searched (`agents.search_space`). A trial is one or more trainings that are scored by mIoU
on the validation part; the test part is never opened. The first trial has the default values, so that a chosen system
is no worse on validation than the one that ships. Trainings of trials have seeds of their own, so that those of a table
are not the ones that were chosen among.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.agents.overrides import setting_paths
from strong_envs.agents.search_space import Space
from strong_envs.benchmarks.execution.cell import Cell, code_hash, protocol_of
from strong_envs.benchmarks.execution.job import Variant, importable_here, plain_variants, systems_of
from strong_envs.benchmarks.execution.local_engine import Outcome, run_matrix
from strong_envs.benchmarks.execution.provenance import about, extras
from strong_envs.benchmarks.options import add_arguments, apply_quick, held_output
from strong_envs.benchmarks.results.files import read_tree, write_json
from strong_envs.benchmarks.tuning.chosen import FILE, is_given, key_of, read_tuned, shown_value
from strong_envs.benchmarks.tuning.search import ROUND, Search, Trial, best, check_installed
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import shown
from strong_envs.features.registry import job_store, load_part
from strong_envs.features.validation import VALIDATION

FIRST_SEED = 1000
"""Of the trainings of a trial; tables begin with seed 0."""
MOST_TRIALS = 10_000
SYSTEMS = "blind one-shot,trl,ctrl,mcn,frame classifier,strong"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``tune`` command."""
    parser = subparsers.add_parser(
        "tune",
        help="choose settings on the validation part, the same number of trials for every system",
        description="Search the declared settings of every system with Optuna, by mIoU on the validation part alone, "
        f"and write space, trials and chosen values to {FILE}, which strong-envs run --tuned takes. A search that was "
        "killed goes on with the same command. A setting that --set gives is not searched.",
    )
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="trials of each system, the default values first"
    )
    add_arguments(parser)
    parser.set_defaults(run=main, systems=SYSTEMS, seeds=1, test=VALIDATION, out="results/tune")


def main(args: argparse.Namespace) -> int:
    """Run the command; exit codes as of ``run``."""
    check_installed()
    apply_quick(args)
    if not 1 <= args.trials <= MOST_TRIALS:
        raise DataError(f"--trials must be positive, 1 to {MOST_TRIALS:,}; got {args.trials}")
    if args.test != VALIDATION:
        raise DataError(f"settings are chosen on the part {VALIDATION!r} alone; leave out --test, got {args.test!r}")
    if args.tuned:
        raise DataError("strong-envs tune makes the file that --tuned takes; leave out --tuned")
    importable_here()
    variants = plain_variants(args, systems_of(args))
    with held_output(args) as out:
        tuning = Tuning(args, variants, out)
        try:
            interrupted = tuning.run()
        finally:
            result = tuning.result()
            write_json(out / FILE, result)
        show(result, args, out)
        if interrupted:
            print(
                f"interrupted: the trials so far are stored in {out}; run the same command again to continue",
                file=sys.stderr,
            )
            return 130
        made = [result["systems"][name]["trials"] for name in tuning.searches]
        return 1 if any(trial["mIoU"] is None for trials in made for trial in trials) else 0


class Tuning:
    """The searches of all systems, side by side.

    Raises:
        DataError: a store without a validation part, no system with a space, or a default value outside its space.
    """

    def __init__(self, args: argparse.Namespace, variants: list[Variant], out: Path) -> None:
        from strong_envs import agents

        self.args, self.out = args, out
        self.store = job_store(args.features, args.train, args.validation)
        if VALIDATION not in self.store.splits:
            raise DataError(
                f"settings are chosen on a validation part, and {self.store.name!r} has none: raise --validation"
            )
        # Before anything is written: one file holds choices made on the same data alone.
        self.others = others_of(out / FILE, {key_of(variant) for variant in variants}, self._about())
        train = load_part(self.store, args.train)
        self.left_out: dict[str, str] = {}
        self.searches: dict[str, Search] = {}
        self.variants: dict[str, Variant] = {}
        self.defaults: dict[str, dict[str, Any]] = {}
        for variant in variants:
            name, spec = key_of(variant), agents.find(variant.system)
            space = {key: kind for key, kind in spec.space.items() if not is_given(variant, key)}
            reason = agents.incompatibility(variant.system, train)
            if not space:
                reason = reason or f"{name} declares no settings to search" + (
                    "" if not spec.space else " beside --set"
                )
            if reason:
                self.left_out[name] = reason
                print(f"left out: {reason}")
                continue
            self.variants[name] = variant
            self.defaults[name] = default_values(variant, space, train)
            identity = [self.store.content_hash, args.train, args.validation, args.budget, self._seeds(), args.device]
            identity += [variant.options, list(variant.boxes), code_hash(variant.system), name]
            self.searches[name] = Search(out, name, space, self.defaults[name], 0, identity)
        if not self.searches:
            raise DataError(f"nothing to tune: {'; '.join(self.left_out.values())}")
        self.trials: dict[str, dict[int, list[Cell]]] = {name: {} for name in self.searches}

    def run(self) -> bool:
        """Make the trials that are missing; whether Ctrl-C ended the work."""
        for end in range(ROUND, self.args.trials + ROUND, ROUND):
            end = min(end, self.args.trials)
            waiting = {name: search.open_trials(end) for name, search in self.searches.items()}
            cells = {(name, t.number): self._cells(name, t) for name, trials in waiting.items() for t in trials}
            if not cells:
                continue
            outcome = self._compute([cell for found in cells.values() for cell in found], end)
            for (name, number), found in cells.items():
                self._tell(name, number, found, outcome)
            write_json(self.out / FILE, self.result())
            if outcome.interrupted:
                return True
        return False

    def _seeds(self) -> list[int]:
        return [FIRST_SEED + i for i in range(self.args.seeds)]

    def _cells(self, name: str, trial: Trial) -> list[Cell]:
        """The trainings of a trial."""
        from strong_envs.agents.overrides import with_setting

        args, variant, system = self.args, self.variants[name], self.variants[name].system
        changed = variant.options
        for setting, value in trial.values.items():
            if value != self.defaults[name][setting]:
                changed = with_setting(system, changed, setting, value)
        where = (args.features, self.store.content_hash, args.train, VALIDATION, args.budget, args.device)
        tried = replace(variant, options=changed)
        label = f"{name}, trial {trial.number}"
        return [
            Cell(system, seed, *where, tried.options_for(seed), code_hash(system), 0, args.validation, label)
            for seed in self._seeds()
        ]

    def _compute(self, cells: list[Cell], end: int) -> Outcome:
        folder, todo = self.out / "cells", list({cell.key: cell for cell in cells}.values())
        if self.args.engine == "ray":
            from strong_envs.benchmarks.execution.ray_engine import run_matrix_on_ray

            return run_matrix_on_ray(todo, folder, self.args.jobs, address=self.args.address)
        return run_matrix(todo, folder, self.args.jobs, later=self._later(end))

    def _later(self, end: int) -> list[Cell]:
        """Trainings of the rounds to come, for the estimate of the time that is left: their settings are not known."""
        args = self.args
        where = (args.features, self.store.content_hash, args.train, VALIDATION, args.budget, args.device)
        return [
            Cell(self.variants[name].system, seed, *where, {"trial": number})
            for name in self.searches
            for number in range(end, args.trials)
            for seed in self._seeds()
        ]

    def _tell(self, name: str, number: int, cells: list[Cell], outcome: Outcome) -> None:
        """Note the score of a trial; one that was interrupted stays open."""
        runs = [outcome.results.get(cell.key) for cell in cells]
        reasons = [outcome.failed[cell.key] for cell in cells if cell.key in outcome.failed]
        if reasons:
            print(f"FAILED {name}, trial {number}: {reasons[0]}", file=sys.stderr)
            self.searches[name].tell(number, None, [], 0.0)
        elif all(run is not None for run in runs):
            scores = [float(np.mean(run["scores"]["IoU"])) for run in runs if run is not None]
            seconds = sum(float(run["seconds"]) for run in runs if run is not None)
            self.searches[name].tell(number, float(np.mean(scores)), scores, seconds)

    def result(self) -> dict[str, Any]:
        """The content of `FILE`: the systems of this search, and those of earlier ones in the same folder."""
        systems = dict(self.others)
        for name, search in self.searches.items():
            trials = [trial for trial in search.finished() if trial["number"] < self.args.trials]
            chosen = best(trials)
            first = next((trial["mIoU"] for trial in trials if trial["number"] == 0), None)
            systems[name] = {
                "space": {key: kind.as_dict() for key, kind in search.space.items()},
                "defaults": self.defaults[name],
                "trials": trials,
                "chosen": None if chosen is None else chosen["values"],
                "mIoU": None if chosen is None else chosen["mIoU"],
                "default_mIoU": first,
                "budget": self.args.budget,
            }
        more = {"left_out": self.left_out, "about": about(self.args) | {"extras": extras("optuna")}}
        return {**self._about(), "systems": systems, **more}

    def _about(self) -> dict[str, Any]:
        """What a search is of, JSON-ready."""
        protocol = protocol_of(self.store, Cell("", 0, "", "", self.args.train, VALIDATION))
        return {
            "data": self.store.name,
            "part": VALIDATION,
            "trials": self.args.trials,
            "seeds": self._seeds(),
            "budget": self.args.budget,
            "protocol": json.loads(json.dumps(protocol.as_dict())),
        }


def others_of(file: Path, names: Collection[str], now: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier search in the same folder chose for systems that are not among ``names``.

    Raises:
        DataError: it was made on other data or with other seeds than ``now`` says, so one file cannot hold both.
            Budgets may differ: each system has its own.
    """
    if not file.is_file():
        return {}
    read_tuned(str(file))
    before = read_tree(file)
    others = {
        name: {**found, "budget": found.get("budget", before["budget"])}
        for name, found in before["systems"].items()
        if name not in names
    }
    changed = [key for key in ("data", "seeds", "protocol") if before.get(key) != now[key]]
    if others and changed:
        raise DataError(
            f"{shown(file)} holds the choices for {', '.join(others)}, made with different {changed[0]} "
            f"({str(before.get(changed[0]))[:60]}, now {str(now[changed[0]])[:60]}); choose another --out"
        )
    return others


def default_values(variant: Variant, space: Space, train: FeatureBank) -> dict[str, Any]:
    """The values that a system has without tuning, by the names of its space.

    Raises:
        DataError: a setting that the system does not have, or a default value outside the space.
    """
    from strong_envs import agents

    paths = setting_paths(variant.system)
    unknown = [name for name in space if name not in paths]
    if unknown:
        raise DataError(f"the space of {variant.system} names {unknown}, which are no settings of it")
    made: Any = agents.make(variant.system, train, seed=0, **variant.options_for(0))
    values = {}
    for name, kind in space.items():
        try:
            values[name] = value = value_at(made, paths[name][0])
        except AttributeError:
            raise DataError(
                f"{variant.system} with these --set has no setting {name!r}, which tune searches; leave out the --set "
                "that chooses another algorithm, or tune a system that has it"
            ) from None
        if value not in kind:
            raise DataError(f"the default {name}={value!r} of {variant.system} lies outside its space, {kind}")
    return values


def value_at(system: Any, path: tuple[str, ...]) -> Any:
    """The value of a setting of a system that was made."""
    place: Any = getattr(system, "args", system)
    if not hasattr(place, path[0]):
        place = system  # an argument of the constructor that is not one of the training
    for part in path:
        place = place[part] if isinstance(place, Mapping) else getattr(place, part)
    return place


def show(result: Mapping[str, Any], args: argparse.Namespace, out: Path) -> None:
    """Print a line a system, or the file with ``--json``."""
    if args.json:
        print(json.dumps(result))
        return
    for name, found in result["systems"].items():
        if found["chosen"] is None:
            print(f"{name}: none of {len(found['trials'])} trials finished")
            continue
        first = "failed" if found["default_mIoU"] is None else f"{100 * found['default_mIoU']:.2f}"
        values = ", ".join(f"{key}={shown_value(value)}" for key, value in found["chosen"].items())
        print(f"{name}: mIoU {first} to {100 * found['mIoU']:.2f} in {len(found['trials'])} trials: {values}")
    if any(found["chosen"] for found in result["systems"].values()):
        print(f"{out / FILE}: use it with strong-envs run --tuned {out / FILE}")
