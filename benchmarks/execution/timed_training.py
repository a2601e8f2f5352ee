"""The training of one cell: its clock, scores on validation within stages, and the checkpoint it can continue from.

The clock runs while a system is trained and stands still while it is scored, so that systems that are scored at
different moments, or more often, can be compared by seconds. Imports and preparations are not counted.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import torch
from torch import nn

from strong_envs.agents.registry import Prediction, ProgressCallback
from strong_envs.agents.training.session import Session
from strong_envs.benchmarks.execution.predictions import read_prediction, write_prediction
from strong_envs.features.errors import DataError
from strong_envs.features.files.untrusted_json import as_type

if TYPE_CHECKING:
    from signal import Signals

Score = Callable[[Any], tuple[Prediction, dict[str, np.ndarray]]]
"""A system's checked predictions and their scores, one value a query."""
LATER = 4
"""Scores within a later stage are fewer by this factor: turns of STRONG are many and short."""


def checkpoint_files(path: Path) -> list[Path]:
    """The files that a cell continues from, as far as they exist; ``path`` is that of `TimedTraining`."""
    return [file for file in _checkpoint_names(path) if file.is_file()]


def _checkpoint_names(path: Path) -> tuple[Path, Path]:
    """The checkpoint of the training, and the predictions after the stages that it has reached."""
    return path.with_name(f"{path.name}.checkpoint.safetensors"), path.with_name(f"{path.name}.stages.safetensors")


class Clock:
    """Seconds of work; it runs from its creation, or from the value that ``seconds`` is set to."""

    def __init__(self) -> None:
        self._before, self._began, self._still = 0.0, time.perf_counter(), False

    @property
    def seconds(self) -> float:
        """So far."""
        return self._before + (0.0 if self._still else time.perf_counter() - self._began)

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._before, self._began = value, time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within the block."""
        self.seconds, self._still = self.seconds, True
        try:
            yield
        finally:
            self.seconds, self._still = self._before, False


class _State(msgspec.Struct):
    """What a checkpoint holds of the training around the system."""

    made_by: Any
    seconds: Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
    stages: list[str]
    trace: list[dict[str, Any]]
    stage: str
    part: int
    wanted: int


class TimedTraining:
    """Trains a system with `fit` and records ``stages``, ``trace`` and ``clock``.

    Args:
        path: the files of the cell without their endings; a checkpoint lies beside them during the training.
        score: predictions and scores of a system on the validation part; None without such a part.
        report: called with the progress.
        evaluations: such scores within the first stage of the training, besides the one after it; later stages have a
            quarter as many.
        every: seconds between checkpoints; None writes none.
        measure: further numbers of a system after each stage, for the history.
        made_by: JSON-ready; a checkpoint that was made by something else is ignored.

    Attributes:
        stages: name and prediction of the validation part after each stage of the training.
        trace: a dict for each score within a stage: ``stage``, ``done`` and ``total`` steps of it, ``seconds`` so far,
            ``IoU``.
        clock: seconds of training, those before a kill included.
        resumed: whether the training continued from a checkpoint.
    """

    def __init__(
        self,
        path: Path,
        score: Score | None,
        report: ProgressCallback | None = None,
        evaluations: int = 0,
        every: float | None = 60.0,
        made_by: Any = None,
        measure: Callable[[Any], dict[str, float]] | None = None,
    ) -> None:
        self.measure = measure
        self.checkpoint, self.reached = _checkpoint_names(path)
        self.score, self.progress, self.evaluations, self.every, self.made_by = (
            score,
            report,
            evaluations if score is not None else 0,
            every,
            made_by,
        )
        self.clock = Clock()
        self.stages: list[tuple[str, Prediction]] = []
        self.trace: list[dict[str, Any]] = []
        self.resumed = self._stores = False
        self._system: Any = None
        self._stage, self._part, self._share, self._wanted = "", 0, 1.0, self.evaluations

    def fit(self, system: Any, signals: tuple[Signals, ...] = ()) -> None:
        """Train; a system that stores its training continues where a killed one stopped.

        ``signals`` stop it between two updates with a checkpoint, as `KeyboardInterrupt`.
        """
        self._system, self.clock.seconds = system, 0.0
        self._stores = self.every is not None and "checkpoint" in inspect.signature(system.fit).parameters
        if not self._stores:
            system.fit(self.report, self.after)
            return
        with self._session(signals) as session:
            try:
                system.fit(self.report, self.after, checkpoint=session)
            except DataError as error:
                if self.resumed:
                    raise DataError(f"{error}; delete {self.checkpoint} to train this cell from its start") from None
                raise

    def forget(self) -> None:
        """Delete the checkpoint: the cell is finished."""
        for file in (self.checkpoint, self.reached):
            file.unlink(missing_ok=True)

    def report(self, stage: str, done: int, total: int, scalars: dict[str, float]) -> None:
        """`agents.registry.ProgressCallback`; a system is scored here, between two of its updates."""
        if stage != self._stage:
            # The very first report is scored as well: the beginning of the curve. Stages that take turns within one
            # training (root and leaves of TSP-PRL) go on counting.
            begins = done / max(total, 1) <= self._share
            if begins:
                self._part = 0 if self.trace else -1
                self._wanted = max(self.evaluations // LATER, 1) if self.trace else self.evaluations
            self._stage = stage
        self._share = done / max(total, 1)
        part = self._wanted * done // max(total, 1)
        if self.score is not None and self.evaluations and part > self._part and done < total:
            with self.clock.paused(), undisturbed(self._system):
                self._note(stage, done, total, self.score(self._system)[1])
        self._part = max(part, self._part)
        if self.progress is not None:
            self.progress(stage, done, total, scalars)

    def after(self, trained: Any, stage: str) -> dict[str, float]:
        """Scores after a stage, for the history: means, and the seconds of training until now."""
        if self.score is None:
            return {"seconds": self.clock.seconds}
        with self.clock.paused(), undisturbed(trained):
            prediction, scores = self.score(trained)
            self.stages.append((stage, prediction))
            self._note(stage, 1, 1, scores)
            if self._stores:
                self.reached.parent.mkdir(parents=True, exist_ok=True)
                write_prediction(self.reached, prediction, self.stages)
            more = {} if self.measure is None else self.measure(trained)
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        return means | more | {"seconds": self.clock.seconds}

    def _note(self, stage: str, done: int, total: int, scores: dict[str, np.ndarray]) -> None:
        point = {"stage": stage, "done": done, "total": total, "seconds": self.clock.seconds}
        self.trace.append(point | {"IoU": float(np.mean(scores["IoU"]))})

    def _session(self, signals: tuple[Signals, ...]) -> Session:
        options: dict[str, Any] = {"every": self.every, "extra": self._state, "signals": signals}
        try:
            session = Session(self.checkpoint, resume=True, **options)
            if session.restored is None:
                return session
            state = as_type(session.restored, _State, str(self.checkpoint))
            # The last stage may have been scored after the checkpoint was written; it will be scored again.
            stages = read_prediction(self.reached)[1] if state.stages else []
        except (DataError, KeyError, TypeError):
            # The checkpoint cannot be read: the cell is computed from its start.
            return Session(self.checkpoint, **options)
        if state.made_by != self.made_by:
            return Session(self.checkpoint, **options)
        self._stage, self._part, self._wanted, self.trace = state.stage, state.part, state.wanted, state.trace
        self.stages = [stage for stage in stages if stage[0] in state.stages]
        self.clock.seconds, self.resumed = state.seconds, True
        return session

    def _state(self) -> dict[str, Any]:
        names = [name for name, _ in self.stages]
        state = {"made_by": self.made_by, "seconds": self.clock.seconds, "stages": names, "trace": self.trace}
        return state | {"stage": self._stage, "part": self._part, "wanted": self._wanted}


@contextmanager
def undisturbed(system: Any) -> Iterator[None]:
    """Restore the random draws and the modes of the networks after predictions, so that they change no training."""
    networks = [value for value in vars(system).values() if isinstance(value, nn.Module)]
    modes = [(module, module.training) for network in networks for module in network.modules()]
    with torch.random.fork_rng(devices=[]):
        yield
    for module, training in modes:
        module.training = training
