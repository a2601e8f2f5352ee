"""Checkpoints of a training: written between any two updates, whole or not at all, and resumed bit for bit.

::

    with Session("run/checkpoint.safetensors", every=60, resume=True) as session:
        strong.fit(checkpoint=session)

A checkpoint is one safetensors file: weights, targets, optimisers, replay, generators, episodes of the environment and
boxes of the turn as tensors, counters as JSON in its header. It is written beside the old one and renamed over it, so a
kill at any moment leaves the old one or the new one. Ctrl-C (and SIGTERM) takes effect between two updates: the
checkpoint is written, then `KeyboardInterrupt` is raised; a second Ctrl-C takes effect at once.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
from torch import Tensor

from strong_envs.agents.training.checkpoint import Count, check_finite, header_of, load_weights, save_weights
from strong_envs.agents.training.loop import Training, split
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import shown
from strong_envs.features.files.locks import FileLock, file_lock

KIND = "checkpoint"
DAMAGE = (KeyError, ValueError, RuntimeError, TypeError, IndexError, AttributeError, OverflowError)
"""Exceptions of values that no release writes."""


class Header(msgspec.Struct):
    """The header of a checkpoint; ``done`` counts the steps of `fit`."""

    kind: str
    identity: dict[str, Any]
    system: dict[str, Any]
    done: Count
    training: dict[str, Any] | None
    stage: str | None
    extra: dict[str, Any]


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Resumable(Protocol):
    """A system that a session can store between two updates."""

    def identity(self) -> dict[str, Any]:
        """Arguments and data that have to be the same when a training is resumed, JSON-ready."""

    def training_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-ready values."""

    def load_training_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Resume from `training_state`."""


class Session:
    """Checkpoints, resumption, and interruption of a training between two updates.

    The checkpoint is locked from the start of the training until the session is left or freed, so that no other process
    trains into the same file.

    Args:
        path: the checkpoint's file; None writes nothing.
        every: seconds between checkpoints; None leaves only those asked for otherwise.
        updates: a checkpoint each so many updates as well.
        resume: resume from ``path`` where it exists.
        extra: JSON-ready values that are stored too, asked for at every checkpoint; ``restored`` has them afterwards.
        watchers: called with the running training after each update; they must not change it.
        signals: what stops the training between two updates while this is entered.

    Attributes:
        restored: the values of ``extra`` in the checkpoint that this session resumes from, or None.
        written: number of checkpoints written.
    """

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        *,
        every: float | None = 60.0,
        updates: int | None = None,
        resume: bool = False,
        extra: Callable[[], dict[str, Any]] | None = None,
        watchers: tuple[Callable[[Training], None], ...] = (),
        signals: tuple[signal.Signals, ...] = SIGNALS,
    ) -> None:
        if every is not None and not every > 0:
            raise DataError(f"seconds between checkpoints must be positive, got {every}")
        if updates is not None and updates < 1:
            raise DataError(f"updates between checkpoints must be 1 or more, got {updates}")
        self.path = None if path is None else Path(path)
        self.every, self.updates, self.extra, self.watchers = every, updates, extra, list(watchers)
        self.signals = signals
        self.restored: dict[str, Any] | None = None
        self.written = 0
        self._system: Resumable | None = None
        self._training: Training | None = None
        self._pending: tuple[dict[str, Tensor], dict[str, Any], str] | None = None
        self._seen = self._done = self._ticks = 0
        self._stop = False
        self._handlers: dict[int, Any] = {}
        self._found: tuple[dict[str, Tensor], Header] | None = None
        self._last = time.monotonic()
        self._lock: FileLock | None = None
        if resume and self.path is not None and self.path.is_file():
            tensors, about = load_weights(self.path)
            if about.get("kind") != KIND:
                raise DataError(f"{shown(self.path)} is a saved agent, not a checkpoint of a training")
            header = header_of(about, Header, self.path)
            check_finite(split(tensors, "system."), self.path)
            self._found, self.restored = (tensors, header), header.extra

    # Ctrl-C ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Session:
        self._hold()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._asked) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        self._lock = None

    def _hold(self) -> None:
        if self._lock is None and self.path is not None:
            self._lock = file_lock(self.path, "training")

    def stop(self) -> None:
        """Ask the training to stop at the end of its update, with a checkpoint."""
        self._stop = True

    def _asked(self, number: int, frame: object) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self.stop()

    # Called by a system ---------------------------------------------------------------------------------------------

    def begin(self, system: Resumable) -> None:
        """The start of `fit`; the system is brought to where the checkpoint was written."""
        self._hold()
        self._system, self._seen = system, 0
        if self._found is None:
            return
        tensors, header = self._found
        self._found = None
        mine, theirs = json.loads(json.dumps(system.identity())), header.identity
        if mine != theirs:
            raise DataError(f"{str(self.path)!r} belongs to another training: {_difference(mine, theirs)}")
        with self._damage():
            system.load_training_state(split(tensors, "system."), header.system)
        self._done = header.done
        if header.training is not None:
            self._pending = split(tensors, "training."), header.training, str(header.stage)

    def step(self, run: Callable[[], object]) -> None:
        """One of the steps that `fit` consists of, in their order; those done before the checkpoint are left out."""
        self._seen += 1
        if self._seen <= self._done:
            return
        run()
        self._done, self._training = self._done + 1, None
        self._settle()

    # Called by a training -------------------------------------------------------------------------------------------

    def enter(self, training: Training) -> None:
        """Called before a training starts; the one that was running at the checkpoint is resumed."""
        if self._pending is not None:
            tensors, values, stage = self._pending
            if stage != training.stage:
                raise DataError(f"{str(self.path)!r} stopped in {stage!r}, which is not {training.stage!r}")
            with self._damage():
                training.load_state_dict(tensors, values)
            self._pending = None
        self._training = training

    def after_update(self, training: Training) -> None:
        """Called after each update."""
        self._ticks += 1
        for watcher in self.watchers:
            watcher(training)
        self._settle()

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Turn what values of a damaged checkpoint raise into one sentence."""
        try:
            yield
        except DAMAGE as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            raise DataError(f"{shown(str(self.path))} is damaged or of another release: {reason}") from error

    def _settle(self) -> None:
        timed = self.every is not None and time.monotonic() - self._last >= self.every
        counted = self.updates is not None and self._ticks % self.updates == 0
        if self._stop or timed or counted:
            self.write()
        if self._stop:
            raise KeyboardInterrupt

    def write(self) -> None:
        """Write a checkpoint now; only between two updates."""
        if self.path is None or self._system is None:
            return
        training = self._training
        # Weights that are not finite must not replace a good checkpoint.
        if training is not None:
            training.check()
        tensors, values = self._system.training_state()
        stored = {f"system.{name}": value for name, value in tensors.items()}
        about = {"kind": KIND, "identity": self._system.identity(), "system": values, "done": self._done}
        about |= {"training": None, "stage": None, "extra": {} if self.extra is None else self.extra()}
        if training is not None:
            tensors, about["training"] = training.state_dict()
            about["stage"] = training.stage
            stored |= {f"training.{name}": value for name, value in tensors.items()}
        save_weights(self.path, stored, about)
        self.written += 1
        self._last = time.monotonic()


def _difference(mine: Any, theirs: Any, where: str = "") -> str:
    """The first thing that differs between two JSON values, in words."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in [*mine, *(n for n in theirs if n not in mine)]:
            if mine.get(name) != theirs.get(name):
                return _difference(mine.get(name), theirs.get(name), f"{where}.{name}" if where else name)
    return f"{where} was {theirs!r}, now it is {mine!r}"
