"""Attention over the cells of every frame, inside the temporal critic (Eqs. 13 and 14 over cells).

f_o of a frame is the weighted mean of its cells, given the query: softmax over the cells inside the box of that frame
of a gated score. The whole frame is a box too, f_o := f_s (section 4.1.4). The attention has no objective of its own:
it is trained by the temporal-difference error of the critic that observes f_o
(`agents.strong.cell_attention.training`), and so from nothing but the rewards of the agent's own episodes. Its peak
comes to lie on what the sentence names.

In training a video is `stretches` equal stretches, each the mean of its frames; in use each frame is the mean of as
many frames around it as a stretch has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from strong_envs.agents.ranges import check_fields
from strong_envs.agents.strong.cell_attention.cells import smoothed, with_neighbours
from strong_envs.agents.training.matching import GatedScore, Scale, dropout_for
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.pooling import WindowMeans, box_weights, starts_of
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import CONTEXT_STEPS, TemporalTask

FLOOR = 1e-6
"""Share of a cell inside the box that stands for none."""
NEARER = 1e-3
"""Weight of the middle cell when windows of cells are compared by their mass."""
SOFTER = 2.0
"""Temperature of the attention where its middle is sought."""


@dataclass(frozen=True)
class CellAttentionArgs:
    """Arguments of `CellAttention` and of its training."""

    stretches: int = 20
    """Equal stretches of each video in training."""
    hidden: int = 64
    """Width of the score."""
    dropout: float | None = None
    """Share of cells' features and of the query that is dropped in training; None: by their number (`dropout_for`)."""
    queries: int = 96
    """Queries in an update."""
    moves: int = 8
    """Moves of each of these queries in an update; they share one pass of the attention."""
    episodes: int = 256
    """Episodes that are played between updates."""
    steps_per_update: int = 512
    """Environment steps for each update."""
    slots: int = 64
    """Moves of a query in the replay."""
    lattice: int = 2
    """Cells are read at every so many rows and columns in training, from a random one on; 1 reads all. A cell is the
    mean with its neighbours, so that every second one still covers the frame, at a quarter of the cost."""
    capture: bool = False
    """Whether a CUDA device records an update once and replays it (`agents.training.captured`); with dropout it cannot,
    and other devices ignore it."""
    size: float = 0.1
    """Added to the spread of what the attention rests on, in fractions of the frame: the sides of its box."""

    def __post_init__(self) -> None:
        check_fields(self)


class CellAttention(nn.Module):
    """Scores of cells given a query, and the scale of both.

    Args:
        bank: the training split; its features set the scale.
        args: see `CellAttentionArgs`.
        seed: of the weights.
    """

    def __init__(self, bank: FeatureBank, args: CellAttentionArgs, seed: int = 0) -> None:
        super().__init__()
        self.args = args
        channels = bank.grid_shape[2]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.score = GatedScore(channels, bank.query_dim, args.hidden, dropout_for(channels, args.dropout))
        self.cell, self.query = Scale(channels), Scale(bank.query_dim)
        step = max(sum(v.n_frames for v in bank.videos) // 2000, 1)
        rows = torch.arange(0, int(bank.offsets[-1]), step, device=bank.device)
        self.cell.fit(bank.grid[rows].flatten(0, 2))
        self.query.fit(bank.query)

    def forward(self, cells: Tensor, query: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attended features and weights.

        Args:
            cells: (B, M, K, C) float32, standardised (`maps`).
            query: (B, Dq), standardised.
            inside: (B, M, K) how much of each cell lies in the box of its frame, up to a factor (`box_weights`); None:
                the whole frame.

        Returns:
            (B, M, C) the weighted means, (B, M, K) the weights.
        """
        scores = self.score(cells, query)
        if inside is not None:
            scores = scores + (inside + FLOOR).log()
        weights = scores.softmax(-1)
        return torch.einsum("bmk,bmkc->bmc", weights, cells), weights

    def maps(self, bank: FeatureBank, videos: Tensor, count: int) -> Tensor:
        """Standardised cells of videos (B,), averaged with their neighbours and over stretches: (B, count, K, C) half.

        Args:
            bank: features.
            videos: (B,) int64.
            count: stretches of each video; a video with fewer frames repeats them.
        """
        height, width, channels = bank.grid_shape
        out = torch.empty((len(videos), count, height * width, channels), dtype=torch.float16, device=bank.device)
        offsets = bank.offsets.tolist()
        for i, video in enumerate(videos.tolist()):
            cells = self.frames(bank.grid[offsets[video] : offsets[video + 1]])
            n = len(cells)
            edge = torch.arange(count + 1, device=bank.device) * n / count
            first = edge[:-1].floor().to(torch.int64)
            last = torch.maximum(edge[1:].ceil().to(torch.int64).clamp(max=n), first + 1)
            sums = torch.cat((cells.new_zeros(1, *cells.shape[1:]), cells.cumsum(0)))
            out[i] = ((sums[last] - sums[first]) / (last - first)[:, None, None]).to(torch.float16)
        return out

    def frames(self, grid: Tensor) -> Tensor:
        """Standardised cells of frames, averaged with their neighbours: (n, h, w, C) to (n, K, C) float32."""
        return with_neighbours(self.cell(grid.to(torch.float32)))

    @torch.no_grad()
    def attend(self, bank: FeatureBank, boxes: Tensor | None = None, scores: Tensor | None = None) -> Tensor:
        """Attended features of all frames of all samples: (R, C) float32, packed sample after sample.

        Args:
            bank: features of one split.
            boxes: corners (R, 4) that limit the attention, one for every frame of each sample; None: whole frames.
            scores: (R, K) of all cells without that limit, from `scored_cells`; None: they are computed.
        """
        height, width, channels = bank.grid_shape
        first = sample_rows(bank)
        seen = torch.empty((int(first[-1]), channels), device=bank.device)
        for low, high, samples in by_video(bank):
            cells = self.smoothed(bank.grid[low:high])
            rows = first[samples][:, None] + torch.arange(high - low, device=bank.device)
            # The samples of a video share its cells; one after the other they stay in the processor's cache.
            for at, one in zip(rows, self.query(bank.query[samples]), strict=True):
                said = self.score(cells[None], one[None])[0] if scores is None else scores[at]
                if boxes is not None:
                    said = said + (box_weights(boxes[at], height, width) + FLOOR).log()
                seen[at] = torch.einsum("nk,nkc->nc", said.softmax(-1), cells)
        return seen

    def smoothed(self, grid: Tensor) -> Tensor:
        """`frames` of a whole video, each the mean of as many frames around it as a stretch has."""
        return smoothed(self.frames(grid), len(grid) / self.args.stretches)


def sample_rows(bank: FeatureBank) -> Tensor:
    """Where the frames of each sample begin when they are packed sample after sample, and their number: (S + 1,)."""
    return starts_of(bank.n_frames[bank.video])


def by_video(bank: FeatureBank) -> Iterator[tuple[int, int, Tensor]]:
    """Every video that has samples: its first row, the row after its last, and the samples (n,)."""
    order = torch.argsort(bank.video, stable=True)
    counts = torch.bincount(bank.video, minlength=len(bank.videos)).tolist()
    for (low, high), samples in zip(pairwise(bank.offsets.tolist()), order.split(counts), strict=True):
        if len(samples):
            yield low, high, samples


def peak_boxes(weights: Tensor, cells: Tensor, height: int, width: int, size: float) -> Tensor:
    """Boxes around what an attention rests on.

    The attention rests on the part of an object that tells most, which need not be its middle. So the attended feature
    is compared with the cells around the peak, both relative to the median cell of the frame: where they agree there is
    the object. The box has its centre there, and its sides are ``size`` and the spread of the agreement on either axis.
    On validation videos of the drawn world the IoU with the true boxes is .65 (.62 on the travel level), against .43
    with the centre of the attention itself.

    Args:
        weights: (S, n, h * w), of S samples on the n frames of one video.
        cells: (n, h * w, C), standardised.
        height: rows of the grid.
        width: its columns.
        size: see above, in fractions of the frame.

    Returns:
        Corners (S, n, 4).
    """
    maps = weights.reshape(-1, 1, height, width)
    # Of windows with the same mass, which an attention on one cell gives nine of, the one around the largest weight.
    mass = nn.functional.avg_pool2d(maps, 3, 1, 1, divisor_override=1) + NEARER * maps
    peak = mass.view(weights.shape).argmax(-1, keepdim=True)
    cell = torch.arange(height * width, device=weights.device)
    row, column = cell // width, cell % width
    near = ((row - peak // width).abs() <= 1) & ((column - peak % width).abs() <= 1)
    relative = cells - cells.median(1, keepdim=True).values
    attended = torch.einsum("snk,nkc->snc", weights, relative)
    agreement = torch.einsum("nkc,snc->snk", relative, attended).clamp(min=0) * near
    # Where nothing agrees the attention itself says where.
    agreement = torch.where(agreement.sum(-1, keepdim=True) > 0, agreement, weights * near)
    share = agreement / agreement.sum(-1, keepdim=True).clamp(min=1e-12)
    place = torch.stack(((column + 0.5) / width, (row + 0.5) / height), -1)
    centre = share @ place
    spread = torch.einsum("snk,snka->sna", share, (place - centre[..., None, :]).square()).sqrt()
    half = ((size + spread) / 2).clamp(max=0.5)
    centre = torch.maximum(torch.minimum(centre, 1 - half), half)
    return torch.cat((centre - half, centre + half), -1)


@torch.no_grad()
def scored_cells(attention: CellAttention, bank: FeatureBank) -> tuple[Tensor, Tensor, Tensor]:
    """What the spatial level asks of an attention that nothing limits.

    Returns:
        (N, K, C) float16, the cells of the frames of all videos as the attention sees them; (R, K) float32, their
        scores for every sample, packed sample after sample; (R, 4) float32, corners around the peak of the attention.
    """
    height, width, channels = bank.grid_shape
    first = sample_rows(bank)
    cells = torch.empty((len(bank.grid), height * width, channels), dtype=torch.float16, device=bank.device)
    scores = torch.empty((int(first[-1]), height * width), device=bank.device)
    peaks = torch.empty((int(first[-1]), 4), device=bank.device)
    for low, high, samples in by_video(bank):
        grid = bank.grid[low:high]
        seen = attention.smoothed(grid)
        cells[low:high] = seen
        rows = first[samples][:, None] + torch.arange(high - low, device=bank.device)
        query = attention.query(bank.query[samples])
        said = torch.stack([attention.score(seen[None], one[None])[0] for one in query])
        scores[rows] = said
        weights = (smoothed(said.transpose(0, 1), 3) / SOFTER).softmax(-1).transpose(0, 1)
        sharp = attention.cell(grid.flatten(1, 2).to(torch.float32))
        peaks[rows] = peak_boxes(weights, sharp, height, width, attention.args.size)
    return cells, scores, peaks


class AttendedFeatures(LocalFeatures):
    """f_o under a cell attention: window means of the attended features of every frame of every sample.

    Args:
        bank: features of one split.
        attention: see `CellAttention`.
        boxes: corners (R, 4) that limit the attention, or None for whole frames.
        margin: around the boxes that `inside` is asked for, in fractions of the frame; ``boxes`` come with theirs.
        scored: others of the same bank and attention, whose scores of cells serve these too.

    Features and peaks are computed at first use. An attention that is trained further needs a new object.
    """

    by_frame = True

    def __init__(
        self,
        bank: FeatureBank,
        attention: CellAttention,
        boxes: Tensor | None = None,
        margin: float = 0.0,
        scored: AttendedFeatures | None = None,
    ) -> None:
        self.bank, self.attention, self.boxes, self.of = bank, attention, boxes, scored
        self.levels, self.margin, self.reduce = (1,), margin, "concat"
        self.source = "frame" if boxes is None else "given"
        self.rows = sample_rows(bank)
        self.dim = bank.grid_shape[2]

    @property
    def peaks(self) -> Tensor:
        """Boxes around the peak of the unlimited attention: corners, packed (R, 4)."""
        return self._scored[2]

    @cached_property
    def _scored(self) -> tuple[Tensor, Tensor, Tensor]:
        return scored_cells(self.attention, self.bank) if self.of is None else self.of._scored

    def inside(self, samples: Tensor, frames: Tensor, corners: Tensor) -> Tensor:
        """What the attention sees inside boxes of single frames; see `LocalFeatures.inside`."""
        cells, scores, _ = self._scored
        height, width, _ = self.bank.grid_shape
        limited = (
            scores[self.rows[samples] + frames] + (box_weights(self.widened(corners), height, width) + FLOOR).log()
        )
        seen = cells[self.bank.offsets[self.bank.video[samples]] + frames].to(torch.float32)
        return torch.einsum("bk,bkc->bc", limited.softmax(-1), seen)

    @cached_property
    def means(self) -> WindowMeans:  # type: ignore[override]
        """Window means of the attended features, by sample."""
        held = vars(self if self.of is None else self.of).get("_scored")
        seen = self.attention.attend(self.bank, self.boxes, None if held is None else held[1])
        return WindowMeans.of(seen, self.rows, torch.arange(len(self.bank), device=self.bank.device))


class AttendedTask(TemporalTask):
    """`TemporalTask` on attended features: f_g, too, is their mean over the whole video (Eq. 3)."""

    def observe(
        self, samples: Tensor, start: Tensor, end: Tensor, t: Tensor, local: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`TemporalTask.observe` with ``global`` from the attended features."""
        observation = super().observe(samples, start, end, t, local)
        zero = torch.zeros_like(samples)
        observation["global"] = self.local.means(samples, zero, self.n_frames[samples])
        return observation

    def dims(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parts of an observation, in order."""
        return super().dims() | {"global": (self.local.dim,)}


def observe_stretches(
    task: TemporalTask, seen: Tensor, samples: Tensor, start: Tensor, end: Tensor
) -> dict[str, Tensor]:
    """What `AttendedTask.observe` gives, from stretches instead of frames, so that gradients reach the attention.

    Args:
        task: dynamics and queries.
        seen: (G, M, C) attended features of the stretches of G queries.
        samples: (G,) those queries.
        start: (G, L) in steps.
        end: (G, L) in steps.

    Returns:
        Parts of G * L rows: ``query``, ``location``, ``local``, ``global``, and ``context`` where the task has it.
    """
    groups, count = start.shape
    a, b = (x.to(torch.float32).flatten() / task.config.total for x in (start, end))
    zero, third, reach = torch.zeros_like(a), (b - a) / 3, CONTEXT_STEPS / task.config.total
    spans = [(a, b), (zero, zero + 1)]
    if task.config.context:
        spans += [(a, a + third), (b - third, b), ((a - reach).clamp(min=0), a), (b, (b + reach).clamp(max=1))]
    low, high = (torch.stack(ends, 1)[..., None] for ends in zip(*spans, strict=True))
    edge = torch.arange(seen.shape[1] + 1, device=seen.device) / seen.shape[1]
    share = (torch.minimum(edge[1:], high) - torch.maximum(edge[:-1], low)).clamp(min=0)
    total = share.sum(-1, keepdim=True)
    share = torch.where(total > FLOOR, share / total.clamp(min=FLOOR), torch.zeros_like(share))
    means = torch.einsum("glpm,gmc->glpc", share.view(groups, count, len(spans), -1), seen).flatten(0, 1)
    observation = {
        "query": task.bank.query[samples].repeat_interleave(count, 0),
        "location": torch.stack((a, b), -1),
        "local": means[:, 0],
        "global": means[:, 1],
    }
    if task.config.context:
        observation["context"] = means[:, 2:].flatten(1)
    return observation
