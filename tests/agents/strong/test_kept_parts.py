"""The first layer with kept parts, and observations put together without a copy, equal the plain way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from strong_envs.agents.training.networks import KeptParts, Standardise
from strong_envs.core.observations import flat, joined
from strong_envs.features.errors import DataError
from strong_envs.spatial.env import SpatialTrackVectorEnv
from strong_envs.temporal.env import TemporalMomentVectorEnv

SHAPES = {"query": (30,), "location": (2,), "local": (3, 4), "global": (20,)}


def batch(count: int, seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: 5 * torch.randn(count, *shape, generator=g) + 2 for name, shape in SHAPES.items()}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [(), ("global",), ("local",)])
@pytest.mark.parametrize("kept", [("query", "global"), ("global", "query", "location", "local"), ()])
def test_kept_parts_equal_the_plain_layer_in_every_step(kept, hidden, bias):
    torch.manual_seed(0)
    inputs, layer = Standardise(SHAPES, hidden), nn.Linear(64, 16, bias=bias)
    # A scale learnt from few rows, so that some numbers are clamped.
    inputs.fit(batch(4, 1))
    first = batch(8, 2)
    parts = KeptParts(inputs, layer, kept)
    base = parts.begin(first)
    before = base.clone()
    for step in range(3):
        observation = {**batch(8, 10 + step), **{name: first[name] for name in kept}}
        out = parts.step(observation, base)
        assert torch.allclose(out, layer(inputs(observation)), atol=1e-4)
        assert not out.requires_grad and torch.equal(base, before)


def test_kept_parts_follow_the_weights_and_refuse_what_does_not_fit():
    torch.manual_seed(0)
    inputs, layer, observation = Standardise(SHAPES), nn.Linear(64, 16), batch(8, 2)
    parts = KeptParts(inputs, layer)
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.allclose(parts.step(observation, parts.begin(observation)), layer(inputs(observation)), atol=1e-4)
    with pytest.raises(DataError, match="did you mean 'query'"):
        KeptParts(inputs, layer, ("qery",))
    with pytest.raises(DataError, match="takes 63 numbers, the observation has 64"):
        KeptParts(inputs, nn.Linear(63, 16))


def test_views_of_one_table_are_joined_without_a_copy():
    table = torch.randn(6, 10)
    for rows in (table, table[::2], table[1:2]):
        whole = joined([rows[:, 2:5], rows[:, 5:6], rows[:, 6:9]])
        assert torch.equal(whole, rows[:, 2:9]) and whole.data_ptr() == rows[:, 2:].data_ptr()


@pytest.mark.parametrize(
    "parts",
    [
        lambda x: [x[:, 5:], x[:, :5]],
        lambda x: [x[:, :5], x[:, 6:]],
        lambda x: [x[:, :3], x.clone()[:, 3:]],
        lambda x: [x[:3, :5], x[3:, 5:]],
        lambda x: [x[:, :1].expand(-1, 2), x[:, 2:]],
        lambda x: [x.T[:, :2], x.T[:, 2:]],
        lambda x: [x[::2, :5], x[:3, 5:]],
    ],
)
def test_anything_else_is_concatenated(parts):
    table = torch.arange(60.0).view(6, 10)
    assert torch.equal(joined(parts(table)), torch.cat(parts(table), 1))


def test_gradients_reach_all_parts():
    table = torch.randn(6, 10, requires_grad=True)
    joined([table[:, :4], table[:, 4:]]).sum().backward()
    assert torch.equal(table.grad, torch.ones(6, 10))


@pytest.mark.parametrize("compiled", ["1", "0"])
@pytest.mark.parametrize("kind", [TemporalMomentVectorEnv, SpatialTrackVectorEnv])
def test_observations_of_moves_are_those_of_both_states(kind, compiled, ragged_store, monkeypatch):
    monkeypatch.setenv("STRONG_ENVS_COMPILED", compiled)
    options = {"reward": "box_iou"} if kind is SpatialTrackVectorEnv else {}
    env = kind(8, ragged_store, output="torch", observation="index", **options)
    env.reset(seed=0)
    state = env.state()
    env.step(torch.arange(8) % 5)
    pair = env.observe_moves(state, env.reached)
    for got, want in zip(pair, (env.observe_state(state), env.observe_state(env.reached)), strict=True):
        assert list(got) == list(want)
        # The batch is another, and with it the rounding of matrix products.
        assert all(torch.allclose(got[name], want[name], atol=1e-6) for name in want)
        assert torch.equal(flat(got), torch.cat([part.flatten(1) for part in got.values()], 1))
    assert not torch.equal(flat(pair[0]), flat(pair[1]))
