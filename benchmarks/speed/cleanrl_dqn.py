"""DQN after the manner of CleanRL's dqn.py, as a system beside the others, to compare seconds of training with.

    strong-envs converge --systems "GT boxes,sb3-dqn" --agent strong_envs.benchmarks.speed.cleanrl_dqn:CleanDQN

The loop is CleanRL's: act epsilon-greedily, store observations, every few steps draw a batch, and copy the network to
the target now and then. The network is that of the project's own agents, so that what differs is the training.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.sequential import TemporalSystem, standardiser_batch
from strong_envs.agents.registry import Prediction, ProgressCallback
from strong_envs.agents.training.matching import MatchingInputs
from strong_envs.agents.training.networks import HeadsCritic
from strong_envs.features.devices import sent
from strong_envs.rollout import localise
from strong_envs.temporal.env import TemporalMomentVectorEnv
from strong_envs.temporal.task import TemporalConfig, TemporalTask


@dataclass(frozen=True)
class CleanArgs:
    """Arguments with CleanRL's names."""

    steps: int = 200_000
    num_envs: int = 64
    learning_rate: float = 1e-3
    buffer_size: int = 50_000
    gamma: float = 0.2
    target_network_frequency: int = 100
    """Updates between two copies of the network."""
    batch_size: int = 256
    start_e: float = 1.0
    end_e: float = 0.1
    exploration_fraction: float = 0.5
    learning_starts: int = 4_000
    updates: int = 2
    """Updates after each step of all environments."""
    exploring_starts: bool = False


class QNetwork(nn.Module):
    """Named parts of an observation to a value for each action."""

    def __init__(self, task: TemporalTask) -> None:
        super().__init__()
        self.inputs = MatchingInputs(task.dims())
        self.heads = HeadsCritic(self.inputs.size, task.n_actions, (128,))

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """(B, A)."""
        return self.heads.all_actions(self.inputs(observation))


class CleanDQN(TemporalSystem):
    """DQN after CleanRL's loop, with the network of the project's own agents."""

    sees = "whole frames"
    learns_from = "own rewards"

    # The moves and the reward of the project's own agents.
    ENV = TemporalConfig(multi_scale=True, reward="iou_delta", phi=0.001)
    PRESETS: ClassVar = {"default": (CleanArgs(), ENV)}

    def build(self, task: TemporalTask) -> nn.Module:
        """The network, as `TemporalSystem` asks for it."""
        return QNetwork(task)

    def train(self, report: ProgressCallback | None) -> None:
        """CleanRL's loop."""
        args, q_network, device = self.args, self.network, self.bank.device
        task = self.training_task()
        generator = torch.Generator().manual_seed(self.seed)
        q_network.inputs.fit(standardiser_batch(task, generator))
        target_network = deepcopy(q_network)
        optimizer = torch.optim.Adam(q_network.parameters(), lr=args.learning_rate, fused=True)
        envs = TemporalMomentVectorEnv.of(task, args.num_envs, False, "torch", "features", "light")
        held: dict[str, Tensor] = {}
        obs, _ = envs.reset(seed=self.seed)
        updates = size = at = 0
        unit = None
        for global_step in range(0, args.steps, args.num_envs):
            share = global_step / (args.exploration_fraction * args.steps)
            epsilon = max(args.start_e + (args.end_e - args.start_e) * share, args.end_e)
            with torch.no_grad():
                greedy = q_network(obs).argmax(1)
            dice = sent(torch.rand(2, args.num_envs, generator=generator), device)
            actions = torch.where(dice[0] < epsilon, (dice[1] * task.n_actions).long(), greedy)
            next_obs, rewards, terminations, _, _ = envs.step(actions)
            # Where an episode ended, `next_obs` begins the next one; the value behind a terminal step is not used.
            row = {f"obs.{k}": v for k, v in obs.items()} | {f"next.{k}": v for k, v in next_obs.items()}
            row |= {"action": actions, "reward": rewards, "done": terminations.float()}
            if not held:
                held = {k: v.new_zeros(args.buffer_size, *v.shape[1:]) for k, v in row.items()}
            places = (torch.arange(args.num_envs, device=device) + at) % args.buffer_size
            for k, v in row.items():
                held[k][places] = v
            at, size = (at + args.num_envs) % args.buffer_size, min(size + args.num_envs, args.buffer_size)
            obs = next_obs
            if global_step < args.learning_starts:
                continue
            if unit is None:
                unit = 1 / held["reward"][:size].std().clamp(min=1e-3)
            for _ in range(args.updates):
                pick = sent(torch.randint(size, (args.batch_size,), generator=generator), device)
                data = {k: v[pick] for k, v in held.items()}
                now, after = ({k[len(p) :]: v for k, v in data.items() if k.startswith(p)} for p in ("obs.", "next."))
                with torch.no_grad():
                    target_max = target_network(after).amax(1)
                    td_target = data["reward"] * unit + args.gamma * target_max * (1 - data["done"])
                old_val = q_network(now).gather(1, data["action"][:, None]).squeeze(1)
                loss = nn.functional.mse_loss(td_target, old_val)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                updates += 1
                if updates % args.target_network_frequency == 0:
                    target_network.load_state_dict(q_network.state_dict())
            if report is not None and global_step // args.num_envs % 50 == 0:
                report("training", global_step, args.steps, {"td_loss": float(loss.detach())})

    def locate(self, task: TemporalTask, samples: Tensor) -> Prediction:
        """Greedy episodes."""
        with torch.no_grad():
            episodes = localise(task, lambda o: self.network(o).argmax(-1), samples, batch=len(samples))
        return Prediction(**vars(episodes), frames_seen=torch.ones(len(samples), device=task.bank.device))
