"""CTRL, a cross-modal temporal regression localizer (Gao et al., "TALL", ICCV 2017), on precomputed features.

Sliding windows are matched with a sentence by one network that also corrects their ends.

1. *Clips*. A window is described by three means: its left context, itself, its right context. At the edge of the video
   the window's own mean stands in for the context that is missing.
2. *Embedding*. Linear layers bring clip and sentence to one size; both are scaled to length 1.
3. *Fusion*. For every clip i and sentence j of the batch: [v * s, v + s, v, s], a hidden layer with ReLU, and three
   outputs: score, offset of the start, offset of the end.
4. *Loss*. mean over i, j of (d_ij + 1 / B) log(1 + exp(m_ij score_ij)), d the identity, m = -1 on the diagonal and +1
   off it; plus a weight times the mean absolute error of the offsets on the diagonal.
5. *Training pairs*. Windows with an IoU above 0.5 with the moment and less than 0.15 of themselves outside it.
6. *Test*. All windows are scored and moved by their offsets; non-maximum suppression ranks them.

Known from the authors' code: points 1 to 6, batch 56, Adam, the weight 0.01 with offsets in frames, suppression at the
threshold of the metric minus 0.05, 64 to 512 frames in steps of a fifth, and the learning rate 5e-3 (later code has
1e-3, which is too slow for a training as short as ours).

Deviations:

- *Windows* have lengths relative to the video, fitted to the training moments (`fit_scales`): the same windows serve
  videos of any duration. The context is relative as well, 0.05 of the video; the paper's is 128 frames.
- *Offsets* are fractions of the duration, with a weight of 0.2 instead of 0.01 a frame, and no end moves by more than
  ``reach`` of its window: so there is a bound that the system cannot beat.
- *Batches* are shuffled sentences, each with one of its windows at random; the code shuffles pairs of both.
- *Sizes* are smaller, 128 and 128 instead of 1024 and 1000, for features of some tens of numbers. Inputs are
  standardised. The fused vector is never built: its layer is the sum of four products, three of which need no pairs.
- *The learning rate* falls to zero along a cosine, for the training is short, and weights decay (AdamW).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strong_envs.agents.baselines.candidates import best_iou, context_means, draw, moved, nearest_truth, tall_positives
from strong_envs.agents.baselines.ranking import Inputs, SlidingWindowSystem, WindowArgs, WindowNet, masks_by_sample
from strong_envs.agents.registry import SystemSpec, register
from strong_envs.agents.search_space import Between, OneOf, Space
from strong_envs.features.bank.bank import FeatureBank


@dataclass(frozen=True)
class CtrlArgs(WindowArgs):
    """Arguments of `Ctrl`."""

    steps: int = 8000
    lr: float = 5e-3
    embedding: int = 128
    """Size of the common space; paper 1024."""
    hidden: int = 128
    """Size of the layer after the fusion; paper 1000."""
    context: float = 0.05
    """Reach of the context to either side, as a fraction of the duration."""
    regression: float = 0.2
    """Weight of the offsets' error, which is in fractions of the duration."""
    reach: float = 0.4
    """Share of its length by which an end of a window may move; 0 ranks the windows as they are."""
    weight_decay: float = 0.1
    positive_iou: float = 0.5
    positive_outside: float = 0.15
    intra: float = 0.0
    """Weight of additional negatives: windows of the same video with an IoU below ``negative_iou``. The published loss
    has none, and compares no two windows of one video."""
    negative_iou: float = 0.5


SPACE: Space = {
    "lr": Between(1e-3, 2e-2),
    "weight_decay": Between(1e-3, 1.0),
    "embedding": OneOf(64, 128, 256),
    "hidden": OneOf(64, 128, 256),
    "context": Between(0.02, 0.2),
    "input_dropout": OneOf(None, 0.0, 0.3),
    "intra": OneOf(0.0, 1.0),
}


class Fusion(nn.Module):
    """[v * s, v + s, v, s] through a hidden layer: (..., E) and (..., E), broadcast, to (..., outputs)."""

    def __init__(self, embedding: int, hidden: int, outputs: int = 3) -> None:
        super().__init__()
        self.hidden = nn.Linear(4 * embedding, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, v: Tensor, s: Tensor) -> Tensor:
        """Clips and sentences, broadcast, to (..., outputs)."""
        product, total, clip, sentence = self.hidden.weight.chunk(4, 1)
        # The same sum as on the concatenated vector, but only the product is computed for every pair.
        pairs = F.linear(v * s, product, self.hidden.bias)
        return self.out(torch.relu(pairs + F.linear(v, total + clip) + F.linear(s, total + sentence)))


class CtrlNet(WindowNet):
    """Points 2 and 3: clips and sentences to scores and offsets."""

    def __init__(self, inputs: Inputs, args: CtrlArgs) -> None:
        super().__init__(inputs)
        self.clip = nn.Linear(3 * inputs.frame_dim, args.embedding)
        self.sentence = nn.Linear(inputs.query_dim, args.embedding)
        self.fusion = Fusion(args.embedding, args.hidden)

    def forward(self, clips: Tensor, sentences: Tensor) -> Tensor:
        """Clips (1 or B, N, 3, D) and sentences (B, Dq): every clip with the sentence of its row, (B, N, 3)."""
        v = F.normalize(self.clip(self.inputs.visual(clips).flatten(2)), dim=-1)
        s = F.normalize(self.sentence(self.inputs.sentence(sentences)), dim=-1)
        return self.fusion(v, s[:, None])


def alignment_loss(outputs: Tensor, offsets: Tensor, regression: float) -> Tensor:
    """Point 4: outputs (B, B, 3) of sentence j with clip i, true offsets (B, 2) of the pairs on the diagonal."""
    count = len(outputs)
    same = torch.eye(count, device=outputs.device)
    align = (F.softplus((1 - 2 * same) * outputs[..., 0]) * (same + 1 / count)).mean()
    own = outputs[..., 1:].diagonal().T
    return align + regression * (own - offsets).abs().mean()


class Ctrl(SlidingWindowSystem):
    """CTRL, see the module."""

    name = "ctrl"
    Args = CtrlArgs
    network: ClassVar[type[WindowNet]] = CtrlNet
    args: CtrlArgs

    @property
    def reach(self) -> float:
        """Share of its length by which the system may move each end of a window."""
        return self.args.reach

    def build(self, inputs: Inputs) -> WindowNet:
        """The network of points 2 and 3."""
        return self.network(inputs, self.args)  # type: ignore[call-arg]

    def optimiser(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW with a rate that falls along a cosine."""
        optimiser = torch.optim.AdamW(self.net.parameters(), self.args.lr, weight_decay=self.args.weight_decay)
        return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def examples(self) -> Tensor:
        """Sentences with at least one positive window (point 5)."""
        args = self.args
        self._positive = masks_by_sample(
            self.windows,
            self.bank.truth,
            lambda windows, truth: tall_positives(windows, truth, args.positive_iou, args.positive_outside),
        )
        return self._positive.any(-1)

    def loss(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Point 4 for one random positive window of each sentence."""
        bank = self.bank
        windows = self.windows[draw(self._positive[samples], generator)]
        clips = context_means(self.seen(bank), samples, windows[:, None], self.args.context)
        offsets = nearest_truth(windows, bank.truth[samples]) - windows
        outputs = self.net(clips.transpose(0, 1), bank.query[samples])
        loss = alignment_loss(outputs, offsets.to(outputs.dtype), self.args.regression)
        return loss + self.args.intra * self._own_negatives(samples, generator) if self.args.intra else loss

    def _own_negatives(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of one other window of each sentence's own video, as light as one negative of a batch."""
        bank = self.bank
        far = best_iou(self.windows, bank.truth[samples]) < self.args.negative_iou
        far[:, 0] |= ~far.any(-1)
        windows = self.windows[draw(far, generator)]
        clips = context_means(self.seen(bank), samples, windows[:, None], self.args.context)
        return F.softplus(self.net(clips, bank.query[samples])[:, 0, 0]).mean() / len(samples)

    def score(self, bank: FeatureBank, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Alignment scores, and the windows moved by their offsets (point 6)."""
        windows = self.windows.expand(len(samples), -1, -1)
        clips = context_means(self.seen(bank), samples, windows, self.args.context)
        outputs = self.net(clips, bank.query[samples])
        return outputs[..., 0], moved(windows, outputs[..., 1:], self.args.reach)

    def probability(self, scores: Tensor) -> Tensor:
        """The sigmoid whose logarithm the loss is."""
        return scores.sigmoid()


register(
    SystemSpec(
        "ctrl",
        Ctrl,
        "sliding windows matched with the sentence, ends corrected",
        ranks_candidates=True,
        sees="whole frames",
        learns_from="window labels",
        space=SPACE,
    )
)
