"""Actor and critic of the paper (section 3.2), over the named parts of an observation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from strong_envs.core.observations import joined
from strong_envs.features.errors import DataError, nearest


class Standardise(nn.Module):
    """Concatenates the parts of an observation and brings every number to mean 0 and spread 1.

    The statistics are taken once, from observations of the training split, and saved with the weights. Parts named in
    ``hidden`` are replaced by zeros: a blind agent is the same agent without visual input.

    Args:
        shapes: named parts of the observation.
        hidden: names of parts.

    Attributes:
        limit: of the result; infinite where it is left as it is.
    """

    limit: float = 10.0
    shift: Tensor
    scale: Tensor
    mask: Tensor

    def __init__(self, shapes: dict[str, tuple[int, ...]], hidden: Sequence[str] = ()) -> None:
        super().__init__()
        self.names, self.hidden = list(shapes), tuple(hidden)
        self.columns: dict[str, slice] = {}
        self.size = 0
        for name, shape in shapes.items():
            self.columns[name] = slice(self.size, self.size + torch.Size(shape).numel())
            self.size = self.columns[name].stop
        self.register_buffer("shift", torch.zeros(self.size))
        self.register_buffer("scale", torch.ones(self.size))
        mask = [torch.full((torch.Size(s).numel(),), float(n not in self.hidden)) for n, s in shapes.items()]
        self.register_buffer("mask", torch.cat(mask))

    def fit(self, observation: dict[str, Tensor]) -> None:
        """Take the statistics from a batch of observations."""
        x = self._join(observation)
        spread = x.std(0)
        self.shift.copy_(x.mean(0))
        # A constant number carries no information; dividing by its spread would only amplify noise.
        self.scale.copy_(torch.where(spread > 1e-4, 1 / spread.clamp(min=1e-4), 0.0))

    def _join(self, observation: dict[str, Tensor]) -> Tensor:
        return joined([observation[name].flatten(1) for name in self.names])

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """Named (B, ...) parts to (B, size)."""
        return self._scaled(self._join(observation), slice(None))

    def part(self, name: str, observation: dict[str, Tensor]) -> Tensor:
        """The columns of `forward` that come from one part: (B, size of the part)."""
        return self._scaled(observation[name].flatten(1), self.columns[name])

    def _scaled(self, x: Tensor, at: slice) -> Tensor:
        return ((x - self.shift[at]) * self.scale[at]).clamp(-self.limit, self.limit) * self.mask[at]


class KeptParts:
    """`Standardise` and the linear layer after it, where parts of the observation stay the same for many steps.

    The sentence and the video of an episode of the temporal level are constant: three quarters of the paper's
    observation. Their part of the layer's sums is computed once, in `begin`, and each `step` multiplies the rest. For
    acting with fixed weights: there are no gradients, and an update of the weights invalidates every base.

    Args:
        inputs, layer: used as they are, not copied; the layer takes ``inputs.size`` numbers.
        kept: names of the parts that stay the same between two calls of `begin`.

    Raises:
        DataError: a name that is no part of the observation, or a layer of another width.
    """

    def __init__(self, inputs: Standardise, layer: nn.Linear, kept: Sequence[str] = ("query", "global")) -> None:
        for name in kept:
            if name not in inputs.columns:
                raise DataError(f"kept must name parts of {inputs.names}, got {name!r}{nearest(name, inputs.names)}")
        if layer.in_features != inputs.size:
            raise DataError(f"the layer takes {layer.in_features} numbers, the observation has {inputs.size}")
        self.inputs, self.layer = inputs, layer
        self.kept = [name for name in inputs.names if name in kept]
        self.changing = [name for name in inputs.names if name not in kept]

    @torch.no_grad()
    def begin(self, observation: dict[str, Tensor]) -> Tensor:
        """Contribution of the kept parts and the bias to the layer's output: (B, H)."""
        bias = self.layer.bias
        some = next(iter(observation.values()))
        base = self.layer.weight.new_zeros(self.layer.out_features) if bias is None else bias
        return self._add(base.expand(len(some), -1), self.kept, observation)

    @torch.no_grad()
    def step(self, observation: dict[str, Tensor], base: Tensor) -> Tensor:
        """``layer(inputs(observation))``, (B, H), for a base (B, H) of the same episodes, which is not changed."""
        return self._add(base, self.changing, observation)

    def _add(self, sums: Tensor, names: list[str], observation: dict[str, Tensor]) -> Tensor:
        for name in names:
            weight = self.layer.weight[:, self.inputs.columns[name]]
            sums = torch.addmm(sums, self.inputs.part(name, observation), weight.T)
        return sums


class Actor(nn.Module):
    """Three fully connected layers and a softmax over the actions (paper: 500, 128, |A|)."""

    def __init__(self, inputs: int, actions: int, hidden: Sequence[int] = (500, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(inputs, hidden[0]), nn.ReLU()]
        for a, b in pairwise(hidden):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear(hidden[-1], actions))

    def logits(self, x: Tensor) -> Tensor:
        """Observations (B, n) to logits (B, A)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Observations (B, n) to probabilities (B, A)."""
        return self.body(x).softmax(-1)


class Critic(nn.Module):
    """Four fully connected layers; the action joins at the second (paper: 1024, +action, 512, 300, 1)."""

    def __init__(self, inputs: int, actions: int, hidden: Sequence[int] = (1024, 512, 300)) -> None:
        super().__init__()
        first, *rest = hidden
        self.actions = actions
        self.first = nn.Linear(inputs, first)
        self.second = nn.Linear(first + actions, rest[0])
        self.tail = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(rest))
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
        for a, b in pairwise(sizes):
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
