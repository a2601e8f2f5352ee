"""The search of one system: Optuna proposes settings, and every trial and its score is kept in a journal.

Trials are proposed in rounds of `ROUND`, whatever the number of processes, and every proposal has a seed of its own.
A search that was killed and goes on therefore proposes what an uninterrupted one does.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strong_envs.agents.search_space import Between, Space
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import os_errors, sentence, shown

JOURNAL = "trials.journal"
"""Name of the file with all trials, which Optuna's own tools read too."""
ROUND = 4
"""Trials that are proposed at a time: those of a round do not know of each other's scores."""
STARTUP = 8
"""Trials before the sampler models the scores: the default values, and draws from the space."""
INSTALL = "pip install 'strong-envs[tune]'"


@dataclass(frozen=True)
class Trial:
    """Settings to try: their number in the search, and the values by name."""

    number: int
    values: dict[str, Any]


def check_installed() -> None:
    """Raise `DataError` with the line that installs Optuna where it is missing."""
    try:
        import optuna  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        raise DataError(f"strong-envs tune needs Optuna: {INSTALL}") from None


class Search:
    """The trials of one system, continued where the journal has some.

    Args:
        folder: of the journal.
        system: name of the system, which names its study.
        space: what is tried.
        defaults: the values of the first trial.
        seed: of all proposals.
        identity: JSON-ready; everything else that the scores depend on.

    Raises:
        DataError: the journal holds trials of another space or of other data.
    """

    def __init__(
        self,
        folder: Path,
        system: str,
        space: Space,
        defaults: Mapping[str, Any],
        seed: int = 0,
        identity: Any = None,
    ) -> None:
        import optuna  # type: ignore[import-not-found]
        from optuna.distributions import CategoricalDistribution, FloatDistribution  # type: ignore[import-not-found]
        from optuna.storages.journal import JournalFileBackend  # type: ignore[import-not-found]

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.system, self.space, self.seed = system, space, seed
        self._distributions: dict[str, Any] = {
            name: FloatDistribution(kind.low, kind.high, log=kind.log)
            if isinstance(kind, Between)
            else CategoricalDistribution(kind.values)
            for name, kind in space.items()
        }
        about = {"space": {name: kind.as_dict() for name, kind in space.items()}, "defaults": dict(defaults)}
        mine = hashlib.sha256(json.dumps([about, identity, seed], sort_keys=True).encode()).hexdigest()
        file = folder / JOURNAL
        with os_errors(f"write {shown(file)}"):
            folder.mkdir(parents=True, exist_ok=True)
            mend(file)
            try:
                self._storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
                self._study = optuna.create_study(
                    storage=self._storage, study_name=system, direction="maximize", load_if_exists=True
                )
            except (KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
                raise _damaged(file, sentence(error)) from None
        theirs = self._study.user_attrs.get("identity")
        if theirs is None:
            if not self._study.get_trials(deepcopy=False):
                self._study.enqueue_trial(dict(defaults))
            self._study.set_user_attr("identity", mine)
        elif theirs != mine:
            raise DataError(
                f"{shown(file)} holds trials of {system} with another space, other data or other options; choose "
                "another --out"
            )

    def open_trials(self, end: int) -> list[Trial]:
        """The trials with a number below ``end`` that have no score yet; those that are missing are proposed now."""
        while (number := self._proposed()) < end:
            self._study.sampler = self._sampler(number)
            self._study.ask(self._distributions)
        running = [t for t in self._trials("RUNNING") if t.number < end]
        for broken in (t for t in running if set(t.params) != set(self.space)):
            # The process was killed while it wrote the proposal.
            self.tell(broken.number, None, [], 0.0)
        return [Trial(t.number, dict(t.params)) for t in running if set(t.params) == set(self.space)]

    def tell(self, number: int, score: float | None, scores: list[float], seconds: float) -> None:
        """The result of a trial: its score, higher is better, None where it failed.

        Args:
            number: of the trial.
            score: the mean over its training runs.
            scores: of each of them.
            seconds: of training, all runs together.
        """
        from optuna.trial import TrialState  # type: ignore[import-not-found]

        # The storage refuses notes on a finished trial, so they come first.
        study = self._storage.get_study_id_from_name(self.system)
        trial = self._storage.get_trial_id_from_study_id_trial_number(study, number)
        self._storage.set_trial_user_attr(trial, "run", {"scores": scores, "seconds": seconds})
        if score is None:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, score)

    def finished(self) -> list[dict[str, Any]]:
        """The finished trials in their order, JSON-ready: number, values, mIoU (None of a failed one), seconds."""
        return [
            {
                "number": t.number,
                "values": dict(t.params),
                "mIoU": t.value,
                "scores": t.user_attrs.get("run", {}).get("scores", []),
                "seconds": t.user_attrs.get("run", {}).get("seconds", 0.0),
            }
            for t in self._trials("COMPLETE", "FAIL")
        ]

    def _trials(self, *states: str) -> list[Any]:
        from optuna.trial import TrialState  # type: ignore[import-not-found]

        return self._study.get_trials(deepcopy=False, states=tuple(TrialState[state] for state in states))

    def _proposed(self) -> int:
        """Trials that have values: all but the enqueued one."""
        return len(self._trials("RUNNING", "COMPLETE", "FAIL"))

    def _sampler(self, number: int) -> Any:
        import optuna  # type: ignore[import-not-found]

        digest = hashlib.sha256(f"{self.seed}/{self.system}/{number}".encode()).digest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=int.from_bytes(digest[:4], "little"),
                n_startup_trials=STARTUP,
                multivariate=True,
                constant_liar=True,
            )


def mend(file: Path) -> None:
    """Cut the unfinished last line off a journal, which a process that was killed while it wrote may leave.

    Raises:
        DataError: another line is no JSON object; the file is untouched.
    """
    if not file.exists():
        return
    text = file.read_bytes()
    whole = text.rfind(b"\n") + 1
    for number, line in enumerate(text[:whole].splitlines(), 1):
        try:
            if not isinstance(json.loads(line), dict):
                raise ValueError("it is no object")
        except ValueError as error:
            raise _damaged(file, f"line {number}: {sentence(error)}") from None
    if whole < len(text):
        if not whole:
            raise _damaged(file, "it has no whole line")
        with file.open("r+b") as handle:
            handle.truncate(whole)


def _damaged(file: Path, why: str) -> DataError:
    return DataError(f"{shown(file)} is no journal of trials, or damaged ({why}); choose another --out")


def best(trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The trial with the highest score, the first of equal ones; None where all have failed."""
    scored = [trial for trial in trials if trial["mIoU"] is not None]
    return max(scored, key=lambda trial: (trial["mIoU"], -trial["number"]), default=None)
