"""Frame evidence: the gaze of STRONG with nothing after it, the reference that says what agents and boxes add.

`agents.strong.frame_attention` learns the log-odds h_m that stretch m of a video lies inside the moment. Were
stretches independent given
the video, the likelihood of a window, against none at all, would be exp of the sum of its h_m; the window with the
largest sum answers, with the box at which the gaze rests in every frame. No window is compared in training, no box is
given, nobody moves. Sums over contiguous frames are old (the largest-sum subarray); here all windows of a grid are
summed, so that they can be ranked. Unlike STRONG's own, this gaze compares what it sees a little before and after each
frame (``change``), without which it cannot tell growing from shrinking where objects move; ``change=0`` is STRONG's.

A system that moves, or that tracks, and learns from this gaze has added something where it is ahead of this row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.ranking import Inputs, RankArgs, WindowSystem
from strong_envs.agents.references.heuristics import windows_on_grid
from strong_envs.agents.registry import Entry, Prediction, register
from strong_envs.agents.strong.frame_attention import Gaze, GazeArgs, inside_shares
from strong_envs.core.validation import check_whole
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError


@dataclass(frozen=True)
class EvidenceArgs(RankArgs):
    """Arguments of `FrameEvidence`; what is not said here is as in `agents.strong.frame_attention.GazeArgs`."""

    steps: int = 1300
    """Updates: as many as the gaze of STRONG has in two turns."""
    batch: int = GazeArgs.queries
    lr: float = GazeArgs.lr
    frames: int = GazeArgs.frames
    """Stretches of each video in training."""
    hidden: int = GazeArgs.hidden
    inside_hidden: int = GazeArgs.inside_hidden
    change: float = 0.05
    """Not part of STRONG's gaze unless asked for: a frame alone does not show whether what moves also grows."""
    cells: int = 40
    """Stretches in a prediction; windows end between two of them."""


class EvidenceNet(nn.Module):
    """The gaze, beside the sizes that it was made for."""

    def __init__(self, inputs: Inputs, gaze: Gaze) -> None:
        super().__init__()
        self.inputs, self.gaze = inputs, gaze


def window_sums(evidence: Tensor) -> Tensor:
    """Sums over every window of `windows_on_grid`, in its order: (B, cells) to (B, cells * (cells + 1) / 2)."""
    count = evidence.shape[1]
    before = nn.functional.pad(evidence.cumsum(1), (1, 0))
    start, end = torch.triu_indices(count + 1, count + 1, 1, device=evidence.device)
    return before[:, end] - before[:, start]


class FrameEvidence(WindowSystem):
    """The window with the largest sum of log-odds, behind the interface of systems; options are `EvidenceArgs`."""

    name = "frame evidence"
    Args = EvidenceArgs
    clip = 1.0

    def candidates(self) -> Tensor:
        return torch.as_tensor(windows_on_grid(self.args.cells), device=self.bank.device)

    def build(self, inputs: Inputs) -> nn.Module:
        args = self.args
        if not (isinstance(self.boxes, str) and self.boxes == "frame"):
            raise DataError("frame evidence looks at all cells of a frame; boxes must stay 'frame'")
        for option in ("frames", "hidden", "inside_hidden", "cells"):
            check_whole(getattr(args, option), option)
        shared = {name: getattr(args, name) for name in ("frames", "hidden", "inside_hidden", "change")}
        return EvidenceNet(inputs, Gaze(self.bank, GazeArgs(**shared), self.seed))

    def optimiser(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimiser = torch.optim.AdamW(self.net.parameters(), self.args.lr, weight_decay=1e-3)
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, self.args.lr, total_steps=steps)

    def examples(self) -> Tensor:
        return torch.ones(len(self.bank), dtype=torch.bool, device=self.bank.device)

    def loss(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        evidence = self.net.gaze.evidence(self.bank, samples)
        inside = inside_shares(self.bank.truth[samples], evidence.shape[1])
        return nn.functional.binary_cross_entropy_with_logits(evidence, inside)

    def score(self, bank: FeatureBank, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the windows' probabilities, every window being as likely as another beforehand."""
        evidence = self.net.gaze.evidence(bank, samples, self.args.cells)
        return window_sums(evidence).log_softmax(-1), self.windows.expand(len(samples), -1, -1)

    def _predict(self, bank: FeatureBank) -> Prediction:
        return replace(super()._predict(bank), boxes=self.net.gaze.boxes(bank))

    def probability(self, scores: Tensor) -> Tensor:
        """Of the window, if stretches were independent: surer than it should be, for neighbours are alike."""
        return scores.exp()

    def check_sizes(self, bank: FeatureBank) -> None:
        super().check_sizes(bank)
        made = len(self.net.gaze.cell_mean)
        if not bank.has_grid or bank.grid_shape[2] != made:
            given = f"cells of {bank.grid_shape[2]}" if bank.has_grid else "no grid"
            raise DataError(f"frame evidence was made for cells of {made} numbers; {bank.name!r} has {given}")


register(
    Entry(
        "frame evidence",
        FrameEvidence,
        "STRONG's gaze alone: the window whose frames speak most for the moment",
        needs_grid=True,
        ranks_candidates=True,
        tracks_boxes=True,
    )
)
