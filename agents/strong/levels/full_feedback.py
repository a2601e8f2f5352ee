"""Actor-critic with full feedback: every update learns from the rewards of all actions in a state.

Not in the paper. Training knows the truth, and with it the reward of every action in a state. The critic is regressed
on these rewards instead of the Bellman target of Eqs. 6 and 7; gamma, tau and the targets of `DDPG` take no part.
States come from the agent's own episodes or are drawn afresh (``states``). With ``objective="distil"`` the actor is
fitted to softmax(Q / entropy) of that critic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from strong_envs.agents.strong.levels.ddpg import DDPG, DDPGArgs
from strong_envs.agents.training.loop import split

if TYPE_CHECKING:
    from strong_envs.agents.strong.levels.level import LevelEnv


@dataclass(frozen=True)
class FullFeedbackArgs(DDPGArgs):
    """Arguments of `FullFeedback`: those of `DDPG`, of which ``gamma``, ``tau`` and ``target`` have no effect."""

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        **DDPGArgs.CHOICES,
        "algorithm": ("full feedback",),
        "states": ("replay", "uniform"),
    }

    algorithm: str = "full feedback"
    states: str = "replay"
    """States of an update. ``"replay"``: those of the agent's own episodes. ``"uniform"``: drawn afresh, sample and
    window (or box) at random, which a simulator that can begin anywhere allows; there are no episodes, and ``steps``
    counts the states drawn."""
    gain: float | None = None
    """Weight of how far a move changes the IoU, relative to the furthest of the state, added to the sign of Eq. 5.
    None: 1 where moves have several sizes (``multi_scale``), else 0. By signs alone the smallest move that helps is as
    good as the largest, and twenty of them lead nowhere: .44 held-out mIoU on GT boxes of the default world with
    ``multi_scale``, .81 with gains (medium build, half the budget, one seed)."""


class FullFeedback(DDPG):
    """`DDPG` whose critic is regressed on the rewards of all actions, see the module."""

    args: FullFeedbackArgs

    def update(self, batch: dict[str, Tensor], env: LevelEnv) -> dict[str, Tensor]:
        """One update of critic and actor from the states of a batch (``state.*``); see `DDPG.update`."""
        state = split(batch, "state.")
        with torch.no_grad():
            observation = env.observe_state(state)
        with self.dropping():
            now = self.inputs(observation)
        values = self.critic.all_actions(now)
        gain = float(env.has_multi_scale) if self.args.gain is None else self.args.gain
        rewards = env.action_rewards(state, gain)
        # Relative to stopping: the penalty phi * t is the same for all actions and t is hidden, so it is noise.
        critic_loss = nn.functional.mse_loss(values, rewards - rewards[:, self.args.stop, None])
        self._step_critic(critic_loss)
        entropy = self._improve(now.detach(), values.detach())
        return {"critic_loss": critic_loss.detach(), "q": values.detach().mean(), "entropy": entropy}
