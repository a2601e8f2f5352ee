"""The small critic that ships for the default world, so that `SpatialTrack-v0` pays by Q-comparison out of the box."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from strong_envs.core.observations import flat
from strong_envs.temporal.task import TemporalTask

PATH = Path(__file__).parents[1] / "data" / "reference_critic.safetensors"


class ReferenceCritic:
    """A multilayer perceptron from the flat temporal observation to Q-values, with its input standardised.

    ``weights`` holds ``shift`` and ``scale`` (n,), and ``w0, b0, w1, b1, ...``; ReLU between the layers.
    """

    def __init__(self, weights: dict[str, Tensor], device: torch.device) -> None:
        self.weights = {name: value.to(device, torch.float32) for name, value in weights.items()}
        self.layers = sum(name.startswith("w") for name in weights)

    @property
    def inputs(self) -> int:
        """Length of the flat observation it was trained on."""
        return len(self.weights["shift"])

    def __call__(self, observation: dict[str, Tensor]) -> Tensor:
        """Temporal observations, named (B, ...) tensors, to (B, 7) Q-values."""
        w = self.weights
        x = (flat(observation) - w["shift"]) * w["scale"]
        for i in range(self.layers):
            x = torch.nn.functional.linear(x, w[f"w{i}"], w[f"b{i}"])
            if i + 1 < self.layers:
                x = torch.relu(x)
        return x


@lru_cache(maxsize=4)
def _load(device: torch.device) -> tuple[ReferenceCritic, str]:
    from safetensors import safe_open

    with safe_open(str(PATH), framework="pt") as handle:
        weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        world = (handle.metadata() or {}).get("backbone", "")
    return ReferenceCritic(weights, device), world


def find_reference_critic(task: TemporalTask) -> ReferenceCritic | None:
    """The shipped critic if it was trained on features and observations like those of ``task``, else None."""
    if not PATH.is_file():
        return None
    critic, backbone = _load(task.bank.device)
    size = sum(torch.Size(shape).numel() for shape in task.dims().values())
    fits = critic.inputs == size and task.n_actions == 7
    return critic if fits and task.bank.store.manifest["backbone"].get("name") == backbone else None
