"""The attentions of the paper over the frames of a window (Eqs. 2-3 and 13-14), trained end to end.

Eqs. 2 and 13: e_k = softmax(q . relu(W1 f_e + W2 f_k + b)) over the window's frames; Eqs. 3 and 14: f = sum e_k f_k.
One of them weighs what lies inside the boxes (f_o), the other whole frames (f_g). Their weights belong to the critic's
side of the agent: an observation is rebuilt from a state with today's weights, so the gradient of the critic's error
reaches them.

Eq. 3 sums over the window and the text says the whole video: ``global_scope`` of the temporal level decides, as it does
for means. Eq. 14 sums over the window.

``timed=True`` is not in the paper: scores also see where a frame lies relative to the window, and frames up to two
steps outside it take part. A weighted mean without order does not show on which side of it the event lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from strong_envs.agents.training.matching import MatchingInputs
from strong_envs.agents.training.networks import Standardise
from strong_envs.core import spans
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import CONTEXT_STEPS, TemporalConfig, TemporalTask


class AttentionTask(TemporalTask):
    """A `TemporalTask` whose observations also hold what attention needs.

    ``frames`` (B, F, 2, D): frames, or means over F equal stretches of the video, inside the boxes and of the whole
    frame. ``taken`` (B, F, 2): 1 for those that each attention weighs, else 0. ``place`` (B, F, 4), with ``timed``:
    where they lie relative to the window.

    Args:
        bank, local, config: as of `TemporalTask`.
        stretches: F; a video with fewer frames repeats them. None weighs every frame, as the paper does, and F is the
            length of the longest video of the bank.
        timed: see the module.
    """

    def __init__(
        self,
        bank: FeatureBank,
        local: LocalFeatures,
        config: TemporalConfig,
        stretches: int | None = 20,
        timed: bool = True,
    ) -> None:
        super().__init__(bank, local, config)
        if local.dim != bank.frame_dim:
            raise DataError(
                f"attention weighs boxes and whole frames by the same weights: f_o has {local.dim} numbers and a frame "
                f"of {bank.name!r} has {bank.frame_dim}; leave attention off, take spp_reduce='max', or extract both "
                "with the same --pca"
            )
        self.stretches, self.timed = stretches, timed
        self.count = bank.max_frames if stretches is None else stretches

    def observe(
        self, samples: Tensor, start: Tensor, end: Tensor, t: Tensor, local: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The observation of `TemporalTask` with ``frames``, ``taken`` and ``place``.

        ``local`` (B, P + F, D) replaces the means of `windows`, and with them f_o of every frame.
        """
        if local is None:
            local = self.local.means(samples, *self.windows(samples, start, end))
        observation = super().observe(samples, start, end, t, local[:, : -self.count])
        whole = self.bank.frame_means(samples, *self._frames(samples))
        observation["frames"] = torch.stack((local[:, -self.count :], whole), 2)
        taken, place = self._taken(samples, start, end), self._place(samples, start, end)
        everywhere = place[..., 0].isfinite() if self.config.global_scope == "video" else taken
        observation["taken"] = torch.stack((taken, everywhere), -1).to(torch.float32)
        if self.timed:
            observation["place"] = place.nan_to_num()
        return observation

    def windows(self, samples: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Those of `TemporalTask.windows`, then each of F frames or stretches; those that f_o leaves out are empty."""
        first, last = super().windows(samples, start, end)
        low, high = self._frames(samples)
        high = torch.where(self._taken(samples, start, end), high, low)
        return torch.cat((first, low), 1), torch.cat((last, high), 1)

    def dims(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parts of an observation, in order."""
        shapes = super().dims() | {"frames": (self.count, 2, self.local.dim), "taken": (self.count, 2)}
        return shapes | ({"place": (self.count, 4)} if self.timed else {})

    def _frames(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """First and last frame (exclusive) of each of F frames or stretches, (B, F); empty past a video's end."""
        k, n = torch.arange(self.count, device=self.bank.device), self.n_frames[samples][:, None]
        if self.stretches is None:
            return torch.minimum(k, n), torch.minimum(k + 1, n)
        first = k * n // self.count
        return first, torch.maximum((k + 1) * n // self.count, first + 1)

    def _middle(self, samples: Tensor) -> Tensor:
        """Middle of each of F frames or stretches as a share of the video: (B, F) float32, NaN past its end."""
        k, n = torch.arange(self.count, device=self.bank.device) + 0.5, self.n_frames[samples][:, None]
        if self.stretches is None:
            return torch.where(k < n, k / n, torch.nan)
        return (k / self.count).expand(len(samples), -1)

    def _inside(self, samples: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Which of F frames or stretches belong to the window: (B, F) bool, at least one a row."""
        k = torch.arange(self.count, device=self.bank.device)
        if self.stretches is None:
            first, last = spans.frame_window(start, end, self.config.total, self.n_frames[samples])
            return (k >= first[:, None]) & (k < last[:, None])
        low, high = (x.to(torch.float32)[:, None] / self.config.total for x in (start, end))
        middle = self._middle(samples)
        # A window between two middles still has one stretch.
        nearest = (middle - (low + high) / 2).abs().argmin(1, keepdim=True)
        return ((middle >= low) & (middle < high)).scatter(1, nearest, True)

    def _taken(self, samples: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Which of F frames or stretches the attention of f_o weighs: (B, F) bool."""
        inside = self._inside(samples, start, end)
        if not self.timed:
            return inside
        middle = self._middle(samples) * self.config.total
        return inside | ((middle >= start[:, None] - CONTEXT_STEPS) & (middle < end[:, None] + CONTEXT_STEPS))

    def _place(self, samples: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Where F frames or stretches lie relative to the window: (B, F, 4) float32, NaN past the end of a video."""
        low, high = (x.to(torch.float32)[:, None] / self.config.total for x in (start, end))
        middle, steps = self._middle(samples), self.config.total / 4
        share = (middle - low) / (high - low).clamp(min=1e-3)
        ends = ((middle - low) * steps).clamp(-1, 1), ((high - middle) * steps).clamp(-1, 1)
        inside = self._inside(samples, start, end).to(middle.dtype)
        return torch.stack((*ends, share.clamp(-1, 2), inside), -1)


class AttentiveInputs(nn.Module):
    """What an agent's networks see: the rest of the observation and the frames under both attentions.

    The attended features stand where the means stood, as in the paper; those of timed attentions stand beside them.

    Args:
        shapes: parts of the observation of an `AttentionTask`.
        hidden: parts that are replaced by zeros.
        heads: attentions of each kind; the paper has one.
        width: of the hidden layer of a score.
        matching: makes `MatchingInputs` of shapes. The query is then multiplied with the attended features, too;
            without it they are appended to the standardised observation.

    Attributes:
        limit: of the standardised frames; infinite where they are left as they are.
    """

    PARTS = ("frames", "taken", "place")
    limit: float = 10.0
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        hidden: Sequence[str] = (),
        heads: int = 4,
        width: int = 32,
        matching: Callable[[dict[str, tuple[int, ...]]], MatchingInputs] | None = None,
    ) -> None:
        super().__init__()
        self.timed, self.heads = "place" in shapes, heads
        _, kinds, self.dim = shapes["frames"]
        kept = {name: shape for name, shape in shapes.items() if name not in self.PARTS}
        count = kinds * heads
        if not self.timed:
            del kept["local"], kept["global"]
        if matching is None:
            self.base: MatchingInputs | Standardise = Standardise(kept, hidden)
            self.size = self.base.size + count * self.dim
        else:
            if not self.timed:
                kept["local"], count = (self.dim,), count - 1
            self.base = matching(kept | {"attended": (count * self.dim,)})
            self.size = self.base.size
        self.query = shapes["query"][0]
        self.said = nn.ModuleList(nn.Linear(self.query, width) for _ in range(kinds))
        self.seen = nn.ModuleList(nn.Linear(self.dim + 4 * self.timed, width, bias=False) for _ in range(kinds))
        self.score = nn.ModuleList(nn.Linear(width, heads) for _ in range(kinds))
        self.register_buffer("shift", torch.zeros(kinds, self.dim))
        self.register_buffer("scale", torch.ones(kinds, self.dim))

    @torch.no_grad()
    def fit(self, observation: dict[str, Tensor]) -> None:
        """Take the scale of every number from a batch of observations."""
        for kind in range(len(self.shift)):
            frames = observation["frames"][:, :, kind][observation["taken"][:, :, kind] > 0]
            spread = frames.std(0)
            self.shift[kind] = frames.mean(0)
            self.scale[kind] = torch.where(spread > 1e-4, 1 / spread.clamp(min=1e-4), 0.0)
        if isinstance(self.base, MatchingInputs):
            self.base.query.fit(observation["query"])
            observation = self._attended(observation, self.base.query(observation["query"]))
        self.base.fit(observation)

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """Named (B, ...) parts to (B, size)."""
        if isinstance(self.base, MatchingInputs):
            return self.base(self._attended(observation, self.base.query(observation["query"])))
        x = self.base(observation)
        frames = self._standardised(observation["frames"])
        return torch.cat((x, self._weighed(observation, frames, frames, x[:, : self.query])), 1)

    def _attended(self, observation: dict[str, Tensor], query: Tensor) -> dict[str, Tensor]:
        """The observation that the matching network sees; it standardises the attended features as the means."""
        frames = observation["frames"]
        attended = self._weighed(observation, self._standardised(frames), frames, query)
        if self.timed:
            return observation | {"attended": attended}
        return observation | {"local": attended[:, : self.dim], "attended": attended[:, self.dim :]}

    def _standardised(self, frames: Tensor) -> Tensor:
        return ((frames - self.shift) * self.scale).clamp(-self.limit, self.limit)

    def _weighed(self, observation: dict[str, Tensor], frames: Tensor, values: Tensor, query: Tensor) -> Tensor:
        """Sums of values (B, F, 2, D) by the scores that frames (B, F, 2, D) get: (B, kinds x heads x D)."""
        taken, parts = observation["taken"] > 0, []
        for kind, (of_query, of_frame, score) in enumerate(zip(self.said, self.seen, self.score, strict=True)):
            keys = frames[:, :, kind]
            keys = torch.cat((keys, observation["place"]), -1) if self.timed else keys
            scores = score(torch.relu(of_query(query)[:, None] + of_frame(keys)))
            weights = scores.masked_fill(~taken[:, :, kind, None], float("-inf")).softmax(1)
            parts.append(torch.einsum("bkh,bkd->bhd", weights, values[:, :, kind]).flatten(1))
        return torch.cat(parts, 1)
