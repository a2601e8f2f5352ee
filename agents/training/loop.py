"""Trainings as objects: one call makes one update's worth of progress, and between two calls all of it can be stored.

``state_dict`` of a training, with that of its agent, is everything that decides how it goes on: a copy that loads both
continues to the same weights, bit for bit, on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from strong_envs.agents.training.health import TrainingMonitor
from strong_envs.agents.training.replay import IndexReplay
from strong_envs.core.vector_env import IndexVectorEnv

if TYPE_CHECKING:
    from strong_envs.agents.strong.ddpg import DDPG

Values = dict[str, int | float | bool | None]
"""JSON-ready state, beside the tensors."""


class Training(Protocol):
    """What `run` drives and a session stores. ``done`` and ``total`` count steps; ``iteration`` counts `advance`."""

    stage: str
    done: int
    total: int
    iteration: int

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""

    def advance(self) -> bool:
        """Make the next step; whether something was learnt."""

    def reported(self, before: int) -> int:
        """The step that a report carries, ``before`` being where the iteration began."""

    def check(self) -> None:
        """Raise `agents.training.health.TrainingDiverged` where the last update's numbers are not finite."""

    def look(self) -> dict[str, float]:
        """Scalars of the last update for the log; changes nothing that the training depends on."""

    def state_dict(self) -> tuple[dict[str, Tensor], Values]:
        """Tensors and JSON-ready values."""

    def load_state_dict(self, tensors: dict[str, Tensor], values: Values) -> None:
        """Go on where `state_dict` was taken."""


class UpdateListener(Protocol):
    """What is told of the progress: see `agents.training.session.Session`."""

    def enter(self, training: Training) -> None:
        """A training is about to start; it may be brought to where it stopped before."""

    def after_update(self, training: Training) -> None:
        """The training stands between two updates."""


def run(
    training: Training,
    report: Callable[[int, dict[str, float]], None] | None = None,
    every: int = 20,
    session: UpdateListener | None = None,
) -> None:
    """Drive a training to its end. ``report`` hears the step and the log each ``every`` iterations."""
    if session is not None:
        session.enter(training)
    while not training.finished:
        iteration, step = training.iteration, training.done
        if training.advance() and iteration % every == 0:
            training.check()
            # Looked at in any case: that is where a collapsed actor is noticed.
            log = training.look()
            if report is not None:
                report(training.reported(step), log)
        if session is not None:
            session.after_update(training)
    training.check()


def split(batch: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The columns of a batch that start with ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in batch.items() if name.startswith(prefix)}


class _Level:
    """What the two ways to train a `DDPG` share."""

    def __init__(self, agent: DDPG, env: IndexVectorEnv, steps: int, stage: str) -> None:
        self.agent, self.env, self.total, self.stage = agent, env, steps, stage
        self.done = self.iteration = 0
        self.log: dict[str, Tensor] = {}
        self.states: dict[str, Tensor] = {}
        self.watch = TrainingMonitor(stage, steps, agent.n_actions, agent.args.objective == "distil")

    def check(self) -> None:
        self.watch.finite(self.done, {name: float(value) for name, value in self.log.items()})

    def _greedy(self) -> Tensor:
        """Greedy actions in the states of the last update; the watch hears of them."""
        action = self.agent.act(self.env.observe_state(self.states))
        self.watch.alive(self.done, float(self.log["entropy"]), len(action.unique()))
        return action


class ReplayTraining(_Level):
    """Training from transitions of the agent's own episodes, on a vector environment with index observations.

    Args:
        agent: trained in place. env: made with ``output="torch", observation="index"``, SAME_STEP. steps: environment
            steps. stage: name for messages.
    """

    def __init__(self, agent: DDPG, env: IndexVectorEnv, steps: int, stage: str = "training") -> None:
        super().__init__(agent, env, steps, stage)
        self.replay = IndexReplay(agent.args.capacity, env.device)
        # Taken anew in every training: between the turns of STRONG the boxes change, and with them the scale of
        # features.
        self.fitted = False
        self.seen: list[dict[str, Tensor]] = []
        self.returns: Tensor | None = None
        self.started = False
        self.epsilon = agent.args.epsilon_start

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    def reported(self, before: int) -> int:
        """The step that a report of this iteration carries."""
        return self.done

    def advance(self) -> bool:
        agent, env, args = self.agent, self.env, self.agent.args
        if not self.started:
            env.reset(seed=args.seed)
            self.started = True
        self.iteration += 1
        share = self.done / self.total
        state = env.state()
        epsilon = args.epsilon_end + (args.epsilon_start - args.epsilon_end) * max(1 - share / args.epsilon_share, 0)
        if self.fitted:
            action = agent.act(env.observe_state(state))
        else:
            action = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
        dice = torch.rand(2, env.num_envs, generator=agent.generator).to(env.device)
        random = (dice[1] * (agent.n_actions - 1)).to(torch.int64).clamp(max=agent.n_actions - 2)
        random = random + (random >= args.stop)
        action = torch.where((dice[0] < epsilon) | (not self.fitted), random, action)
        _, reward, terminated, _, info = env.step(action)
        self.replay.add(
            **{f"state.{name}": value for name, value in state.items()},
            **{f"next.{name}": value for name, value in env.reached.items()},
            action=action.to(torch.uint8),
            reward=reward,
            terminated=terminated,
        )
        self.done += env.num_envs
        self.epsilon = epsilon
        if not self.fitted:
            self.seen.append(env.observe_state(state))
            if self.done >= min(args.warmup, self.total // 2):
                agent.inputs.fit({name: torch.cat([o[name] for o in self.seen]) for name in self.seen[0]})
                self.fitted, self.seen = True, []
            return False
        if "episode" in info:
            ended = info["_episode"].to(torch.float64)
            mean = (info["episode"]["r"] * ended).sum() / ended.sum().clamp(min=1)
            self.returns = mean if self.returns is None else self.returns * 0.95 + mean * 0.05
        agent.set_progress(share)
        for _ in range(args.updates):
            batch = self.replay.sample(args.batch, agent.generator)
            batch["action"] = batch["action"].to(torch.int64)
            self.log = agent.update(batch, env)
        self.states = split(batch, "state.")
        return True

    def look(self) -> dict[str, float]:
        self._greedy()
        scalars = {name: float(value) for name, value in self.log.items()}
        scalars["return"] = float(self.returns) if self.returns is not None else float("nan")
        scalars["epsilon"] = self.epsilon
        return scalars

    def state_dict(self) -> tuple[dict[str, Tensor], Values]:
        tensors: dict[str, Tensor] = {}
        if self.started:
            tensors |= {f"env.{name}": value for name, value in self.env.snapshot().items()}
            tensors |= {f"replay.{name}": value for name, value in self.replay.state_dict().items()}
        if self.seen:
            tensors |= {f"seen.{name}": torch.cat([o[name] for o in self.seen]) for name in self.seen[0]}
        if self.returns is not None:
            tensors["returns"] = self.returns.clone()
        values = {"done": self.done, "iteration": self.iteration, "fitted": self.fitted, "started": self.started}
        return tensors, values

    def load_state_dict(self, tensors: dict[str, Tensor], values: Values) -> None:
        self.done, self.iteration = int(values["done"]), int(values["iteration"])
        self.fitted, self.started = bool(values["fitted"]), bool(values["started"])
        if self.started:
            self.env.restore(split(tensors, "env."))
            self.replay.load_state_dict(split(tensors, "replay."))
        device = self.env.device
        seen = {name: value.to(device) for name, value in split(tensors, "seen.").items()}
        self.seen = [seen] if seen else []
        self.returns = tensors["returns"].to(device) if "returns" in tensors else None


class UniformTraining(_Level):
    """Training on states drawn afresh; "return" is then the mean reward of the greedy move, and steps are states."""

    def __init__(self, agent: DDPG, env: IndexVectorEnv, steps: int, stage: str = "training") -> None:
        super().__init__(agent, env, steps, stage)
        self.count = max(steps // agent.args.batch, 1)
        self.started = False

    @property
    def finished(self) -> bool:
        return self.iteration >= self.count

    def reported(self, before: int) -> int:
        """The step that a report of this iteration carries."""
        return before

    def advance(self) -> bool:
        agent, task, batch = self.agent, self.env.task, self.agent.args.batch
        if not self.started:
            first = task.random_states(max(agent.args.warmup, batch), agent.generator)
            agent.inputs.fit(self.env.observe_state(first))
            self.started = True
        agent.set_progress(self.iteration / self.count)
        self.states = task.random_states(batch, agent.generator)
        self.log = agent.update({f"state.{name}": value for name, value in self.states.items()}, self.env)
        self.iteration += 1
        self.done += batch
        return True

    def look(self) -> dict[str, float]:
        scalars = {name: float(value) for name, value in self.log.items()}
        pays = self.env.action_rewards(self.states).gather(1, self._greedy()[:, None])
        return scalars | {"return": float(pays.mean())}

    def state_dict(self) -> tuple[dict[str, Tensor], Values]:
        return {}, {"done": self.done, "iteration": self.iteration, "started": self.started}

    def load_state_dict(self, tensors: dict[str, Tensor], values: Values) -> None:
        self.done, self.iteration = int(values["done"]), int(values["iteration"])
        self.started = bool(values["started"])


def optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors named ``<parameter>.<name>`` and the JSON-ready settings of each group, learning rates among them."""
    whole = optimiser.state_dict()
    tensors = {f"{i}.{name}": value.clone() for i, held in whole["state"].items() for name, value in held.items()}
    return tensors, [{k: v for k, v in group.items() if k != "params"} for group in whole["param_groups"]]


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """Take over what `optimiser_state` gave for an optimiser of the same parameters."""
    whole = optimiser.state_dict()
    for mine, given in zip(whole["param_groups"], groups, strict=True):
        # JSON knows lists alone, and PyTorch wants the pair of Adam's decay rates as a tuple.
        mine.update({k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, what = name.partition(".")
        state.setdefault(int(index), {})[what] = value.clone()
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
