"""MCN, a moment context network (Hendricks et al., "Localizing moments in video with natural language", ICCV 2017).

Windows and sentences are brought to one space, in which a sentence lies nearer to its moment than to any other.

1. *Window*. [mean of the whole video, mean of the window], each scaled to length 1, and the endpoints as fractions of
   the duration; a layer of 500 with ReLU, then 100 numbers, with dropout 0.3.
2. *Sentence*. The last state of an LSTM over word vectors (1000), then 100 numbers.
3. *Distance*. Squared, between the two.
4. *Loss*. 0.5 [d+ - d_intra + 0.1]_+ + 0.2 [d+ - d_inter + 0.1]_+: d_intra of another window of the same video, d_inter
   of the window with the same endpoints in another video.
5. *Training*. SGD with momentum 0.9, batch 120, the learning rate 0.05 divided by ten after each third, gradients of a
   norm of at most 10.
6. *Test*. Windows are ranked by their distance; their ends are not corrected.

Known from the authors' code (its job for RGB features): all of the above.

Deviations:

- *Sentences* are one vector here, so the LSTM is a layer of 1000 with tanh, bounded like the state of an LSTM.
- *Windows* are the sliding windows of CTRL instead of the 21 pairs of DiDeMo's six pieces. The moment of a sentence is
  the window with the highest IoU with its truth; another window of the same video is one with an IoU below 0.5, for
  neighbours of a sliding window are not wrong.
- *The endpoint* of a window is its end; in DiDeMo's pieces it is the start of the last piece.
- *Inputs* are standardised before their means are scaled to length 1, for features that are not all positive.
- Suppression ranks the windows, as for CTRL; with 21 windows there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strong_envs.agents.baselines.candidates import best_iou, draw, window_means
from strong_envs.agents.baselines.ranking import (
    Inputs,
    SlidingWindowSystem,
    WindowArgs,
    WindowNet,
    closest_window,
    masks_by_sample,
)
from strong_envs.agents.registry import SystemSpec, register
from strong_envs.agents.search_space import Between, OneOf, Space
from strong_envs.features.bank.bank import FeatureBank


@dataclass(frozen=True)
class McnArgs(WindowArgs):
    """Arguments of `Mcn`."""

    steps: int = 8000
    batch: int = 120
    lr: float = 0.05
    visual: int = 500
    """Size of the hidden layer over a window."""
    language: int = 1000
    """Size of the hidden layer over a sentence."""
    embedding: int = 100
    """Size of the common space."""
    dropout: float = 0.3
    margin: float = 0.1
    intra: float = 0.5
    """Weight of the comparison with another window of the same video."""
    inter: float = 0.2
    """Weight of the comparison with the same window of another video."""
    negative_iou: float = 0.5
    """Windows below this IoU with every true window are other moments; 1 takes all but the moment's own."""
    positive_iou: float = 0.5
    """Sentences whose own window has a lower IoU with the truth are left out of the training."""


SPACE: Space = {
    "lr": Between(5e-3, 0.5),
    "visual": OneOf(250, 500, 1000),
    "embedding": OneOf(50, 100, 200),
    "dropout": OneOf(0.0, 0.1, 0.3),
    "margin": Between(0.03, 1.0),
    "negative_iou": OneOf(0.3, 0.5, 0.7),
    "input_dropout": OneOf(None, 0.0, 0.3),
}


class McnNet(WindowNet):
    """Points 1 and 2."""

    def __init__(self, inputs: Inputs, args: McnArgs) -> None:
        super().__init__(inputs)
        self.window = nn.Sequential(
            nn.Linear(2 * inputs.frame_dim + 2, args.visual),
            nn.ReLU(),
            nn.Linear(args.visual, args.embedding),
            nn.Dropout(args.dropout),
        )
        self.sentence = nn.Sequential(
            nn.Linear(inputs.query_dim, args.language), nn.Tanh(), nn.Linear(args.language, args.embedding)
        )

    def embed_windows(self, whole: Tensor, means: Tensor, ends: Tensor) -> Tensor:
        """Means of videos (B, 1, D) and of windows (B, P, D), and the windows (B, P, 2), to (B, P, E)."""
        whole, means = (F.normalize(self.inputs.visual(x), dim=-1) for x in (whole, means))
        return self.window(torch.cat((whole.expand_as(means), means, ends.to(means.dtype)), -1))

    def embed_sentences(self, sentences: Tensor) -> Tensor:
        """(B, Dq) to (B, E)."""
        return self.sentence(self.inputs.sentence(sentences))


def distance(windows: Tensor, sentences: Tensor) -> Tensor:
    """Squared distances of windows (B, P, E) from the sentence of their row (B, E): (B, P)."""
    return (windows - sentences[:, None]).square().sum(-1)


def ranking_loss(own: Tensor, intra: Tensor, inter: Tensor, args: McnArgs) -> Tensor:
    """Point 4 from the distances (B,) of a sentence to its window and to two others."""
    same_video = (own - intra + args.margin).clamp(min=0).mean()
    other_video = (own - inter + args.margin).clamp(min=0).mean()
    return args.intra * same_video + args.inter * other_video


class Mcn(SlidingWindowSystem):
    """MCN, see the module."""

    name = "mcn"
    Args = McnArgs
    clip = 10.0
    args: McnArgs
    net: McnNet

    def build(self, inputs: Inputs) -> McnNet:
        """The network of points 1 and 2."""
        return McnNet(inputs, self.args)

    def optimiser(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """SGD with a rate that falls in two steps (point 5)."""
        optimiser = torch.optim.SGD(self.net.parameters(), self.args.lr, momentum=0.9)
        return optimiser, torch.optim.lr_scheduler.StepLR(optimiser, -(-steps // 3), 0.1)

    def examples(self) -> Tensor:
        """Sentences with a window of their own and one to compare it with."""
        bank, limit = self.bank, self.args.negative_iou
        self._own = masks_by_sample(self.windows, bank.truth, closest_window)
        self._other = masks_by_sample(self.windows, bank.truth, lambda w, t: best_iou(w, t) < limit) & ~self._own
        # One sample of each video: features of a video are looked up by sample.
        self._sample_of = torch.zeros(len(bank.videos), dtype=torch.int64, device=bank.device).scatter(
            0, bank.video, torch.arange(len(bank), device=bank.device)
        )
        best = masks_by_sample(self.windows, bank.truth, best_iou).amax(-1)
        return (best >= self.args.positive_iou) & self._other.any(-1)

    def loss(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Point 4 for each sentence with its own window and two others."""
        bank, videos = self.bank, self.bank.video[samples]
        own = self._own[samples].to(torch.int64).argmax(-1)
        other = draw(self._other[samples], generator)
        step = torch.randint(1, len(bank.videos), videos.shape, device=bank.device, generator=generator)
        elsewhere = self._sample_of[(videos + step) % len(bank.videos)]
        here = self._embed(bank, samples, self.windows[torch.stack((own, other), 1)])
        there = self._embed(bank, elsewhere, self.windows[own][:, None])
        sentence = self.net.embed_sentences(bank.query[samples])
        near, intra = distance(here, sentence).unbind(1)
        return ranking_loss(near, intra, distance(there, sentence)[:, 0], self.args)

    def score(self, bank: FeatureBank, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Negative distances of all windows."""
        windows = self.windows.expand(len(samples), -1, -1)
        found = self._embed(bank, samples, windows)
        return -distance(found, self.net.embed_sentences(bank.query[samples])), windows

    def probability(self, scores: Tensor) -> Tensor:
        """1 where window and sentence fall together, falling with the squared distance."""
        return scores.exp()

    def _embed(self, bank: FeatureBank, samples: Tensor, windows: Tensor) -> Tensor:
        seen = self.seen(bank)
        whole = seen.means.mean[seen.means.group[samples]][:, None]
        return self.net.embed_windows(whole, window_means(seen, samples, windows), windows)


register(
    SystemSpec(
        "mcn",
        Mcn,
        "sliding windows ranked by their distance from the sentence",
        ranks_candidates=True,
        needs_videos=2,
        sees="whole frames",
        learns_from="window labels",
        space=SPACE,
    )
)
