"""Bilinear logistic regression on query and frames, with the best window by its posterior: the plainest learner.

Every frame has the score ``q W f + b f + c q + d``, q the sentence and f the vector of the whole frame, and a logistic
regression fits W, b, c and d to whether a frame lies inside the moment. A posterior over windows is made of the scores,
and the window of highest expected IoU is the answer (`agents.training.window_posterior`). No layer is hidden, nothing
is recurrent, and nothing moves: a system on whole frames that is below this row makes little of what it sees.

The posterior is fitted on the validation part where the store has one, else on the training part; the amount of weight
decay is a setting.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.candidates import window_means
from strong_envs.agents.baselines.ranking import Inputs, RankArgs, WindowNet, WindowSystem
from strong_envs.agents.references.heuristics import windows_on_grid
from strong_envs.agents.registry import Prediction, SystemSpec, register
from strong_envs.agents.search_space import Between, OneOf, Space
from strong_envs.agents.strong.frame_attention.training import inside_shares
from strong_envs.agents.training.early_stopping import validation_part
from strong_envs.agents.training.window_posterior import WindowPosterior
from strong_envs.features.bank.bank import FeatureBank

FITTED = 400
"""Most samples that the posterior is fitted to."""


@dataclass(frozen=True)
class BilinearArgs(RankArgs):
    """Arguments of `Bilinear`."""

    steps: int = 3000
    batch: int = 64
    lr: float = 1e-2
    weight_decay: float = 0.1
    cells: int = 60
    """Equal stretches of a video; windows end between two of them."""


SPACE: Space = {
    "lr": Between(1e-3, 0.1),
    "weight_decay": Between(1e-3, 10.0),
    "batch": OneOf(32, 64, 128),
    "input_dropout": OneOf(None, 0.0, 0.3),
}


class BilinearNet(WindowNet):
    """The score of every stretch, and the posterior over windows."""

    def __init__(self, inputs: Inputs, cells: int) -> None:
        super().__init__(inputs)
        self.frame = nn.Linear(inputs.query_dim, inputs.frame_dim + 1)
        self.plain = nn.Linear(inputs.frame_dim, 1, bias=False)
        self.posterior = WindowPosterior(cells)
        for parameter in (*self.frame.parameters(), *self.plain.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, means: Tensor, sentences: Tensor) -> Tensor:
        """Means of stretches (B, P, D) and sentences (B, Dq) to logits (B, P)."""
        seen = self.inputs.visual(means)
        weights = self.frame(self.inputs.sentence(sentences))
        product = (seen @ weights[:, :-1, None]).squeeze(-1)
        return product + self.plain(seen).squeeze(-1) + weights[:, -1:]


class Bilinear(WindowSystem):
    """Bilinear logistic regression, see the module; options are `BilinearArgs`."""

    name = "bilinear regression"
    Args = BilinearArgs
    args: BilinearArgs
    net: BilinearNet
    _open = False
    """Whether a training is on its way."""

    def candidates(self) -> Tensor:
        """All windows with both ends on the grid."""
        return torch.as_tensor(windows_on_grid(self.args.cells), device=self.bank.device)

    def build(self, inputs: Inputs) -> BilinearNet:
        """The weights, all zero."""
        return BilinearNet(inputs, self.args.cells)

    def optimiser(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW with a rate that falls along a cosine."""
        optimiser = torch.optim.AdamW(self.net.parameters(), self.args.lr, weight_decay=self.args.weight_decay)
        return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def examples(self) -> Tensor:
        """All samples."""
        self._open = True
        return torch.ones(len(self.bank), dtype=torch.bool, device=self.bank.device)

    def logits(self, bank: FeatureBank, samples: Tensor) -> Tensor:
        """Scores (B, cells) of samples (B,)."""
        cells = self.args.cells
        edge = torch.arange(cells + 1, device=samples.device, dtype=torch.float64) / cells
        stretches = torch.stack((edge[:-1], edge[1:]), -1).expand(len(samples), -1, -1)
        return self.net(window_means(self.seen(bank), samples, stretches), bank.query[samples])

    def loss(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy with the share of each stretch that lies inside the moment."""
        inside = inside_shares(self.bank.truth[samples], self.args.cells)
        return nn.functional.binary_cross_entropy_with_logits(self.logits(self.bank, samples), inside)

    def updated(self, step: int, steps: int) -> None:
        """Fits the posterior after the last update."""
        if step == steps:
            self._open = False
            self._fit_posterior()

    def _fit_posterior(self) -> None:
        held_out = validation_part(self.bank)
        bank = self.bank if held_out is None else held_out
        samples = torch.linspace(0, len(bank) - 1, min(len(bank), FITTED), device=bank.device).round().to(torch.int64)
        self.net.eval()
        with torch.no_grad():
            scores = torch.cat([self.logits(bank, part) for part in samples.split(100)])
        self.net.posterior.fit_lengths(self.bank.truth)
        self.net.posterior.fit(scores, bank.truth[samples])

    def _predict(self, bank: FeatureBank) -> Prediction:
        if self._open:
            # On the way, for the learning curve: as if the training ended now.
            self._fit_posterior()
        return super()._predict(bank)

    def score(self, bank: FeatureBank, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Expected IoU of every window."""
        expected = self.net.posterior.expected_iou(self.logits(bank, samples))
        return expected, self.windows.expand(len(samples), -1, -1)

    def probability(self, scores: Tensor) -> Tensor:
        """Expected IoU of the window, by the posterior."""
        return scores.clamp(0, 1)


register(
    SystemSpec(
        "bilinear regression",
        Bilinear,
        "logistic regression of frames on query times frame, and the window of highest expected IoU",
        ranks_candidates=True,
        sees="whole frames",
        learns_from="frame labels",
        space=SPACE,
    )
)
