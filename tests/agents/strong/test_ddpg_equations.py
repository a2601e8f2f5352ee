"""Eqs. 6 to 9 of the paper, computed by hand from the networks of an agent before and after one update."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from strong_envs.agents.strong.levels.ddpg import DDPG, DDPGArgs

ACTIONS, COUNT = 7, 40


class Env:
    """Gives back the observations of a batch: what an update asks of an environment."""

    has_multi_scale = False

    def observe_moves(self, state, reached):
        return state, reached


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "state.query": torch.randn(COUNT, 5, generator=generator),
        "next.query": torch.randn(COUNT, 5, generator=generator),
        "action": torch.randint(ACTIONS, (COUNT,), generator=generator),
        "reward": torch.randn(COUNT, generator=generator),
        "terminated": torch.arange(COUNT) % 3 == 0,
    }


def agent_of(**changes):
    args = DDPGArgs(entropy=0.0, gamma=0.4, tau=0.1, actor_hidden=(16, 8), critic_hidden=(16, 8, 8), **changes)
    agent = DDPG({"query": (5,)}, ACTIONS, args)
    with torch.no_grad():  # targets that lag, as they do after some updates
        for network in (agent.target_actor, agent.target_critic):
            for parameter in network.parameters():
                parameter.add_(0.1)
    return agent


@pytest.mark.parametrize("target", ["mu", "max"])
def test_equations_6_and_7_the_target_and_the_loss_of_the_critic(target, batch):
    agent = agent_of(target=target)
    before = deepcopy(agent)
    loss = agent.update(batch, Env())["critic_loss"]
    with torch.no_grad():
        after = before.inputs({"query": batch["next.query"]})
        if target == "max":
            single = torch.eye(ACTIONS)
            values = torch.stack([before.target_critic(after, one.expand(COUNT, -1)) for one in single], 1)
            following = values.max(1).values
        else:
            following = before.target_critic(after, before.target_actor(after))
        # An episode that has ended has no state after it.
        y = batch["reward"] + 0.4 * torch.where(batch["terminated"], 0.0, following)
        taken = torch.eye(ACTIONS)[batch["action"]]
        value = before.critic(before.inputs({"query": batch["state.query"]}), taken)
    assert torch.allclose(loss, ((value - y) ** 2).mean(), atol=1e-6)
    assert not torch.allclose(loss, ((value - batch["reward"]) ** 2).mean(), atol=1e-3), "the target looks ahead"


def test_equation_8_the_actor_follows_the_gradient_of_the_critic(batch):
    agent = agent_of()
    actor = deepcopy(agent.actor)
    agent.update(batch, Env())
    now = agent.inputs({"query": batch["state.query"]}).detach()
    # The critic has made its step before the actor makes its own.
    policy = actor(now)
    value = agent.critic(now, policy)
    (slope,) = torch.autograd.grad(value.sum(), policy, retain_graph=True)
    policy.backward(slope / COUNT)
    for mine, theirs in zip(actor.parameters(), agent.actor.parameters(), strict=True):
        assert torch.allclose(mine.grad, -theirs.grad, atol=1e-7) and theirs.grad.abs().sum() > 0


def test_equation_9_targets_move_by_tau(batch):
    agent = agent_of()
    before = deepcopy(agent)
    agent.update(batch, Env())
    for name in ("actor", "critic"):
        old, source, new = (
            torch.cat([p.flatten() for p in getattr(held, part).parameters()])
            for held, part in ((before, f"target_{name}"), (agent, name), (agent, f"target_{name}"))
        )
        assert torch.allclose(new, 0.9 * old + 0.1 * source, atol=1e-6) and not torch.allclose(new, old)
