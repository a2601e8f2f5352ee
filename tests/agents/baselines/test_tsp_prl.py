"""TSP-PRL: its moves, rewards and loss by hand, who learns when, gradients, ten samples learnt by heart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rl_checks import TenSamples, gradients, initial_miou, miou

from strong_envs import agents, features
from strong_envs.agents.baselines.tsp_prl import BRANCHES, Greedy, TreeTask, TspPrl, TspPrlArgs, tree_loss
from strong_envs.core import rewards, spans
from strong_envs.temporal.env import TemporalMomentVectorEnv

SMALL = dict(num_envs=16, part=8, hidden=16, iou_hidden=(8, 4), switch=2, steps=16 * 20 * 4)


class TspPrlTen(TspPrl):
    def make_env(self, task, num_envs):
        return TenSamples.of(task, num_envs)


@pytest.fixture
def system(ragged_store):
    return agents.make("tsp-prl", features.load(ragged_store, "train"), **SMALL)


def moved(action, start=6.0, end=12.0):
    table, one = spans.tree_table(), [np.array([x]) for x in (start, end, action)]
    new = [spans.move(*one, table, 20.0), spans.move(*map(torch.as_tensor, one), torch.as_tensor(table), 20.0)]
    assert [float(x[0]) for x in new[0]] == [float(x[0]) for x in new[1]]
    return pytest.approx((float(new[0][0][0]), float(new[0][1][0]))), bool(new[0][2][0])


def test_sixteen_moves_by_hand():
    """Of a window of 6 steps in a video of 20: far is two steps, a little half a step."""
    wanted = {
        "scale": [(5.4, 12.6), (4.5, 13.5), (6.5, 11.5), (7.0, 11.0)],
        "left": [(4, 10), (4, 12), (6, 10)],
        "right": [(8, 14), (8, 12), (6, 14)],
        "a little left": [(5.5, 11.5), (5.5, 12), (6, 11.5)],
        "a little right": [(6.5, 12.5), (6.5, 12), (6, 12.5)],
    }
    for name, windows in wanted.items():
        assert [moved(action) for action in BRANCHES[name]] == [(window, True) for window in windows]
    assert sorted(a for moves in BRANCHES.values() for a in moves) == [a for a in range(17) if a != spans.STOP]
    assert moved(14, 1.0, 19.0) == ((1.0, 19.0), False)


def test_rewards_by_hand():
    before = torch.tensor([0.2, 0.45, 0.5, 0.5, -0.3, -0.2, 0.1], dtype=torch.float64)
    after = torch.tensor([0.3, 0.60, 0.5, 0.4, -0.1, -0.4, -0.1], dtype=torch.float64)
    leaf = [1.0, 1.6, -0.1, -0.1, -1.0, -1.0, -1.0]
    best = torch.tensor([0.3, 0.7, 0.5, 0.6, 0.2, -0.4, 0.3], dtype=torch.float64)
    root = [1.1, 0.05, 1.0, -0.3, -0.1, 0.8, -0.6]
    for kind in (torch.as_tensor, np.asarray):
        assert rewards.tree_leaf_reward(kind(before), kind(after)).tolist() == pytest.approx(leaf)
        assert rewards.tree_root_reward(kind(before), kind(after), kind(best)).tolist() == pytest.approx(root)


def test_loss_by_hand():
    """Two steps, two moves: uniform policy, advantages 2 and -1, one window that overlaps the truth."""
    args = TspPrlArgs(entropy=0.1, value_weight=0.5, iou_weight=2.0)
    logits = torch.zeros(2, 2, requires_grad=True)
    value = torch.tensor([1.0, 1.0], requires_grad=True)
    iou = torch.tensor([0.0, 3.0]), torch.tensor([0.6, -0.2])
    loss = tree_loss(logits, value, torch.tensor([0, 1]), torch.tensor([3.0, 0.0]), iou, args)
    assert loss["policy"].item() == pytest.approx(math.log(2) * (2 - 1) / 2)
    assert loss["entropy"].item() == pytest.approx(-0.1 * math.log(2))
    assert loss["value"].item() == pytest.approx(0.5 * (4 + 1) / 2)
    assert loss["iou"].item() == pytest.approx(2 * math.log(2))
    loss["policy"].backward()
    assert torch.allclose(logits.grad, torch.tensor([[-0.5, 0.5], [-0.25, 0.25]]))
    assert value.grad is None or not value.grad.any()


def test_sizes_of_the_papers_network(ragged_store):
    network = agents.make("tsp-prl", features.load(ragged_store, "train"), preset="paper").network
    assert [layer.out_features for layer in (*network.seen, network.sentence)] == [1024] * 4
    assert (network.join.in_features, network.memory.hidden_size) == (3 * 1024, 1024)
    assert (network.root.out_features, [leaf.out_features for leaf in network.leaves]) == (5, [4, 3, 3, 3, 3])
    assert [layer.out_features for layer in network.iou[::2]] == [256, 128, 1]


@pytest.mark.parametrize("root", [True, False])
def test_gradient_reaches_those_who_learn_and_leaves_the_others(root, system):
    env = system.make_env(system.task, 64)
    env.reset(seed=0)
    losses, _ = system.rollout(env, system.task, 20, root, torch.Generator().manual_seed(0))
    sum(losses.values()).backward()
    reached = {name for name, size in gradients(system.network).items() if size > 0}
    everything = {name for name, _ in system.network.named_parameters()}
    top = {name for name in everything if name.startswith("root")}
    bottom = {name for name in everything if name.startswith("lea")}
    if root:
        assert reached == everything - bottom
    else:
        # A leaf that the greedy root never calls has nothing to learn from.
        assert everything - top - bottom <= reached and not reached & top and reached & bottom


def test_leaves_learn_first_and_then_the_root(system):
    before = {name: p.clone() for name, p in system.network.named_parameters()}
    stages = []
    system.args = replace(system.args, steps=16 * 20 * 2)
    system.fit(lambda stage, done, total, scalars: stages.append(stage))
    changed = {name for name, p in system.network.named_parameters() if not torch.equal(p, before[name])}
    assert stages == ["leaves"] and not any(name.startswith("root") for name in changed)
    assert any(name.startswith("leaves") for name in changed)


def test_the_tree_acts_as_its_levels_say(system):
    """The level that learns draws, the other is greedy; a leaf's moves are its branch's, and stop is none of them."""
    memory = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    branches = list(BRANCHES.values())
    for root in (True, False):
        branch, leaf, every, logits = system.choose(memory, root, torch.Generator().manual_seed(1))
        for i in range(400):
            assert int(every[i, branch[i]]) == branches[int(branch[i])][int(leaf[i])]
            assert all(int(a) in moves for a, moves in zip(every[i], branches, strict=True))
        assert torch.equal(branch, system.network.root(memory).argmax(-1)) != root
        greedy = system.network.leaf_logits(memory).argmax(-1).gather(1, branch[:, None])[:, 0]
        assert torch.equal(leaf, greedy) == root and logits.shape == (400, 5 if root else 4)


def test_the_answer_is_the_window_with_the_highest_predicted_iou(system):
    task = system.task
    samples = torch.arange(len(task.bank))
    episodes = system.locate(task, samples)
    tree = Greedy(system.network)
    start, end = task.initial(samples)
    seen, best = [], []
    for _ in range(task.config.max_steps):
        observation = task.observe(samples, start, end, torch.zeros_like(samples))
        seen.append(torch.stack((start, end), 1))
        best.append(tree.value(observation)[:, spans.STOP])
        start, end, _ = spans.move(start, end, tree(observation), task.table, task.config.total, task.beyond)
    picked = torch.stack(seen)[torch.stack(best).argmax(0), samples]
    assert torch.allclose(episodes.spans, picked * task.seconds[:, None])


def test_it_steps_the_environment(system):
    task = system.training_task()
    assert isinstance(task, TreeTask) and task.config.start == "random"
    env = TemporalMomentVectorEnv.of(task, 8)
    env.reset(seed=0)
    state = env.state()
    env.step(torch.full((8,), 15))
    middle = state["start"] + state["end"], env.reached["start"] + env.reached["end"]
    assert torch.allclose(*middle)
    assert torch.allclose(env.reached["end"] - env.reached["start"], (state["end"] - state["start"]) / 1.2)


@pytest.mark.slow
def test_ten_samples_are_learnt_by_heart():
    bank = features.load("shapes-v0", "train")
    options = dict(boxes="truth", box_margin=0.05, steps=20_000, num_envs=16, switch=8, env={"max_steps": 10})
    system = TspPrlTen(bank, **options).fit()
    # Measured: .30 from .22; the training goes on to .7 and more, in more seconds than a test should take.
    assert miou(system, bank) > initial_miou(system) + 0.05
