"""Attention over the cells of every frame, trained by the truth in time alone.

The paper's attentions (Eqs. 2-3 and 13-14) weigh whole frames. The frame attention weighs the cells inside a frame,
given the query: w = softmax(g(c, q)), c a cell with its neighbours, and the frame is represented by the weighted mean f
of its cells. It classifies frames as inside or outside the moment by their log-odds h(f, q); g and h are
`Gated`, and with ``change`` h also receives how f changes. Boxes play no part. To answer, it must attend to the object
that the sentence names and to no other, so its peak comes to lie there.

It is the signal between the levels that Eq. 11 intends: max Q is optimistic, while the frame attention states in every
frame where the evidence lies. `agents.strong.agent` rewards the spatial level for following it.
`agents.baselines.frame_classifier` makes windows of its log-odds alone, the reference that shows what the agents add.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strong_envs.agents.ranges import check_fields
from strong_envs.features.bank.bank import FeatureBank


@dataclass(frozen=True)
class FrameAttentionArgs:
    """Arguments of `FrameAttention` and its training."""

    steps: int = 650
    """Updates in one training; learning rates rise and fall once over them."""
    queries: int = 32
    """Queries in an update."""
    frames: int = 20
    """Equal stretches of each video in training, each represented by the mean of two frames."""
    lr: float = 6e-3
    hidden: int = 32
    """Width of g, which weighs cells."""
    inside_hidden: int = 64
    """Width of h, which classifies frames as inside or outside the moment."""
    size: float = 0.3
    """Sides of the box around the peak of the frame attention, in fractions of the frame."""
    change: float = 0.0
    """Reach of the comparison with the frames before and after, as a share of the video; 0: h receives the frame
    alone."""

    def __post_init__(self) -> None:
        check_fields(self)


class Gated(nn.Module):
    """One number for a vector x, given a query q: v . relu((W x) * (A q) + B q)."""

    def __init__(self, channels: int, query: int, hidden: int) -> None:
        super().__init__()
        self.x = nn.Linear(channels, hidden)
        self.gate = nn.Linear(query, hidden)
        self.shift = nn.Linear(query, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        """Vectors (B, ..., C) and one query for each row (B, Dq) to (B, ...)."""
        middle = [1] * (x.dim() - 2)
        gate, shift = (part.view(len(x), *middle, -1) for part in (self.gate(query), self.shift(query)))
        return self.out(torch.relu(self.x(x) * gate + shift)).squeeze(-1)


class FrameAttention(nn.Module):
    """Attention over cells, and the classifier of frames that trains it.

    Args:
        bank: the training split; its features set the scale of the inputs.
        args: see `FrameAttentionArgs`.
        seed: of the weights.
    """

    cell_mean: Tensor
    cell_scale: Tensor
    query_mean: Tensor
    query_scale: Tensor

    def __init__(self, bank: FeatureBank, args: FrameAttentionArgs, seed: int = 0) -> None:
        super().__init__()
        self.args = args
        channels, query = bank.grid_shape[2], bank.query_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.attention = Gated(channels, query, args.hidden)
            self.inside = Gated(2 * channels if args.change else channels, query, args.inside_hidden)
        sample = bank.grid.flatten(0, 2)
        sample = sample[:: max(len(sample) // 100_000, 1)].to(torch.float32)
        self.register_buffer("cell_mean", sample.mean(0))
        self.register_buffer("cell_scale", 1 / sample.std(0).clamp(min=1e-4))
        self.register_buffer("query_mean", bank.query.mean(0))
        self.register_buffer("query_scale", 1 / bank.query.std(0).clamp(min=1e-3))

    @torch.no_grad()
    def attend(self, bank: FeatureBank) -> tuple[Tensor, Tensor]:
        """Attention boxes and log-odds in all frames of all samples.

        Returns corners (R, 4) of the boxes around the peaks, and the log-odds (R,) that a frame lies inside the moment,
        packed sample after sample, float32.
        """
        lengths = bank.n_frames[bank.video]
        first = torch.cat((lengths.new_zeros(1), lengths.cumsum(0))).tolist()
        boxes, frame_logits = (torch.empty((first[-1], *shape), device=bank.device) for shape in ((4,), ()))
        height, width, _ = bank.grid_shape
        order = torch.argsort(bank.video, stable=True)
        counts = torch.bincount(bank.video, minlength=len(bank.videos)).tolist()
        offsets = bank.offsets.tolist()
        for video, samples in enumerate(order.split(counts)):
            if not len(samples):
                continue
            # The samples of a video share its cells; one after the other they stay in the processor's cache.
            maps = _smoothed(self._cells(bank.grid[offsets[video] : offsets[video + 1]]))
            cells, query = self.attention.x(maps), self._query(bank, samples)
            scores = [
                _smoothed(self.attention.out(torch.addcmul(shift, cells, gate).relu_()))
                for gate, shift in zip(self.attention.gate(query), self.attention.shift(query), strict=True)
            ]
            weights = torch.stack(scores).squeeze(-1).softmax(-1)
            found = attention_box(weights.flatten(0, 1), height, width, self.args.size).unflatten(0, weights.shape[:2])
            inside = self._inside(torch.einsum("snk,nkc->snc", weights, maps), query)
            for sample, *parts in zip(samples.tolist(), found, inside, strict=True):
                boxes[first[sample] : first[sample + 1]], frame_logits[first[sample] : first[sample + 1]] = parts
        return boxes, frame_logits

    def boxes(self, bank: FeatureBank) -> Tensor:
        """The boxes of `attend`."""
        return self.attend(bank)[0]

    def _query(self, bank: FeatureBank, samples: Tensor) -> Tensor:
        return (bank.query[samples] - self.query_mean) * self.query_scale

    def _cells(self, maps: Tensor) -> Tensor:
        """Standardised cells averaged with their neighbours: (..., h, w, C) to (..., h * w, C)."""
        x = ((maps.to(torch.float32) - self.cell_mean) * self.cell_scale).flatten(0, -4)
        x = nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=False)
        return x.flatten(2).transpose(1, 2).reshape(*maps.shape[:-3], -1, maps.shape[-1])

    def logits(self, bank: FeatureBank, samples: Tensor, count: int | None = None) -> Tensor:
        """Log-odds that each of ``count`` equal stretches lies inside the moment: (B, count), None takes ``frames``."""
        cells = self._cells(self._stretches(bank, bank.video[samples], count or self.args.frames))
        query = self._query(bank, samples)
        weights = self.attention(cells, query).softmax(-1)
        return self._inside(torch.einsum("bmk,bmkc->bmc", weights, cells), query)

    def _inside(self, seen: Tensor, query: Tensor) -> Tensor:
        """The log-odds h of the frames or stretches that divide a video: (B, n, C) to (B, n)."""
        if self.args.change:
            seen = torch.cat((seen, changes(seen, max(1, round(self.args.change * seen.shape[1])))), -1)
        return self.inside(seen, query)

    @staticmethod
    def _stretches(bank: FeatureBank, videos: Tensor, count: int) -> Tensor:
        """``count`` maps per video, (B, count, h, w, C): means of equal stretches, or frames repeated in short ones."""
        n = bank.n_frames[videos].to(torch.float64)[:, None]
        pair = torch.arange(2 * count, device=bank.device)
        # Two frames of each stretch: averaging halves the noise at little cost.
        frame = ((pair + 0.5) * n / (2 * count)).floor().to(torch.int64)
        maps = bank.grid[bank.offsets[videos][:, None] + frame].to(torch.float32)
        return maps.view(len(videos), count, 2, *maps.shape[2:]).mean(2)


def static_boxes_of(boxes: Tensor, lengths: Tensor) -> Tensor:
    """One box for all frames of a sample, each side the median over its frames: packed (R, 4), lengths (S,), to (R, 4).

    A frame attention that jumps to another object in a few frames does not move the median.
    """
    middle = torch.stack([part.median(0).values for part in boxes.split(lengths.tolist())])
    return middle.repeat_interleave(lengths, 0)


def changes(seen: Tensor, reach: int) -> Tensor:
    """Features ``reach`` rows later less those ``reach`` rows earlier: (B, n, C) to (B, n, C).

    Where an end of the video shortens the distance, the difference is scaled to the full distance.
    """
    row = torch.arange(seen.shape[1], device=seen.device)
    before, after = (row - reach).clamp(min=0), (row + reach).clamp(max=len(row) - 1)
    return (seen[:, after] - seen[:, before]) * (2 * reach / (after - before).clamp(min=1))[:, None]


def _smoothed(x: Tensor) -> Tensor:
    """Each frame's mean with the frame before and after it: (n, ...) to (n, ...).

    Training uses means of stretches, so single frames would be noisier than its inputs; scores of neighbours agree but
    for noise, too. On the travel level both together raise coverage from .86 to .95.
    """
    rows = x.flatten(1).t()[None]
    return nn.functional.avg_pool1d(rows, 3, 1, 1, count_include_pad=False)[0].t().reshape(x.shape)


def attention_box(weights: Tensor, height: int, width: int, size: float) -> Tensor:
    """The box around the peak of the frame attention: (B, h * w) weights to (B, 4) corners.

    Its sides are ``size``, a share of the frame. Its centre is the centre of mass of the 3 x 3 cells around the peak:
    other objects that draw some of the attention do not pull the box between them.
    """
    maps = weights.view(-1, 1, height, width)
    mass = torch.nn.functional.avg_pool2d(maps, 3, 1, 1, divisor_override=1).flatten(1)
    peak = mass.argmax(-1)
    rows = torch.arange(height, device=weights.device)
    columns = torch.arange(width, device=weights.device)
    near_row = (rows - (peak // width)[:, None]).abs() <= 1
    near_column = (columns - (peak % width)[:, None]).abs() <= 1
    local = maps[:, 0] * near_row[:, :, None] * near_column[:, None, :]
    local = local / local.sum((1, 2), keepdim=True).clamp(min=1e-12)
    y = (local.sum(2) * (rows + 0.5)).sum(1) / height
    x = (local.sum(1) * (columns + 0.5)).sum(1) / width
    half = size / 2
    centre = torch.stack((x, y), -1).clamp(half, 1 - half)
    return torch.cat((centre - half, centre + half), -1)
