"""ACRN, an attentive cross-modal retrieval network (Liu et al., "Attentive moment retrieval in videos", SIGIR 2018).

CTRL with two parts replaced: the sentence decides how much of the context enters a clip, and clip and sentence are
fused by the products of all pairs of their numbers.

1. *Memory attention*. x_0, x_1, x_2 are the means of the left context, the clip and the right context through one
   linear layer, s is the sentence through another. e_j = sum_d tanh(s)_d tanh(x_0 + ... + x_j)_d, the weights are the
   softmax of e over j, and v is the weighted sum of the x_j. v and s are scaled to length 1.
2. *Fusion*. [v, s, all products of avgpool16(v) and avgpool16(s)], a hidden layer with ReLU, three outputs as in CTRL.
3. *Loss, training pairs, test*. As CTRL; Adam 1e-4, batch 30.

Known from public code, second hand: sizes (1024, 1000), the sums in the attention, the pooling, batch and learning
rate. The code itself was not at hand when this was written.

Deviations:

- Windows, context, offsets, batches, standardised inputs and the schedule are those of `agents.baselines.ctrl`, for
  the same reasons, so that the two differ in what their papers differ in.
- *Sizes* are 128 and 128, the pooling averages 8 numbers instead of 16: 16 x 16 products. The learning rate is that of
  `agents.baselines.ctrl`, 5e-3, for the training is many times shorter than the original.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strong_envs.agents.baselines.ctrl import SPACE as CTRL_SPACE
from strong_envs.agents.baselines.ctrl import Ctrl, CtrlArgs
from strong_envs.agents.baselines.ranking import Inputs, WindowNet
from strong_envs.agents.registry import SystemSpec, register
from strong_envs.agents.search_space import OneOf, Space
from strong_envs.features.errors import DataError


@dataclass(frozen=True)
class AcrnArgs(CtrlArgs):
    """Arguments of `Acrn`."""

    batch: int = 30
    pool: int = 8
    """Neighbouring numbers that are averaged before the products, paper 16; divides ``embedding``."""

    contexts: bool = True
    """Whether the sentence weighs the contexts and the clip, as published; False leaves the clip alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding % self.pool:
            raise DataError(f"pool must divide the embedding, {self.embedding}; got {self.pool}")


SPACE: Space = {**CTRL_SPACE, "pool": OneOf(4, 8, 16), "contexts": OneOf(True, False)}


def memory_attention(parts: Tensor, sentences: Tensor) -> Tensor:
    """Point 1: parts (A, N, 3, E) with sentences (B, E), A is 1 or B, to the weights (B, N, 3)."""
    keys, asked = torch.tanh(parts.cumsum(-2)), torch.tanh(sentences)
    return (keys @ asked[:, None, :, None]).squeeze(-1).softmax(-1)


class TensorFusion(nn.Module):
    """Point 2: clips (B, N, E) with sentences (B, E) to (B, N, outputs)."""

    def __init__(self, embedding: int, hidden: int, pool: int, outputs: int = 3) -> None:
        super().__init__()
        self.pool, self.pooled = pool, embedding // pool
        self.hidden = nn.Linear(2 * embedding + self.pooled**2, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, v: Tensor, s: Tensor) -> Tensor:
        """Clips (B, N, E) with sentences (B, E) to (B, N, outputs)."""
        size = v.shape[-1]
        clip, sentence, product = self.hidden.weight.split((size, size, self.pooled**2), 1)
        few_v, few_s = (F.avg_pool1d(x.flatten(0, -2)[:, None], self.pool)[:, 0] for x in (v, s))
        # The same sum as on all products of a pair: the sentence's numbers go into the weights once for all clips.
        folded = torch.einsum("bq,hpq->bhp", few_s, product.view(-1, self.pooled, self.pooled))
        pairs = torch.einsum("bnp,bhp->bnh", few_v.view(*v.shape[:-1], -1), folded)
        alone = F.linear(s, sentence, self.hidden.bias)[:, None]
        return self.out(torch.relu(pairs + F.linear(v, clip) + alone))


class AcrnNet(WindowNet):
    """Clips and sentences to scores and offsets."""

    def __init__(self, inputs: Inputs, args: AcrnArgs) -> None:
        super().__init__(inputs)
        self.contexts = args.contexts
        self.part = nn.Linear(inputs.frame_dim, args.embedding)
        self.sentence = nn.Linear(inputs.query_dim, args.embedding)
        self.fusion = TensorFusion(args.embedding, args.hidden, args.pool)

    def forward(self, clips: Tensor, sentences: Tensor) -> Tensor:
        """Clips (1 or B, N, 3, D) and sentences (B, Dq): every clip with the sentence of its row, (B, N, 3)."""
        parts = self.part(self.inputs.visual(clips))
        s = self.sentence(self.inputs.sentence(sentences))
        v = (memory_attention(parts, s)[..., None, :] @ parts).squeeze(-2) if self.contexts else parts[..., 1, :]
        return self.fusion(F.normalize(v, dim=-1), F.normalize(s, dim=-1))


class Acrn(Ctrl):
    """ACRN, see the module."""

    name = "acrn"
    Args = AcrnArgs
    network = AcrnNet
    args: AcrnArgs


register(
    SystemSpec(
        "acrn",
        Acrn,
        "CTRL with attention over its context and products as fusion",
        ranks_candidates=True,
        sees="whole frames",
        learns_from="window labels",
        space=SPACE,
    )
)
