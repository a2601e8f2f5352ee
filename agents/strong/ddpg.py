"""Deep deterministic policy gradient, for either level (section 3.2).

Source: STRONG (ACM MM 2020), Eqs. 6 to 9; Lillicrap et al. 2016 for the algorithm. In the order of the paper: the
arguments, the networks, acting, the critic's update (Eqs. 6 and 7), the actor's (Eq. 8), the targets' (Eq. 9).
`agents.strong.full_feedback` replaces Eqs. 6 and 7 where training knows the reward of every action.

``preset="paper"`` has the numbers of the paper: learning rate .01, weights from N(0, .1), no entropy, mu in the target.
``preset="default"`` deviates:

- *Exploration*: the paper names none. Epsilon-greedy, from 1 down to ``epsilon_end``.
- *Entropy*: without it the softmax saturates while the critic still learns, and the actor never recovers.
- *Weights*: PyTorch's own initialisation, weight decay, and a learning rate that rises over the first third of the
  training and falls to zero. On GT boxes of the default world (400,000 steps, one seed) a held-out mIoU of .84 for
  the actor and .85 for the critic taken greedily, against .83 and .84 with a rate that only falls and no weight decay.
- *Layers*: 256 and 256 instead of 1024, 512, 300: the default world's states are small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from strong_envs.agents.ranges import check_fields
from strong_envs.agents.strong.attention import AttentiveInputs
from strong_envs.agents.training.checkpoint import load_module
from strong_envs.agents.training.loop import load_optimiser, optimiser_state, split
from strong_envs.agents.training.networks import Actor, Critic, HeadsCritic, Standardise, gaussian_weights
from strong_envs.core import spans
from strong_envs.features.errors import DataError, nearest

if TYPE_CHECKING:
    from strong_envs.spatial.env import SpatialTrackVectorEnv
    from strong_envs.temporal.vector_env import TemporalMomentVectorEnv

    LevelEnv = TemporalMomentVectorEnv | SpatialTrackVectorEnv
    """Made with ``output="torch", observation="index"``."""

CRITICS: dict[str, type[Critic] | type[HeadsCritic]] = {"joined": Critic, "heads": HeadsCritic}


@dataclass(frozen=True)
class DDPGArgs:
    """Arguments of `DDPG`; the defaults are ``preset="default"``.

    Raises:
        DataError: a choice that does not exist.
    """

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "objective": ("softmax", "expected", "distil"),
        "target": ("mu", "max"),
        "feedback": ("taken",),
        "critic": tuple(CRITICS),
        "greedy": ("actor", "critic"),
    }
    """Valid values of the fields that name one of several."""

    steps: int = 200_000
    """Environment steps to train for."""
    num_envs: int = 256
    """Episodes that run side by side."""
    batch: int = 256
    """Transitions in one update."""
    updates: int = 4
    """Updates per step of all environments."""
    capacity: int = 100_000
    """Transitions in the replay."""
    warmup: int = 4_000
    """Environment steps before the first update."""
    lr_actor: float = 1e-3
    lr_critic: float = 1e-3
    weight_decay: float = 1e-3
    decay: bool = True
    """Whether the learning rates rise over the first 30 % of the training and fall to zero along a cosine."""
    gamma: float = 0.2
    tau: float = 0.02
    """Share of the source that enters the targets in each update (Eq. 9)."""
    entropy: float = 0.2
    """Weight of the policy's entropy in the actor's objective."""
    objective: str = "softmax"
    """``"softmax"``: Q(s, pi), the gradient through the softmax (Eq. 8); ``"expected"``: sum of pi(a) Q(s, a);
    ``"distil"``: cross-entropy with softmax(Q / entropy), whose gradient does not vanish where pi is sure."""
    target: str = "mu"
    """``"mu"``: Q'(s', mu'(s')); ``"max"``: the best single action (Eq. 6 as printed)."""
    feedback: str = "taken"
    """The critic learns from the reward of the action taken (Eq. 6). ``"all"`` is another algorithm, see
    `agents.strong.full_feedback`."""
    greedy: str = "actor"
    """Network that chooses greedy actions: the ``"actor"``, or the ``"critic"`` by its highest value."""
    stop: int = spans.STOP
    """The action that ends an episode; exploration does not draw it."""
    epsilon_start: float = 1.0
    epsilon_end: float = 0.1
    epsilon_share: float = 0.5
    """Share of the steps over which epsilon falls."""
    actor_hidden: tuple[int, ...] = (256, 128)
    critic: str = "joined"
    """``"joined"``: the action enters at the second layer (section 3.2); ``"heads"``: one output for every action, at
    the cost of one pass where the other needs one for each action."""
    critic_hidden: tuple[int, ...] = (256, 128, 64)
    attention_heads: int = 2
    """Attentions of each kind over the frames of the window, where the observation has frames
    (`agents.strong.attention`)."""
    attention_timed: bool = True
    """Whether they know where a frame lies relative to the window."""
    weights_std: float = 0.0
    """Standard deviation of the initial weights; 0 takes PyTorch's own."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid in self.CHOICES.items():
            value = getattr(self, name)
            if value not in valid:
                raise DataError(f"{name} must be one of {valid}, got {value!r}{nearest(str(value), valid)}")
        check_fields(self)
        if self.objective == "distil" and not self.entropy:
            raise DataError("objective='distil' divides by entropy, which must be above 0")
        if self.critic == "joined" and len(self.critic_hidden) < 2:
            raise DataError(f"critic='joined' needs 2 or more entries of critic_hidden, got {self.critic_hidden}")


class DDPG(nn.Module):
    """Actor, critic and their targets for one level.

    Args:
        shapes: named parts of the observation, as from `TemporalTask.dims` or `SpatialTask.dims`.
        n_actions: number of actions.
        args: see `DDPGArgs`.
        hidden: parts that the agent must not see.
    """

    args: DDPGArgs
    inputs: AttentiveInputs | Standardise
    actor: Actor
    critic: Critic | HeadsCritic

    def __init__(
        self, shapes: dict[str, tuple[int, ...]], n_actions: int, args: DDPGArgs, hidden: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        if args.stop >= n_actions:
            raise DataError(f"stop must be one of {n_actions} actions, got {args.stop}")
        self.args, self.n_actions = args, n_actions
        self.generator = torch.Generator().manual_seed(args.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)
            if "frames" in shapes:
                self.inputs = AttentiveInputs(shapes, hidden, args.attention_heads, args.attention_timed)
            else:
                self.inputs = Standardise(shapes, hidden)
            size = self.inputs.size
            self.actor, self.target_actor = (Actor(size, n_actions, args.actor_hidden) for _ in range(2))
            form = CRITICS[args.critic]
            self.critic, self.target_critic = (form(size, n_actions, args.critic_hidden) for _ in range(2))
        if args.weights_std:
            gaussian_weights(self.actor, args.weights_std, self.generator)
            gaussian_weights(self.critic, args.weights_std, self.generator)
        self.target_actor.load_state_dict(self.actor.state_dict())
        self.target_critic.load_state_dict(self.critic.state_dict())
        self.target_actor.requires_grad_(False)
        self.target_critic.requires_grad_(False)
        # Attention is the critic's: its weights follow the gradient of the values' error.
        seen_by_critic = [*self.critic.parameters(), *self.inputs.parameters()]
        self.actor_optimiser, self.critic_optimiser = (
            torch.optim.AdamW(parameters, rate, weight_decay=args.weight_decay, fused=True)
            for parameters, rate in ((self.actor.parameters(), args.lr_actor), (seen_by_critic, args.lr_critic))
        )

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

    def update(self, batch: dict[str, Tensor], env: LevelEnv) -> dict[str, Tensor]:
        """One update of both networks and their targets (Eqs. 6 to 9).

        Args:
            batch: transitions of `IndexReplay`, with ``state.*``, ``next.*``, ``action``, ``reward``, ``terminated``.
            env: rebuilds their observations.

        Returns:
            Detached scalars for the log.
        """
        with torch.no_grad():
            before, after = env.observe_moves(split(batch, "state."), split(batch, "next."))
        now = self.inputs(before)
        value, critic_loss = self._bellman(batch, now, after)
        self._step_critic(critic_loss)
        entropy = self._improve(now.detach(), None)
        with torch.no_grad():
            for target, source in ((self.target_actor, self.actor), (self.target_critic, self.critic)):
                torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), self.args.tau)
        return {"critic_loss": critic_loss.detach(), "q": value.detach().mean(), "entropy": entropy}

    def _bellman(self, batch: dict[str, Tensor], now: Tensor, reached: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Eqs. 6 and 7: values of the actions taken, and their squared error. ``reached``: observations after them."""
        args = self.args
        with torch.no_grad():
            after = self.inputs(reached)
            policy = self.target_actor(after)
            if args.target == "max":
                following = self.target_critic.all_actions(after).amax(-1)
            elif args.objective == "softmax":
                following = self.target_critic(after, policy)
            else:
                following = (policy * self.target_critic.all_actions(after)).sum(-1)
            y = batch["reward"] + args.gamma * following * (1 - batch["terminated"].to(torch.float32))
        action = nn.functional.one_hot(batch["action"], self.n_actions).to(torch.float32)
        value = self.critic(now, action)
        return value, nn.functional.mse_loss(value, y)

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

    def training_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next update depends on: weights, targets, optimisers, generator; and JSON-ready settings."""
        tensors = {f"weights.{name}": value for name, value in self.state_dict().items()}
        tensors["generator"] = self.generator.get_state()
        groups = {}
        for name in ("actor", "critic"):
            held, groups[name] = optimiser_state(getattr(self, f"{name}_optimiser"))
            tensors |= {f"optimiser.{name}.{key}": value for key, value in held.items()}
        return tensors, groups

    def load_training_state(self, tensors: dict[str, Tensor], groups: dict[str, Any]) -> None:
        """Resume from the `training_state` of an agent of the same arguments."""
        load_module(self, split(tensors, "weights."), "checkpoint", "the training split")
        self.generator.set_state(tensors["generator"].cpu())
        for name in ("actor", "critic"):
            held = split(tensors, f"optimiser.{name}.")
            load_optimiser(getattr(self, f"{name}_optimiser"), held, groups[name])

    def set_progress(self, share: float) -> None:
        """Learning rates for a share in [0, 1] of the training done."""
        if self.args.decay:
            slope = share / 0.3 if share < 0.3 else 0.5 * (1 + math.cos(math.pi * (share - 0.3) / 0.7))
            for optimiser, rate in (
                (self.actor_optimiser, self.args.lr_actor),
                (self.critic_optimiser, self.args.lr_critic),
            ):
                for group in optimiser.param_groups:
                    group["lr"] = rate * max(slope, 0.02)
