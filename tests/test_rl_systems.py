"""READ and SM-RL: sizes, losses and returns by hand, gradients, ten samples learnt by heart, saving, seeds."""

from __future__ import annotations

import math

import pytest
import torch

import agents
import features
from agents.read_agent import Memory, Read, ReadArgs, ReadNetwork, read_loss
from agents.temporal_system import gumbel_sample, n_step_returns, nearest_truth
from features.records import DataError
from strong_envs.rollout import localise
from strong_envs.temporal_moment import TemporalMomentVectorEnv, make_task

TEN = torch.arange(10)
READ_SMALL = dict(num_envs=8, sizes=(8, 8, 8, 4), hidden=16, steps=400)


class TenSamples(TemporalMomentVectorEnv):
    """Episodes of the first ten samples only."""

    def _start(self, mask, options):
        self.sample = self.sample % 10
        super()._start(mask, options)


class ReadTen(Read):
    def make_env(self, task, num_envs):
        return TenSamples.of(task, num_envs)


def miou(system, bank, samples=TEN):
    spans = system.predict(bank).spans[samples] / system.task.seconds[samples][:, None]
    return float(system.task.iou(samples, spans[:, 0], spans[:, 1], "clamped").mean())


def initial_miou(system, samples=TEN):
    return float(system.task.iou(samples, *system.task.initial(samples), "clamped").mean())


def gradients(network):
    return {name: float(p.grad.abs().sum()) for name, p in network.named_parameters() if p.grad is not None}


# Shared tools -------------------------------------------------------------------------------------------------------


def test_returns_by_hand():
    """Two environments, three steps, discount 1/2: the second ends at its middle step."""
    rewards = torch.tensor([[1.0, 1.0], [0.0, -1.0], [2.0, 4.0]])
    terminated = torch.tensor([[False, False], [False, True], [False, False]])
    returns = n_step_returns(rewards, terminated, torch.tensor([8.0, 2.0]), 0.5)
    assert returns.tolist() == [[1 + 0.5 * 3.0, 1 - 0.5], [0.5 * 6.0, -1.0], [6.0, 5.0]]


def test_the_true_window_that_a_span_overlaps_most(ragged_store):
    task = make_task(ragged_store)
    samples = torch.arange(len(task.bank))
    for k in range(task.truth.shape[1]):
        start, end = task.truth[:, k, 0], task.truth[:, k, 1]
        picked = nearest_truth(task, samples, start, end)
        assert torch.allclose(picked, (torch.stack((start, end), 1) / task.config.total).float())


def test_sampling_follows_the_logits():
    logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(20_000, 3)
    drawn = gumbel_sample(logits, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=3) / len(drawn)
    assert torch.allclose(share, torch.tensor([0.1, 0.2, 0.7]), atol=0.015)


# READ ---------------------------------------------------------------------------------------------------------------


def test_sizes_and_dynamics_of_the_papers_read(ragged_store):
    system = agents.make("read", features.load(ragged_store, "train"), preset="paper")
    widths = [(layer.in_features, layer.out_features) for layer in system.network.parts]
    assert widths == [(6, 512), (6, 512), (9, 1024), (2, 128)]
    assert system.network.join.in_features == 512 + 512 + 1024 + 128
    memory = system.network.memory
    assert (memory.input_size, memory.hidden_size) == (1024, 1024)
    assert (system.network.policy.out_features, system.network.location.out_features) == (7, 2)
    config = system.task.config
    assert (config.reward, config.invalid, config.max_steps, config.phi) == ("read", "terminate", 10, 0.001)
    # A move of a tenth of the video
    assert float(system.task.table[0, 0]) / config.total == 0.1


def test_loss_of_read_by_hand():
    """Two steps, two actions: uniform policy, advantages 2 and -1, one window near the truth."""
    args = ReadArgs(entropy=0.1, value_weight=0.5, iou_weight=1.0, location_weight=1.0)
    logits = torch.zeros(2, 2, requires_grad=True)
    value = torch.tensor([1.0, 1.0], requires_grad=True)
    iou = torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.1])
    location = torch.tensor([[0.2, 0.6], [0.0, 0.0]]), torch.tensor([[0.1, 0.9], [0.5, 0.9]])
    loss = read_loss(logits, value, torch.tensor([0, 1]), torch.tensor([3.0, 0.0]), iou, location, args)
    assert loss["policy"].item() == pytest.approx(math.log(2) * (2 - 1) / 2)
    assert loss["entropy"].item() == pytest.approx(-0.1 * math.log(2))
    assert loss["value"].item() == pytest.approx(0.5 * (4 + 1) / 2)
    assert loss["iou"].item() == pytest.approx((0.1 + 0.4) / 2)
    assert loss["location"].item() == pytest.approx((0.1 + 0.3) / 2)
    loss["policy"].backward(retain_graph=True)
    # (pi - one_hot) * advantage / 2, and nothing for the critic: the advantage is detached.
    assert torch.allclose(logits.grad, torch.tensor([[-0.5, 0.5], [-0.25, 0.25]]))
    assert value.grad is None or not value.grad.any()


def test_gradient_reaches_every_parameter_of_read(ragged_store):
    system = agents.make("read", features.load(ragged_store, "train"), **READ_SMALL)
    env = system.make_env(system.task, 32)
    env.reset(seed=0)
    losses, _ = system._rollout(env, system.task, 10, torch.Generator().manual_seed(0))
    sum(losses.values()).backward()
    reached = gradients(system.network)
    assert set(reached) == {name for name, _ in system.network.named_parameters()}
    assert all(size > 0 for size in reached.values()), reached


def test_read_remembers(ragged_store):
    """The memory changes what it does next, and a new batch of episodes starts without one."""
    task = make_task(ragged_store)
    torch.manual_seed(0)
    network = ReadNetwork(task.dims(), task.n_actions, ReadArgs(sizes=(8, 8, 8, 4), hidden=16))
    policy, samples = Memory(network), torch.arange(4)
    observation = task.observe(samples, *task.initial(samples), torch.zeros(4, dtype=torch.int64))
    policy(observation)
    first = policy.memory.clone()
    policy(observation)
    assert not torch.equal(first, policy.memory)
    one, other = (localise(task, Memory(network)).path for _ in range(2))
    assert torch.equal(one, other)


def test_read_learns_ten_samples_by_heart():
    bank = features.load("shapes-v0", "train")
    system = ReadTen(bank, boxes="truth", box_margin=0.05, steps=60_000, num_envs=32).fit()
    assert miou(system, bank) > max(0.6, initial_miou(system) + 0.2)


# All of them --------------------------------------------------------------------------------------------------------

SYSTEMS = [("read", READ_SMALL)]


@pytest.mark.parametrize(("name", "options"), SYSTEMS)
def test_a_system_survives_saving(name, options, ragged_store, tmp_path):
    bank, test = features.load(ragged_store, "train"), features.load(ragged_store, "test")
    stages = []
    system = agents.make(name, bank, seed=3, boxes="truth", env={"max_steps": 7}, **options)
    system.fit(lambda stage, done, total, scalars: stages.append(stage), lambda made, stage: {"score": 0.5})
    assert stages and system.history[0]["score"] == 0.5 and system.history[0]["seconds"] > 0
    before = system.predict(test)
    assert before.spans.shape == (len(test), 2) and before.looked.shape == (len(test),)
    assert (before.spans[:, 0] >= 0).all() and (before.spans[:, 0] < before.spans[:, 1]).all()
    assert (before.spans[:, 1] <= test.duration[test.video] + 1e-6).all()
    assert (before.looked > 0).all() and (before.looked <= 1).all()
    file = str(tmp_path / "agent.safetensors")
    system.save(file)
    again = type(system).load(file, bank)
    assert again.args == system.args and again.config == system.config and again.history == system.history
    assert torch.equal(again.predict(test).spans, before.spans)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in system.parameters()) > 0


@pytest.mark.parametrize(("name", "options"), SYSTEMS)
def test_training_repeats_bit_for_bit_and_depends_on_the_seed(name, options, ragged_store):
    bank = features.load(ragged_store, "train")
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(weights))
        system = agents.make(name, bank, seed=seed, **options).fit()
        weights.append(torch.cat([p.detach().flatten() for p in system.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("name", "options"), SYSTEMS)
def test_wrong_requests_are_explained(name, options, ragged_store, tmp_path):
    bank = features.load(ragged_store, "train")
    for wrong, words in (
        ({"preset": "papr"}, "did you mean 'paper'"),
        ({"lrr": 1}, "unknown option 'lrr'; did you mean 'lr'"),
        ({"env": {"fi": 1}}, "unknown option of env 'fi'"),
        ({"budget": 0}, "budget must"),
        ({"boxes": "nowhere"}, "boxes must be one of"),
    ):
        with pytest.raises(DataError, match=words):
            agents.make(name, bank, **wrong)
    system = agents.make(name, bank, boxes=torch.tensor([0.1, 0.1, 0.6, 0.6]).expand(len(bank), 4), **options)
    system.save(str(tmp_path / "given.safetensors"))
    with pytest.raises(DataError, match="pass boxes="):
        type(system).load(str(tmp_path / "given.safetensors"), bank)
    type(system).load(str(tmp_path / "given.safetensors"), bank, boxes="frame")
    other = features.load("shapes-v0", "train")
    with pytest.raises(DataError, match="other features"):
        type(system).load(str(tmp_path / "given.safetensors"), other, boxes="frame")
