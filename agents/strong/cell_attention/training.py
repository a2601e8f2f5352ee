"""Training of a temporal level and of the attention inside it, from the rewards of its own episodes.

Episodes are played with fixed weights, the attention of each query being computed once; then the networks are updated.
An update takes several moves of each of its queries: one pass of the attention, by far the most expensive part, serves
all moves of its query. It reads every second row and column of cells, from a random one on.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from strong_envs.agents.strong.cell_attention.attention import CellAttention, observe_stretches
from strong_envs.agents.strong.cell_attention.cells import lattice
from strong_envs.agents.strong.levels.level import Level
from strong_envs.agents.training.captured import CapturedStep
from strong_envs.agents.training.checkpoint import Count
from strong_envs.agents.training.loop import Values, split
from strong_envs.features.bank.pooling import box_weights, starts_of
from strong_envs.features.devices import sent
from strong_envs.temporal.task import TemporalTask, random_windows

WARMUP = 2
"""Rounds of episodes before the first update."""


class QueryReplay:
    """The last moves of every query, in index form.

    Args:
        queries: number of queries. slots: moves kept of each.
        device: where they live.
    """

    FLOATS = ("start", "end", "next_start", "next_end", "reward")

    def __init__(self, queries: int, slots: int, device: torch.device) -> None:
        self.slots = slots
        self.columns = {name: torch.zeros(queries, slots, device=device) for name in self.FLOATS}
        self.columns["action"] = torch.zeros(queries, slots, dtype=torch.uint8, device=device)
        self.columns["terminated"] = torch.zeros(queries, slots, dtype=torch.bool, device=device)
        self.count = torch.zeros(queries, dtype=torch.int64, device=device)

    def add(self, queries: Tensor, live: Tensor, **values: Tensor) -> None:
        """Store one move (B,) of each of ``queries`` (B,), all different, where ``live`` (B,) is set."""
        at = self.count[queries] % self.slots
        for name, value in values.items():
            column = self.columns[name]
            column[queries, at] = torch.where(live, value.to(column.dtype), column[queries, at])
        self.count[queries] += live

    def sample(self, queries: Tensor, dice: Tensor) -> dict[str, Tensor]:
        """Moves of each of ``queries`` (G,), drawn with replacement by ``dice`` (G, n) in [0, 1): columns (G, n)."""
        at = (dice * self.count[queries].clamp(max=self.slots)[:, None]).to(torch.int64)
        return {name: column[queries[:, None], at] for name, column in self.columns.items()}

    def rewards(self, queries: Tensor) -> Tensor:
        """The rewards held of some queries: (N,)."""
        held = torch.arange(self.slots, device=self.count.device) < self.count[queries, None]
        return self.columns["reward"][queries][held]

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all columns and counts."""
        return {"count": self.count.clone()} | {f"column.{k}": v.clone() for k, v in self.columns.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` of a replay of the same sizes gave."""
        held = split(state, "column.")
        if state["count"].shape != self.count.shape or held.keys() != self.columns.keys():
            raise ValueError("the replay of the checkpoint belongs to other queries")
        for name, column in self.columns.items():
            if held[name].shape != column.shape or not bool(held[name].isfinite().all()):
                raise ValueError(f"the replay of the checkpoint has an unusable column {name!r}")
            column.copy_(held[name])
        if not bool((state["count"] >= 0).all()):
            raise ValueError("the replay of the checkpoint has negative counts")
        self.count.copy_(state["count"])


class Counters(msgspec.Struct):
    """Progress of a training."""

    done: Count
    iteration: Count
    played: Count
    updates: Count


class CellAttentionTraining:
    """A training of `agents.training.loop`; ``done`` counts environment steps.

    Args:
        agent: trained in place; it has an attention.
        task: the temporal level.
        steps: environment steps.
        stage: name for messages.
        boxes: corners (R, 4) of every frame of each sample that limit the attention; None: whole frames.
        whole: share of the queries of an update whose attention is not limited all the same.
        epsilon_start: share of random moves at the start; None: the agent's own.
    """

    def __init__(
        self,
        agent: Level,
        task: TemporalTask,
        steps: int,
        stage: str = "training",
        boxes: Tensor | None = None,
        whole: float = 0.0,
        epsilon_start: float | None = None,
    ) -> None:
        assert agent.attention is not None
        self.agent, self.task, self.total, self.stage = agent, task, steps, stage
        self.attention: CellAttention = agent.attention
        self.settings = self.attention.args
        self.boxes, self.whole = boxes, whole
        self.epsilon_start = agent.args.epsilon_start if epsilon_start is None else epsilon_start
        bank = task.bank
        videos = torch.arange(len(bank.videos), device=bank.device)
        self.maps = self.attention.maps(bank, videos, self.settings.stretches)
        self.rows = starts_of(task.n_frames)
        self.replay = QueryReplay(len(bank), self.settings.slots, bank.device)
        self.generator = torch.Generator().manual_seed(agent.args.seed + 17)
        self.order = torch.randperm(len(bank), generator=self.generator)
        self.done = self.iteration = self.played = self.updates = 0
        self.log: dict[str, Tensor] = {}
        self.returns = float("nan")
        self.distinct = agent.n_actions
        self.monitor = agent.monitor(stage, steps)
        self.captured = self.settings.capture and bank.device.type == "cuda" and not agent.drops
        self.learn = CapturedStep(self._learn, bank.device) if self.captured else self._learn
        if self.captured:
            agent.make_capturable()

    @property
    def finished(self) -> bool:
        """Whether all environment steps are made."""
        return self.done >= self.total

    def reported(self, before: int) -> int:
        """The step that a report of this iteration carries; the last episodes may go beyond the total."""
        return min(self.done, self.total)

    def check(self) -> None:
        """Raise `TrainingDiverged` where the last losses are not finite."""
        self.monitor.finite(self.done, {name: float(value) for name, value in self.log.items()})

    def scalars(self) -> dict[str, float]:
        """Losses, mean return and epsilon. Warns of an actor that has collapsed."""
        scalars = {name: float(value) for name, value in self.log.items()}
        if "entropy" in scalars:
            self.monitor.alive(self.done, scalars["entropy"], self.distinct)
        return scalars | {"return": self.returns, "epsilon": self.epsilon}

    @property
    def epsilon(self) -> float:
        """Share of random moves in the episodes of this iteration."""
        args, share = self.agent.args, self.done / self.total
        return args.epsilon_end + (self.epsilon_start - args.epsilon_end) * max(1 - share / args.epsilon_share, 0)

    def advance(self) -> bool:
        """Play episodes, then make the updates that their steps pay for."""
        samples = self._next_samples()
        self.done += self._play(samples)
        self.iteration += 1
        if self.iteration <= WARMUP:
            if self.iteration == 1:
                self._fit(samples)
            return False
        self.agent.set_progress(min(self.done / self.total, 1.0))
        wanted = min(self.done, self.total) // self.settings.steps_per_update
        while self.updates < wanted:
            self._update()
            self.updates += 1
        return True

    @torch.no_grad()
    def _fit(self, samples: Tensor) -> None:
        """Take the scales of inputs and rewards from the first episodes of the first training."""
        if bool(self.agent.unit != 0):
            return
        start, end = random_windows((len(samples), 1), self.task.config.total, self.generator)
        seen = self.maps[self.task.bank.video[samples]].to(torch.float32).mean(2)
        self.agent.fit_inputs(
            observe_stretches(self.task, seen, samples, start.to(samples.device), end.to(samples.device))
        )
        self.agent.fit_rewards(self.replay.rewards(samples))

    def _next_samples(self) -> Tensor:
        """The next queries in a fixed random order, so that each is played equally often: all different."""
        count = min(self.settings.episodes, len(self.order))
        at = (torch.arange(count) + self.played) % len(self.order)
        self.played += count
        return sent(self.order[at], self.task.bank.device)

    def _lattice(self) -> Tensor:
        """The cells that are read this time: (K,) int64, every so many rows and columns from a random one on."""
        height, width, _ = self.task.bank.grid_shape
        return sent(lattice(height, width, self.settings.lattice, self.generator), self.task.bank.device)

    def _cells(self, samples: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (B, M, K, C) at ``at`` (K,) and queries (B, Dq) of samples, standardised."""
        bank = self.task.bank
        videos, stretch = bank.video[samples], torch.arange(self.settings.stretches, device=samples.device)
        cells = self.maps[videos[:, None, None], stretch[:, None], at]
        return cells.to(torch.float32), self.attention.query(bank.query[samples])

    def _inside(self, samples: Tensor, at: Tensor) -> Tensor | None:
        """How much of each cell at ``at`` lies in the box of each stretch: (B, M, K); None where nothing is limited."""
        if self.boxes is None:
            return None
        height, width, _ = self.task.bank.grid_shape
        middle = (torch.arange(self.settings.stretches, device=samples.device) + 0.5) / self.settings.stretches
        frame = (middle * self.task.n_frames[samples][:, None]).to(torch.int64)
        corners = self.boxes[self.rows[samples][:, None] + frame]
        return box_weights(corners, height, width)[..., at]

    @torch.no_grad()
    def _play(self, samples: Tensor) -> int:
        """Play an episode of each sample, epsilon-greedily; returns the number of steps."""
        task, agent, epsilon = self.task, self.agent, self.epsilon
        at = self._lattice()
        parts = [self.attention(*self._cells(part, at), self._inside(part, at))[0] for part in samples.split(128)]
        seen = torch.cat(parts)
        if task.config.start == "random":
            start, end = (
                sent(x, samples.device) for x in random_windows((len(samples),), task.config.total, self.generator)
            )
        else:
            start, end = task.initial(samples)
        live = torch.ones_like(samples, dtype=torch.bool)
        t, iou, gained = torch.zeros_like(samples), task.iou(samples, start, end), torch.zeros_like(start)
        steps = torch.zeros((), dtype=torch.int64, device=samples.device)
        taken = torch.zeros(task.n_actions, dtype=torch.bool, device=samples.device)
        for _ in range(task.config.max_steps):
            observation = observe_stretches(task, seen, samples, start[:, None], end[:, None])
            dice = sent(torch.rand(2, len(samples), generator=self.generator), samples.device)
            random = (dice[1] * task.n_actions).to(torch.int64).clamp(max=task.n_actions - 1)
            chosen = agent.act(observation)
            taken = taken.scatter(0, chosen, True)
            action = torch.where(dice[0] < epsilon, random, chosen)
            result = task.move(samples, start, end, t, iou, action)
            self.replay.add(
                samples,
                live,
                start=start,
                end=end,
                next_start=result.start,
                next_end=result.end,
                reward=result.reward,
                action=action,
                terminated=result.terminated,
            )
            steps += live.sum()
            gained += torch.where(live, result.reward, 0.0)
            start, end = torch.where(live, result.start, start), torch.where(live, result.end, end)
            iou, t = torch.where(live, result.iou, iou), t + live
            live = live & ~result.terminated
        self.returns, self.distinct = float(gained.mean()), int(taken.sum())
        return int(steps)

    def _update(self) -> None:
        settings = self.settings
        visited = min(self.played, len(self.order))
        pick = torch.randint(visited, (settings.queries,), generator=self.generator)
        drawn = {
            "samples": self.order[pick],
            "dice": torch.rand(settings.queries, settings.moves, generator=self.generator),
            "free": torch.rand(settings.queries, generator=self.generator) < self.whole,
        }
        device = self.task.bank.device
        self.log = self.learn({name: sent(value, device) for name, value in drawn.items()} | {"cells": self._lattice()})

    def _learn(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """One update from what was drawn for it: it waits for no number, so that it can be recorded."""
        agent, task, samples = self.agent, self.task, drawn["samples"]
        batch = self.replay.sample(samples, drawn["dice"])
        cells, query = self._cells(samples, drawn["cells"])
        inside = self._inside(samples, drawn["cells"])
        if inside is not None and self.whole:
            inside = torch.where(drawn["free"][:, None, None], 1.0, inside)
        with agent.dropping():
            seen, _ = self.attention(cells, query, inside)
        before = observe_stretches(task, seen, samples, batch["start"], batch["end"])
        with torch.no_grad():
            assert agent.target_attention is not None
            target, _ = agent.target_attention(cells, query, inside)
            after = observe_stretches(task, seen.detach(), samples, batch["next_start"], batch["next_end"])
            by_target = observe_stretches(task, target, samples, batch["next_start"], batch["next_end"])
        flat = {name: batch[name].flatten() for name in ("action", "reward", "terminated")}
        action = flat["action"].to(torch.int64)
        return agent.learn(before, after, by_target, action, flat["reward"], flat["terminated"])

    def state_dict(self) -> tuple[dict[str, Tensor], Values]:
        """Replay, generator and counters."""
        tensors = {f"replay.{name}": value for name, value in self.replay.state_dict().items()}
        tensors |= {"generator": self.generator.get_state(), "order": self.order.clone()}
        # An iteration on few queries may make no update; its report then has the losses of the last one.
        tensors |= {f"log.{name}": value.clone() for name, value in self.log.items()}
        names = ("done", "iteration", "played", "updates")
        return tensors, {name: getattr(self, name) for name in names}

    def load_state_dict(self, tensors: dict[str, Tensor], values: Values) -> None:
        """Resume from `state_dict`."""
        counters = msgspec.convert(values, Counters)
        self.done, self.iteration = counters.done, counters.iteration
        self.played, self.updates = counters.played, counters.updates
        self.replay.load_state_dict(split(tensors, "replay."))
        if not bool((self.replay.columns["action"] < self.agent.n_actions).all()):
            raise ValueError("the replay of the checkpoint has actions out of range")
        self.generator.set_state(tensors["generator"].cpu())
        order = tensors["order"].cpu()
        if not torch.equal(order.sort().values, torch.arange(len(self.order))):
            raise ValueError("the order of the queries in the checkpoint is not a permutation")
        self.order = order
        self.log = {name: value.to(self.task.bank.device) for name, value in split(tensors, "log.").items()}
        if not all(value.shape == () for value in self.log.values()):
            raise ValueError("the losses of the checkpoint are no numbers")
