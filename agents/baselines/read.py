"""READ: Read, Watch and Move (He et al., AAAI 2019), a recurrent actor-critic with two supervised tasks beside it.

In the order of the paper: the state of a step is one vector z of the sentence, the whole video, the window and its
location; a GRU carries the memory; actor and critic read it. From z itself the network also predicts the
IoU of the window and the true location. Known from the paper and from public code; the sizes of ``preset="paper"`` are
theirs. The dynamics are options of the environment: moves of n / 10 (``step_scale=2``), ten steps, phi = .001, the
reward ``"read"``, and a move over the edge of the video is cut off there.

Deviations, all presets:

- Returns are bootstrapped with the value of the state after the last step; public code takes the one before it.
- A video shorter than ten frames has steps of a fraction of a frame instead of none.

Deviations of ``preset="default"``, and why:

- *Sizes* of 64 and 128 instead of 512 and 1024: the default world's features are small.
- *Inputs* are standardised, and the window brings its context along, as STRONG's do here: a mean over the window alone
  does not show on which side of it the event lies.
- *Random windows*: training starts from them, not from the initial one alone, so that the critic sees more of them.
- *Half the entropy* and a learning rate of 4e-3 that decays to zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.sequential import TemporalSystem, gumbel_sample, n_step_returns, nearest_truth
from strong_envs.agents.ranges import check_fields
from strong_envs.agents.registry import OWN_REWARDS_AND_WINDOWS, Prediction, ProgressCallback, SystemSpec, register
from strong_envs.agents.search_space import Between, OneOf, Space
from strong_envs.agents.training.networks import Standardise
from strong_envs.rollout import localise
from strong_envs.temporal.env import TemporalMomentVectorEnv
from strong_envs.temporal.task import TemporalConfig, TemporalTask


@dataclass(frozen=True)
class ReadArgs:
    """Arguments of `Read`; the defaults are ``preset="default"``."""

    steps: int = 12_160_000
    """Environment steps to train for: 19,000 updates, as in the public code."""
    num_envs: int = 64
    """Episodes that run side by side; an update follows every ``max_steps`` steps of all of them."""
    lr: float = 4e-3
    decay: bool = True
    """Whether the learning rate falls linearly to zero."""
    gamma: float = 0.4
    entropy: float = 0.05
    """Weight of the policy's entropy."""
    value_weight: float = 0.5
    """Weight of the critic's squared error."""
    iou_weight: float = 1.0
    """Weight of the L1 error of the predicted IoU."""
    location_weight: float = 1.0
    """Weight of the L1 error of the predicted location."""
    location_above: float = 0.4
    """The location is learnt in windows whose IoU is above this."""
    clip: float = 1.0
    """Largest norm of a gradient; 0 leaves it."""
    sizes: tuple[int, int, int, int] = (64, 64, 64, 32)
    """Widths after the layers of the video, the window, the sentence and the location."""
    hidden: int = 128
    """Width of z and of the GRU's memory."""
    standardise: bool = True
    exploring_starts: bool = True
    """Train from random windows. Predictions begin with the initial window in any case."""

    def __post_init__(self) -> None:
        check_fields(self)


SPACE: Space = {
    "lr": Between(5e-4, 1e-2),
    "gamma": Between(0.0, 0.9, log=False),
    "entropy": Between(0.003, 0.3),
    "value_weight": Between(0.1, 2.0),
    "hidden": OneOf(64, 128, 256),
    "num_envs": OneOf(32, 64, 128),
}
PAPER = ReadArgs(
    lr=1e-3,
    decay=False,
    entropy=0.1,
    clip=0.0,
    sizes=(512, 512, 1024, 128),
    hidden=1024,
    standardise=False,
    exploring_starts=False,
)
ENV = TemporalConfig(step_scale=2.0, max_steps=10, phi=0.001, reward="read", invalid="clip")


class ReadNetwork(nn.Module):
    """State vector, memory and four heads.

    Args:
        shapes: named parts of the observation, from `TemporalTask.dims`.
        n_actions: number of moves.
        args: see `ReadArgs`.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], n_actions: int, args: ReadArgs) -> None:
        super().__init__()
        self.inputs = Standardise(shapes)
        width = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
        window = width["local"] + width.get("context", 0) + width.get("time", 0)
        self.layout = width
        parts = (width["global"], window, width["query"], width["location"])
        self.parts = nn.ModuleList(nn.Linear(a, b) for a, b in zip(parts, args.sizes, strict=True))
        self.join = nn.Linear(sum(args.sizes), args.hidden)
        self.memory = nn.GRUCell(args.hidden, args.hidden)
        self.policy = nn.Linear(args.hidden, n_actions)
        self.value = nn.Linear(args.hidden, 1)
        self.iou = nn.Linear(args.hidden, 1)
        self.location = nn.Linear(args.hidden, 2)

    def state(self, observation: dict[str, Tensor]) -> Tensor:
        """Z of named (B, ...) parts: (B, hidden). Each part passes a layer, is brought to length 1, and rectified."""
        part = dict(zip(self.layout, self.inputs(observation).split(list(self.layout.values()), 1), strict=True))
        window = [part[name] for name in ("local", "context", "time") if name in part]
        each = (part["global"], torch.cat(window, 1), part["query"], part["location"])
        seen = [
            torch.relu(nn.functional.normalize(layer(x), dim=-1)) for layer, x in zip(self.parts, each, strict=True)
        ]
        return torch.relu(self.join(torch.cat(seen, 1)))

    def forward(self, observation: dict[str, Tensor], memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (B, A), value (B,), the new memory (B, hidden) and z (B, hidden)."""
        z = self.state(observation)
        memory = self.memory(z, memory)
        return self.policy(memory), self.value(memory).squeeze(-1), memory, z


def read_loss(
    logits: Tensor,
    value: Tensor,
    action: Tensor,
    returns: Tensor,
    iou: tuple[Tensor, Tensor],
    location: tuple[Tensor, Tensor],
    args: ReadArgs,
) -> dict[str, Tensor]:
    """The parts of READ's loss, weighted, for T * B steps: their sum is minimised.

    Args:
        logits: (N, A) of the policy.
        value: (N,) predicted.
        action: (N,) int64.
        returns: (N,).
        iou: predicted and true (N,), the true one clamped.
        location: predicted and true (N, 2), fractions of the video.
        args: the weights.
    """
    log_pi = logits.log_softmax(-1)
    # The advantage weighs the policy; were it not detached, the policy would move the critic.
    advantage = (returns - value).detach()
    taken = log_pi.gather(1, action[:, None])[:, 0]
    near = (iou[1] > args.location_above).to(value.dtype)
    off = (location[0] - location[1]).abs().mean(-1)
    return {
        "policy": -(taken * advantage).mean(),
        "entropy": args.entropy * (log_pi.exp() * log_pi).sum(-1).mean(),
        "value": args.value_weight * ((returns - value) ** 2).mean(),
        "iou": args.iou_weight * (iou[0] - iou[1]).abs().mean(),
        "location": args.location_weight * (off * near).sum() / near.sum().clamp(min=1),
    }


class Memory:
    """A greedy policy with memory: one for each batch of episodes, called once a step."""

    def __init__(self, network: ReadNetwork) -> None:
        self.network = network
        self.memory: Tensor | None = None

    @torch.no_grad()
    def __call__(self, observation: dict[str, Tensor]) -> Tensor:
        """Observations to greedy actions (B,)."""
        if self.memory is None:
            rows = len(observation["query"])
            self.memory = observation["query"].new_zeros((rows, self.network.memory.hidden_size))
        logits, _, self.memory, _ = self.network(observation, self.memory)
        return logits.argmax(-1)


class Read(TemporalSystem):
    """READ under the interface of systems; options are `ReadArgs`."""

    PRESETS: ClassVar[dict[str, tuple[ReadArgs, TemporalConfig]]] = {
        "default": (ReadArgs(), ENV),
        "paper": (PAPER, replace(ENV, context=False)),
    }
    args: ReadArgs
    network: ReadNetwork

    def build(self, task: TemporalTask) -> ReadNetwork:
        """State vector, memory and heads."""
        return ReadNetwork(task.dims(), task.n_actions, self.args)

    def train(self, report: ProgressCallback | None) -> None:
        """Advantage actor-critic: an update after every whole episode of all environments."""
        self.train_on_episodes(
            lambda env, task, length, _, generator: ("training", *self._rollout(env, task, length, generator)), report
        )

    def _rollout(
        self, env: TemporalMomentVectorEnv, task: TemporalTask, length: int, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Losses of ``length`` steps of all environments, and the mean reward."""
        network, hidden = self.network, self.args.hidden
        # All episodes start together, so that none is truncated but at the last step.
        env.reset()
        memory = torch.zeros((env.num_envs, hidden), device=task.bank.device)
        states: list[dict[str, Tensor]] = []
        windows: list[tuple[Tensor, Tensor, Tensor]] = []
        actions, rewards, ends = [], [], []
        # The episodes run without gradients. Then the layers before the memory see all their states as one batch.
        with torch.no_grad():
            for _ in range(length):
                state = env.state()
                windows.append((state["sample"], state["start"], state["end"]))
                states.append({name: part.clone() for name, part in env.observe_state(state).items()})
                logits, _, memory, _ = network(states[-1], memory)
                actions.append(gumbel_sample(logits, generator))
                _, reward, terminated, _, _ = env.step(actions[-1])
                rewards.append(reward)
                ends.append(terminated)
                final = memory
                memory = memory * (~terminated).to(memory.dtype)[:, None]
            _, last, _, _ = network(env.observe_state(env.reached), final)
        returns = n_step_returns(torch.stack(rewards), torch.stack(ends), last, self.args.gamma).flatten()
        z = network.state({name: torch.cat([state[name] for state in states]) for name in states[0]})
        memory = torch.zeros_like(memory)
        passed = []
        for seen, terminated in zip(z.split(env.num_envs), ends, strict=True):
            memory = network.memory(seen, memory)
            passed.append(memory)
            memory = memory * (~terminated).to(memory.dtype)[:, None]
        known = torch.cat(passed)
        sample, start, end = (torch.cat(parts) for parts in zip(*windows, strict=True))
        iou_pair = network.iou(z).squeeze(-1), task.iou(sample, start, end, "clamped").to(torch.float32)
        location_pair = network.location(z), nearest_truth(task, sample, start, end)
        logits, value = network.policy(known), network.value(known).squeeze(-1)
        losses = read_loss(logits, value, torch.cat(actions), returns, iou_pair, location_pair, self.args)
        return losses, torch.stack(rewards).mean()

    def locate(self, task: TemporalTask, samples: Tensor) -> Prediction:
        """Greedy episodes; the global mean reads every frame."""
        episodes = localise(task, Memory(self.network), samples, batch=len(samples))
        return Prediction(**vars(episodes), frames_seen=torch.ones(len(samples), device=task.bank.device))


# Its heads for IoU and location also learn the true windows, of the states that its own episodes visit.
register(
    SystemSpec(
        "read",
        Read,
        "READ: recurrent actor-critic with multi-task heads",
        sees="whole frames",
        learns_from=OWN_REWARDS_AND_WINDOWS,
        space=SPACE,
    )
)
