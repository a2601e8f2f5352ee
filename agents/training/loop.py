"""Trainings as objects: one call makes one update, and between two calls the training can be stored.

The ``state_dict`` of a training and that of its agent are its complete state: a copy that loads both continues to the
same weights, bit for bit, on the same machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Values = dict[str, Any]
"""JSON-ready state, beside the tensors."""


class Training(Protocol):
    """A training that `run` drives and a session stores.

    ``done`` and ``total`` count steps; ``iteration`` counts calls of `advance`.
    """

    stage: str
    done: int
    total: int
    iteration: int

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""

    def advance(self) -> bool:
        """Make the next step. Returns whether there was an update."""

    def reported(self, before: int) -> int:
        """The step that a report carries, ``before`` being where the iteration began."""

    def check(self) -> None:
        """Raise `agents.training.health.TrainingDiverged` where the last update's numbers are not finite."""

    def scalars(self) -> dict[str, float]:
        """Scalars of the last update for the log; the training is not changed."""

    def state_dict(self) -> tuple[dict[str, Tensor], Values]:
        """Tensors and JSON-ready values."""

    def load_state_dict(self, tensors: dict[str, Tensor], values: Values) -> None:
        """Resume from `state_dict`."""


class UpdateListener(Protocol):
    """Called between the updates of a training: see `agents.training.session.Session`."""

    def enter(self, training: Training) -> None:
        """Called before a training starts; it may resume from a checkpoint."""

    def after_update(self, training: Training) -> None:
        """Called after each update."""


def run(
    training: Training,
    report: Callable[[int, dict[str, float]], None] | None = None,
    every: int = 20,
    session: UpdateListener | None = None,
) -> None:
    """Drive a training to its end; ``report`` is called with the step and the log each ``every`` iterations."""
    if session is not None:
        session.enter(training)
    while not training.finished:
        iteration, step = training.iteration, training.done
        if training.advance() and iteration % every == 0:
            training.check()
            # Computed without a report as well: this detects a collapsed actor.
            log = training.scalars()
            if report is not None:
                report(training.reported(step), log)
        if session is not None:
            session.after_update(training)
    training.check()


def split(batch: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The columns of a batch that start with ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in batch.items() if name.startswith(prefix)}


def optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors named ``<parameter>.<name>`` and the JSON-ready settings of each group, learning rates among them."""
    whole = optimiser.state_dict()
    tensors = {f"{i}.{name}": value.clone() for i, held in whole["state"].items() for name, value in held.items()}
    groups = [{k: v for k, v in group.items() if k != "params"} for group in whole["param_groups"]]
    for group in groups:
        # A recorded step keeps its learning rate on the device (`Level.make_capturable`); a file has the number.
        group |= {"lr": float(group["lr"]), "capturable": False} if isinstance(group["lr"], Tensor) else {}
    return tensors, groups


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """Take over what `optimiser_state` gave for an optimiser of the same parameters."""
    whole = optimiser.state_dict()
    for mine, given in zip(whole["param_groups"], groups, strict=True):
        # JSON has lists alone, and PyTorch needs the pair of Adam's decay rates as a tuple.
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        for name, value in given.items():
            if name not in mine or not _alike(value, mine[name]):
                raise ValueError(f"the optimiser has no setting {name!r} with a value such as {value!r}")
        if isinstance(mine["lr"], Tensor):
            given |= {"lr": mine["lr"].fill_(given["lr"]), "capturable": True}
        mine.update(given)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, what = name.partition(".")
        if not 0 <= int(index) < len(parameters) or value.shape not in (parameters[int(index)].shape, ()):
            raise ValueError(f"the optimiser has no tensor {name!r} of shape {tuple(value.shape)}")
        state.setdefault(int(index), {})[what] = value.clone()
    if len({frozenset(held) for held in state.values()}) > 1:
        raise ValueError("the optimiser lacks tensors of some parameters")
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _alike(one: Any, other: Any) -> bool:
    """Whether two settings are of one kind: finite numbers, flags, absent, or tuples of these."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(_alike(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return type(one) is type(other)
    return isinstance(one, (int, float)) and isinstance(other, (int, float)) and math.isfinite(one)
