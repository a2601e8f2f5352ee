"""Early stopping on the validation part: of the weights on the way, those that localise its queries best are kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from strong_envs import features
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.validation import VALIDATION

LOOKS = 20
"""How often the validation part is looked at in a training."""


def validation_part(bank: FeatureBank) -> FeatureBank | None:
    """The validation part of a training bank's store; None where the store names none."""
    if bank.split in (None, VALIDATION) or VALIDATION not in bank.store.splits:
        return None
    return features.load(bank.store, VALIDATION, bank.device, memory=bank.memory, dtype=bank.dtype)


class BestWeights:
    """Keeps the weights of a network with the highest score.

    Args:
        network: whose weights are kept.
        score: called between two updates; higher is better. It must not change the training.
        steps: updates of the training.
        looks: how often ``score`` is called.
    """

    def __init__(self, network: nn.Module, score: Callable[[], float], steps: int, looks: int = LOOKS) -> None:
        self.network, self.score, self.every = network, score, max(steps // looks, 1)
        self.best, self.step = float("-inf"), 0
        self._weights: dict[str, Any] = {}

    def after_update(self, step: int, last: bool = False) -> None:
        """Call after update ``step``, counted from 1; scores at every look and at the last update."""
        if step % self.every and not last:
            return
        training = self.network.training
        self.network.eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            score = self.score()
        self.network.train(training)
        if score > self.best:
            self.best, self.step = score, step
            self._weights = copy.deepcopy(self.network.state_dict())

    def restore(self) -> None:
        """Put the best weights back; nothing where there was no look."""
        if self._weights:
            self.network.load_state_dict(self._weights)
