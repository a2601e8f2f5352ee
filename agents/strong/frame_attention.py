"""Where the temporal level looks: attention over the cells of every frame, trained by the temporal truth alone.

The paper's attentions (Eqs. 2-3 and 13-14) weigh whole frames. This one weighs the cells inside a frame, given the
query: w = softmax(g(c, q)), c a cell with its neighbours, and what is seen of a frame is the weighted mean of its
cells, f. It learns to tell frames inside the moment from those outside, log-odds h(f, q), which the truth in time
answers; g and h are `Gated`, and with ``change`` h also sees how f changes. Boxes play no part. Yet to answer, it must
see the object that the sentence names and no other, so its attention comes to rest there.

That makes it the signal between the levels that Eq. 11 wants and does not give: max Q is optimism, while the frame
attention says
in every frame where the evidence is. `agents.strong.agent` pays the spatial level for following it;
`agents.baselines.frame_classifier` makes
windows of the log-odds themselves, the reference that says what the agents add to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from strong_envs.agents.training.health import TrainingMonitor
from strong_envs.agents.training.loop import UpdateListener, load_optimiser, optimiser_state, run, split
from strong_envs.core.validation import check_number
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.pooling import WindowMeans
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import TemporalConfig, TemporalTask

SUREST = 6.0
"""Log-odds at which the temporal level takes a frame for certain."""


@dataclass(frozen=True)
class FrameAttentionArgs:
    """Arguments of `FrameAttention` and its training."""

    steps: int = 650
    """Updates in one training; learning rates rise and fall once over them."""
    queries: int = 32
    """Queries in an update."""
    frames: int = 20
    """Frames looked at of each video, evenly spread; longer stretches are averaged."""
    lr: float = 6e-3
    hidden: int = 32
    """Width of g, which weighs cells."""
    inside_hidden: int = 64
    """Width of h, which tells whether a frame is inside the moment."""
    size: float = 0.3
    """Sides of the box around the peak of the frame attention, in fractions of the frame."""
    change: float = 0.0
    """How far before and after a frame, as a share of the video, h compares what is seen; 0: h sees the frame alone."""


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
    """Attention over cells, and what it is trained to tell.

    Args:
        bank: the training split; its features set the scale of the inputs. args: see `FrameAttentionArgs`.
    """

    def __init__(self, bank: FeatureBank, args: FrameAttentionArgs, seed: int = 0) -> None:
        super().__init__()
        self.args = args
        check_number(args.change, "change", 0, 0.5)
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
    def look(self, bank: FeatureBank) -> tuple[Tensor, Tensor]:
        """Where the frame attention rests in all frames of all samples, and what it says of them.

        Returns corners (R, 4) and the log-odds (R,) that a frame lies inside the moment, packed sample after sample,
        float32.
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
            maps = _over_time(self._cells(bank.grid[offsets[video] : offsets[video + 1]]))
            cells, query = self.attention.x(maps), self._query(bank, samples)
            scores = [
                _over_time(self.attention.out(torch.addcmul(shift, cells, gate).relu_()))
                for gate, shift in zip(self.attention.gate(query), self.attention.shift(query), strict=True)
            ]
            weights = torch.stack(scores).squeeze(-1).softmax(-1)
            found = attention_box(weights.flatten(0, 1), height, width, self.args.size).unflatten(0, weights.shape[:2])
            inside = self._tell(torch.einsum("snk,nkc->snc", weights, maps), query)
            for sample, *parts in zip(samples.tolist(), found, inside, strict=True):
                boxes[first[sample] : first[sample + 1]], frame_logits[first[sample] : first[sample + 1]] = parts
        return boxes, frame_logits

    def boxes(self, bank: FeatureBank) -> Tensor:
        """Where the frame attention rests in all frames of all samples: corners, packed sample after sample (R, 4)
        float32.
        """
        return self.look(bank)[0]

    def _query(self, bank: FeatureBank, samples: Tensor) -> Tensor:
        return (bank.query[samples] - self.query_mean) * self.query_scale

    def _cells(self, maps: Tensor) -> Tensor:
        """Standardised cells averaged with their neighbours: (..., h, w, C) to (..., h * w, C)."""
        x = ((maps.to(torch.float32) - self.cell_mean) * self.cell_scale).flatten(0, -4)
        x = nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=False)
        return x.flatten(2).transpose(1, 2).reshape(*maps.shape[:-3], -1, maps.shape[-1])

    def logits(self, bank: FeatureBank, samples: Tensor, count: int | None = None) -> Tensor:
        """Log-odds that each of ``count`` equal stretches lies inside the moment: (B, count), None takes ``frames``."""
        cells = self._cells(self._spread(bank, bank.video[samples], count or self.args.frames))
        query = self._query(bank, samples)
        weights = self.attention(cells, query).softmax(-1)
        return self._tell(torch.einsum("bmk,bmkc->bmc", weights, cells), query)

    def _tell(self, seen: Tensor, query: Tensor) -> Tensor:
        """H of what is seen in frames or stretches that divide a video: (B, n, C) to (B, n)."""
        if self.args.change:
            seen = torch.cat((seen, changes(seen, max(1, round(self.args.change * seen.shape[1])))), -1)
        return self.inside(seen, query)

    @staticmethod
    def _spread(bank: FeatureBank, videos: Tensor, count: int) -> Tensor:
        """``count`` maps per video, (B, count, h, w, C): means of equal stretches, or frames repeated in short ones."""
        n = bank.n_frames[videos].to(torch.float64)[:, None]
        pair = torch.arange(2 * count, device=bank.device)
        # Two looks into each stretch: averaging halves the noise at little cost.
        frame = ((pair + 0.5) * n / (2 * count)).floor().to(torch.int64)
        maps = bank.grid[bank.offsets[videos][:, None] + frame].to(torch.float32)
        return maps.view(len(videos), count, 2, *maps.shape[2:]).mean(2)


class FrameScores:
    """What a frame attention sees in a bank, found when first asked; a frame attention that learns on needs a new
    one.
    """

    def __init__(self, frame_attention: FrameAttention, bank: FeatureBank) -> None:
        self.frame_attention, self.bank = frame_attention, bank

    @cached_property
    def both(self) -> tuple[Tensor, Tensor]:
        """Boxes and log-odds, see `FrameAttention.look`."""
        return self.frame_attention.look(self.bank)


class FrameScoresTask(TemporalTask):
    """A `TemporalTask` whose observations also hold what the frame attention says: ``evidence`` (B, P), means of its
    log-odds.

    The means are over the windows of f_o: the span and, with ``context``, its first and last third and surroundings.

    Args:
        told: log-odds of every frame of each sample, packed sample after sample (R,).
    """

    def __init__(self, bank: FeatureBank, local: LocalFeatures, config: TemporalConfig, frame_logits: Tensor) -> None:
        super().__init__(bank, local, config)
        self.frame_logits = frame_logits
        # A frame that is sure beyond doubt must not outweigh all others of its window.
        samples = torch.arange(len(bank), device=bank.device)
        self.means = WindowMeans.of(frame_logits[:, None].clamp(-SUREST, SUREST), local.rows, samples)

    def observe(
        self, samples: Tensor, start: Tensor, end: Tensor, t: Tensor, local: Tensor | None = None
    ) -> dict[str, Tensor]:
        first, last = self.windows(samples, start, end)
        frame_logits = self.means(samples, first, last).squeeze(-1)
        return super().observe(samples, start, end, t, local) | {"frame_scores": frame_logits}

    def dims(self) -> dict[str, tuple[int, ...]]:
        return super().dims() | {"frame_scores": (5 if self.config.context else 1,)}


def static_boxes_of(boxes: Tensor, lengths: Tensor) -> Tensor:
    """One box for all frames of a sample, each side the median of those it had: packed (R, 4), lengths (S,), to (R, 4).

    A frame attention that jumps to another object in a few frames does not move the median.
    """
    middle = torch.stack([part.median(0).values for part in boxes.split(lengths.tolist())])
    return middle.repeat_interleave(lengths, 0)


def changes(seen: Tensor, reach: int) -> Tensor:
    """What is seen ``reach`` rows later less what was seen as much earlier: (B, n, C) to (B, n, C).

    Where an end of the video cuts that short, the difference is stretched to the same time.
    """
    row = torch.arange(seen.shape[1], device=seen.device)
    before, after = (row - reach).clamp(min=0), (row + reach).clamp(max=len(row) - 1)
    return (seen[:, after] - seen[:, before]) * (2 * reach / (after - before).clamp(min=1))[:, None]


def inside_shares(truth: Tensor, count: int) -> Tensor:
    """How much of each of ``count`` equal stretches lies inside a true window: (B, K, 2) fractions to (B, count)."""
    edge = torch.arange(count + 1, device=truth.device, dtype=truth.dtype) / count
    low, high = torch.maximum(edge[:-1], truth[..., :1]), torch.minimum(edge[1:], truth[..., 1:])
    return ((high - low).clamp(min=0) * count).amax(1).to(torch.float32)


def train_frame_attention(
    frame_attention: FrameAttention,
    bank: FeatureBank,
    generator: torch.Generator,
    report: Callable[[int, dict[str, float]], None] | None = None,
    stage: str = "frame attention",
    session: UpdateListener | None = None,
) -> None:
    """Train in place on all samples of a bank; ``session`` as in `agents.strong.ddpg.train`."""
    run(FrameAttentionTraining(frame_attention, bank, generator, stage), report, 10, session)


class FrameAttentionTraining:
    """One training of a `FrameAttention` on all samples of a bank, an update each time; see `agents.training.loop`."""

    def __init__(
        self,
        frame_attention: FrameAttention,
        bank: FeatureBank,
        generator: torch.Generator,
        stage: str = "frame attention",
    ) -> None:
        self.frame_attention, self.bank, self.generator, self.stage = frame_attention, bank, generator, stage
        self.total, self.done, self.iteration = frame_attention.args.steps, 0, 0
        self.optimiser = torch.optim.AdamW(frame_attention.parameters(), frame_attention.args.lr, weight_decay=1e-3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, frame_attention.args.lr, total_steps=self.total
        )
        self.watch = TrainingMonitor(stage, self.total)
        self.loss: Tensor | None = None

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    def reported(self, before: int) -> int:
        """The step that a report of this iteration carries."""
        return before

    def advance(self) -> bool:
        frame_attention, bank, args = self.frame_attention, self.bank, self.frame_attention.args
        samples = torch.randint(len(bank), (args.queries,), generator=self.generator).to(bank.device)
        inside = inside_shares(bank.truth[samples], args.frames)
        loss = nn.functional.binary_cross_entropy_with_logits(frame_attention.logits(bank, samples), inside)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(frame_attention.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.loss = loss.detach()
        self.iteration = self.done = self.done + 1
        return True

    def check(self) -> None:
        if self.loss is not None:
            self.watch.finite(self.done, {"loss": float(self.loss)})

    def look(self) -> dict[str, float]:
        return {"loss": float(self.loss)}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights are those of the frame attention itself."""
        held, groups = optimiser_state(self.optimiser)
        tensors = {f"optimiser.{name}": value for name, value in held.items()}
        tensors["generator"] = self.generator.get_state()
        return tensors, {"done": self.done, "groups": groups}

    def load_state_dict(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Rates and momenta of the cycle stand in the optimiser; the cycle itself needs no more than its place."""
        load_optimiser(self.optimiser, split(tensors, "optimiser."), values["groups"])
        self.generator.set_state(tensors["generator"].cpu())
        self.iteration = self.done = int(values["done"])
        self.schedule.last_epoch, self.schedule._step_count = self.done, self.done + 1


def _over_time(x: Tensor) -> Tensor:
    """Each frame's mean with the frame before and after it: (n, ...) to (n, ...).

    Training looks at means of stretches, so single frames would be noisier than what the frame attention has learnt
    from; scores
    of neighbours agree but for noise, too. On the travel level both together raise coverage from .86 to .95.
    """
    rows = x.flatten(1).t()[None]
    return nn.functional.avg_pool1d(rows, 3, 1, 1, count_include_pad=False)[0].t().reshape(x.shape)


def attention_box(weights: Tensor, height: int, width: int, size: float) -> Tensor:
    """A box of the given size, a share of the frame, where the frame attention rests: (B, h * w) weights to (B, 4)
    corners.

    The centre is the centre of mass of the 3 x 3 cells around the peak: other objects that draw some of the frame
    attention do
    not pull the box between them.
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
