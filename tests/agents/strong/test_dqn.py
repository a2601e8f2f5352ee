"""Double DQN against targets computed by hand, and that it learns from the rewards of the moves that were made."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from strong_envs.agents.strong.levels.dqn import DQN, DQNArgs

ACTIONS, COUNT = 7, 60
SHAPES = {"query": (5,), "location": (2,), "local": (4,)}


class Env:
    """Gives back the observations of a batch, and nothing else: there are no rewards of other moves to ask for."""

    def observe_moves(self, state, reached):
        return state, reached


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    parts = {
        f"{side}.{n}": torch.randn(COUNT, *shape, generator=g)
        for side in ("state", "next")
        for n, shape in SHAPES.items()
    }
    return parts | {
        "action": torch.randint(ACTIONS, (COUNT,), generator=g),
        "reward": 0.05 * torch.randn(COUNT, generator=g),
        "terminated": torch.arange(COUNT) % 3 == 0,
    }


def side(batch, name):
    return {part: batch[f"{name}.{part}"] for part in SHAPES}


def agent_of(batch, **changes):
    agent = DQN(
        SHAPES, ACTIONS, DQNArgs(**{"gamma": 0.4, "tau": 0.1, "hidden": (16,), "width": 8, "clip": 0.0, **changes})
    )
    agent.fit_inputs(side(batch, "state"))
    agent.fit_rewards(batch["reward"])
    with torch.no_grad():  # targets that lag, as they do after some updates
        generator = torch.Generator().manual_seed(1)
        for network in (agent.target_inputs, agent.target_critic):
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return agent


def weights(agent):
    return torch.cat([p.detach().flatten() for p in (*agent.inputs.parameters(), *agent.critic.parameters())])


@pytest.mark.parametrize("gamma", [0.4, 0.0])
@pytest.mark.parametrize("network", ["matching", "plain"])
def test_the_target_is_the_double_estimate(network, gamma, batch):
    agent = agent_of(batch, network=network, gamma=gamma)
    before = deepcopy(agent)
    loss = agent.update(batch, Env())["critic_loss"]
    row = torch.arange(COUNT)
    with torch.no_grad():
        after, now = side(batch, "next"), side(batch, "state")
        best = before.critic.all_actions(before.inputs(after)).argmax(1)
        valued = before.target_critic.all_actions(before.target_inputs(after))
        assert (valued.argmax(1) != best).any(), "the two networks disagree somewhere"
        # Rewards are in units of their spread, and an episode that has ended has no state after it.
        y = batch["reward"] / batch["reward"].std() + gamma * torch.where(batch["terminated"], 0.0, valued[row, best])
        error = (before.critic.all_actions(before.inputs(now))[row, batch["action"]] - y).abs()
        expected = torch.where(error < 1, error**2 / 2, error - 0.5).mean()
    assert torch.allclose(loss, expected, atol=1e-5)
    other = deepcopy(before)
    changed = {**batch, **{f"next.{name}": value + 1 for name, value in after.items()}}
    same = torch.equal(loss, other.update(changed, Env())["critic_loss"])
    assert same == (gamma == 0), "what comes after counts with gamma alone"


def test_only_the_reward_of_the_move_made_is_learnt(batch):
    """The values of moves that were not made get no gradient of their own: the last layer moves for those made."""
    made = {**batch, "action": torch.full((COUNT,), 2)}
    agent = agent_of(batch, weight_decay=0.0, gamma=0.0)
    before = deepcopy(agent)
    agent.update(made, Env())
    last = [module for module in agent.critic.modules() if isinstance(module, torch.nn.Linear)][-1]
    old = [module for module in before.critic.modules() if isinstance(module, torch.nn.Linear)][-1]
    moved = (last.weight != old.weight).any(1)
    assert moved.tolist() == [action == 2 for action in range(ACTIONS)]


def test_targets_follow_by_tau_and_are_not_trained(batch):
    agent = agent_of(batch)
    before = deepcopy(agent)
    agent.update(batch, Env())
    for name in ("inputs", "critic"):
        old, source, new = (
            torch.cat([p.flatten() for p in getattr(held, part).parameters()])
            for held, part in ((before, f"target_{name}"), (agent, name), (agent, f"target_{name}"))
        )
        assert torch.allclose(new, 0.9 * old + 0.1 * source, atol=1e-6) and not torch.allclose(new, old)
        assert not any(p.requires_grad for p in getattr(agent, f"target_{name}").parameters())


def test_the_gradient_is_clipped(batch):
    agent = agent_of(batch, clip=1e-3)
    agent.update(batch, Env())
    norm = torch.cat([p.grad.flatten() for p in agent.optimiser.param_groups[0]["params"]]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_greedy_actions_have_the_highest_value_and_dropout_is_off(batch):
    agent = agent_of(batch, dropout=0.3)
    seen = side(batch, "state")
    assert torch.equal(agent.act(seen), agent.q_values(seen).argmax(-1))
    assert torch.equal(agent.q_values(seen), agent.q_values(seen))
    agent.update(batch, Env())
    assert not agent.training and torch.equal(agent.q_values(seen), agent.q_values(seen))


def test_the_unit_of_the_values_is_taken_once(batch):
    agent = agent_of(batch)
    unit = agent.unit.clone()
    assert torch.allclose(unit * batch["reward"].std(), torch.ones(()))
    agent.fit_rewards(batch["reward"] * 100)
    assert torch.equal(agent.unit, unit)


def test_the_update_is_that_of_the_seed_dropout_included(batch):
    one, other = (agent_of(batch, dropout=0.5) for _ in range(2))
    for agent in (one, other):
        torch.rand(3)  # what others draw changes nothing
        agent.update(batch, Env())
    assert torch.equal(weights(one), weights(other))
    plain = agent_of(batch)
    plain.update(batch, Env())
    assert not torch.equal(weights(one), weights(plain)), "dropout changes the update"
    assert not torch.equal(weights(agent_of(batch, seed=1)), weights(agent_of(batch)))
