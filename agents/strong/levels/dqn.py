"""Double deep Q-learning, the value-based agent of either level.

Source: Mnih et al. 2015; van Hasselt et al. 2016 for the double estimate. It is strict: it learns from transitions of
its own episodes and from the reward that `step` pays for the move that was made. Beside DDPG (`agents.strong.levels.
ddpg`) it has no actor: the highest value chooses the action, in episodes and in the target.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from strong_envs.agents.strong.levels.level import Level, LevelArgs
from strong_envs.agents.training.networks import HeadsCritic, gaussian_weights

if TYPE_CHECKING:
    from strong_envs.agents.strong.cell_attention.attention import CellAttention


@dataclass(frozen=True)
class DQNArgs(LevelArgs):
    """Arguments of `DQN`."""

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {**LevelArgs.CHOICES, "algorithm": ("dqn",)}

    algorithm: str = "dqn"
    updates: int = 2
    network: str = "matching"
    hidden: tuple[int, ...] = (128,)
    """Layers after the match."""
    lr: float = 8e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of a gradient; 0 does not clip."""


class DQN(Level):
    """Values of all actions, and the target that they are trained towards.

    Args:
        shapes, n_actions: as in `Level`.
        args: see `DQNArgs`.
        hidden: parts that the agent must not see.
        attention: attention over the cells of frames, trained with the values (`agents.strong.cell_attention`).
            Observations are then means of attended cells, which come standardised.
    """

    args: DQNArgs
    OPTIMISERS: ClassVar[dict[str, str]] = {"optimiser": "lr"}

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        n_actions: int,
        args: DQNArgs,
        hidden: tuple[str, ...] = (),
        attention: CellAttention | None = None,
    ) -> None:
        super().__init__(shapes, n_actions, args)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)
            self.inputs = self.make_inputs(shapes, hidden, attention is None)
            self.critic = HeadsCritic(self.inputs.size, n_actions, args.hidden)
        if args.weights_std:
            gaussian_weights(self.inputs, args.weights_std, self.generator)
            gaussian_weights(self.critic, args.weights_std, self.generator)
        self.attention = attention
        self.register_buffer("unit", torch.zeros(()))
        self.target_inputs, self.target_critic = deepcopy(self.inputs), deepcopy(self.critic)
        self.target_attention = deepcopy(attention)
        for target, _ in self._pairs():
            target.requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self._trained, args.lr, weight_decay=args.weight_decay, fused=True)
        self.eval()

    # Lists, because walking through all modules in every update takes longer than moving the targets does.

    @cached_property
    def _trained(self) -> list[Tensor]:
        return [p for _, source in self._pairs() for p in source.parameters()]

    @cached_property
    def _followers(self) -> list[Tensor]:
        return [p for target, _ in self._pairs() for p in target.parameters()]

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Targets and their sources."""
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (self.target_inputs, self.inputs),
            (self.target_critic, self.critic),
        ]
        if self.attention is not None and self.target_attention is not None:
            pairs.append((self.target_attention, self.attention))
        return pairs

    def fit_inputs(self, observation: dict[str, Tensor]) -> None:
        """Take the scale of the inputs from a batch of observations, where they are standardised."""
        super().fit_inputs(observation)
        if self.args.standardise:
            self.target_inputs.fit(observation)

    @torch.no_grad()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        """Greedy actions (B,) int64."""
        return self.q_values(observation).argmax(-1)

    @torch.no_grad()
    def q_values(self, observation: dict[str, Tensor]) -> Tensor:
        """Values of all actions (B, A), from which Eq. 11 rewards the spatial level."""
        return self.critic.all_actions(self.inputs(observation))

    def learn(
        self,
        before: dict[str, Tensor],
        after: dict[str, Tensor],
        after_by_target: dict[str, Tensor],
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
    ) -> dict[str, Tensor]:
        """One update from observed transitions, see `Level.learn`."""
        with torch.no_grad():
            best = self.q_values(after).argmax(-1, keepdim=True)
            following = self.target_critic.all_actions(self.target_inputs(after_by_target)).gather(1, best)[:, 0]
            y = reward * self.unit + self.args.gamma * following * (1 - terminated.to(torch.float32))
        with self.dropping():
            values = self.critic.all_actions(self.inputs(before))
        value = values.gather(1, action[:, None])[:, 0]
        loss = nn.functional.smooth_l1_loss(value, y)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.args.clip:
            nn.utils.clip_grad_norm_(self.optimiser.param_groups[0]["params"], self.args.clip)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._followers, self._trained, self.args.tau)
        return {"critic_loss": loss.detach(), "q": value.detach().mean()}
