"""The attentions of the paper over the frames of a window (Eqs. 2-3 and 13-14), trained end to end.

Eqs. 2 and 13: e_k = softmax(q . relu(W1 f_e + W2 f_k + b)) over the window's frames; Eqs. 3 and 14: f = sum e_k f_k.
One of them weighs what lies inside the boxes (f_o), the other whole frames (f_g). Their weights belong to the critic's
side of the agent: an observation is rebuilt from a state with today's weights, so the gradient of the critic's error
reaches them.

``timed=True`` is not in the paper: scores also see where a frame lies relative to the window, and frames up to two
steps outside it take part. A weighted mean without order does not show on which side of it the event lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from strong_envs.agents.training.networks import Standardise
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import CONTEXT_STEPS, TemporalConfig, TemporalTask


class AttentionTask(TemporalTask):
    """A `TemporalTask` whose observations also hold what attention needs.

    ``frames`` (B, F, 2, D): means over F equal stretches of the video (single frames in short ones), inside the boxes
    and of the whole frame. F is one stretch a step of the window.
    """

    def __init__(self, bank: FeatureBank, local: LocalFeatures, config: TemporalConfig) -> None:
        super().__init__(bank, local, config)
        if local.dim != bank.frame_dim:
            raise DataError(
                f"attention weighs boxes and whole frames by the same weights: f_o has {local.dim} numbers and a frame "
                f"of {bank.name!r} has {bank.frame_dim}; leave attention off, or extract both with the same --pca"
            )
        self.count = round(config.total)

    def observe(
        self, samples: Tensor, start: Tensor, end: Tensor, t: Tensor, local: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The observation of `TemporalTask` and ``frames``."""
        observation = super().observe(samples, start, end, t, local)
        k = torch.arange(self.count, device=self.bank.device)
        n = self.n_frames[samples][:, None]
        first = k * n // self.count
        last = torch.maximum((k + 1) * n // self.count, first + 1)
        parts = (means(samples, first, last) for means in (self.local.means, self.bank.frame_means))
        return observation | {"frames": torch.stack(tuple(parts), 2)}

    def dims(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parts of an observation, in order."""
        return super().dims() | {"frames": (self.count, 2, self.local.dim)}


class AttentiveInputs(nn.Module):
    """What an agent's networks see: the standardised observation and the frames under both attentions.

    Args:
        shapes: parts of the observation of an `AttentionTask`.
        heads: attentions of each kind; the paper has one.
        timed: see the module.
        width: of the hidden layer of a score.
        hidden: parts that are replaced by zeros.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        hidden: Sequence[str] = (),
        heads: int = 4,
        timed: bool = True,
        width: int = 32,
    ) -> None:
        super().__init__()
        # As in the paper, the attended features stand where the means stood; timed ones stand beside them.
        left_out = ("frames",) if timed else ("frames", "local", "global")
        self.base = Standardise({name: shape for name, shape in shapes.items() if name not in left_out}, hidden)
        self.count, kinds, dim = shapes["frames"]
        self.heads, self.timed = heads, timed
        self.query = shapes["query"][0]
        self.size = self.base.size + kinds * heads * dim
        self.said = nn.ModuleList(nn.Linear(self.query, width) for _ in range(kinds))
        self.seen = nn.ModuleList(nn.Linear(dim + 4 * timed, width, bias=False) for _ in range(kinds))
        self.score = nn.ModuleList(nn.Linear(width, heads) for _ in range(kinds))
        self.register_buffer("shift", torch.zeros(kinds, dim))
        self.register_buffer("scale", torch.ones(kinds, dim))

    def fit(self, observation: dict[str, Tensor]) -> None:
        """Take the scale of every number from a batch of observations."""
        self.base.fit(observation)
        frames = observation["frames"].flatten(0, 1)
        spread = frames.std(0)
        self.shift.copy_(frames.mean(0))
        self.scale.copy_(torch.where(spread > 1e-4, 1 / spread.clamp(min=1e-4), 0.0))

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """Named (B, ...) parts to (B, size)."""
        x = self.base(observation)
        frames = ((observation["frames"] - self.shift) * self.scale).clamp(-10, 10)
        start, end = (observation["location"][:, i, None] for i in (0, 1))
        middle = (torch.arange(self.count, device=x.device) + 0.5) / self.count
        taken, code = self._window(middle, start, end)
        parts = [x]
        for kind, (of_query, of_frame, score) in enumerate(zip(self.said, self.seen, self.score, strict=True)):
            frame = frames[:, :, kind]
            keys = torch.cat((frame, code), -1) if self.timed else frame
            scores = score(torch.relu(of_query(x[:, : self.query])[:, None] + of_frame(keys)))
            weights = scores.masked_fill(~taken[..., None], float("-inf")).softmax(1)
            parts.append(torch.einsum("bkh,bkd->bhd", weights, frame).flatten(1))
        return torch.cat(parts, 1)

    def _window(self, middle: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Which stretches take part (B, F), and where they lie relative to the window (B, F, 4)."""
        inside = (middle >= start) & (middle < end)
        # A window between two middles still has one stretch.
        nearest = (middle - (start + end) / 2).abs().argmin(1, keepdim=True)
        inside = inside.scatter(1, nearest, True)
        if not self.timed:
            return inside, middle[:0]
        reach = CONTEXT_STEPS / self.count
        taken = inside | ((middle >= start - reach) & (middle < end + reach))
        steps = self.count / 4
        share = (middle - start) / (end - start).clamp(min=1e-3)
        ends = ((middle - start) * steps).clamp(-1, 1), ((end - middle) * steps).clamp(-1, 1)
        return taken, torch.stack((*ends, share.clamp(-1, 2), inside.to(middle.dtype)), -1)
