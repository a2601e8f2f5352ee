"""Attention over the cells of every frame, trained by the truth in time alone.

The paper's attentions (Eqs. 2-3 and 13-14) weigh whole frames. The frame attention weighs the cells inside a frame,
given the query: w = softmax(g(c, q)), c a cell with its neighbours, and the frame is represented by the weighted mean f
of its cells. A frame is scored by h(f, q); g and h are `GatedScore`, and with ``change`` h also receives how f changes.
Boxes play no part. Training asks whether each frame lies inside the moment, by the sigmoid of its score
(``objective="labels"``), or compares the frames of a video, by the softmax over them (``"contrast"``). To answer, it
must attend to the object that the sentence names and to no other, so its peak comes to lie there.

It is a signal between the levels of the kind that Eq. 11 intends: the frame attention states in every frame where the
evidence lies. `agents.strong.agent` can reward the spatial level for following it.
`agents.baselines.frame_classifier` makes windows of its scores alone, the reference that shows what the agents add.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from strong_envs.agents.ranges import check_fields
from strong_envs.agents.strong.cell_attention.cells import smoothed, with_neighbours
from strong_envs.agents.training.matching import GatedScore, Scale, dropout_for
from strong_envs.agents.training.sentences import Sentences
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.pooling import starts_of
from strong_envs.features.errors import DataError

SMOOTHED = 3
"""Frames over which cells and their scores are averaged in use. Training uses means of stretches, so single frames
would be noisier than its inputs; scores of neighbours agree but for noise, too. On the travel level both together raise
coverage from .86 to .95."""
LABELS = 4.0
"""Weight of the labels beside the contrast, whose gradients are several times as large."""


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
    objective: str = "labels"
    """``"labels"``: every frame is inside or outside; ``"contrast"``: which frames of a video are the moment's, among
    all of it; ``"both"``. Contrast finds moments better, labels place boxes better: on the standard level boxes cover
    .93 of the object with labels, .92 with both and .78 with contrast (validation, one seed, 1,300 updates)."""
    dropout: float | None = None
    """Share of cells' channels and of the query that is dropped in training; None: by the number of channels
    (`dropout_for`)."""
    weight_decay: float = 1e-3
    lattice: int = 1
    """In training, cells are read at every so many rows and columns, from a random one on; 1 reads all."""
    whole_frames: bool = False
    """See the vector of the whole frame in the place of its cells."""

    CHOICES: ClassVar[tuple[str, ...]] = ("labels", "contrast", "both")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.objective not in self.CHOICES:
            raise DataError(f"objective must be one of {self.CHOICES}, got {self.objective!r}")


class FrameAttention(nn.Module):
    """Attention over cells, and the scores of frames that train it.

    Args:
        bank: the training split; its features set the scale of the inputs.
        args: see `FrameAttentionArgs`.
        seed: of the weights.
    """

    def __init__(self, bank: FeatureBank, args: FrameAttentionArgs, seed: int = 0) -> None:
        super().__init__()
        self.args = args
        channels, query = bank.frame_dim if args.whole_frames else bank.grid_shape[2], bank.query_dim
        self.dropout = dropout_for(channels, args.dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.attention = GatedScore(channels, query, args.hidden, self.dropout)
            self.inside = GatedScore(2 * channels if args.change else channels, query, args.inside_hidden, self.dropout)
        self.cell_scale = Scale(channels)
        rows = len(bank.frames)
        some = torch.arange(0, rows, max(rows * self._cell_count(bank) // 100_000, 1))
        self.cell_scale.fit(self._maps(bank, some))
        self.sentences = Sentences(bank.query)
        # As used: a training turns dropout on for its updates only.
        self.eval()

    def attend(self, bank: FeatureBank, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`attend_together` of this frame attention alone."""
        return attend_together([self], bank, wanted)

    def weights_and_scores(self, maps: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of cells (S, n, K) and scores of frames (S, n), from smoothed cells (n, K, C) and queries (S, Dq)."""
        # The samples of a video share its cells; one after the other they stay in the processor's cache.
        cells = self.attention.feature(maps)
        scores = [
            smoothed(self.attention.out(torch.addcmul(shift, cells, gate).relu_()), SMOOTHED)
            for gate, shift in zip(self.attention.gate(query), self.attention.shift(query), strict=True)
        ]
        weights = torch.stack(scores).squeeze(-1).softmax(-1)
        inside = self._inside(torch.einsum("snk,nkc->snc", weights, maps), query)
        if self.args.objective == "contrast":
            inside = inside.log_softmax(1) + math.log(inside.shape[1])
        return weights, inside

    def boxes(self, bank: FeatureBank) -> Tensor:
        """The boxes of `attend`."""
        return self.attend(bank)[0]

    def loss(self, scores: Tensor, inside: Tensor) -> Tensor:
        """The objective: scores (B, n) of stretches and the share (B, n) of each that lies inside the moment."""
        objective = self.args.objective
        labels = contrast = scores.new_zeros(())
        if objective != "contrast":
            labels = nn.functional.binary_cross_entropy_with_logits(scores, inside)
        if objective != "labels":
            contrast = -((scores.log_softmax(1) * inside).sum(1) / inside.sum(1).clamp(min=1e-6)).mean()
        return contrast + (LABELS * labels if objective == "both" else labels)

    def _maps(self, bank: FeatureBank, rows: Tensor) -> Tensor:
        """Maps of feature rows (...,): (..., h, w, C) in their own dtype; of one cell for whole frames."""
        return bank.frames[rows][..., None, None, :] if self.args.whole_frames else bank.grid[rows]

    def _cell_count(self, bank: FeatureBank) -> int:
        return 1 if self.args.whole_frames else bank.grid_shape[0] * bank.grid_shape[1]

    def query(self, bank: FeatureBank, samples: Tensor) -> Tensor:
        """Standardised sentences of samples (B,), in words of the training: (B, Dq)."""
        return self.sentences(bank.query[samples])

    def _cells(self, maps: Tensor) -> Tensor:
        """Standardised cells averaged with their neighbours: (..., h, w, C) to (..., h * w, C)."""
        x = self.cell_scale(maps.to(torch.float32))
        if maps.shape[-3] == maps.shape[-2] == 1:
            return x.flatten(-3, -2)
        return with_neighbours(x)

    def logits(self, bank: FeatureBank, samples: Tensor, count: int | None = None) -> Tensor:
        """Scores of ``count`` equal stretches of the videos: (B, count), None takes ``frames``."""
        return self.scores(*self.inputs(bank, samples, count or self.args.frames))

    def inputs(self, bank: FeatureBank, samples: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Cells of stretches (B, count, h * w, C) and sentences (B, Dq), standardised."""
        return self.stretch_cells(bank, bank.video[samples], count), self.query(bank, samples)

    def stretch_cells(self, bank: FeatureBank, videos: Tensor, count: int) -> Tensor:
        """Cells of ``count`` equal stretches of videos (B,), standardised: (B, count, h * w, C)."""
        return self._cells(self._stretches(bank, videos, count))

    def scores(self, cells: Tensor, query: Tensor) -> Tensor:
        """`inputs` to scores of the stretches: (B, count)."""
        weights = self.attention(cells, query).softmax(-1)
        return self._inside(torch.einsum("bmk,bmkc->bmc", weights, cells), query)

    def _inside(self, seen: Tensor, query: Tensor) -> Tensor:
        """The scores h of the frames or stretches that divide a video: (B, n, C) to (B, n)."""
        if self.args.change:
            seen = torch.cat((seen, changes(seen, max(1, round(self.args.change * seen.shape[1])))), -1)
        return self.inside(seen, query)

    def _stretches(self, bank: FeatureBank, videos: Tensor, count: int) -> Tensor:
        """``count`` maps per video, (B, count, h, w, C): means of equal stretches, or frames repeated in short ones."""
        n = bank.n_frames[videos].to(torch.float64)[:, None]
        pair = torch.arange(2 * count, device=bank.device)
        # Two frames of each stretch: averaging halves the noise at little cost.
        frame = ((pair + 0.5) * n / (2 * count)).floor().to(torch.int64)
        maps = self._maps(bank, bank.offsets[videos][:, None] + frame).to(torch.float32)
        return maps.view(len(videos), count, 2, *maps.shape[2:]).mean(2)


@torch.no_grad()
def attend_together(
    members: Sequence[FrameAttention], bank: FeatureBank, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention boxes and scores in all frames of all samples, means over frame attentions of the same training split.

    Args:
        members: their weights of cells and their scores are averaged.
        bank: features of one split.
        wanted: (S,) bool, the samples that are asked about; None: all.

    Returns:
        Corners (R, 4) of the boxes around the peaks, and the scores (R,) of the frames: log-odds that a frame lies
        inside the moment, or with ``"contrast"``, which fixes no level, the logarithm of its share in the video, 0
        where all frames are alike. Packed sample after sample, float32.
    """
    lengths, order, one = bank.n_frames[bank.video], torch.argsort(bank.video, stable=True), members[0]
    if wanted is not None:
        lengths, order = lengths * wanted, order[wanted[order]]
    first = starts_of(lengths).tolist()
    boxes, frame_logits = (torch.empty((first[-1], *shape), device=bank.device) for shape in ((4,), ()))
    counts = torch.bincount(bank.video[order], minlength=len(bank.videos)).tolist()
    offsets = bank.offsets.tolist()
    for video, samples in enumerate(order.split(counts)):
        if not len(samples):
            continue
        raw = one._maps(bank, torch.arange(offsets[video], offsets[video + 1], device=bank.device))
        height, width = raw.shape[1:3]
        maps, query = smoothed(one._cells(raw), SMOOTHED), one.query(bank, samples)
        all_weights, all_inside = zip(*(member.weights_and_scores(maps, query) for member in members), strict=True)
        weights, inside = sum(all_weights) / len(members), sum(all_inside) / len(members)
        found = attention_box(weights.flatten(0, 1), height, width, one.args.size).unflatten(0, weights.shape[:2])
        for sample, *parts in zip(samples.tolist(), found, inside, strict=True):
            boxes[first[sample] : first[sample + 1]], frame_logits[first[sample] : first[sample + 1]] = parts
    return boxes, frame_logits


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
