"""Where the temporal level looks: attention over the cells of every frame, trained by the temporal truth alone.

The paper's attentions (Eqs. 2-3 and 13-14) weigh whole frames. This one weighs the cells inside a frame, given the
query: w = softmax(v . relu((W c) * (A q) + B q)), c a cell with its neighbours, and f_o of a frame is the weighted mean
of its cells. It is part of a critic, Q of [f_e, l, f_o, f_g, context], that learns what every move would pay in windows
drawn at random (Eq. 5; training knows the truth in time). Boxes play no part. Yet to value moves right the critic must
see the object that the sentence names and no other, so its attention comes to rest there.

That makes it the signal between the levels that Eq. 11 wants and does not give: max Q is optimism, while the gaze says
in every frame where the evidence is. `agents.strong` pays the spatial level for following it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agents.loops import Ticker, load_optimiser, optimiser_state, run, split
from agents.watch import Watch
from features.bank import FeatureBank
from strong_envs.spans import frame_window
from strong_envs.temporal_task import TemporalTask, random_windows


@dataclass(frozen=True)
class GazeArgs:
    """Arguments of `Gaze` and its training."""

    steps: int = 650
    """Updates in one training; learning rates rise and fall once over them."""
    queries: int = 32
    """Queries in an update."""
    windows: int = 16
    """Random windows of each query: the gaze is computed once for all of them."""
    frames: int = 20
    """Frames looked at of each video, evenly spread; longer stretches are averaged."""
    lr: float = 6e-3
    hidden: int = 32
    value_hidden: int = 256
    size: float = 0.3
    """Sides of the box around the peak of the gaze, in fractions of the frame."""


class Gaze(nn.Module):
    """Attention over cells and the critic that trains it.

    Args:
        bank: the training split; its features set the scale of the inputs. args: see `GazeArgs`.
    """

    def __init__(self, bank: FeatureBank, n_actions: int, args: GazeArgs, seed: int = 0) -> None:
        super().__init__()
        self.args = args
        channels, query = bank.grid_shape[2], bank.query_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.cell = nn.Linear(channels, args.hidden)
            self.gate = nn.Linear(query, args.hidden)
            self.shift = nn.Linear(query, args.hidden)
            self.score = nn.Linear(args.hidden, 1)
            inputs = query + 2 + 6 * channels
            width = args.value_hidden
            self.value = nn.Sequential(
                nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_actions)
            )
        sample = bank.grid.flatten(0, 2)
        sample = sample[:: max(len(sample) // 100_000, 1)].to(torch.float32)
        self.register_buffer("cell_mean", sample.mean(0))
        self.register_buffer("cell_scale", 1 / sample.std(0).clamp(min=1e-4))
        self.register_buffer("query_mean", bank.query.mean(0))
        self.register_buffer("query_scale", 1 / bank.query.std(0).clamp(min=1e-3))

    @torch.no_grad()
    def boxes(self, bank: FeatureBank) -> Tensor:
        """Where the gaze rests in all frames of all samples: corners, packed sample after sample (R, 4) float32."""
        lengths = bank.n_frames[bank.video]
        first = torch.cat((lengths.new_zeros(1), lengths.cumsum(0))).tolist()
        out = torch.empty((first[-1], 4), device=bank.device)
        height, width, _ = bank.grid_shape
        order = torch.argsort(bank.video, stable=True)
        counts = torch.bincount(bank.video, minlength=len(bank.videos)).tolist()
        offsets = bank.offsets.tolist()
        for video, samples in enumerate(order.split(counts)):
            # The samples of a video share its cells; one after the other they stay in the processor's cache.
            cells = self.cell(_over_time(self._cells(bank.grid[offsets[video] : offsets[video + 1]])))
            query = self._query(bank, samples)
            scores = [
                _over_time(self.score(torch.addcmul(shift, cells, gate).relu_()))
                for gate, shift in zip(self.gate(query), self.shift(query), strict=True)
            ]
            weights = torch.stack(scores).squeeze(-1).softmax(-1)
            found = gaze_box(weights.flatten(0, 1), height, width, self.args.size).unflatten(0, weights.shape[:2])
            for sample, part in zip(samples.tolist(), found, strict=True):
                out[first[sample] : first[sample + 1]] = part
        return out

    def _query(self, bank: FeatureBank, samples: Tensor) -> Tensor:
        return (bank.query[samples] - self.query_mean) * self.query_scale

    def _cells(self, maps: Tensor) -> Tensor:
        """Standardised cells averaged with their neighbours: (..., h, w, C) to (..., h * w, C)."""
        x = ((maps.to(torch.float32) - self.cell_mean) * self.cell_scale).flatten(0, -4)
        x = nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=False)
        return x.flatten(2).transpose(1, 2).reshape(*maps.shape[:-3], -1, maps.shape[-1])

    def _attend(self, cells: Tensor, query: Tensor) -> Tensor:
        """Cells (B, M, k, C) and queries (B, Dq) to weights (B, M, k)."""
        gate, shift = self.gate(query)[:, None, None], self.shift(query)[:, None, None]
        return self.score(torch.relu(self.cell(cells) * gate + shift)).squeeze(-1).softmax(-1)

    def q_values(self, task: TemporalTask, samples: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Values of all moves from windows (B, W) in steps of samples (B,): (B, W, A)."""
        bank, count = task.bank, self.args.frames
        videos = bank.video[samples]
        cells = self._cells(self._spread(bank, videos, count))
        query = self._query(bank, samples)
        seen = torch.einsum("bmk,bmkc->bmc", self._attend(cells, query), cells)
        prefix = torch.cat((seen.new_zeros(len(seen), 1, seen.shape[-1]), seen.cumsum(1)), 1)
        total = task.config.total
        flat_start, flat_end = start.flatten(), end.flatten()
        first, last = frame_window(flat_start, flat_end, total, torch.full_like(flat_start, count))
        third, reach = (last - first + 2) // 3, max(round(2 * count / total), 1)
        lows = torch.stack((first, first, last - third, (first - reach).clamp(min=0), last), -1)
        highs = torch.stack((last, first + third, last, first, (last + reach).clamp(max=count)), -1)
        shape = (len(samples), -1)
        row = torch.arange(len(samples), device=bank.device)[:, None]
        low, high = lows.view(shape), highs.view(shape)
        means = (prefix[row, high] - prefix[row, low]) / (high - low).clamp(min=1)[..., None]
        means = means.view(*start.shape, -1)
        location = torch.stack((start, end), -1).to(torch.float32) / total
        wide = (seen.mean(1), query)
        scene, said = (part[:, None].expand(*start.shape, part.shape[-1]) for part in wide)
        return self.value(torch.cat((said, location, means, scene), -1))

    @staticmethod
    def _spread(bank: FeatureBank, videos: Tensor, count: int) -> Tensor:
        """``count`` maps per video, (B, count, h, w, C): means of equal stretches, or frames repeated in short ones."""
        n = bank.n_frames[videos].to(torch.float64)[:, None]
        pair = torch.arange(2 * count, device=bank.device)
        # Two looks into each stretch: averaging halves the noise at little cost.
        frame = ((pair + 0.5) * n / (2 * count)).floor().to(torch.int64)
        maps = bank.grid[bank.offsets[videos][:, None] + frame].to(torch.float32)
        return maps.view(len(videos), count, 2, *maps.shape[2:]).mean(2)


def still_boxes(boxes: Tensor, lengths: Tensor) -> Tensor:
    """One box for all frames of a sample, each side the median of those it had: packed (R, 4), lengths (S,), to (R, 4).

    A gaze that jumps to another object in a few frames does not move the median.
    """
    middle = torch.stack([part.median(0).values for part in boxes.split(lengths.tolist())])
    return middle.repeat_interleave(lengths, 0)


def train_gaze(
    gaze: Gaze,
    task: TemporalTask,
    generator: torch.Generator,
    report: Callable[[int, dict[str, float]], None] | None = None,
    stage: str = "gaze",
    session: Ticker | None = None,
) -> None:
    """Train in place on all samples of the task's bank; ``session`` as in `agents.ddpg.train`."""
    run(GazeTraining(gaze, task, generator, stage), report, 10, session)


class GazeTraining:
    """One training of a `Gaze` on all samples of a task's bank, an update each time; see `agents.loops`."""

    def __init__(self, gaze: Gaze, task: TemporalTask, generator: torch.Generator, stage: str = "gaze") -> None:
        self.gaze, self.task, self.generator, self.stage = gaze, task, generator, stage
        self.total, self.done, self.iteration = gaze.args.steps, 0, 0
        self.optimiser = torch.optim.AdamW(gaze.parameters(), gaze.args.lr, weight_decay=1e-3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, gaze.args.lr, total_steps=self.total)
        self.watch = Watch(stage, self.total)
        self.loss: Tensor | None = None

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    def reported(self, before: int) -> int:
        """The step that a report of this iteration carries."""
        return before

    def advance(self) -> bool:
        gaze, task, args, device = self.gaze, self.task, self.gaze.args, self.task.bank.device
        samples = torch.randint(len(task.bank), (args.queries,), generator=self.generator).to(device)
        start, end = random_windows((args.queries, args.windows), task.config.total, self.generator)
        start, end = start.to(device), end.to(device)
        wide = samples.repeat_interleave(args.windows)
        pays = task.move_rewards(wide, start.flatten(), end.flatten())
        loss = nn.functional.mse_loss(gaze.q_values(task, samples, start, end).flatten(0, 1), pays)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(gaze.parameters(), 1.0)
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
        """The weights are those of the gaze itself."""
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

    Training looks at means of stretches, so single frames would be noisier than what the gaze has learnt from; scores
    of neighbours agree but for noise, too. On the travel level both together raise coverage from .86 to .95.
    """
    rows = x.flatten(1).t()[None]
    return nn.functional.avg_pool1d(rows, 3, 1, 1, count_include_pad=False)[0].t().reshape(x.shape)


def gaze_box(weights: Tensor, height: int, width: int, size: float) -> Tensor:
    """A box of the given size, a share of the frame, where the gaze rests: (B, h * w) weights to (B, 4) corners.

    The centre is the centre of mass of the 3 x 3 cells around the peak: other objects that draw some of the gaze do
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
