"""Any policy as a function of tensors: ours, a plain callable, an object with ``predict``, or the word ``"random"``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from strong_envs.core.observations import flat
from strong_envs.features.errors import DataError

Policy = Callable[[dict[str, Tensor]], Tensor]
"""Observations (named (B, ...) tensors) to actions (B,) int64."""


def as_policy(policy: Any, n_actions: int, generator: torch.Generator | None = None) -> Policy:
    """Turn a policy into a function from named (B, ...) tensors to (B,) int64 actions.

    Accepted: ``"random"``; an object with ``act`` (observations to actions); an object with
    ``predict(observations, deterministic=True)`` that returns NumPy actions, alone or with a state, as in
    Stable-Baselines3 (it gets flat observations if its ``observation_space`` is a Box); any other callable.
    """
    if isinstance(policy, str):
        if policy != "random":
            raise DataError(f"a policy given by name must be 'random', got {policy!r}")
        source = generator or torch.Generator().manual_seed(0)
        return lambda o: torch.randint(n_actions, (len(o["query"]),), generator=source).to(o["query"].device)
    if hasattr(policy, "act"):
        return policy.act
    if hasattr(policy, "predict"):
        wants_flat = isinstance(getattr(policy, "observation_space", None), spaces.Box)

        def predict(observation: dict[str, Tensor]) -> Tensor:
            shown: Any
            if wants_flat:
                shown = flat(observation).cpu().numpy()
            else:
                shown = {name: part.cpu().numpy() for name, part in observation.items()}
            actions = policy.predict(shown, deterministic=True)
            actions = actions[0] if isinstance(actions, tuple) else actions
            return torch.as_tensor(actions, dtype=torch.int64, device=observation["query"].device).reshape(-1)

        return predict
    if callable(policy):
        return policy
    raise DataError(f"a policy must be callable or have act() or predict(), got {type(policy).__name__}")
