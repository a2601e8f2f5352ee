"""Training of the frame attention: every frame inside or outside the moment, answered by the truth in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from strong_envs.agents.strong.cell_attention.cells import lattice
from strong_envs.agents.strong.frame_attention.attention import FrameAttention
from strong_envs.agents.training.checkpoint import Count
from strong_envs.agents.training.health import TrainingMonitor
from strong_envs.agents.training.loop import UpdateListener, load_optimiser, optimiser_state, run, split
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.devices import sent


@contextmanager
def seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Dropout draws from torch's own generator: seed it by one of ours, so that a resumed training draws the same."""
    if generator is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


class Progress(msgspec.Struct):
    """State of a training beside its tensors."""

    done: Count
    groups: list[dict[str, Any]]


def inside_shares(truth: Tensor, count: int) -> Tensor:
    """Share of each of ``count`` equal stretches that lies inside the true windows: (B, K, 2) fractions to (B, count).

    Windows may overlap or repeat; what several of them cover counts once.
    """
    edge = torch.arange(count + 1, device=truth.device, dtype=truth.dtype) / count
    order = truth[..., 0].argsort(dim=1)
    truth = truth.gather(1, order[..., None].expand_as(truth))
    # A window counts from where the windows before it end.
    covered = nn.functional.pad(truth[..., 1], (1, -1)).cummax(1).values
    begin = torch.maximum(truth[..., 0], covered)[..., None]
    low, high = torch.maximum(edge[:-1], begin), torch.minimum(edge[1:], truth[..., 1:])
    return ((high - low).clamp(min=0) * count).sum(1).to(torch.float32)


def train_frame_attention(
    frame_attention: FrameAttention,
    bank: FeatureBank,
    generator: torch.Generator,
    report: Callable[[int, dict[str, float]], None] | None = None,
    stage: str = "frame attention",
    session: UpdateListener | None = None,
    windows: Tensor | None = None,
) -> None:
    """Train in place on all samples of a bank.

    Args:
        frame_attention: trained in place.
        bank: the training split.
        generator: draws the samples.
        report: called with the step and scalars of the log.
        stage: name of this training, for messages.
        session: writes checkpoints and resumes from one, see `agents.training.session.Session`.
        windows: (S, K, 2) fractions, what counts as the moments; None: the true ones.
    """
    training = FrameAttentionTraining(frame_attention, bank, generator, stage, windows=windows)
    run(training, report, 10, session)


def stretch_maps(frame_attention: FrameAttention, bank: FeatureBank) -> Tensor:
    """Cells of the stretches of all videos as a training sees them: (V, frames, h * w, C) half precision."""
    videos = torch.arange(len(bank.videos), device=bank.device)
    parts = [frame_attention.stretch_cells(bank, part, frame_attention.args.frames) for part in videos.split(16)]
    return torch.cat([part.to(torch.float16) for part in parts])


class FrameAttentionTraining:
    """One training of a `FrameAttention`, an update each time; see `agents.training.loop`.

    ``samples`` (n,) are those of the bank that it learns from, None: all. ``maps`` are the `stretch_maps` of another
    training on the same bank, which a lattice reads. ``windows`` (S, K, 2) stand for the moments, None: the true ones.
    """

    def __init__(
        self,
        frame_attention: FrameAttention,
        bank: FeatureBank,
        generator: torch.Generator,
        stage: str = "frame attention",
        samples: Tensor | None = None,
        maps: Tensor | None = None,
        windows: Tensor | None = None,
    ) -> None:
        self.frame_attention, self.bank, self.generator, self.stage = frame_attention, bank, generator, stage
        self.samples = samples
        self.windows = bank.truth if windows is None else windows
        lattice_of_cells = frame_attention.args.lattice > 1 and not frame_attention.args.whole_frames
        self.maps = (stretch_maps(frame_attention, bank) if maps is None else maps) if lattice_of_cells else None
        self.total, self.done, self.iteration = frame_attention.args.steps, 0, 0
        args = frame_attention.args
        self.optimiser = torch.optim.AdamW(frame_attention.parameters(), args.lr, weight_decay=args.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, frame_attention.args.lr, total_steps=self.total
        )
        self.monitor = TrainingMonitor(stage, self.total)
        self.loss: Tensor | None = None

    @property
    def finished(self) -> bool:
        """Whether all updates are made."""
        return self.done >= self.total

    def reported(self, before: int) -> int:
        """The step that a report of this iteration carries."""
        return before

    def advance(self) -> bool:
        """One update from random samples."""
        frame_attention, bank, args = self.frame_attention, self.bank, self.frame_attention.args
        count = len(bank) if self.samples is None else len(self.samples)
        samples = sent(torch.randint(count, (args.queries,), generator=self.generator), bank.device)
        if self.samples is not None:
            samples = self.samples[samples]
        inside = inside_shares(self.windows[samples], args.frames)
        with seeded(self.generator if frame_attention.dropout else None):
            frame_attention.train()
            loss = frame_attention.loss(self._logits(samples), inside)
            frame_attention.eval()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(frame_attention.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.loss = loss.detach()
        self.iteration = self.done = self.done + 1
        return True

    def _logits(self, samples: Tensor) -> Tensor:
        """Scores of the stretches of samples, from all cells or those of a lattice: (B, frames)."""
        frame_attention, bank = self.frame_attention, self.bank
        if self.maps is None:
            return frame_attention.logits(bank, samples)
        height, width, _ = bank.grid_shape
        at = sent(lattice(height, width, frame_attention.args.lattice, self.generator), bank.device)
        stretch = torch.arange(self.maps.shape[1], device=bank.device)
        cells = self.maps[bank.video[samples][:, None, None], stretch[:, None], at]
        return frame_attention.scores(cells.to(torch.float32), frame_attention.query(bank, samples))

    def check(self) -> None:
        """Raise `TrainingDiverged` for a loss that is not finite."""
        if self.loss is not None:
            self.monitor.finite(self.done, {"loss": float(self.loss)})

    def scalars(self) -> dict[str, float]:
        """The loss."""
        return {} if self.loss is None else {"loss": float(self.loss)}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights are those of the frame attention itself."""
        held, groups = optimiser_state(self.optimiser)
        tensors = {f"optimiser.{name}": value for name, value in held.items()}
        tensors["generator"] = self.generator.get_state()
        return tensors, {"done": self.done, "groups": groups}

    def load_state_dict(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Rates and momenta of the cycle stand in the optimiser; the cycle itself needs no more than its place."""
        progress = msgspec.convert(values, Progress)
        load_optimiser(self.optimiser, split(tensors, "optimiser."), progress.groups)
        self.generator.set_state(tensors["generator"].cpu())
        self.iteration = self.done = progress.done
        self.schedule.last_epoch, self.schedule._step_count = self.done, self.done + 1
