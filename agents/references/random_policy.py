"""The random policy: uniformly random moves, the reference that the environment gives to an agent without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from strong_envs.agents.registry import BaseSystem, Prediction, SystemSpec, register
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.policies import as_policy
from strong_envs.rollout import localise
from strong_envs.temporal.task import TemporalConfig, make_task


class RandomPolicy(BaseSystem):
    """Uniformly random moves until stop.

    Args:
        bank: ignored, as is ``budget``.
        seed: of the moves.
        env: changes of the temporal environment.
    """

    def __init__(
        self, bank: FeatureBank, seed: int = 0, budget: float = 1.0, env: Mapping[str, Any] | None = None
    ) -> None:
        self.seed, self.env = seed, dict(env or {})
        self.config = TemporalConfig(**self.env)

    @property
    def dynamics(self) -> TemporalConfig:
        """The environment of the moves."""
        return self.config

    def predict(self, bank: FeatureBank) -> Prediction:
        """The last windows of random episodes."""
        task = make_task(bank, **self.env)
        policy = as_policy("random", task.n_actions, torch.Generator().manual_seed(self.seed))
        return Prediction(**vars(localise(task, policy)))


register(
    SystemSpec(
        "random policy",
        RandomPolicy,
        "uniformly random moves until stop",
        needs_training=False,
        needs_frames=False,
        sees="nothing",
        learns_from="nothing",
    )
)
