"""A look agent trained by policy gradient from the IoU of its own answers: which row to look at next.

It is strict: it learns from what `TemporalLook-v0` pays with ``feedback="answer"``, one number for the answered window
and nothing else, in episodes that it plays itself. Several episodes of one query are compared with each other (a
group-relative advantage, as in GRPO without clipping), so that no critic is needed.

Candidates are some rows in every gap between neighbouring looks (`agents.looks.candidates`). One small network prefers
one of them, from the gap around it; its cost depends on the number of looks and not on the length of the video, and
what it learned on short videos can be used on long ones. With ``posterior=True`` it also sees what the posterior over
windows says about each candidate, begins as the uncertainty search, and learns what to do differently. The answer is
that of `agents.looks.posterior`, as for every other row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strong_envs.agents.looks.candidates import FEATURES, UNSEEN, WITH_POSTERIOR, candidates
from strong_envs.agents.looks.posterior import LookPosterior, seen_of
from strong_envs.agents.looks.search import unique_even_rows
from strong_envs.agents.ranges import check_fields
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.looks.task import LookConfig, LookTask
from strong_envs.looks.vector_env import TemporalLookVectorEnv

BATCH = 1024
DOUBT, DOUBT_AT = 10.0, -2
"""First weight of a candidate's doubt, and its place among the features: a difference of .1 is a factor of e."""


@dataclass(frozen=True)
class LookAgentArgs:
    """Arguments of `LookAgent`."""

    steps: int = 150
    """Updates; each is made of ``queries`` times ``episodes`` new episodes."""
    queries: int = 48
    episodes: int = 6
    """Episodes of each query, compared with each other."""
    hidden: int = 48
    lr: float = 1e-2
    weight_decay: float = 1e-3
    posterior: bool = True
    """See the posterior over windows: chance and doubt of each candidate, and the least sure row as one more. False
    computes none while it searches, so that a look costs one small network."""
    least_looks: int = 3
    """Fewest looks of a training episode."""
    most_looks: int = 12
    """Most looks of a training episode; the number is drawn anew for each update."""
    first: float = 0.2
    """Share of the looks of a training episode that are even and come first."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.least_looks > self.most_looks:
            raise DataError(f"least_looks must be at most most_looks={self.most_looks}, got {self.least_looks}")


class Preferences(nn.Module):
    """Preferences of candidates from `candidates`: the logits of the policy."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, 1)
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)
        self.doubt = nn.Parameter(torch.tensor(DOUBT)) if features == WITH_POSTERIOR else None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """Features (B, C, features) of candidates and which of them exist (B, C) to (B, C), -inf where none is."""
        logits = self.layers(x).squeeze(-1)
        if self.doubt is not None:
            logits = logits + self.doubt * x[..., DOUBT_AT]
        return logits.masked_fill(~there, float("-inf"))


class LookAgent:
    """Searches with a learned policy.

    Args:
        posterior: what answers, in training too.
        args: see `LookAgentArgs`.
        seed: of weights and training.
    """

    def __init__(self, posterior: LookPosterior, args: LookAgentArgs | None = None, seed: int = 0) -> None:
        self.posterior, self.args, self.seed = posterior, args or LookAgentArgs(), seed
        weights = posterior.prior.exp()
        self.length = float((posterior.lengths * weights / weights.sum()).sum())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = Preferences(WITH_POSTERIOR if self.args.posterior else FEATURES, self.args.hidden)

    def fit(
        self, bank: FeatureBank, table: Tensor, report: Callable[[int, int, float], None] | None = None
    ) -> LookAgent:
        """Train on episodes of the training part.

        Args:
            bank: the training part.
            table: (S, N) log-odds of its rows; the environment's sensor reads those that are looked at.
            report: hears of updates done, updates wanted and the mean return of the last ones.
        """
        args, generator = self.args, torch.Generator().manual_seed(self.seed)
        n_frames = bank.n_frames[bank.video]

        def answer(state: dict[str, Tensor]) -> Tensor:
            seen = seen_of(table, state["sample"], state["rows"])
            return self.posterior.answer(seen, n_frames[state["sample"]])

        config = LookConfig(positions=table.shape[1], max_looks=args.most_looks, zoom=False, feedback="answer")
        task = LookTask(bank, config, lambda s, r: table[s, r][:, None], answer)
        env = TemporalLookVectorEnv.of(task, args.queries * args.episodes)
        optimiser = torch.optim.AdamW(self.net.parameters(), args.lr, weight_decay=args.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=args.steps)
        returns: list[float] = []
        for step in range(args.steps):
            budget = int(torch.randint(args.least_looks, args.most_looks + 1, (), generator=generator))
            sample = torch.randint(len(bank), (args.queries,), generator=generator)
            decisions, paid = self._play(
                env, table, n_frames, sample.repeat_interleave(args.episodes), budget, generator
            )
            groups = paid.view(args.queries, args.episodes)
            advantage = (groups - groups.mean(1, keepdim=True)).flatten()
            advantage = (advantage / advantage.std().clamp(min=1e-3)).to(torch.float32)
            optimiser.zero_grad()
            # One decision at a time: the searches of long videos would not fit into memory together.
            for features, there, at in decisions:
                logits = self.net(features, there).log_softmax(1)
                chosen = logits.gather(1, at[:, None])[:, 0]
                (-(advantage * chosen).mean() / len(decisions)).backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            returns.append(float(paid.mean()))
            if report is not None:
                recent = returns[-25:]
                report(step + 1, args.steps, sum(recent) / len(recent))
        return self

    @torch.no_grad()
    def _play(
        self,
        env: TemporalLookVectorEnv,
        table: Tensor,
        n_frames: Tensor,
        samples: Tensor,
        budget: int,
        generator: torch.Generator,
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
        """Episodes of ``budget`` looks: features, existence and choice of every decision, and what the answers paid."""
        env.reset(options={"sample": samples.numpy()})
        task, length, decisions = env.task, n_frames[samples], []
        first = int(self.args.first * budget)
        even = unique_even_rows(length, first) if first else samples[:, None][:, :0]
        for k in range(budget):
            state = env.state()
            if k < first:
                row = even[:, k].clamp(min=0)
            else:
                left = torch.full_like(length, budget - k)
                rows, features, there = self._candidates(table, state["rows"], samples, length, left)
                there[:, 0] |= ~there.any(1)
                at = (self.net(features, there) + _gumbel(there, generator)).argmax(1)
                row = rows.gather(1, at[:, None])[:, 0].clamp(min=0)
                decisions.append((features, there, at))
            row = torch.minimum(row, length - 1)
            part = ((row + 0.5) / length * task.config.positions).floor().to(torch.int64)
            _, reward, terminated, _, _ = env.step(part.clamp(max=task.config.positions - 1))
        if not bool(terminated.all()):
            _, reward, *_ = env.step(torch.full_like(samples, task.n_actions - 1))
        return decisions, reward

    def rows(self, table: Tensor, n_frames: Tensor, count: int, first: int, samples: Tensor | None = None) -> Tensor:
        """Greedy searches; arguments and result as of `strong_envs.agents.looks.search.uncertainty_rows`."""
        samples = torch.arange(len(table)) if samples is None else samples
        return torch.cat([self._search(table, n_frames, count, first, part) for part in samples.split(BATCH)])

    @torch.no_grad()
    def _search(self, table: Tensor, n_frames: Tensor, count: int, first: int, samples: Tensor) -> Tensor:
        length = n_frames[samples]
        looked = torch.full((len(samples), count), -1)
        if first:
            looked[:, :first] = unique_even_rows(length, first)
        for k in range(first, count):
            left = torch.full_like(length, count - k)
            row, features, there = self._candidates(table, looked[:, :k], samples, length, left)
            best = row.gather(1, self.net(features, there).argmax(1, keepdim=True))[:, 0]
            looked[:, k] = torch.where(there.any(1), best, -1)
        return looked

    def _candidates(
        self, table: Tensor, rows: Tensor, samples: Tensor, n_frames: Tensor, left: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        seen = rows >= 0
        scores = torch.where(seen, table[samples[:, None], rows.clamp(min=0)], 0.0)
        inside = self.posterior.inside(seen_of(table, samples, rows), n_frames) if self.args.posterior else None
        return candidates(torch.where(seen, rows, UNSEEN), scores, n_frames, left, self.length, inside)


def _gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise that makes an argmax of logits a draw from their softmax."""
    uniform = torch.rand(like.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    return -(-uniform.log()).log()
