"""A look agent trained by policy gradient from the IoU of its own answers: which rows to look at next.

It is strict: it learns from what `TemporalLook-v0` pays with ``feedback="answer"``, one number for the answered window
and nothing else, in episodes that it plays itself. Several episodes of one query are compared with each other (a
group-relative advantage, as in GRPO without clipping), so that no critic is needed.

It chooses among five rows in every gap between neighbouring looks (`agents.looks.gaps`). One small network sees what is
known about a gap and prefers its rows; no posterior over windows is computed before the answer. Its cost depends on the
number of looks and not on the length of the video, and what it learned on short videos can be used on long ones. It may
name several rows in a decision, each in a gap of its own.

It begins as a copy of the uncertainty search: in ``copies`` updates it learns, in searches of its own, to prefer rows
that the posterior is unsure about. No true window is needed for that. Then it learns from its rewards. The answer is
that of `agents.looks.posterior`, as for every other row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from strong_envs.agents.looks.gaps import FEATURES, PLACES, SHARES, OneVideo, gaps, offsets
from strong_envs.agents.looks.posterior import LookPosterior, seen_of
from strong_envs.agents.looks.running import RunningPosterior
from strong_envs.agents.looks.search import unique_even_rows
from strong_envs.agents.ranges import check_fields
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.looks.task import LookConfig, LookTask
from strong_envs.looks.vector_env import TemporalLookVectorEnv

BATCH = 256
SHARPNESS = 20.0
"""What is copied: preferences that are this times the doubt about a row, so that .05 more of it is a factor of e."""
NOISE = 0.3
"""How much of the noise of a draw the searches have that are copied in."""


@dataclass(frozen=True)
class LookAgentArgs:
    """Arguments of `LookAgent`."""

    steps: int = 250
    """Updates; each is made of ``queries`` times ``episodes`` new episodes."""
    copies: int = 800
    """Updates before these, which copy the uncertainty search."""
    queries: int = 24
    episodes: int = 6
    """Episodes of each query, compared with each other."""
    hidden: int = 32
    lr: float = 2e-3
    copy_lr: float = 1e-2
    weight_decay: float = 1e-3
    at_once: int = 3
    """Most looks of a decision in training; the number is drawn anew for each update."""
    least_looks: int = 3
    """Fewest looks of a training episode."""
    most_looks: int = 12
    """Most looks of a training episode; the number is drawn anew for each update."""
    firsts: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6)
    """Shares of the looks of a training episode that are even and come first; one is drawn for each update."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.least_looks > self.most_looks:
            raise DataError(f"least_looks must be at most most_looks={self.most_looks}, got {self.least_looks}")


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
        hidden = self.args.hidden
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            last = nn.Linear(hidden, PLACES)
            self.net = nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

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
        returns: list[float] = []
        for count, lr, learn in ((args.copies, args.copy_lr, self._copy), (args.steps, args.lr, self._improve)):
            optimiser = torch.optim.AdamW(self.net.parameters(), lr, weight_decay=args.weight_decay)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=max(count, 1))
            for _ in range(count):
                budget = int(torch.randint(args.least_looks, args.most_looks + 1, (), generator=generator))
                share = args.firsts[int(torch.randint(len(args.firsts), (), generator=generator))]
                optimiser.zero_grad()
                paid = learn(env, table, n_frames, budget, int(share * budget), generator)
                nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                if paid is not None:
                    returns.append(paid)
                    if report is not None:
                        recent = returns[-25:]
                        report(len(returns), args.steps, sum(recent) / len(recent))
        return self

    def _copy(
        self,
        env: TemporalLookVectorEnv,
        table: Tensor,
        n_frames: Tensor,
        budget: int,
        first: int,
        generator: torch.Generator,
    ) -> None:
        """Gradients that bring preferences nearer to the doubts of the posterior, in searches of the agent's own."""
        samples = torch.randint(len(table), (env.num_envs,), generator=generator)
        search = _Searches(table, n_frames, budget, first, samples, self.posterior.clip)
        belief = RunningPosterior(
            self.posterior, search.n_frames, search.rows[:, :first], search.scores[:, :first] * search.clip
        )
        video = np.arange(len(samples))[:, None, None]
        while search.made < budget:
            row, known, there = search.gaps(self.length)
            chance = belief.inside()
            chance = chance[video, np.clip(row.transpose(1, 2, 0), 0, chance.shape[1] - 1)]
            wanted = torch.as_tensor(SHARPNESS * (1 - np.abs(2 * chance - 1)), dtype=torch.float32)
            logits = self._logits(known, there)
            wanted = wanted.masked_fill(logits == float("-inf"), float("-inf")).flatten(1).softmax(1)
            open_ = torch.as_tensor(there.any((0, 2)))
            chosen = logits.flatten(1).log_softmax(1)
            loss = -(torch.where(wanted > 0, wanted * chosen, 0.0).sum(1)[open_]).mean() if bool(open_.any()) else None
            if loss is not None:
                (loss / budget).backward()
            gap, place = _pick(logits.detach() + NOISE * _gumbel(logits, generator), 1)
            new = search.look(row, gap, place)
            belief.look(new[:, 0], search.scores[:, search.made - 1] * search.clip)

    def _improve(
        self,
        env: TemporalLookVectorEnv,
        table: Tensor,
        n_frames: Tensor,
        budget: int,
        first: int,
        generator: torch.Generator,
    ) -> float:
        """Gradients that make rows likelier after which answers were paid better; the mean of what was paid."""
        args = self.args
        samples = torch.randint(len(table), (args.queries,), generator=generator).repeat_interleave(args.episodes)
        at_once = int(torch.randint(1, args.at_once + 1, (), generator=generator))
        decisions, paid = self._play(env, table, n_frames, samples, budget, first, at_once, generator)
        groups = paid.view(args.queries, args.episodes)
        advantage = (groups - groups.mean(1, keepdim=True)).flatten()
        advantage = (advantage / advantage.std().clamp(min=1e-3)).to(torch.float32)
        # One decision at a time: the searches of long videos would not fit into memory together.
        for known, there, gap, place in decisions:
            chosen = _log_prob(self._logits(known, there), gap, place)
            (-(advantage * chosen).mean() / len(decisions)).backward()
        return float(paid.mean())

    @torch.no_grad()
    def _play(
        self,
        env: TemporalLookVectorEnv,
        table: Tensor,
        n_frames: Tensor,
        samples: Tensor,
        budget: int,
        first: int,
        at_once: int,
        generator: torch.Generator,
    ) -> tuple[list[tuple[np.ndarray, np.ndarray, Tensor, Tensor]], Tensor]:
        """Episodes of ``budget`` looks: features, rows and choices of every decision, and what the answers paid."""
        env.reset(options={"sample": samples.numpy()})
        task, length, decisions = env.task, n_frames[samples], []
        search = _Searches(table, n_frames, budget, first, samples, self.posterior.clip)
        while search.made < budget:
            row, known, there = search.gaps(self.length)
            logits = self._logits(known, there)
            take = min(at_once, search.made + 1, budget - search.made)
            gap, place = _pick(logits + _gumbel(logits, generator), take)
            decisions.append((known, there, gap, place))
            search.look(row, gap, place)
        for looked in torch.as_tensor(search.rows).T:
            part = ((looked.clamp(min=0) + 0.5) / length * task.config.positions).floor().to(torch.int64)
            _, reward, terminated, _, _ = env.step(part.clamp(max=task.config.positions - 1))
        if not bool(terminated.all()):
            _, reward, *_ = env.step(torch.full_like(samples, task.n_actions - 1))
        return decisions, reward

    def _logits(self, known: np.ndarray, there: np.ndarray) -> Tensor:
        """Preferences (B, gaps, places), -inf where no row is."""
        logits = self.net(torch.as_tensor(known).movedim(0, -1))
        return logits.masked_fill(~torch.as_tensor(there).movedim(0, -1), float("-inf"))

    def rows(
        self,
        table: Tensor,
        n_frames: Tensor,
        count: int,
        first: int,
        samples: Tensor | None = None,
        at_once: int = 1,
    ) -> Tensor:
        """Greedy searches; arguments and result as of `strong_envs.agents.looks.search.uncertainty_rows`.

        Each decision names up to ``at_once`` rows; a video whose open gaps are fewer gets fewer looks.
        """
        samples = torch.arange(len(table)) if samples is None else samples
        layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in self.net if isinstance(m, nn.Linear)]
        search = self._search_one if len(samples) == 1 else self._search
        parts = [search(layers, table, n_frames, count, first, part, at_once) for part in samples.split(BATCH)]
        return torch.as_tensor(np.concatenate(parts))

    def _search_one(
        self,
        layers: list[tuple[np.ndarray, np.ndarray]],
        table: Tensor,
        n_frames: Tensor,
        count: int,
        first: int,
        samples: Tensor,
        at_once: int,
    ) -> np.ndarray:
        """`_search` of one video: the network is asked about gaps that a look has changed, and no others."""
        (w1, b1), (w2, b2), (w3, b3) = layers
        sample, clip = int(samples), self.posterior.clip
        length, scores = int(n_frames[sample]), table.numpy()[sample]
        video, rooms = OneVideo(length, self.length), offsets(length).T.tolist()
        rows: list[int] = unique_even_rows(n_frames[samples], first)[0].tolist() if first else []
        best, offered, changed, new = [0.0], [-1], {0}, [row for row in rows if row >= 0]
        while True:
            for row in new:
                gap, low, high = video.look(row, min(max(float(scores[row]), -clip), clip) / clip)
                best.insert(gap, 0.0)
                offered.insert(gap, -1)
                changed = {i + (i > gap) for i in changed} | set(range(low, high + 1))
            if len(rows) >= count:
                return np.array([rows[:count]])
            asked = list(changed)
            known = np.array([video.known(gap) for gap in asked], np.float32)
            logits = np.maximum(np.maximum(known @ w1.T + b1, 0) @ w2.T + b2, 0) @ w3.T + b3
            for gap, values in zip(asked, logits.tolist(), strict=True):
                low, high = video.at[gap + 1], video.at[gap + 2]
                room = high - low - 1
                values = values[: PLACES if room >= video.step else len(SHARES)]
                best[gap] = value = max(values) if room > 0 else -np.inf
                if room > 0:
                    place = values.index(value)
                    near = len(SHARES)
                    offset = (
                        rooms[room][place] if place < near else video.step if place == near else room + 1 - video.step
                    )
                    offered[gap] = low + offset
            take = min(at_once, len(best), count - len(rows))
            if take == 1:
                chosen = [best.index(max(best))]
            else:
                chosen = sorted(range(len(best)), key=best.__getitem__, reverse=True)[:take]
            found = [offered[gap] if best[gap] > -np.inf else -1 for gap in chosen]
            rows += found
            new, changed = [row for row in found if row >= 0], set()

    def _search(
        self,
        layers: list[tuple[np.ndarray, np.ndarray]],
        table: Tensor,
        n_frames: Tensor,
        count: int,
        first: int,
        samples: Tensor,
        at_once: int,
    ) -> np.ndarray:
        search = _Searches(table, n_frames, count, first, samples, self.posterior.clip)
        (w1, b1), (w2, b2), (w3, b3) = layers
        video = np.arange(len(samples))[:, None]
        while search.made < count:
            row, known, there = search.gaps(self.length)
            shape = there.shape
            h = np.maximum(w1 @ known.reshape(FEATURES, -1) + b1[:, None], 0)
            h = np.maximum(w2 @ h + b2[:, None], 0)
            logits = np.where(there, (w3 @ h + b3[:, None]).reshape(shape), -np.inf)
            best = logits.max(0)
            take = min(at_once, search.made + 1, count - search.made)
            gap = best.argmax(1)[:, None] if take == 1 else (-best).argsort(1, kind="stable")[:, :take]
            chosen = logits[:, video, gap].argmax(0)
            search.add(np.where(best[video, gap] > -np.inf, row[chosen, video, gap], -1))
        return search.rows


class _Searches:
    """Looks of several videos in the making."""

    def __init__(self, table: Tensor, n_frames: Tensor, count: int, first: int, samples: Tensor, clip: float) -> None:
        length, self.clip = n_frames[samples], clip
        self.table, self.samples, self.n_frames = table.numpy(), samples.numpy(), length.numpy()
        self.rows = np.full((len(samples), count), -1)
        self.scores = np.zeros((len(samples), count), np.float32)
        self.made = 0
        if first:
            self.add(unique_even_rows(length, first).numpy())

    def gaps(self, length: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        made = self.made
        return gaps(self.rows[:, :made], self.scores[:, :made], self.n_frames, length)

    def add(self, rows: np.ndarray) -> None:
        after = self.made + rows.shape[1]
        self.rows[:, self.made : after] = rows
        found = self.table[self.samples[:, None], np.maximum(rows, 0)]
        self.scores[:, self.made : after] = np.minimum(np.maximum(found, -self.clip), self.clip) / self.clip
        self.made = after

    def look(self, row: np.ndarray, gap: Tensor, place: Tensor) -> np.ndarray:
        """Look at the rows of gaps (B, m) and places (B, m), -1 for none."""
        video = np.arange(len(self.samples))[:, None]
        found = np.where(place.numpy() < 0, -1, row[place.clamp(min=0).numpy(), video, gap.numpy()])
        self.add(found)
        return found


def _pick(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best rows of the best gaps of (B, gaps, places): gaps and places (B, count), places -1 where none is."""
    best = logits.max(2)
    value, gap = best.values.topk(count, 1)
    return gap, torch.where(value > float("-inf"), best.indices.gather(1, gap), -1)


def _log_prob(logits: Tensor, gap: Tensor, place: Tensor) -> Tensor:
    """Logarithms of the probabilities (B,) of choices that were drawn one after another, each in a gap of its own."""
    total = torch.zeros(len(logits))
    for i in range(gap.shape[1]):
        there = place[:, i] >= 0
        flat = logits.flatten(1)
        index = gap[:, i] * PLACES + place[:, i].clamp(min=0)
        # A video without an open gap has nothing to choose.
        safe = torch.where(there[:, None], flat, 0.0)
        total = total + torch.where(there, safe.log_softmax(1).gather(1, index[:, None])[:, 0], 0.0)
        taken = torch.arange(logits.shape[1]) == gap[:, i : i + 1]
        logits = logits.masked_fill(taken[..., None], float("-inf"))
    return total


def _gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise that makes an argmax of logits a draw from their softmax."""
    uniform = torch.rand(like.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    return -(-uniform.log()).log()
