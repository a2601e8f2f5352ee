"""Frame classifier: the frame attention of STRONG alone, the reference that shows what agents and boxes add.

`agents.strong.frame_attention` learns the log-odds h_m that stretch m of a video lies inside the moment. Were stretches
independent given the video, the likelihood ratio of a window against no window would be exp of the sum of its h_m. The
window with the largest sum is predicted, with the attention box in every frame. No window is compared in training, no
box is given, and nothing moves. Sums over contiguous frames are old (the largest-sum subarray); here all windows of a
grid are summed, so that they can be ranked. Unlike STRONG's own, this frame attention compares the frames before and
after each frame (``change``), without which it cannot tell growing from shrinking where objects move; ``change=0`` is
STRONG's.

A system that moves or tracks with this frame attention adds something where it scores above this row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.ranking import Inputs, RankArgs, WindowNet, WindowSystem
from strong_envs.agents.references.heuristics import windows_on_grid
from strong_envs.agents.registry import Prediction, SystemSpec, register
from strong_envs.agents.strong.frame_attention import FrameAttention, FrameAttentionArgs
from strong_envs.agents.strong.frame_attention_training import inside_shares
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError


@dataclass(frozen=True)
class FrameClassifierArgs(RankArgs):
    """Arguments of `FrameClassifier`; see `agents.strong.frame_attention.FrameAttentionArgs` for those without text."""

    steps: int = 1300
    """Updates: as many as the frame attention of STRONG has in two turns."""
    batch: int = FrameAttentionArgs.queries
    lr: float = FrameAttentionArgs.lr
    frames: int = FrameAttentionArgs.frames
    """Stretches of each video in training."""
    hidden: int = FrameAttentionArgs.hidden
    inside_hidden: int = FrameAttentionArgs.inside_hidden
    change: float = 0.05
    """STRONG's frame attention has 0 by default: a frame alone does not show whether a moving object also grows."""
    cells: int = 40
    """Stretches in a prediction; windows end between two of them."""


class FrameClassifierNet(WindowNet):
    """The frame attention, beside the inputs of the training split."""

    def __init__(self, inputs: Inputs, frame_attention: FrameAttention) -> None:
        super().__init__(inputs)
        self.frame_attention = frame_attention


def window_sums(logits: Tensor) -> Tensor:
    """Sums over every window of `windows_on_grid`, in its order: (B, cells) to (B, cells * (cells + 1) / 2)."""
    count = logits.shape[1]
    before = nn.functional.pad(logits.cumsum(1), (1, 0))
    start, end = torch.triu_indices(count + 1, count + 1, 1, device=logits.device)
    return before[:, end] - before[:, start]


class FrameClassifier(WindowSystem):
    """The window with the largest sum of log-odds; options are `FrameClassifierArgs`."""

    name = "frame classifier"
    Args = FrameClassifierArgs
    clip = 1.0
    args: FrameClassifierArgs
    net: FrameClassifierNet

    @property
    def needs_cells(self) -> bool:
        """The frame attention reads cells."""
        return True

    def candidates(self) -> Tensor:
        """All windows with both ends on the grid."""
        return torch.as_tensor(windows_on_grid(self.args.cells), device=self.bank.device)

    def build(self, inputs: Inputs) -> FrameClassifierNet:
        """The frame attention of the training split."""
        args = self.args
        if not (isinstance(self.boxes, str) and self.boxes == "frame"):
            raise DataError("frame classifier reads all cells of a frame; boxes must stay 'frame'")
        shared = {name: getattr(args, name) for name in ("frames", "hidden", "inside_hidden", "change")}
        return FrameClassifierNet(inputs, FrameAttention(self.bank, FrameAttentionArgs(**shared), self.seed))

    def optimiser(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW with one cycle of the learning rate, as in STRONG."""
        optimiser = torch.optim.AdamW(self.net.parameters(), self.args.lr, weight_decay=1e-3)
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, self.args.lr, total_steps=steps)

    def examples(self) -> Tensor:
        """All samples."""
        return torch.ones(len(self.bank), dtype=torch.bool, device=self.bank.device)

    def loss(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Binary cross-entropy of the stretches' log-odds."""
        logits = self.net.frame_attention.logits(self.bank, samples)
        inside = inside_shares(self.bank.truth[samples], logits.shape[1])
        return nn.functional.binary_cross_entropy_with_logits(logits, inside)

    def score(self, bank: FeatureBank, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the windows' probabilities, every window being as likely as another beforehand."""
        logits = self.net.frame_attention.logits(bank, samples, self.args.cells)
        return window_sums(logits).log_softmax(-1), self.windows.expand(len(samples), -1, -1)

    def _predict(self, bank: FeatureBank) -> Prediction:
        return replace(super()._predict(bank), boxes=self.net.frame_attention.boxes(bank))

    def probability(self, scores: Tensor) -> Tensor:
        """Probability of the window if stretches were independent; too high, because neighbours are alike."""
        return scores.exp()

    def check_sizes(self, bank: FeatureBank) -> None:
        """Refuse a bank whose cells are not as large as those of the training."""
        super().check_sizes(bank)
        made = len(self.net.frame_attention.cell_mean)
        if not bank.has_grid or bank.grid_shape[2] != made:
            given = f"cells of {bank.grid_shape[2]}" if bank.has_grid else "no grid"
            raise DataError(f"frame classifier was made for cells of {made} numbers; {bank.name!r} has {given}")


register(
    SystemSpec(
        "frame classifier",
        FrameClassifier,
        "STRONG's frame attention alone: the window with the largest sum of frame log-odds",
        needs_grid=True,
        ranks_candidates=True,
        tracks_boxes=True,
        sees="grid",
        learns_from="frame labels",
    )
)
