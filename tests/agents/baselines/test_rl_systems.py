"""READ and SM-RL: sizes, losses and returns by hand, gradients, ten samples learnt by heart, saving, seeds."""

from __future__ import annotations

import math

import pytest
import torch
from rl_checks import TenSamples, gradients, initial_miou, miou

from strong_envs import agents, features
from strong_envs.agents.baselines.read import Memory, Read, ReadArgs, ReadNetwork, read_loss
from strong_envs.agents.baselines.sequential import gumbel_sample, n_step_returns, nearest_truth
from strong_envs.agents.baselines.sm_rl import (
    SmRl,
    SmrlArgs,
    SmrlEpisode,
    SmrlNetwork,
    choose,
    concept_words,
    smrl_loss,
)
from strong_envs.core import rewards
from strong_envs.features.errors import DataError
from strong_envs.rollout import localise
from strong_envs.temporal.env import make_task

SMRL_SMALL = dict(steps=3, batch=8, sizes=(8, 8, 4, 8), hidden=16, concept_steps=3)
TSP_SMALL = dict(num_envs=8, part=8, hidden=16, iou_hidden=(8, 4), switch=1, steps=400)
READ_SMALL = dict(num_envs=8, sizes=(8, 8, 8, 4), hidden=16, steps=400)


class SmRlTen(SmRl):
    def draw(self, generator):
        return super().draw(generator) % 10


class ReadTen(Read):
    def make_env(self, task, num_envs):
        return TenSamples.of(task, num_envs)


# Shared tools -------------------------------------------------------------------------------------------------------


def test_returns_by_hand():
    """Two environments, three steps, discount 1/2: the second ends at its middle step."""
    paid = torch.tensor([[1.0, 1.0], [0.0, -1.0], [2.0, 4.0]])
    terminated = torch.tensor([[False, False], [False, True], [False, False]])
    returns = n_step_returns(paid, terminated, torch.tensor([8.0, 2.0]), 0.5)
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
    assert (config.reward, config.invalid, config.max_steps, config.phi) == ("read", "clip", 10, 0.001)
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


@pytest.mark.slow
def test_read_learns_ten_samples_by_heart():
    bank = features.load("shapes-v0", "train")
    system = ReadTen(bank, boxes="truth", box_margin=0.05, steps=48_000, num_envs=16).fit()
    assert miou(system, bank) > initial_miou(system) + 0.25


# SM-RL --------------------------------------------------------------------------------------------------------------


def test_sizes_of_sm_rl_as_described(ragged_store):
    bank = features.load(ragged_store, "train")
    system = agents.make("sm-rl", bank, preset="described", concept_least=1)
    network, args = system.network, system.args
    layers = (network.frame, network.concept, network.position, network.query)
    assert [layer.out_features for layer in layers] == [1024, 1024, 128, 1024]
    assert network.memory.input_size == 3 * 1024 + 128
    assert network.memory.hidden_size == 1024 and network.concepts.out_features == len(system.words)
    assert (args.looks, args.sigma, args.hit) == (6, 0.08, 0.5)
    assert not system.config.context


def test_concepts_are_the_common_words_that_mean_something():
    texts = ["The man opens the door.", "a man closes a door", "the dog sleeps", "the man sleeps"]
    assert concept_words(texts, 10, 2) == ["man", "door", "sleeps"]
    assert concept_words(texts, 1, 2) == ["man"]


def test_the_chosen_look():
    """The highest match where the indicator is on; where it never is, the highest of all."""
    match = torch.tensor([[0.9, 0.1], [0.5, 0.3], [0.7, 0.2]])
    on = torch.tensor([[False, False], [True, False], [True, False]])
    assert choose(match, on).tolist() == [2, 1]


def test_loss_of_sm_rl_by_hand():
    """One look, two samples: undecided scores, one detection off by .2, rewards +1 and -1 against a baseline of .5."""
    log_prob = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    detection = torch.tensor([[[0.1, 0.5], [0.2, 0.4]]])
    zeros, on = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    walk = SmrlEpisode(zeros, detection, zeros, zeros, on, log_prob)
    truth = torch.tensor([[0.1, 0.7], [0.2, 0.4]])
    args = SmrlArgs(match_weight=1.0, detection_weight=2.0, policy_weight=0.5)
    loss = smrl_loss(walk, torch.zeros(1, 2), truth, torch.tensor([1.0, -1.0]), torch.tensor(0.5), args)
    assert loss["match"].item() == pytest.approx(math.log(2))
    assert loss["detection"].item() == pytest.approx(2 * (0.5 * 0.2**2) / 4)
    assert loss["policy"].item() == pytest.approx(-0.5 * (-1.0 * 0.5 + -3.0 * -1.5) / 2)
    loss["policy"].backward()
    assert torch.allclose(log_prob.grad, torch.tensor([[-0.125, 0.375]]))


def test_rewards_of_hits():
    iou = torch.tensor([0.5, 0.51, 0.0, 1.0])
    assert rewards.hit_reward(iou, 0.5).tolist() == [-1, 1, -1, 1]
    assert rewards.hit_reward(iou.numpy(), 0.5).tolist() == [-1, 1, -1, 1]


def test_gradient_reaches_every_parameter_of_sm_rl(ragged_store):
    bank = features.load(ragged_store, "train")
    system = agents.make("sm-rl", bank, **SMRL_SMALL | {"batch": 32})
    texts = torch.arange(len(bank))
    generator = torch.Generator().manual_seed(0)
    losses, _ = system.losses(system.draw(generator), texts, torch.tensor(0.0), generator)
    sum(losses.values()).backward()
    reached = gradients(system.network)
    # The concepts have a loss of their own.
    learning = {name for name, _ in system.network.named_parameters() if not name.startswith("concepts.")}
    assert set(reached) == learning
    assert all(size > 0 for size in reached.values()), reached
    before = system.network.concepts.weight.clone()
    system._train_concepts(generator)
    assert not torch.equal(before, system.network.concepts.weight)


def test_sm_rl_sees_single_frames(ragged_store):
    """A look is the feature of the frame at its position, and detections are windows of the video."""
    system = agents.make("sm-rl", features.load(ragged_store, "train"), **SMRL_SMALL)
    task, bank = system.task, system.bank
    samples = torch.arange(len(bank))
    position = torch.rand(len(bank), generator=torch.Generator().manual_seed(0))
    rows = bank.offsets[bank.video] + (position.double() * task.n_frames).floor().long()
    assert torch.allclose(system._frame(task, samples, position), bank.frames[rows], atol=1e-4)
    walk = system.episode(task, samples, bank.query, torch.Generator().manual_seed(1))
    assert (walk.detection[..., 0] >= 0).all() and (walk.detection[..., 1] <= 1).all()
    assert (walk.detection[..., 1] - walk.detection[..., 0] > 0).all()
    assert (walk.position >= 0).all() and (walk.position <= 1).all() and (walk.log_prob < 0).any()


def test_equal_sentences_are_no_mismatch(ragged_store):
    system = agents.make("sm-rl", features.load(ragged_store, "train"), **SMRL_SMALL)
    samples, nothing = torch.arange(4), torch.tensor(0.0)
    each = [
        system.losses(samples, texts, nothing, torch.Generator().manual_seed(0))[0]["match"].item()
        for texts in (torch.zeros(12, dtype=torch.int64), torch.arange(12))
    ]
    assert each[0] < each[1]


@pytest.mark.slow
def test_sm_rl_learns_ten_samples_by_heart():
    bank = features.load("shapes-v0", "train")
    system = SmRlTen(bank, boxes="truth", box_margin=0.05, steps=200, batch=32, concept_steps=20).fit()
    assert isinstance(system.network, SmrlNetwork)
    assert miou(system, bank) > initial_miou(system) + 0.25


# All of them --------------------------------------------------------------------------------------------------------

SYSTEMS = [("read", READ_SMALL), ("sm-rl", SMRL_SMALL), ("tsp-prl", TSP_SMALL)]


@pytest.mark.parametrize(("name", "options"), SYSTEMS)
def test_a_system_survives_saving(name, options, ragged_store, tmp_path):
    bank, test = features.load(ragged_store, "train"), features.load(ragged_store, "test")
    stages = []
    system = agents.make(name, bank, seed=3, boxes="truth", env={"max_steps": 7}, **options)
    system.fit(lambda stage, done, total, scalars: stages.append(stage), lambda made, stage: {"score": 0.5})
    assert stages and system.history[0]["score"] == 0.5 and system.history[0]["seconds"] > 0
    before = system.predict(test)
    assert before.spans.shape == (len(test), 2) and before.frames_seen.shape == (len(test),)
    assert (before.spans[:, 0] >= 0).all() and (before.spans[:, 0] < before.spans[:, 1]).all()
    assert (before.spans[:, 1] <= test.duration[test.video] + 1e-6).all()
    assert (before.frames_seen > 0).all() and (before.frames_seen <= 1).all()
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
        ({"preset": "defualt"}, "did you mean 'default'"),
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
