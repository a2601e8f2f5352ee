"""Training of a level: from transitions of the agent's own episodes, or from states drawn uniformly.

Both are trainings of `agents.training.loop`: stored between any two updates and resumed bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor

from strong_envs.agents.strong.levels.full_feedback import FullFeedback
from strong_envs.agents.training.checkpoint import Count
from strong_envs.agents.training.loop import Training, UpdateListener, Values, run, split
from strong_envs.agents.training.replay import IndexReplay
from strong_envs.features.devices import sent

if TYPE_CHECKING:
    from strong_envs.agents.strong.levels.level import Level, LevelEnv


class Counters(msgspec.Struct):
    """Progress of a training."""

    done: Count
    iteration: Count
    started: bool
    fitted: bool = False


def train(
    agent: Level,
    env: LevelEnv,
    *,
    steps: int | None = None,
    report: Callable[[int, dict], None] | None = None,
    every: int = 20,
    stage: str = "training",
    session: UpdateListener | None = None,
    epsilon_start: float | None = None,
) -> Level:
    """Train on a vector environment with index observations and torch output.

    Args:
        agent: trained in place.
        env: made with ``output="torch", observation="index"``, SAME_STEP.
        steps: environment steps (default: the agent's own).
        report: called with the step and the scalars of the log; it may raise `KeyboardInterrupt` to stop.
        every: steps of all environments between two reports.
        stage: name of this training, for messages.
        session: writes checkpoints and resumes from one, see `agents.training.session.Session`.
        epsilon_start: share of random moves at the start (default: the agent's own); an agent that has been trained
            before needs fewer.

    Raises:
        TrainingDiverged: losses that are not finite; seen within ``every`` steps.
    """
    total = agent.args.steps if steps is None else steps
    training: Training
    if isinstance(agent, FullFeedback) and agent.args.states == "uniform":
        training = UniformTraining(agent, env, total, stage)
    else:
        training = ReplayTraining(agent, env, total, stage, epsilon_start)
    run(training, report, every, session)
    return agent


class _LevelTraining:
    """The part that both trainings of a level share: log, checks, and the monitor."""

    def __init__(self, agent: Level, env: LevelEnv, steps: int, stage: str) -> None:
        self.agent, self.env, self.total, self.stage = agent, env, steps, stage
        self.done = self.iteration = 0
        self.log: dict[str, Tensor] = {}
        self.states: dict[str, Tensor] = {}
        self.monitor = agent.monitor(stage, steps)

    def check(self) -> None:
        self.monitor.finite(self.done, {name: float(value) for name, value in self.log.items()})

    def _greedy(self) -> Tensor:
        """Greedy actions in the states of the last update, which the monitor checks."""
        action = self.agent.act(self.env.observe_state(self.states))
        if "entropy" in self.log:
            self.monitor.alive(self.done, float(self.log["entropy"]), len(action.unique()))
        return action


class ReplayTraining(_LevelTraining):
    """Training from transitions of the agent's own episodes, on a vector environment with index observations.

    Args:
        agent: trained in place.
        env: made with ``output="torch", observation="index"``, SAME_STEP.
        steps: environment steps.
        stage: name for messages.
        epsilon_start: share of random moves at the start; None: the agent's own.
    """

    def __init__(
        self, agent: Level, env: LevelEnv, steps: int, stage: str = "training", epsilon_start: float | None = None
    ) -> None:
        super().__init__(agent, env, steps, stage)
        self.epsilon_start = agent.args.epsilon_start if epsilon_start is None else epsilon_start
        self.replay = IndexReplay(agent.args.capacity, env.device)
        # Taken anew in every training: between the turns of STRONG the boxes change, and with them the scale of
        # features.
        self.fitted = False
        self.seen: list[dict[str, Tensor]] = []
        self.returns: Tensor | None = None
        self.started = False
        self.epsilon = self.epsilon_start

    @property
    def finished(self) -> bool:
        """Whether all environment steps are made."""
        return self.done >= self.total

    def reported(self, before: int) -> int:
        """The step that a report of this iteration carries."""
        return self.done

    def advance(self) -> bool:
        """One step of all environments, and after the warm-up ``updates`` updates."""
        agent, env, args = self.agent, self.env, self.agent.args
        if not self.started:
            env.reset(seed=args.seed)
            self.started = True
        self.iteration += 1
        share = self.done / self.total
        state = env.state()
        epsilon = args.epsilon_end + (self.epsilon_start - args.epsilon_end) * max(1 - share / args.epsilon_share, 0)
        if self.fitted:
            action = agent.act(env.observe_state(state))
        else:
            action = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
        dice = sent(torch.rand(2, env.num_envs, generator=agent.generator), env.device)
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
                agent.fit_inputs({name: torch.cat([o[name] for o in self.seen]) for name in self.seen[0]})
                agent.fit_rewards(self.replay.columns["reward"][: self.replay.size])
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

    def scalars(self) -> dict[str, float]:
        """Losses, mean return and epsilon."""
        self._greedy()
        scalars = {name: float(value) for name, value in self.log.items()}
        scalars["return"] = float(self.returns) if self.returns is not None else float("nan")
        scalars["epsilon"] = self.epsilon
        return scalars

    def state_dict(self) -> tuple[dict[str, Tensor], Values]:
        """Environments, replay and counters."""
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
        """Resume from `state_dict`."""
        counters = msgspec.convert(values, Counters)
        self.done, self.iteration = counters.done, counters.iteration
        self.fitted, self.started = counters.fitted, counters.started
        if self.started:
            self.env.restore(split(tensors, "env."))
            self.replay.load_state_dict(split(tensors, "replay."))
            self._check_states()
        device = self.env.device
        seen = {name: value.to(device) for name, value in split(tensors, "seen.").items()}
        self.seen = [seen] if seen else []
        self.returns = tensors["returns"].to(device).view(()) if "returns" in tensors else None

    def _check_states(self) -> None:
        """Observe every state of the environments and the replay: values that no training stores raise here."""
        self.env.observe_state(self.env.state())
        for at in torch.arange(self.replay.size, device=self.env.device).split(8192):
            rows = self.replay.rows(at)
            for side in ("state.", "next."):
                parts = self.env.observe_state(split(rows, side))
                if not all(bool(part.isfinite().all()) for part in parts.values()):
                    raise ValueError("a state of the replay has an observation that is not finite")
            if not bool((rows["action"] < self.agent.n_actions).all() and rows["reward"].isfinite().all()):
                raise ValueError("the replay has actions or rewards out of range")


class UniformTraining(_LevelTraining):
    """Training on states drawn afresh; "return" is then the mean reward of the greedy move, and steps are states."""

    def __init__(self, agent: Level, env: LevelEnv, steps: int, stage: str = "training") -> None:
        super().__init__(agent, env, steps, stage)
        self.count = max(steps // agent.args.batch, 1)
        self.started = False

    @property
    def finished(self) -> bool:
        """Whether all updates are made."""
        return self.iteration >= self.count

    def reported(self, before: int) -> int:
        """The step that a report of this iteration carries."""
        return before

    def advance(self) -> bool:
        """One update from states drawn uniformly."""
        agent, task, batch = self.agent, self.env.task, self.agent.args.batch
        if not self.started:
            first = task.random_states(max(agent.args.warmup, batch), agent.generator)
            agent.fit_inputs(self.env.observe_state(first))
            self.started = True
        agent.set_progress(self.iteration / self.count)
        self.states = task.random_states(batch, agent.generator)
        self.log = agent.update({f"state.{name}": value for name, value in self.states.items()}, self.env)
        self.iteration += 1
        self.done += batch
        return True

    def scalars(self) -> dict[str, float]:
        """Losses and the mean reward of the greedy action."""
        scalars = {name: float(value) for name, value in self.log.items()}
        rewards = self.env.action_rewards(self.states).gather(1, self._greedy()[:, None])
        return scalars | {"return": float(rewards.mean())}

    def state_dict(self) -> tuple[dict[str, Tensor], Values]:
        """Counters."""
        return {}, {"done": self.done, "iteration": self.iteration, "started": self.started}

    def load_state_dict(self, tensors: dict[str, Tensor], values: Values) -> None:
        """Resume from `state_dict`."""
        counters = msgspec.convert(values, Counters)
        self.done, self.iteration, self.started = counters.done, counters.iteration, counters.started
