"""TSP-PRL (Wu, Li, Liu and Lin, AAAI 2020): a root picks one of five kinds of moves, a leaf picks the move.

In the order of the paper, known from the authors' public code:

1. *State*: global feature, window and location each pass a layer, are brought to length 1 and rectified, and are gated
   by the sentence (sigmoid of a layer); joined, a layer with ReLU is z, a GRU carries the memory.
2. *Tree*: a root policy over five branches (scale; far to the left, far to the right; a little to the left, to the
   right) and a leaf policy in each: scale by 1.2, 1.5, 1/1.2, 1/1.5 about the middle, or shift, move the start, move
   the end. Sixteen moves, no stop; every policy has a value head.
3. *Rewards*: `rewards.tree_leaf_reward`; the root's compares its branch with what the others would have led to,
   `rewards.tree_root_reward`.
4. *Progressive training*: root and leaves in turns, ``switch`` updates each. While the root learns it draws and the
   leaves act greedily, and the other way round; the heads of those that wait are left as they are. Advantage
   actor-critic, gamma .4, entropy .1, twenty steps.
5. *IoU head* on z, binary cross-entropy with the IoU of windows that overlap the truth. At test the moves are greedy,
   and of the windows passed the one with the highest predicted IoU is the answer: this is how it stops.

The dynamics are those of `TemporalTask` with the table `spans.tree_table`: far is n / 10, a little n / 40.

Deviations, all presets:

- *A little* is one feature unit of 16 frames in the code; n / 40 is that in a video of some 30 seconds.
- The window is seen as means of itself and its context; the code concatenates ten of its frames.
- The advantage is detached and returns are bootstrapped with the value after the last step, both as in
  `agents.baselines.read`;
  the code lets the policy's loss move the values and bootstraps with the value before the last step.
- All positions are fractions, in the code whole units.

``preset="default"`` has smaller layers, standardised inputs, random starting windows, and a learning rate that falls;
``preset="paper"`` the numbers of the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.sequential import TemporalSystem, gumbel_sample, n_step_returns
from strong_envs.agents.ranges import check_fields
from strong_envs.agents.registry import OWN_REWARDS_AND_WINDOWS, Prediction, ProgressCallback, SystemSpec, register
from strong_envs.agents.search_space import Between, OneOf, Space
from strong_envs.agents.training.networks import Standardise
from strong_envs.core import rewards, spans
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.local_features import LocalFeatures
from strong_envs.rollout import localise
from strong_envs.temporal.env import TemporalMomentVectorEnv
from strong_envs.temporal.task import TemporalConfig, TemporalTask

BRANCHES = {
    "scale": (13, 14, 15, 16),
    "left": (5, 1, 3),
    "right": (4, 0, 2),
    "a little left": (12, 8, 10),
    "a little right": (11, 7, 9),
}
"""The moves of each leaf, as actions of `spans.tree_table`."""


@dataclass(frozen=True)
class TspPrlArgs:
    """Arguments of `TspPrl`; the defaults are ``preset="default"``."""

    steps: int = 1_280_000
    """Environment steps to train for, root and leaves together."""
    num_envs: int = 32
    """Episodes that run side by side; an update follows every ``max_steps`` steps of all of them."""
    switch: int = 25
    """Updates after which root and leaves take turns."""
    lr: float = 4e-3
    decay: bool = True
    """Whether the learning rate falls linearly to zero."""
    gamma: float = 0.4
    entropy: float = 0.05
    value_weight: float = 0.5
    iou_weight: float = 1.0
    """Weight of the cross-entropy of the predicted IoU."""
    clip: float = 1.0
    """Largest norm of a gradient; 0 leaves it."""
    part: int = 64
    """Width after the layers of the video, the window, the sentence and the location."""
    hidden: int = 128
    """Width of z and of the GRU's memory."""
    iou_hidden: tuple[int, int] = (64, 32)
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
    "num_envs": OneOf(16, 32, 64),
}
PAPER = TspPrlArgs(
    num_envs=16,
    switch=200,
    lr=1e-3,
    decay=False,
    entropy=0.1,
    value_weight=1.0,
    clip=0.0,
    part=1024,
    hidden=1024,
    iou_hidden=(256, 128),
    standardise=False,
    exploring_starts=False,
)
ENV = TemporalConfig(step_scale=2.0, phi=0.0, invalid="clip")


class TreeTask(TemporalTask):
    """The temporal level with the moves of the tree."""

    def __init__(self, bank: FeatureBank, local: LocalFeatures, config: TemporalConfig) -> None:
        super().__init__(bank, local, config)
        self.table = torch.as_tensor(spans.tree_table(config.step_scale), device=bank.device)


class TreeNetwork(nn.Module):
    """State vector, memory, a root and five leaves with their values, and the IoU head.

    Args:
        shapes: named parts of the observation, from `TemporalTask.dims`.
        args: see `TspPrlArgs`.
    """

    moves: Tensor
    absent: Tensor

    def __init__(self, shapes: dict[str, tuple[int, ...]], args: TspPrlArgs) -> None:
        super().__init__()
        self.inputs = Standardise(shapes)
        self.layout = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
        window = self.layout["local"] + self.layout.get("context", 0)
        seen = (window, self.layout["global"], self.layout["location"])
        self.seen = nn.ModuleList(nn.Linear(size, args.part) for size in seen)
        self.sentence = nn.Linear(self.layout["query"], args.part)
        self.join = nn.Linear(3 * args.part, args.hidden)
        self.memory = nn.GRUCell(args.hidden, args.hidden)
        sizes = [len(moves) for moves in BRANCHES.values()]
        self.root = nn.Linear(args.hidden, len(sizes))
        self.root_value = nn.Linear(args.hidden, 1)
        self.leaves = nn.ModuleList(nn.Linear(args.hidden, size) for size in sizes)
        self.leaf_values = nn.Linear(args.hidden, len(sizes))
        first, second = args.iou_hidden
        layers = (nn.Linear(args.hidden, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 1))
        self.iou = nn.Sequential(*layers)
        width = max(sizes)
        padded = [(*moves, *moves[:1] * (width - len(moves))) for moves in BRANCHES.values()]
        self.register_buffer("moves", torch.tensor(padded), persistent=False)
        absent = torch.arange(width) >= torch.tensor(sizes)[:, None]
        self.register_buffer("absent", absent, persistent=False)

    def state(self, observation: dict[str, Tensor]) -> Tensor:
        """Z of named (B, ...) parts: (B, hidden)."""
        part = dict(zip(self.layout, self.inputs(observation).split(list(self.layout.values()), 1), strict=True))
        window = torch.cat([part[name] for name in ("local", "context") if name in part], 1)
        gate = torch.sigmoid(self.sentence(part["query"]))
        each = zip(self.seen, (window, part["global"], part["location"]), strict=True)
        gated = [torch.relu(nn.functional.normalize(layer(x), dim=-1)) * gate for layer, x in each]
        return torch.relu(self.join(torch.cat(gated, 1)))

    def leaf_logits(self, memory: Tensor) -> Tensor:
        """Logits of all leaves, -1e9 where a leaf has fewer moves than the largest: (B, 5, 4)."""
        width = self.moves.shape[1]
        logits = [leaf(memory) for leaf in self.leaves]
        padded = [nn.functional.pad(one, (0, width - one.shape[1])) for one in logits]
        return torch.stack(padded, 1).masked_fill(self.absent, -1e9)

    def actions(self, leaf: Tensor) -> Tensor:
        """Actions of `spans.tree_table` for one move of every leaf: indices (B, 5) to (B, 5)."""
        return self.moves.expand(len(leaf), -1, -1).gather(2, leaf[..., None])[..., 0]


def tree_loss(
    logits: Tensor,
    value: Tensor,
    taken: Tensor,
    returns: Tensor,
    iou: tuple[Tensor, Tensor],
    args: TspPrlArgs,
) -> dict[str, Tensor]:
    """The parts of the loss, weighted: their sum is minimised. The same for the root and for the leaf that acted.

    Args:
        logits: (N, A) of the policy.
        value: (N,) predicted.
        taken: (N,) int64 actions.
        returns: (N,).
        iou: logit of the predicted and the true one, (N,); windows with a negative true one do not enter the loss.
        args: the weights.
    """
    log_pi = logits.log_softmax(-1)
    advantage = (returns - value).detach()
    chosen = log_pi.gather(1, taken[:, None])[:, 0]
    overlaps = (iou[1] > 0).to(value.dtype)
    bce = nn.functional.binary_cross_entropy_with_logits(iou[0], iou[1].clamp(0, 1), reduction="none")
    return {
        "policy": -(chosen * advantage).mean(),
        "entropy": args.entropy * (log_pi.exp() * log_pi).sum(-1).mean(),
        "value": args.value_weight * ((returns - value) ** 2).mean(),
        "iou": args.iou_weight * (bce * overlaps).sum() / overlaps.sum().clamp(min=1),
    }


class Greedy:
    """The greedy tree with its memory: one for each batch of episodes, asked once a step."""

    def __init__(self, network: TreeNetwork) -> None:
        self.network = network
        self.memory: Tensor | None = None

    @torch.no_grad()
    def __call__(self, observation: dict[str, Tensor]) -> Tensor:
        """Observations to actions (B,) of `spans.tree_table`."""
        network = self.network
        z = network.state(observation)
        if self.memory is None:
            self.memory = z.new_zeros((len(z), network.memory.hidden_size))
        self.memory = network.memory(z, self.memory)
        branch = network.root(self.memory).argmax(-1)
        return network.actions(network.leaf_logits(self.memory).argmax(-1)).gather(1, branch[:, None])[:, 0]

    @torch.no_grad()
    def value(self, observation: dict[str, Tensor]) -> Tensor:
        """The predicted IoU as the value of stopping in `localise`: (B, 17)."""
        predicted = torch.sigmoid(self.network.iou(self.network.state(observation)))
        return nn.functional.pad(predicted, (spans.STOP, 10))


class TspPrl(TemporalSystem):
    """TSP-PRL under the interface of systems; options are `TspPrlArgs`."""

    PRESETS: ClassVar[dict[str, tuple[TspPrlArgs, TemporalConfig]]] = {
        "default": (TspPrlArgs(), ENV),
        "paper": (PAPER, ENV),
    }
    TASK = TreeTask
    args: TspPrlArgs
    network: TreeNetwork

    def build(self, task: TemporalTask) -> TreeNetwork:
        """The tree of policies."""
        return TreeNetwork(task.dims(), self.args)

    def train(self, report: ProgressCallback | None) -> None:
        """Root and leaves in turns, leaves first; an update after every whole episode of all environments.

        The heads that wait get no gradient at all, so the optimiser leaves them as they are.
        """

        def turn(
            env: TemporalMomentVectorEnv, task: TemporalTask, length: int, update: int, generator: torch.Generator
        ) -> tuple[str, dict[str, Tensor], Tensor]:
            root = (update // self.args.switch) % 2 == 1
            return ("root" if root else "leaves", *self.rollout(env, task, length, root, generator))

        self.train_on_episodes(turn, report)

    def rollout(
        self, env: TemporalMomentVectorEnv, task: TemporalTask, length: int, root: bool, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Losses of the root, or of the leaves, over ``length`` steps of all environments, and the mean reward."""
        network = self.network
        # All episodes start together, so that none is truncated but at the last step.
        env.reset()
        memory = torch.zeros((env.num_envs, self.args.hidden), device=task.bank.device)
        rows: dict[str, list[Tensor]] = {name: [] for name in ("logits", "value", "taken", "z", "iou")}
        rewarded, ends = [], []
        for _ in range(length):
            state = env.state()
            where = state["sample"], state["start"], state["end"]
            before = task.iou(*where)
            z = network.state(env.observe_state(state))
            memory = network.memory(z, memory)
            branch, leaf, every, drawn = self.choose(memory, root, generator)
            picked = branch[:, None]
            _, _, terminated, _, _ = env.step(every.gather(1, picked)[:, 0])
            after = task.iou(where[0], env.reached["start"], env.reached["end"])
            if root:
                reward = rewards.tree_root_reward(before, after, self.best_branch(task, *where, every))
                value = network.root_value(memory)[:, 0]
            else:
                reward = rewards.tree_leaf_reward(before, after)
                value = network.leaf_values(memory).gather(1, picked)[:, 0]
            rewarded.append(reward.to(torch.float32))
            ends.append(terminated)
            final = memory
            memory = memory * (~terminated).to(memory.dtype)[:, None]
            for name, part in zip(rows, (drawn, value, branch if root else leaf, z, before), strict=True):
                rows[name].append(part)
        last = self.last_value(env, final, root)
        returns = n_step_returns(torch.stack(rewarded), torch.stack(ends), last, self.args.gamma).flatten()
        flat = {name: torch.cat(parts) for name, parts in rows.items()}
        pair = network.iou(flat["z"])[:, 0], flat["iou"].to(torch.float32)
        losses = tree_loss(flat["logits"], flat["value"], flat["taken"], returns, pair, self.args)
        return losses, torch.stack(rewarded).mean()

    def choose(self, memory: Tensor, root: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the tree does: branch (B,), move of its leaf (B,), actions of all branches (B, 5), logits of who draws.

        The level that learns draws, the other is greedy.
        """
        network = self.network
        top, bottom = network.root(memory), network.leaf_logits(memory)
        branch = gumbel_sample(top.detach(), generator) if root else top.detach().argmax(-1)
        own = bottom.gather(1, branch[:, None, None].expand(-1, 1, bottom.shape[2]))[:, 0]
        leaves = bottom.detach().argmax(-1)
        if not root:
            leaves = leaves.scatter(1, branch[:, None], gumbel_sample(own.detach(), generator)[:, None])
        every = network.actions(leaves)
        return branch, leaves.gather(1, branch[:, None])[:, 0], every, top if root else own

    @staticmethod
    def best_branch(task: TemporalTask, samples: Tensor, start: Tensor, end: Tensor, every: Tensor) -> Tensor:
        """The highest IoU (B,) that one of the actions (B, 5) would lead to."""
        samples, start, end = (x.repeat_interleave(every.shape[1]) for x in (samples, start, end))
        start, end, _ = spans.move(start, end, every.flatten(), task.table, task.config.total, task.beyond)
        return task.iou(samples, start, end).view(every.shape).amax(-1)

    @torch.no_grad()
    def last_value(self, env: TemporalMomentVectorEnv, memory: Tensor, root: bool) -> Tensor:
        """Value (B,) of the states that the last move led to: of the root, or of the leaf that it would call."""
        network = self.network
        memory = network.memory(network.state(env.observe_state(env.reached)), memory)
        if root:
            return network.root_value(memory)[:, 0]
        return network.leaf_values(memory).gather(1, network.root(memory).argmax(-1)[:, None])[:, 0]

    def locate(self, task: TemporalTask, samples: Tensor) -> Prediction:
        """Greedy episodes; of the windows passed, the one with the highest predicted IoU."""
        tree = Greedy(self.network)
        episodes = localise(task, tree, samples, batch=len(samples), value=tree.value)
        return Prediction(**vars(episodes), frames_seen=torch.ones(len(samples), device=task.bank.device))


register(
    SystemSpec(
        "tsp-prl",
        TspPrl,
        "TSP-PRL: a tree of sixteen moves, root and leaves trained in turns",
        sees="whole frames",
        learns_from=OWN_REWARDS_AND_WINDOWS,
        space=SPACE,
    )
)
