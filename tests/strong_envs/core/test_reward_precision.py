"""Eq. 5 to the last bit: NumPy, torch, the scalar environment and the compiled step are one function."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strong_envs.core import rewards
from strong_envs.temporal import compiled_kernels as compiled
from strong_envs.temporal.env import TemporalMomentEnv, TemporalMomentVectorEnv
from strong_envs.temporal.task import TemporalConfig

PHIS = [0.0, 0.1, 1 / 3, 0.037, 1e-7, 0.7, 1.0]
MAX_STEPS = 200


@pytest.mark.parametrize("phi", PHIS)
def test_numpy_and_torch_agree_to_the_last_bit(phi):
    t = np.tile(np.arange(MAX_STEPS + 1), 3)
    before = np.full(len(t), 0.5)
    after = np.repeat([0.4, 0.5, 0.6], MAX_STEPS + 1)
    expected = [float(np.sign(a - b)) - phi * int(k) for a, b, k in zip(after, before, t, strict=True)]
    assert rewards.iou_sign(before, after, t, phi).tolist() == expected
    for kind in (torch.int64, torch.int32):
        paid = rewards.iou_sign(torch.tensor(before), torch.tensor(after), torch.tensor(t, dtype=kind), phi)
        assert paid.dtype == torch.float64 and paid.tolist() == expected


@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("invalid", ["refuse", "penalty"])
def test_all_paths_pay_the_same(phi, invalid, ragged_store, monkeypatch):
    """Rewards and the returns in ``info["episode"]``, which are sums of unrounded ones."""
    count, options = 3, {"phi": phi, "invalid": invalid, "max_steps": MAX_STEPS, "observation": "index"}
    monkeypatch.setenv("STRONG_ENVS_COMPILED", "0")
    paths = [TemporalMomentVectorEnv(count, ragged_store, **options)]
    monkeypatch.delenv("STRONG_ENVS_COMPILED")
    if compiled.available():
        paths.append(TemporalMomentVectorEnv(count, ragged_store, **options))
        assert paths[1]._compiled is not None
    single = TemporalMomentEnv(ragged_store, **options)
    for env in (*paths, single):
        env.reset(seed=4)
    rng, returns = np.random.default_rng(0), 0
    for _ in range(MAX_STEPS):
        actions = rng.integers(0, 6, count)
        state = paths[0].state()
        known = torch.tensor([float(x) for x in paths[0].action_rewards(state)[range(count), actions]])
        results = [env.step(actions) for env in paths]
        _, one, *_ = single.step(int(actions[0]))
        for _, reward, *_, info in results:
            assert reward.tolist() == results[0][1].tolist() and float(reward[0]) == one
            if invalid == "refuse":
                assert reward.tolist() == known.tolist()
            if "episode" in info:
                returns += 1
                assert info["episode"]["r"].tolist() == results[0][-1]["episode"]["r"].tolist()
    assert returns == len(paths)


def test_the_default_is_the_papers():
    assert TemporalConfig().phi == rewards.TEMPORAL_PHI == 0.1
