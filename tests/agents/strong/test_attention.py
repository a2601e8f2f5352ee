"""Attention over the frames of a window against the equations of the paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from strong_envs import features
from strong_envs.agents.strong.agent import Strong, make_level
from strong_envs.agents.strong.args import level_args
from strong_envs.agents.strong.attention import AttentionTask, AttentiveInputs
from strong_envs.agents.strong.levels.training import train
from strong_envs.agents.strong.presets import strong_args
from strong_envs.agents.training.matching import MatchingInputs
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.env import TemporalMomentVectorEnv
from strong_envs.temporal.task import TemporalConfig


@pytest.fixture
def task(ragged_store):
    bank = features.load(ragged_store, "train")
    return AttentionTask(bank, LocalFeatures(bank, "initial"), TemporalConfig())


def states(task, count=40):
    state = task.random_states(count, torch.Generator().manual_seed(0))
    return task.observe(*(state[name] for name in ("sample", "start", "end", "t")))


def test_one_untimed_head_is_the_equation(task):
    torch.manual_seed(0)
    task = AttentionTask(task.bank, task.local, TemporalConfig(global_scope="moment"), timed=False)
    inputs = AttentiveInputs(task.dims(), heads=1)
    observation = states(task)
    inputs.fit(observation)
    out = inputs(observation)
    dim = task.local.dim
    assert out.shape == (40, task.bank.query_dim + 2 + 2 * dim + 4 * dim)  # the context stays
    for row in range(40):
        start, end = observation["location"][row].tolist()
        inside = [k for k in range(20) if start <= (k + 0.5) / 20 < end]
        query = out[row, : task.bank.query_dim]
        for kind in range(2):
            frames = (observation["frames"][row, inside, kind] - inputs.shift[kind]) * inputs.scale[kind]
            hidden = torch.relu(inputs.said[kind](query) + inputs.seen[kind](frames))
            weights = inputs.score[kind](hidden)[:, 0].softmax(0)
            at = inputs.base.size + kind * dim
            assert torch.allclose(out[row, at : at + dim], weights @ frames, atol=1e-5)


def test_frames_are_means_over_stretches(task):
    observation = states(task, 5)
    state = task.random_states(5, torch.Generator().manual_seed(0))
    for row, sample in enumerate(state["sample"].tolist()):
        n = int(task.n_frames[sample])
        video = int(task.bank.video[sample])
        frames = task.bank.frames[task.bank.offsets[video] : task.bank.offsets[video + 1]]
        for k in (0, 7, 19):
            low = k * n // 20
            high = max((k + 1) * n // 20, low + 1)
            assert torch.allclose(observation["frames"][row, k, 1], frames[low:high].mean(0), atol=1e-4)


@pytest.mark.parametrize("timed", [True, False])
def test_a_matching_network_multiplies_the_query_with_what_is_attended(task, timed):
    task = AttentionTask(task.bank, task.local, TemporalConfig(global_scope="moment"), timed=timed)
    agent = make_level(task, level_args(network="matching", attention_heads=2, attention_timed=timed))
    inputs, observation, dim = agent.inputs, states(task), task.local.dim
    agent.fit_inputs(observation)
    # Attention to every frame of the window alike gives means over its frames, which `plain` has in their place.
    for of_frame, score in zip(inputs.seen, inputs.score, strict=True):
        torch.nn.init.zeros_(of_frame.weight)
        torch.nn.init.zeros_(score.weight)
    taken = observation["taken"][..., None]
    means = (observation["frames"] * taken).sum(1) / taken.sum(1)
    plain = MatchingInputs({name: shape for name, shape in task.dims().items() if name not in inputs.PARTS})
    plain.load_state_dict(inputs.base.state_dict())
    inside, whole = means[:, 0], means[:, 1]
    # Timed attentions stand beside f_o and the mean of the video, others in their place.
    first, before = (observation["local"], 2) if timed else (inside, 1)
    attended = (inside, inside, whole, whole) if timed else (inside, whole, whole)
    query = plain.query(observation["query"])
    windows = plain.match(plain.scale(torch.stack((first, *attended), 1)), query)
    wanted = windows[:, 1:] - windows[:, :1]
    width = plain.match.feature.out_features
    found = inputs(observation)[:, before * width :][:, : wanted[0].numel()]
    assert torch.allclose(found, wanted.flatten(1), atol=1e-4)
    assert inputs.size == inputs(observation).shape[1] and dim == inside.shape[1]


@pytest.mark.parametrize("network", ["plain", "matching"])
@pytest.mark.parametrize("timed", [True, False])
def test_training_reaches_every_weight_of_the_attention(task, timed, network):
    args = level_args(
        algorithm="full feedback", states="uniform", objective="distil", critic="heads", critic_hidden=(16, 16),
        batch=32, warmup=64, network=network,
    )  # fmt: skip
    task = AttentionTask(task.bank, task.local, task.config, timed=timed)
    agent = make_level(task, args)
    before = {name: value.clone() for name, value in agent.inputs.named_parameters()}
    env = TemporalMomentVectorEnv.of(task, 4)
    assert env._compiled is None, "a task of another kind must not take the compiled observations"
    train(agent, env, steps=32 * 6)
    for name, value in agent.inputs.named_parameters():
        # A constant added to all scores does not change a softmax.
        if not (name.startswith("score") and name.endswith("bias")):
            assert value.isfinite().all() and not torch.equal(value, before[name]), name


def test_a_blind_agent_has_no_frames(ragged_store):
    bank = features.load(ragged_store, "train")
    args = replace(strong_args(), boxes="frame", blind=True, attention="frames")
    assert "frames" not in Strong.of(bank, args).task.dims()
