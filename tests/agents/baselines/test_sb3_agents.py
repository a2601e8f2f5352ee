"""Stable-Baselines3's algorithms as systems: their greedy networks, inputs, ten samples, saving, seeds."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from strong_envs import agents, features
from strong_envs.agents.baselines.sb3 import LibraryA2C, LibraryDDPG, LibraryDQN, LibraryPPO
from strong_envs.agents.training.matching import MatchingInputs
from strong_envs.core.observations import flat
from strong_envs.features.errors import DataError
from strong_envs.temporal.env import TemporalMomentVectorEnv

pytest.importorskip("stable_baselines3")

TEN = torch.arange(10)
KINDS = {"sb3-ppo": LibraryPPO, "sb3-a2c": LibraryA2C, "sb3-dqn": LibraryDQN, "sb3-ddpg": LibraryDDPG}
SMALL = dict(num_envs=8, steps=256, hidden=(16, 16), batch=16, buffer=500)
QUICK = {
    "sb3-ppo": {"n_steps": 16, "batch_size": 64},
    "sb3-a2c": {},
    "sb3-dqn": {"learning_starts": 64},
    "sb3-ddpg": {"learning_starts": 64},
}


def make(name, bank, **options):
    return agents.make(name, bank, settings=QUICK[name], **{**SMALL, **options})


def observations(system, count=10):
    samples = torch.arange(count)
    return system.task.observe(samples, *system.task.initial(samples), torch.zeros_like(samples))


class TenSamples(TemporalMomentVectorEnv):
    """Episodes of the first ten samples only."""

    def _start(self, mask, options):
        self.sample = self.sample % 10
        super()._start(mask, options)


@pytest.mark.parametrize("name", KINDS)
def test_sizes_and_what_they_train_in(name, ragged_store):
    system = make(name, features.load(ragged_store, "train"))
    env = system.model.get_env()
    assert env.num_envs == 8 and env.observation_space.shape == (9 + 2 + 6 + 6 + 24,)
    assert (env.action_space.shape == (7,)) == (name == "sb3-ddpg")
    assert system.config.phi == 0 and env.get_attr("task")[0].config.start == "random"
    if name in ("sb3-dqn", "sb3-ddpg"):
        assert system.model.replay_buffer.buffer_size * system.model.n_envs <= 500
    widths = [m.out_features for m in system.network.modules() if isinstance(m, torch.nn.Linear)]
    assert widths[:2] == [16, 16] and 7 in widths


@pytest.mark.parametrize("name", KINDS)
def test_the_greedy_network_is_the_librarys_own_prediction(name, ragged_store):
    system = make(name, features.load(ragged_store, "train")).fit()
    observation = observations(system)
    theirs, _ = system.model.predict(flat(observation).numpy(), deterministic=True)
    theirs = theirs.argmax(-1) if name == "sb3-ddpg" else theirs
    assert system.act(observation).tolist() == theirs.tolist()


@pytest.mark.parametrize("name", KINDS)
def test_inputs_are_standardised_in_every_network(name, ragged_store):
    system = make(name, features.load(ragged_store, "train"))
    system.fit_inputs()
    layers = [m for m in system.network.modules() if hasattr(m, "shift")]
    assert len(layers) == {"sb3-ppo": 1, "sb3-a2c": 1, "sb3-dqn": 2, "sb3-ddpg": 4}[name]
    x = flat(observations(system))
    expected = ((x - layers[0].shift) * layers[0].scale).clamp(-10, 10)
    for layer in layers:
        assert torch.equal(layer(x), expected) and layer.scale.ne(1).any()


@pytest.mark.parametrize("name", KINDS)
def test_gradient_reaches_every_parameter(name, ragged_store):
    """Every trained number has moved."""
    system = make(name, features.load(ragged_store, "train"), steps=1024, env={"phi": 0.1})
    before = [p.detach().clone() for p in system.parameters()]
    system.fit()
    assert all(not torch.equal(a, b) for a, b in zip(before, system.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sb3-ppo", {"num_envs": 64, "steps": 20_000, "settings": {"n_steps": 16, "batch_size": 128}}),
        ("sb3-a2c", {"num_envs": 32, "steps": 30_000}),
        ("sb3-dqn", {"num_envs": 32, "steps": 8_000, "settings": {"learning_starts": 1_000}}),
    ],
)
def test_ten_samples_are_learnt_by_heart(name, options):
    bank = features.load("shapes-v0", "train")

    class Ten(KINDS[name]):
        def make_env(self, task, num_envs):
            return TenSamples.of(task, num_envs, True, "numpy", "features", "light")

    system = Ten(bank, boxes="truth", box_margin=0.05, hidden=(64, 64), **options).fit()
    task = system.task
    spans = system.predict(bank).spans[TEN] / task.seconds[TEN][:, None]
    initial = task.iou(TEN, *task.initial(TEN), "clamped").mean()
    assert task.iou(TEN, spans[:, 0], spans[:, 1], "clamped").mean() > initial + 0.15


@pytest.mark.parametrize("name", KINDS)
def test_they_survive_saving(name, ragged_store, tmp_path):
    bank, test = features.load(ragged_store, "train"), features.load(ragged_store, "test")
    stages = []
    system = make(name, bank, steps=1024, boxes="truth", env={"max_steps": 6})
    system.fit(lambda stage, done, total, scalars: stages.append(done), lambda made, stage: {"score": 0.5})
    assert stages and system.history[0]["score"] == 0.5
    before = system.predict(test)
    assert before.spans.shape == (len(test), 2) and before.path.shape == (len(test), 7, 2)
    system.save(str(tmp_path / "agent.safetensors"))
    again = KINDS[name].load(str(tmp_path / "agent.safetensors"), bank)
    assert again.args == system.args and again.settings == system.settings and again.config == system.config
    assert torch.equal(again.predict(test).spans, before.spans)


@pytest.mark.parametrize("name", KINDS)
def test_training_repeats_and_leaves_other_generators_alone(name, ragged_store):
    bank = features.load(ragged_store, "train")
    weights = []
    for seed in (0, 0, 1):
        random.seed(len(weights)), np.random.seed(len(weights)), torch.manual_seed(len(weights))
        expected = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        system = make(name, bank, seed=seed).fit()
        weights.append(torch.cat([p.detach().flatten() for p in system.parameters()]))
        assert random.getstate() == expected[0] and np.random.get_state()[1].tolist() == expected[1]
        assert torch.equal(torch.get_rng_state(), expected[2])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_wrong_requests_are_explained(ragged_store):
    bank = features.load(ragged_store, "train")
    with pytest.raises(DataError, match="settings of sb3-ppo.*n_stepz"):
        agents.make("sb3-ppo", bank, settings={"n_stepz": 3})
    with pytest.raises(DataError, match="unknown option 'step'; did you mean 'steps'"):
        agents.make("sb3-dqn", bank, step=3)
    with pytest.raises(DataError, match="did you mean 'sb3-ppo'"):
        agents.make("sb3-pop", bank)


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_its_networks_can_match_the_query_with_the_windows(name, ragged_store, tmp_path):
    bank = features.load(ragged_store, "train")
    system = make(f"sb3-{name}", bank, network="matching", hidden=(16,)).fit()
    parts = [module for module in system.network.modules() if isinstance(module, MatchingInputs)]
    assert parts and all(float(part.query.scale.std()) > 0 for part in parts), "inputs are standardised, targets' too"
    system.save(str(tmp_path / "one.safetensors"))
    again = type(system).load(str(tmp_path / "one.safetensors"), bank)
    assert torch.equal(again.predict(bank).spans, system.predict(bank).spans)


def test_an_unknown_network_is_refused(ragged_store):
    bank = features.load(ragged_store, "train")
    with pytest.raises(DataError, match=r"network must be one of .*'plain', 'matching'.*got 'deep'"):
        agents.make("sb3-dqn", bank, network="deep")
