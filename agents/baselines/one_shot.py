"""One-shot: a policy that selects the window by a single action, trained by the exact policy gradient.

The task of `TemporalOneShot-v0` with its actions laid on a grid: every window with both ends on i / cells of the video,
210 of them at 20 cells. In training the IoU of every window is known, so the expected reward of the policy and its
gradient need no sample: ``loss = -sum_a pi(a) IoU(a, truth)``, with one step there is nothing to discount and no critic
to learn. The policy therefore maximises the training mIoU itself.

``blind one-shot`` has the sentence alone as its input. It is the reference that ignores the video: a system that does
not score above it has not used the video. The blind DDPG agent is a weaker reference: it moves step by step, is
rewarded by the sign of the change of IoU, and ends below the best constant window. ``one-shot`` also has the means of
the frames in ``parts`` equal parts of the video, one after the other.

Neither is published; sizes and rates are ours, chosen on Charades-STA, TACoS and the default world. Against overfitting
to the sentences: dropout, weight decay, and early stopping on a part of the training videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.candidates import best_iou, window_means
from strong_envs.agents.baselines.ranking import Inputs, RankArgs, WindowNet, WindowSystem
from strong_envs.agents.references.heuristics import windows_on_grid
from strong_envs.agents.registry import SystemSpec, register
from strong_envs.agents.search_space import Between, OneOf, Space
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError


@dataclass(frozen=True)
class OneShotArgs(RankArgs):
    """Arguments of `OneShot`."""

    sees: bool = True
    """Whether the video is part of the input; False leaves the sentence alone."""
    cells: int = 20
    """Cells of the grid of window ends; 20 are the steps of the moving agents."""
    parts: int = 20
    """Equal parts of the video whose means are part of the input."""
    steps: int = 1500
    batch: int = 256
    lr: float = 2e-3
    hidden: int = 64
    dropout: float = 0.5
    """Share of the inputs and of the hidden layer that training leaves out."""
    weight_decay: float = 1.0
    held_out: float = 0.1
    """Share of the training videos held out for early stopping; 0 trains on all and keeps the last weights."""
    check_every: int = 25
    """Updates between two evaluations on these videos."""


SPACE: Space = {
    "lr": Between(3e-4, 1e-2),
    "hidden": OneOf(32, 64, 128, 256),
    "dropout": OneOf(0.2, 0.5, 0.7),
    "weight_decay": Between(0.01, 10.0),
    "batch": OneOf(64, 256),
}


class OneShotNet(WindowNet):
    """Standardised inputs to one logit a window: a linear layer, plus one hidden layer with ReLU.

    The linear layer is what TACoS needs, where a moment hangs on single words, the hidden one what Charades-STA gains
    from. Both start at 0, so the first policy is uniform.
    """

    def __init__(self, inputs: Inputs, args: OneShotArgs, windows: int) -> None:
        super().__init__(inputs)
        self.sees = args.sees
        size = inputs.query_dim + (args.parts * inputs.frame_dim if args.sees else 0)
        self.hidden = nn.Linear(size, args.hidden)
        self.out = nn.Linear(args.hidden, windows)
        self.direct = nn.Linear(size, windows)
        self.dropout = nn.Dropout(args.dropout)
        for parameter in (*self.out.parameters(), *self.direct.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, sentences: Tensor, means: Tensor | None = None) -> Tensor:
        """Sentences (B, Dq), and means of parts (B, P, D) with ``sees``, to logits (B, windows)."""
        x = self.inputs.sentence(sentences)
        if means is not None:
            x = torch.cat((x, self.inputs.visual(means).flatten(1)), 1)
        x = self.dropout(x)
        return self.direct(x) + self.out(self.dropout(torch.relu(self.hidden(x))))


def expected_iou(logits: Tensor, iou: Tensor) -> Tensor:
    """The expected reward of each sample's policy: logits (B, W) and IoU (B, W) of every window to (B,)."""
    return (logits.softmax(-1) * iou).sum(-1)


def held_out_videos(bank: FeatureBank, share: float, generator: torch.Generator) -> Tensor:
    """Samples of a random part of the videos, at least one of them and not all: (S,) bool.

    Raises:
        DataError: fewer than two videos to divide.
    """
    videos = bank.video.unique()
    if not share:
        return torch.zeros(len(bank), dtype=torch.bool, device=bank.device)
    if len(videos) < 2:
        raise DataError(f"{bank.name!r} has one video, of which no part can be held out; pass held_out=0")
    count = min(max(round(share * len(videos)), 1), len(videos) - 1)
    picked = videos[torch.randperm(len(videos), generator=generator)[:count].to(videos.device)]
    return torch.isin(bank.video, picked)


class OneShot(WindowSystem):
    """The one-shot policy, see the module; options are `OneShotArgs`."""

    name = "one-shot"
    Args = OneShotArgs
    args: OneShotArgs
    net: OneShotNet

    def __init__(
        self,
        bank: FeatureBank,
        seed: int = 0,
        budget: float = 1.0,
        env: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not options.get("sees", OneShotArgs.sees):
            # Without the video there is nothing to pool.
            options |= {"boxes": "frame"}
        super().__init__(bank, seed, budget, env, **options)
        self.frames_seen = float(self.args.sees)
        self._held = torch.zeros(len(bank), dtype=torch.bool, device=bank.device)
        self._best: tuple[float, dict[str, Tensor]] | None = None

    @classmethod
    def widths(cls, args: RankArgs) -> dict[str, int]:
        """Sizes that a tensor of a saved system has, by name."""
        cells = args.cells if isinstance(args, OneShotArgs) else 1
        return {**super().widths(args), "windows": cells * (cells + 1) // 2}

    def candidates(self) -> Tensor:
        """All windows with both ends on the grid."""
        return torch.as_tensor(windows_on_grid(self.args.cells), device=self.bank.device)

    def build(self, inputs: Inputs) -> OneShotNet:
        """The policy over all windows of the grid."""
        if self.args.sees and not self.bank.has_frames:
            raise DataError(f"{self.bank.name!r} has annotations alone; 'blind one-shot' (sees=False) needs no more")
        return OneShotNet(inputs, self.args, len(self.windows))

    def optimiser(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """AdamW with a constant rate."""
        args = self.args
        optimiser = torch.optim.AdamW(self.net.parameters(), args.lr, weight_decay=args.weight_decay, fused=True)
        return optimiser, torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)

    def examples(self) -> Tensor:
        """Samples of the videos that are not held out."""
        generator = torch.Generator().manual_seed(self.seed)
        self._held = held_out_videos(self.bank, self.args.held_out, generator)
        return ~self._held

    def loss(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Negative expected IoU of the policy."""
        return -expected_iou(self.logits(self.bank, samples), self.rewards(self.bank, samples)).mean()

    def logits(self, bank: FeatureBank, samples: Tensor) -> Tensor:
        """Logits of all windows for samples (B,): (B, W)."""
        means = None
        if self.args.sees:
            cut = torch.arange(self.args.parts + 1, device=bank.device, dtype=torch.float64) / self.args.parts
            parts = torch.stack((cut[:-1], cut[1:]), -1)
            means = window_means(self.seen(bank), samples, parts.expand(len(samples), -1, -1))
        return self.net(bank.query[samples], means)

    def rewards(self, bank: FeatureBank, samples: Tensor) -> Tensor:
        """IoU of all windows with the truth of samples (B,): (B, W) float32."""
        return best_iou(self.windows, bank.truth[samples]).to(torch.float32)

    def updated(self, step: int, steps: int) -> None:
        """Early stopping: keep the weights with the best score on the held-out videos, and end with them."""
        if not bool(self._held.any()):
            return
        if step % self.args.check_every == 0 or step == steps:
            score = self.held_out_miou()
            if self._best is None or score > self._best[0]:
                self._best = score, {name: value.clone() for name, value in self.net.state_dict().items()}
        if step == steps and self._best is not None:
            self.net.load_state_dict(self._best[1])

    @torch.no_grad()
    def held_out_miou(self) -> float:
        """Mean IoU of the most probable window on the held-out training videos."""
        self.net.eval()
        total, samples = 0.0, self._held.nonzero()[:, 0]
        for part in samples.split(2048):
            best = self.logits(self.bank, part).argmax(-1)
            total += float(self.rewards(self.bank, part).gather(1, best[:, None]).sum())
        self.net.train()
        return total / len(samples)

    def score(self, bank: FeatureBank, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of all windows."""
        return self.logits(bank, samples).softmax(-1), self.windows.expand(len(samples), -1, -1)

    def probability(self, scores: Tensor) -> Tensor:
        """The policy's own probabilities."""
        return scores

    def check_sizes(self, bank: FeatureBank) -> None:
        """Refuse a bank whose features are not as large as those of the training."""
        if self.args.sees:
            return super().check_sizes(bank)
        if bank.query_dim != self.net.inputs.query_dim:
            made, given = self.net.inputs.query_dim, bank.query_dim
            raise DataError(f"blind one-shot was made for sentences of {made} numbers; {bank.name!r} has {given}")


register(
    SystemSpec(
        "blind one-shot",
        OneShot,
        "predicts the window from the sentence alone, trained by the exact gradient of its expected IoU",
        ranks_candidates=True,
        needs_frames=False,
        defaults={"sees": False},
        sees="sentences",
        learns_from="window labels",
        space=SPACE,
    )
)
register(
    SystemSpec(
        "one-shot",
        OneShot,
        "the same with the means of twenty parts of the video",
        ranks_candidates=True,
        sees="whole frames",
        learns_from="window labels",
        space=SPACE,
    )
)
