"""Deep deterministic policy gradient, for either level (section 3.2).

Source: STRONG (ACM MM 2020), Eqs. 6 to 9; Lillicrap et al. 2016 for the algorithm. In the order of the paper: the
arguments, the networks, acting, the critic's update (Eqs. 6 and 7), the actor's (Eq. 8), the targets' (Eq. 9).
`agents.strong.levels.full_feedback` replaces Eqs. 6 and 7 where training knows the reward of every action.

``preset="paper"`` has the numbers of the paper: learning rate .01, weights from N(0, .1), no entropy, mu in the target.
``preset="default"`` deviates:

- *Exploration*: the paper names none. Epsilon-greedy, from 1 down to ``epsilon_end``.
- *Entropy*: the softmax of an actor without it can saturate while the critic still learns, and never recovers then, as
  the actor of ``preset="paper"`` does. With a matching network and a rate that falls it does not, and is better without
  (docs/systems/strong.md).
- *Weights*: PyTorch's own initialisation, weight decay, and a learning rate that rises over the first third of the
  training and falls to zero. On GT boxes of the default world (400,000 steps, one seed) a held-out mIoU of .84 for
  the actor and .85 for the critic taken greedily, against .83 and .84 with a rate that only falls and no weight decay.
- *Layers*: 256 and 256 instead of 1024, 512, 300: the default world's states are small.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from strong_envs.agents.strong.levels.level import Level, LevelArgs
from strong_envs.agents.training.networks import Actor, Critic, HeadsCritic, gaussian_weights
from strong_envs.features.errors import DataError

if TYPE_CHECKING:
    from strong_envs.agents.strong.cell_attention.attention import CellAttention

CRITICS: dict[str, type[Critic] | type[HeadsCritic]] = {"joined": Critic, "heads": HeadsCritic}


@dataclass(frozen=True)
class DDPGArgs(LevelArgs):
    """Arguments of `DDPG`; the defaults are ``preset="default"``.

    Raises:
        DataError: a choice that does not exist.
    """

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        **LevelArgs.CHOICES,
        "algorithm": ("ddpg",),
        "objective": ("softmax", "expected", "distil"),
        "target": ("mu", "max"),
        "critic": tuple(CRITICS),
        "greedy": ("actor", "critic"),
    }

    algorithm: str = "ddpg"
    lr_actor: float = 1e-3
    lr_critic: float = 1e-3
    entropy: float = 0.2
    """Weight of the policy's entropy in the actor's objective."""
    objective: str = "softmax"
    """``"softmax"``: Q(s, pi), the gradient through the softmax (Eq. 8); ``"expected"``: sum of pi(a) Q(s, a);
    ``"distil"``: cross-entropy with softmax(Q / entropy), whose gradient does not vanish where pi is sure."""
    target: str = "mu"
    """``"mu"``: Q'(s', mu'(s')); ``"max"``: the best single action (Eq. 6 as printed)."""
    greedy: str = "actor"
    """Network that chooses greedy actions: the ``"actor"``, or the ``"critic"`` by its highest value."""
    actor_hidden: tuple[int, ...] = (256, 128)
    critic: str = "joined"
    """``"joined"``: the action enters at the second layer (section 3.2); ``"heads"``: one output for every action, at
    the cost of one pass where the other needs one for each action."""
    critic_hidden: tuple[int, ...] = (256, 128, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective == "distil" and not self.entropy:
            raise DataError("objective='distil' divides by entropy, which must be above 0")
        if self.critic == "joined" and len(self.critic_hidden) < 2:
            raise DataError(f"critic='joined' needs 2 or more entries of critic_hidden, got {self.critic_hidden}")


class DDPG(Level):
    """Actor, critic and their targets for one level.

    Args:
        shapes: named parts of the observation, as from `TemporalTask.dims` or `SpatialTask.dims`.
        n_actions: number of actions.
        args: see `DDPGArgs`.
        hidden: parts that the agent must not see.
        attention: attention over the cells of frames, trained with the critic (`agents.strong.cell_attention`), which
            then has a target of its own. Observations are means of attended cells, which come standardised, and values
            are in units of the spread of the rewards.
    """

    args: DDPGArgs
    OPTIMISERS: ClassVar[dict[str, str]] = {"actor_optimiser": "lr_actor", "critic_optimiser": "lr_critic"}
    actor: Actor
    critic: Critic | HeadsCritic

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        n_actions: int,
        args: DDPGArgs,
        hidden: tuple[str, ...] = (),
        attention: CellAttention | None = None,
    ) -> None:
        super().__init__(shapes, n_actions, args)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)
            self.inputs = self.make_inputs(shapes, hidden, attention is None)
            size = self.inputs.size
            self.actor, self.target_actor = (Actor(size, n_actions, args.actor_hidden) for _ in range(2))
            form = CRITICS[args.critic]
            self.critic, self.target_critic = (form(size, n_actions, args.critic_hidden) for _ in range(2))
        if args.weights_std:
            gaussian_weights(self.actor, args.weights_std, self.generator)
            gaussian_weights(self.critic, args.weights_std, self.generator)
            gaussian_weights(self.inputs, args.weights_std, self.generator)
        self.target_actor.load_state_dict(self.actor.state_dict())
        self.target_critic.load_state_dict(self.critic.state_dict())
        self.attention, self.target_attention = attention, deepcopy(attention)
        # Without attention over cells rewards are taken as they are.
        known = attention is None
        self.register_buffer("unit", torch.full((), float(known)), persistent=not known)
        self._pairs: list[tuple[nn.Module, nn.Module]] = [
            (self.target_actor, self.actor),
            (self.target_critic, self.critic),
        ]
        # Attention and matching are the critic's: their weights follow the gradient of the values' error.
        seen_by_critic = [*self.critic.parameters(), *self.inputs.parameters()]
        if attention is not None and self.target_attention is not None:
            self._pairs.append((self.target_attention, attention))
            seen_by_critic += attention.parameters()
        for target, _ in self._pairs:
            target.requires_grad_(False)
        self.actor_optimiser, self.critic_optimiser = (
            torch.optim.AdamW(parameters, rate, weight_decay=args.weight_decay, fused=True)
            for parameters, rate in ((self.actor.parameters(), args.lr_actor), (seen_by_critic, args.lr_critic))
        )
        self.eval()

    @torch.no_grad()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        """Greedy actions (B,) int64."""
        if self.args.greedy == "critic":
            return self.q_values(observation).argmax(-1)
        return self.actor.logits(self.inputs(observation)).argmax(-1)

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
        """One update, see `Level.learn`. ``after`` is not used: the target's actor chooses."""
        with self.dropping():
            now = self.inputs(before)
        with torch.no_grad():
            y = self._target(after_by_target, reward, terminated)
            taken = torch.zeros(len(action), self.n_actions, device=action.device).scatter_(1, action[:, None], 1.0)
        value = self.critic(now, taken)
        critic_loss = nn.functional.mse_loss(value, y)
        self._step_critic(critic_loss)
        entropy = self._improve(now.detach(), None)
        with torch.no_grad():
            for target, source in self._pairs:
                torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), self.args.tau)
        return {"critic_loss": critic_loss.detach(), "q": value.detach().mean(), "entropy": entropy}

    def _target(self, reached: dict[str, Tensor], reward: Tensor, terminated: Tensor) -> Tensor:
        """Eq. 6: what the values of moves (B,) are trained towards, from the observations after them."""
        args, after = self.args, self.inputs(reached)
        policy = self.target_actor(after)
        if args.target == "max":
            following = self.target_critic.all_actions(after).amax(-1)
        elif args.objective == "softmax":
            following = self.target_critic(after, policy)
        else:
            following = (policy * self.target_critic.all_actions(after)).sum(-1)
        return reward * self.unit + args.gamma * following * (1 - terminated.to(torch.float32))

    def _step_critic(self, loss: Tensor) -> None:
        self.critic_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimiser.step()

    def _improve(self, now: Tensor, values: Tensor | None) -> Tensor:
        """Eq. 8 with an entropy bonus; ``values`` (B, A) of all actions where they are known. Returns the entropy."""
        logits = self.actor.logits(now)
        pi = logits.softmax(-1)
        entropy = -(pi * logits.log_softmax(-1)).sum(-1).mean()
        if self.args.objective == "softmax":
            loss = -self.critic(now, pi).mean() - self.args.entropy * entropy
        else:
            if values is None:
                with torch.no_grad():
                    values = self.critic.all_actions(now)
            if self.args.objective == "expected":
                loss = -(pi * values).sum(-1).mean() - self.args.entropy * entropy
            else:
                wanted = (values / self.args.entropy).softmax(-1)
                loss = -(wanted * logits.log_softmax(-1)).sum(-1).mean()
        self.actor_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.actor_optimiser.step()
        return entropy.detach()
