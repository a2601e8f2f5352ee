"""The sensor that all searches share: log-odds that one frame lies inside the moment, from that frame alone.

It is the frame classifier without what reads other frames: STRONG's frame attention (`agents.strong.frame_attention`)
with ``change=0``, trained on single rows of the training part. Half of the rows of a query are drawn from inside its
moment and half from outside, so that a score of 0 is no evidence and scores of several looks add up. The share of the
video that the moment fills plays no part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strong_envs.agents.ranges import check_fields
from strong_envs.agents.strong.frame_attention.attention import FrameAttention, FrameAttentionArgs
from strong_envs.agents.strong.frame_attention.training import seeded
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError

ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class SensorArgs:
    """Arguments of `FrameSensor`."""

    steps: int = 1500
    queries: int = 32
    """Queries in an update."""
    frames: int = 20
    """Rows of each query in an update, half of them inside the moment."""
    lr: float = 6e-3
    weight_decay: float = 0.1
    dropout: float | None = None
    """None: by the number of channels, see `strong_envs.agents.training.matching.dropout_for`."""
    whole_frames: bool = False
    """See the vector of the whole frame in the place of its cells."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.frames < 2:
            raise DataError(f"frames must be at least 2, one inside the moment and one outside, got {self.frames}")


class FrameSensor:
    """Log-odds of single frames.

    Args:
        bank: the training part.
        args: see `SensorArgs`.
        seed: of the weights and of the training.
    """

    def __init__(self, bank: FeatureBank, args: SensorArgs | None = None, seed: int = 0) -> None:
        self.args, self.seed = args or SensorArgs(), seed
        whole = self.args.whole_frames or not bank.has_grid
        inner = FrameAttentionArgs(objective="labels", dropout=self.args.dropout, whole_frames=whole)
        self.net = FrameAttention(bank, inner, seed)

    def fit(self, bank: FeatureBank, report: Callable[[int, int], None] | None = None) -> FrameSensor:
        """Train on the training part; ``report`` hears of updates done and wanted."""
        args, generator = self.args, torch.Generator().manual_seed(self.seed)
        optimiser = torch.optim.AdamW(self.net.parameters(), args.lr, weight_decay=args.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=args.steps)
        self.net.train()
        with seeded(generator):
            for step in range(args.steps):
                samples = torch.randint(len(bank), (args.queries,), generator=generator)
                rows = balanced_rows(bank, samples, args.frames, generator)
                scores = self._scores(bank, samples, rows)
                loss = nn.functional.binary_cross_entropy_with_logits(scores, inside(bank, samples, rows).float())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                if report is not None:
                    report(step + 1, args.steps)
        self.net.eval()
        return self

    @torch.no_grad()
    def log_odds(self, bank: FeatureBank, samples: Tensor, rows: Tensor) -> Tensor:
        """Log-odds (N,) float32 of rows (N,) of the videos of samples (N,); no other row is read."""
        parts = zip(samples.split(ROWS_AT_ONCE), rows.split(ROWS_AT_ONCE), strict=True)
        return torch.cat([self._scores(bank, s, r[:, None])[:, 0] for s, r in parts])

    def of(self, bank: FeatureBank) -> Callable[[Tensor, Tensor], Tensor]:
        """The sensor of an environment over a bank: samples (N,) and rows (N,) to (N, 1)."""
        return lambda samples, rows: self.log_odds(bank, samples, rows)[:, None]

    @torch.no_grad()
    def table(self, bank: FeatureBank) -> Tensor:
        """Log-odds of every row of every sample, (S, most rows) float32, 0 past the end of a video.

        Experiments look things up in it instead of asking the sensor again; each number depends on its row alone.
        """
        out = torch.zeros((len(bank), bank.max_frames))
        order = bank.video.argsort(stable=True).tolist()
        held: tuple[int, Tensor] | None = None
        for sample in order:
            video = int(bank.video[sample])
            count = int(bank.n_frames[video])
            if held is None or held[0] != video:
                # The samples of a video share its cells.
                at = torch.arange(int(bank.offsets[video]), int(bank.offsets[video]) + count)
                held = video, torch.cat([self._cells(bank, part) for part in at.split(ROWS_AT_ONCE)])
            query = self.net.query(bank, torch.tensor([sample]))
            scores = [self.net.scores(part[None], query)[0] for part in held[1].split(ROWS_AT_ONCE)]
            out[sample, :count] = torch.cat(scores)
        return out

    def _cells(self, bank: FeatureBank, at: Tensor) -> Tensor:
        return self.net._cells(self.net._maps(bank, at).to(torch.float32))

    def _scores(self, bank: FeatureBank, samples: Tensor, rows: Tensor) -> Tensor:
        at = bank.offsets[bank.video[samples]][:, None] + rows
        return self.net.scores(self._cells(bank, at), self.net.query(bank, samples))


def inside(bank: FeatureBank, samples: Tensor, rows: Tensor) -> Tensor:
    """Whether the middles of rows (B, m) lie in a true window of samples (B,): (B, m) bool."""
    middle = ((rows + 0.5) / bank.n_frames[bank.video[samples]][:, None])[..., None]
    truth = bank.truth[samples][:, None]
    return ((middle >= truth[..., 0]) & (middle < truth[..., 1])).any(-1)


def balanced_rows(bank: FeatureBank, samples: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows (B, count) of samples (B,): the first half inside a true window, the others outside of it."""
    n_frames = bank.n_frames[bank.video[samples]][:, None]
    which = torch.randint(bank.truth.shape[1], (len(samples),), generator=generator)
    start, end = bank.truth[samples, which].T[..., None]
    share = torch.rand((len(samples), count), generator=generator, dtype=torch.float64)
    half = count // 2
    within = start + share[:, :half] * (end - start)
    outside = share[:, half:] * (1 - end + start)
    outside = torch.where(outside < start, outside, outside + end - start)
    at = torch.cat((within, outside), 1) * n_frames
    return torch.minimum(at.floor().to(torch.int64), n_frames - 1)
