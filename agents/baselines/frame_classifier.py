"""Frame classifier: the frame attention of STRONG alone, the reference that shows what agents and boxes add.

`agents.strong.frame_attention` scores every stretch of a video: which ones are the moment's, given the sentence. A
posterior over all windows of a grid is made of these scores, and the window of highest expected IoU is predicted
(`agents.training.window_posterior`), with the attention box in every frame. No box is given, and nothing moves. Sums
of scores over contiguous frames are old (the largest-sum subarray). Unlike STRONG's own, this frame attention compares
the frames before and after each frame (``change``), without which it cannot tell growing from shrinking where objects
move; ``change=0`` is STRONG's.

What the validation part of the store decides, where it has one: the dropout (one network without and one with much of
it are trained on the same batches, and the better one alone from the middle on), the update of the second half whose
weights are kept, and three factors of the posterior.

A system that moves or tracks with this frame attention adds something where it scores above this row.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.ranking import Inputs, RankArgs, WindowNet, WindowSystem
from strong_envs.agents.references.heuristics import windows_on_grid
from strong_envs.agents.registry import Prediction, SystemSpec, register
from strong_envs.agents.search_space import Between, OneOf, Space
from strong_envs.agents.strong.frame_attention.attention import FrameAttention, FrameAttentionArgs
from strong_envs.agents.strong.frame_attention.training import inside_shares
from strong_envs.agents.training.early_stopping import validation_part
from strong_envs.agents.training.window_posterior import WindowPosterior
from strong_envs.core.sampling import spread
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError

DROPOUTS = (0.0, 0.5)
"""What ``dropout=None`` chooses from on validation: features of drawn objects need none, those of real footage much."""
LOOKS = 20
"""How often the validation part is looked at in a training."""
JUDGED = 400
"""Most validation samples of such a look, and most samples that the posterior is fitted to."""


@dataclass(frozen=True)
class FrameClassifierArgs(RankArgs):
    """Arguments of `FrameClassifier`; see `FrameAttentionArgs` for those without text."""

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
    cells: int = 60
    """Stretches in a prediction; windows end between two of them."""
    objective: str = "both"
    """STRONG's frame attention has ``"labels"``, which place boxes best; here windows count."""
    dropout: float | None = None
    """None chooses on validation, see `DROPOUTS`; without a validation part the number of features decides
    (`dropout_for`)."""
    weight_decay: float = 0.1
    whole_frames: bool = False
    """See the vector of the whole frame in the place of its cells; there is then no attention and no box."""

    def __post_init__(self) -> None:
        super().__post_init__()
        FrameAttentionArgs(objective=self.objective)


SPACE: Space = {
    "lr": Between(1e-3, 3e-2),
    "hidden": OneOf(16, 32, 64),
    "inside_hidden": OneOf(16, 32, 64),
    "change": OneOf(0.0, 0.03, 0.05, 0.1),
    "objective": OneOf("labels", "both"),
    "weight_decay": Between(0.01, 1.0),
}


class FrameClassifierNet(WindowNet):
    """Frame attentions that differ in dropout, one after the training, and the posterior over windows."""

    def __init__(self, inputs: Inputs, rivals: list[FrameAttention], cells: int) -> None:
        super().__init__(inputs)
        self.rivals = nn.ModuleList(rivals)
        self.posterior = WindowPosterior(cells)

    @property
    def frame_attention(self) -> FrameAttention:
        """The frame attention that predicts."""
        chosen = self.rivals[0]
        assert isinstance(chosen, FrameAttention)
        return chosen


class FrameClassifier(WindowSystem):
    """The window of highest expected IoU; options are `FrameClassifierArgs`."""

    name = "frame classifier"
    Args = FrameClassifierArgs
    clip = 1.0
    args: FrameClassifierArgs
    net: FrameClassifierNet
    _open = False
    """Whether a training is on its way."""

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raise `DataError` for arguments outside their range, and for boxes, which it does not look through."""
        super().check_arguments(**arguments)
        if arguments.get("boxes", "frame") != "frame":
            raise DataError("frame classifier reads all cells of a frame; boxes must stay 'frame'")

    @property
    def needs_cells(self) -> bool:
        """Whether the frame attention reads cells."""
        return not self.args.whole_frames

    def candidates(self) -> Tensor:
        """All windows with both ends on the grid."""
        return torch.as_tensor(windows_on_grid(self.args.cells), device=self.bank.device)

    def build(self, inputs: Inputs) -> FrameClassifierNet:
        """The frame attentions of the training split."""
        args = self.args
        if not (isinstance(self.boxes, str) and self.boxes == "frame"):
            raise DataError("frame classifier reads all cells of a frame; boxes must stay 'frame'")
        names = ("frames", "hidden", "inside_hidden", "change", "objective", "whole_frames")
        shared = {name: getattr(args, name) for name in names}
        self._val = validation_part(self.bank) if args.dropout is None else None
        dropouts = (args.dropout,) if self._val is None else DROPOUTS
        rivals = [FrameAttention(self.bank, FrameAttentionArgs(**shared, dropout=p), self.seed) for p in dropouts]
        return FrameClassifierNet(inputs, rivals, args.cells)

    def optimiser(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW with one cycle of the learning rate, as in STRONG."""
        optimiser = torch.optim.AdamW(self.net.parameters(), self.args.lr, weight_decay=self.args.weight_decay)
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, self.args.lr, total_steps=steps)

    def examples(self) -> Tensor:
        """All samples. Prepares the looks at the validation part as well."""
        self._val, self._open = validation_part(self.bank), True
        self._best: list[tuple[float, dict[str, Any]]] = [(float("inf"), {})] * len(self.net.rivals)
        return torch.ones(len(self.bank), dtype=torch.bool, device=self.bank.device)

    def loss(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """The objective of the frame attention, of every rival on the same batch."""
        return torch.stack(self._losses(self.bank, samples)).sum()

    def _losses(self, bank: FeatureBank, samples: Tensor) -> list[Tensor]:
        count = self.args.frames
        cells, query = self.net.frame_attention.inputs(bank, samples, count)
        inside = inside_shares(bank.truth[samples], count)
        return [rival.loss(rival.scores(cells, query), inside) for rival in self._rivals()]

    def _rivals(self) -> list[FrameAttention]:
        return [rival for rival in self.net.rivals if isinstance(rival, FrameAttention)]

    def updated(self, step: int, steps: int) -> None:
        """Keeps the weights that are best on validation; after the last update, chooses and fits the posterior.

        In the first half the learning rate is high and the loss jumps: a low value there chooses the network and no
        weights.
        """
        if self._val is not None and (step % max(steps // LOOKS, 1) == 0 or step == steps):
            self.net.eval()
            for i, (value, rival) in enumerate(zip(self._judge(self._val), self._rivals(), strict=True)):
                if value < self._best[i][0]:
                    self._best[i] = value, copy.deepcopy(rival.state_dict())
            self.net.train()
        if step == steps // 2:
            self._choose()
            self._best = [(float("inf"), {})] * len(self._best)
        if step == steps:
            self._finish()

    @torch.no_grad()
    def _judge(self, bank: FeatureBank) -> list[float]:
        """The loss of every rival on samples spread over a bank."""
        samples = spread(len(bank), JUDGED, bank.device)
        parts = [torch.stack(self._losses(bank, part)) * len(part) for part in samples.split(100)]
        return (torch.stack(parts).sum(0) / len(samples)).tolist()

    def _choose(self) -> None:
        """Go on with the rival that has been best on validation; the optimiser keeps the state of the others unused."""
        if self._val is not None:
            chosen = min(range(len(self._best)), key=lambda i: self._best[i][0])
            self.net.rivals = nn.ModuleList([self._rivals()[chosen]])
            self._best = [self._best[chosen]]

    def _finish(self) -> None:
        self._choose()
        (chosen,) = self._rivals()
        if self._val is not None and self._best[0][1]:
            chosen.load_state_dict(self._best[0][1])
        self.args = replace(self.args, dropout=chosen.dropout)
        self._open = False
        self._fit_posterior()

    def _fit_posterior(self) -> None:
        """Fit the posterior to the scores of the frame attention that predicts."""
        self.net.eval()
        bank = self.bank if self._val is None else self._val
        samples = spread(len(bank), JUDGED, bank.device)
        attention = self.net.frame_attention
        with torch.no_grad():
            scores = torch.cat([attention.logits(bank, part, self.args.cells) for part in samples.split(50)])
        self.net.posterior.fit_lengths(self.bank.truth)
        self.net.posterior.fit(scores, bank.truth[samples])

    def score(self, bank: FeatureBank, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Expected IoU of every window."""
        logits = self.net.frame_attention.logits(bank, samples, self.args.cells)
        return self.net.posterior.expected_iou(logits), self.windows.expand(len(samples), -1, -1)

    def _predict(self, bank: FeatureBank) -> Prediction:
        if not self._open:
            return self._answers(bank)
        # On the way, for the learning curve: the rival that is ahead answers as it would if training ended now.
        rivals = self._rivals()
        ahead = min(range(len(rivals)), key=lambda i: self._best[i][0])
        self.net.rivals = nn.ModuleList([rivals[ahead]])
        try:
            self._fit_posterior()
            return self._answers(bank)
        finally:
            self.net.rivals = nn.ModuleList(rivals)

    def _answers(self, bank: FeatureBank) -> Prediction:
        found = super()._predict(bank)
        return found if self.args.whole_frames else replace(found, boxes=self.net.frame_attention.boxes(bank))

    def save(self, path: str) -> None:
        """Write the frame attention that predicts; before the training that is the first of the rivals."""
        rivals, args = self.net.rivals, self.args
        self.net.rivals = nn.ModuleList([self.net.frame_attention])
        self.args = replace(args, dropout=self.net.frame_attention.dropout)
        try:
            super().save(path)
        finally:
            self.net.rivals, self.args = rivals, args

    def probability(self, scores: Tensor) -> Tensor:
        """Expected IoU of the window, by the posterior."""
        return scores.clamp(0, 1)

    def check_sizes(self, bank: FeatureBank) -> None:
        """Refuse a bank whose cells are not as large as those of the training."""
        super().check_sizes(bank)
        if self.args.whole_frames:
            return
        made = len(self.net.frame_attention.cell_scale.shift)
        if not bank.has_grid or bank.grid_shape[2] != made:
            given = f"cells of {bank.grid_shape[2]}" if bank.has_grid else "no grid"
            raise DataError(f"frame classifier was made for cells of {made} numbers; {bank.name!r} has {given}")


register(
    SystemSpec(
        "frame classifier",
        FrameClassifier,
        "STRONG's frame attention alone: the window of highest expected IoU given the scores of all frames",
        needs_grid=True,
        ranks_candidates=True,
        tracks_boxes=True,
        sees="grid",
        learns_from="frame labels",
        space=SPACE,
    )
)
register(
    SystemSpec(
        "frame classifier (whole frames)",
        FrameClassifier,
        "the same on the vectors of whole frames, without attention and boxes",
        ranks_candidates=True,
        defaults={"whole_frames": True},
        sees="whole frames",
        learns_from="frame labels",
        space=SPACE,
    )
)
