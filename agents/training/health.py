"""Checks of a training: numbers that are not finite, and actors that take one action in every state.

A loss that is not finite ends the training (`TrainingDiverged`), because its weights are lost. A collapsed actor is a
warning (`CollapseWarning`), once a stage, because some recover.
"""

from __future__ import annotations

import math
import warnings

from strong_envs.features.errors import DataError

SURE = 0.01
"""Entropy below this share of the largest possible one, log |A|, counts as none."""
EARLY = 0.5
"""Share of a stage before which an actor should still be in doubt."""
LONG = 0.2
"""Share of a stage after which an actor that ignores its state is reported."""


class TrainingDiverged(DataError):
    """A training whose numbers are no longer finite. Attributes: ``stage``; ``step``; ``values``, the log by name."""

    exit_code = 1
    """The command line ends with this code: the input was fine."""

    def __init__(self, stage: str, step: int, values: dict[str, float]) -> None:
        self.stage, self.step, self.values = stage, step, values
        lost = ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))
        super().__init__(
            f"the training diverged in {stage!r} at step {step:,}: {lost}; lower the learning rates (lr, lr_actor and "
            "lr_critic, or frame_attention.lr) or tau, or check the features for extreme values (strong-envs check)"
        )


class CollapseWarning(UserWarning):
    """An actor that takes one action in every state."""


class TrainingMonitor:
    """Checks the log of one stage.

    Args:
        stage: its name, for messages.
        total: its steps.
        n_actions: number of actions, 0 where there is no actor.
        exact: whether the actor is fitted to the critic's best actions (``objective="distil"``). Little entropy is then
            what is wanted, and its gradient does not vanish with it.
    """

    def __init__(self, stage: str, total: int, n_actions: int = 0, exact: bool = False) -> None:
        self.stage, self.total, self.n_actions, self.exact = stage, total, n_actions, exact
        self._since: dict[str, int] = {}
        self._warned = False

    def finite(self, step: int, log: dict[str, float]) -> None:
        """Raise `TrainingDiverged` where a number of the log is not finite."""
        if not all(math.isfinite(value) for value in log.values()):
            raise TrainingDiverged(self.stage, step, log)

    def alive(self, step: int, entropy: float, distinct: int) -> None:
        """Warn of a collapse: the policy's mean entropy in nats, and how many actions it takes greedily in a batch."""
        share = step / max(self.total, 1)
        sure = not self.exact and share < EARLY and entropy < SURE * math.log(max(self.n_actions, 2))
        self._lasting("sure", sure, step)
        self._lasting("one action", distinct == 1, step)
        if self._warned:
            return
        if self._lasted("sure", step, LONG / 4):
            self._warn(step, f"its policy has an entropy of {entropy:.2g} while most of the training is to come")
        elif self._lasted("one action", step, LONG):
            since = self._since["one action"]
            self._warn(step, f"it has taken one and the same action in all states since step {since:,}")

    def _lasting(self, what: str, now: bool, step: int) -> None:
        if not now:
            self._since.pop(what, None)
        else:
            self._since.setdefault(what, step)

    def _lasted(self, what: str, step: int, share: float) -> bool:
        return what in self._since and step - self._since[what] >= share * self.total

    def _warn(self, step: int, why: str) -> None:
        self._warned = True
        text = (
            f"the actor has collapsed in {self.stage!r} at step {step:,}: {why}; raise entropy, lower lr_actor, or "
            "take objective='distil', whose gradient does not vanish where the policy is sure"
        )
        warnings.warn(text, CollapseWarning, stacklevel=4)
