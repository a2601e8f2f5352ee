"""A reward that a user registers is paid by every shell: scalar, vector in torch and compiled, and spatial."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from strong_envs.core import rewards
from strong_envs.core.rewards import (
    SPATIAL_REWARDS,
    TEMPORAL_REWARDS,
    critic_rewards,
    spatial_reward,
    temporal_reward,
)
from strong_envs.features import DataError
from strong_envs.spatial.task import SpatialConfig
from strong_envs.temporal.compiled_kernels import available
from strong_envs.temporal.task import TemporalConfig


@pytest.fixture
def registries():
    """Rewards that a test registers are gone after it."""
    known = [(registry, dict(registry)) for registry in (TEMPORAL_REWARDS, SPATIAL_REWARDS)]
    yield
    for registry, before in known:
        registry.clear()
        registry.update(before)


OPTIONS = [
    {},
    {"invalid": "penalty", "phi": 0.05, "start": "random"},
    {"invalid": "terminate", "multi_scale": True, "observation": "index"},
]


def equal_rollouts(name, steps, **options):
    """Rewards of a vector environment, after they were found equal, to the bit, to those of scalar ones."""
    vector = gym.make_vec(name, num_envs=4, autoreset_mode="SameStep", **options)
    singles = [gym.make(name, **options).unwrapped for _ in range(4)]
    vector.reset(seed=2)
    for i, env in enumerate(singles):
        env.reset(seed=2 + i)
    rng, paid = np.random.default_rng(0), []
    for _ in range(steps):
        actions = rng.integers(0, vector.single_action_space.n, 4)
        _, reward, terminated, truncated, _ = vector.step(actions)
        for i, env in enumerate(singles):
            _, one, done, cut, _ = env.step(int(actions[i]))
            assert (one, done, cut) == (reward[i], terminated[i], truncated[i])
            if done or cut:
                env.reset()
        paid += reward.tolist()
    assert len(set(paid)) > 5
    return vector.unwrapped, paid


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("compiled", [True, False])
def test_a_new_temporal_reward_is_one_function(compiled, options, registries, ragged_store, monkeypatch):
    @temporal_reward("squared")
    def squared(before, after, t, phi):
        """The gain in squared IoU, doubled where it is a gain."""
        gain = after * after - before * before
        return gain + gain * (after > before) - phi * t

    if not compiled:
        monkeypatch.setenv("STRONG_ENVS_COMPILED", "0")
    vector, paid = equal_rollouts("TemporalMoment-v0", 60, features=ragged_store, reward="squared", **options)
    assert (vector._compiled is not None) == (compiled and available())
    state = vector.state()
    known = vector.action_rewards(state)
    actions = np.arange(4) % 6
    got = vector.step(actions)[1]
    assert known[range(4), actions].tolist() == got.tolist()
    assert min(paid) < 0 < max(paid)


def test_what_numba_cannot_compile_steps_in_torch(registries, ragged_store):
    memory = {}

    @temporal_reward("by table")
    def by_table(before, after, t, phi):
        return (after - before) * memory.setdefault("factor", 3.0) - phi * t

    vector, _ = equal_rollouts("TemporalMoment-v0", 30, features=ragged_store, reward="by table")
    assert vector._compiled is None


@pytest.mark.slow
def test_two_rewards_do_not_share_their_machine_code(registries, ragged_store):
    def scaled(factor):
        return lambda before, after, t, phi: factor * (after - before) - phi * t

    for factor in (2.0, 3.0):
        temporal_reward(f"times {factor:g}")(scaled(factor))
        options = {"features": ragged_store, "reward": f"times {factor:g}", "phi": 0.0}
        vector, paid = equal_rollouts("TemporalMoment-v0", 20, **options)
        assert (vector._compiled is not None) == available()
        _, plain = equal_rollouts("TemporalMoment-v0", 20, **{**options, "reward": "iou_delta"})
        np.testing.assert_allclose(paid, factor * np.array(plain), atol=1e-6)


def nearness(box, wanted):
    """Minus the distance of the centres."""
    return -abs(box[..., :2] + box[..., 2:] - wanted[..., :2] - wanted[..., 2:]).sum(-1)


def spread(q, signs):
    """How far the values lie apart."""
    return q.max(-1).values - q.min(-1).values


def agreement(q, signs):
    """How many signs the values have right."""
    return (torch.sign(q - q.mean(-1, keepdim=True)) == signs).to(q.dtype).sum(-1)


def critic(observation):
    """Values that depend on what lies inside the boxes."""
    return observation["local"].mean(-1, keepdim=True) * torch.linspace(-1, 2, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "source", "truth", "options"),
    [
        (nearness, "true_box", False, {}),
        (
            nearness,
            "attention_box",
            False,
            {"attention_box": lambda s, f: torch.tensor([0.2, 0.1, 0.5, 0.6]).expand(len(s), 4)},
        ),
        (spread, "critic", False, {"critic": critic}),
        (agreement, "critic", True, {"critic": critic}),
    ],
)
def test_a_new_spatial_reward_is_one_function(function, source, truth, options, registries, ragged_store):
    spatial_reward("mine", source=source, temporal_truth=truth)(function)
    vector = gym.make_vec(
        "SpatialTrack-v0",
        autoreset_mode="SameStep",
        num_envs=4,
        features=ragged_store,
        reward="mine",
        window="whole",
        **options,
    )
    singles = [
        gym.make("SpatialTrack-v0", features=ragged_store, reward="mine", window="whole", **options) for _ in range(4)
    ]
    vector.reset(seed=0)
    for i, env in enumerate(singles):
        env.reset(seed=i)
    rng, paid = np.random.default_rng(0), set()
    for _ in range(60):
        actions = rng.integers(0, 9, 4)
        reward = vector.step(actions)[1]
        for i, env in enumerate(singles):
            _, one, done, *_ = env.step(int(actions[i]))
            assert one == reward[i]
            paid.add(one)
            if done:
                env.reset()
    assert {-1.0, 1.0} <= paid
    assert ("mine" in critic_rewards()) == (source == "critic")


@pytest.mark.parametrize("name", ["iou", "", None, 3, ["iou_sign"]])
def test_an_unknown_reward_is_refused_everywhere_with_the_valid_ones(name, ragged_store):
    def made(make, valid):
        with pytest.raises(DataError) as caught:
            make()
        assert repr(name) in str(caught.value) and all(one in str(caught.value) for one in valid)

    for spec, valid in (("TemporalMoment-v0", TEMPORAL_REWARDS), ("SpatialTrack-v0", SPATIAL_REWARDS)):
        made(lambda spec=spec: gym.make(spec, features=ragged_store, reward=name), valid)
        made(lambda spec=spec: gym.make_vec(spec, num_envs=2, features=ragged_store, reward=name), valid)
    made(lambda: TemporalConfig(reward=name), TEMPORAL_REWARDS)
    made(lambda: SpatialConfig(reward=name), SPATIAL_REWARDS)


def test_what_a_function_must_be(registries):
    with pytest.raises(DataError, match="must take Python floats"):

        @temporal_reward("tensors only")
        def tensors_only(before, after, t, phi):
            return torch.sign(after - before)

    with pytest.raises(DataError, match="differs between"):

        @temporal_reward("by kind")
        def by_kind(before, after, t, phi):
            return (after - before) * (2.0 if isinstance(before, torch.Tensor) else 1.0)

    with pytest.raises(DataError, match=r"'iou_sign' is strong_envs\.core\.rewards\.iou_sign already"):

        @temporal_reward("iou_sign")
        def other(before, after, t, phi):
            return after - before

    with pytest.raises(DataError, match="source must be one of"):
        spatial_reward("mine", source="box")
    assert "tensors only" not in TEMPORAL_REWARDS and TEMPORAL_REWARDS["iou_sign"] is rewards.iou_sign


def test_a_cell_that_runs_again_replaces_its_reward(registries):
    for factor in (1.0, 2.0):

        @temporal_reward("again")
        def again(before, after, t, phi, factor=factor):
            return factor * after + 0.0 * t

    assert TEMPORAL_REWARDS["again"](0.0, 1.0, 0, 0.0) == 2.0


def test_a_reward_that_needs_the_signed_iou_says_so(registries):
    @temporal_reward("signed only", signed_iou=True)
    def signed_only(before, after, t, phi):
        return after - phi * t

    with pytest.raises(DataError, match="reward='signed only' pays by the sign"):
        TemporalConfig(reward="signed only", iou="clamped")
