"""Actor and critic of the paper (section 3.2), over the named parts of an observation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """Concatenates the parts of an observation and brings every number to mean 0 and spread 1.

    The statistics are taken once, from observations of the training split, and saved with the weights. Parts named in
    ``hidden`` are replaced by zeros: a blind agent is the same agent with its eyes shut.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], hidden: Sequence[str] = ()) -> None:
        super().__init__()
        self.names, self.hidden = list(shapes), tuple(hidden)
        self.size = sum(torch.Size(shape).numel() for shape in shapes.values())
        self.register_buffer("shift", torch.zeros(self.size))
        self.register_buffer("scale", torch.ones(self.size))
        mask = [torch.full((torch.Size(s).numel(),), float(n not in self.hidden)) for n, s in shapes.items()]
        self.register_buffer("mask", torch.cat(mask))

    def fit(self, observation: dict[str, Tensor]) -> None:
        """Take the statistics from a batch of observations."""
        x = self._join(observation)
        spread = x.std(0)
        self.shift.copy_(x.mean(0))
        # A number that never varies carries nothing; dividing by its spread would only amplify noise.
        self.scale.copy_(torch.where(spread > 1e-4, 1 / spread.clamp(min=1e-4), 0.0))

    def _join(self, observation: dict[str, Tensor]) -> Tensor:
        return torch.cat([observation[name].flatten(1) for name in self.names], 1)

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        return ((self._join(observation) - self.shift) * self.scale).clamp(-10, 10) * self.mask


class Actor(nn.Module):
    """Three fully connected layers and a softmax over the actions (paper: 500, 128, |A|)."""

    def __init__(self, inputs: int, actions: int, hidden: Sequence[int] = (500, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(inputs, hidden[0]), nn.ReLU()]
        for a, b in zip(hidden[:-1], hidden[1:], strict=True):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear(hidden[-1], actions))

    def logits(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).softmax(-1)


class Critic(nn.Module):
    """Four fully connected layers; the action joins at the second (paper: 1024, +action, 512, 300, 1)."""

    def __init__(self, inputs: int, actions: int, hidden: Sequence[int] = (1024, 512, 300)) -> None:
        super().__init__()
        first, *rest = hidden
        self.actions = actions
        self.first = nn.Linear(inputs, first)
        self.second = nn.Linear(first + actions, rest[0])
        self.tail = nn.ModuleList(nn.Linear(a, b) for a, b in zip(rest[:-1], rest[1:], strict=True))
        self.out = nn.Linear(rest[-1], 1)

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """Observations (B, n) and action probabilities (B, A) to values (B,)."""
        h = torch.relu(self.first(x))
        return self._rest(self.second(torch.cat((h, action), -1)))

    def all_actions(self, x: Tensor) -> Tensor:
        """Values of every single action: (B, n) to (B, A), the layers before the action shared between them."""
        h = torch.relu(self.first(x))
        width = h.shape[-1]
        weight = self.second.weight
        base = nn.functional.linear(h, weight[:, :width], self.second.bias)
        return self._rest(base[:, None, :] + weight[:, width:].T[None])

    def _rest(self, h: Tensor) -> Tensor:
        h = torch.relu(h)
        for layer in self.tail:
            h = torch.relu(layer(h))
        return self.out(h).squeeze(-1)


class HeadsCritic(nn.Module):
    """Values of all actions from one pass, one output each: as `Critic`, at a fraction of its cost."""

    def __init__(self, inputs: int, actions: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        sizes = (inputs, *hidden)
        layers: list[nn.Module] = []
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1], actions))

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """Observations (B, n) and action probabilities (B, A) to expected values (B,)."""
        return (self.body(x) * action).sum(-1)

    def all_actions(self, x: Tensor) -> Tensor:
        """Values of every single action: (B, n) to (B, A)."""
        return self.body(x)


def gaussian_weights(module: nn.Module, std: float, generator: torch.Generator) -> None:
    """The paper's initialisation: every weight and bias from N(0, std)."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
