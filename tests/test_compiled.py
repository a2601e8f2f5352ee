"""The compiled CPU path against the torch path on whole random rollouts; recycled and reused arrays."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from features import DataError
from strong_envs import compiled
from strong_envs.temporal_moment import TemporalMomentVectorEnv

pytest.importorskip("numba", reason="the compiled path needs numba (extra 'fast')")

OPTIONS = [
    {},
    {"flatten": True, "iou": "clamped", "phi": 0.0},
    {"iou": "legacy", "invalid": "penalty", "autoreset_mode": AutoresetMode.NEXT_STEP},
    {"invalid": "terminate", "global_scope": "moment", "output": "torch"},
    {"flatten": True, "multi_scale": True, "time_in_observation": True, "max_steps": 7, "phi": 0.037},
    {"context": False, "boxes": "truth", "box_margin": 0.1, "start": "random", "output": "torch", "flatten": True},
    {"step_scale": 2.0, "boxes": "gaussian", "start": "random", "autoreset_mode": AutoresetMode.NEXT_STEP},
    {"boxes": "initial", "spp_levels": (1, 2), "z_e": 7, "initial_span": (0.0, 0.5)},
    {"observation": "index", "start": "random", "z_e": 7.3},
    {"observation": "index", "output": "torch", "info": "light", "autoreset_mode": AutoresetMode.NEXT_STEP},
    {"copy": False, "info": "light", "global_scope": "moment"},
    {"copy": False, "flatten": True, "time_in_observation": True},
    {"copy": False, "observation": "index"},
    {"reward": "read", "step_scale": 2.0, "invalid": "terminate", "start": "random", "max_steps": 10},
]


def pair(monkeypatch, count, store, **options):
    """The same environment twice: compiled, and in torch."""
    fast = TemporalMomentVectorEnv(count, store, **options)
    monkeypatch.setenv("STRONG_ENVS_COMPILED", "0")
    slow = TemporalMomentVectorEnv(count, store, **options)
    monkeypatch.delenv("STRONG_ENVS_COMPILED")
    assert fast._compiled is not None and slow._compiled is None
    return fast, slow


def same(one, other, name=""):
    """Equal to the bit, but for features, which are sums in another order."""
    assert type(one) is type(other), name
    if isinstance(one, dict):
        assert list(one) == list(other), name
        for key in one:
            if (name, key) != ("episode", "t"):
                same(one[key], other[key], key)
        return
    assert one.dtype == other.dtype and one.shape == other.shape, name
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype == np.float32 and name != "reward":
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)
    else:
        np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()) or "default")
def test_whole_rollouts_equal_torch(options, ragged_store, monkeypatch):
    fast, slow = pair(monkeypatch, 16, ragged_store, **options)
    for one, other in zip(fast.reset(seed=5), slow.reset(seed=5), strict=True):
        same(one, other)
    rng, ended = np.random.default_rng(1), 0
    for step in range(60):
        action = rng.integers(0, fast.single_action_space.n, 16)
        if step == 30:
            again = {"sample": 3, "reset_mask": rng.random(16) < 0.5}
            same(fast.reset(options=dict(again))[0], slow.reset(options=dict(again))[0])
        got, expected = fast.step(action), slow.step(action)
        ended += "_episode" in got[4]
        for name, one, other in zip(("obs", "reward", "terminated", "truncated", "info"), got, expected, strict=True):
            same(one, other, name)
        same(fast.reached, slow.reached)
        same(fast.state(), slow.state())
        same(fast.observe_state(slow.state()), slow.observe_state(slow.state()))
    assert ended > 3


def test_disabled_resets_by_mask_and_refuses_like_torch(ragged_store, monkeypatch):
    for env in pair(monkeypatch, 3, ragged_store, autoreset_mode=AutoresetMode.DISABLED):
        with pytest.raises(gym.error.ResetNeeded):
            env.step(np.zeros(3, int))
        env.reset(seed=0)
        before = env.state()
        wrong = {"must lie in": np.array([0, 7, 0]), "shape": np.zeros(2, int), "integers": np.zeros(3)}
        for words, actions in wrong.items():
            with pytest.raises(DataError, match=words):
                env.step(actions)
        same(env.state(), before)
        env.step([6, 0, 0])
        with pytest.raises(gym.error.ResetNeeded, match="reset_mask"):
            env.step(np.zeros(3, int))
        env.reset(options={"reset_mask": np.array([True, False, False])})
        assert env.step(torch.zeros(3, dtype=torch.int32))[4]["invalid_move"].shape == (3,)
        assert env.t.tolist() == [1, 2, 2]


def test_boxes_that_change_are_seen(ragged_store, monkeypatch):
    fast, slow = pair(monkeypatch, 4, ragged_store, boxes="initial")
    for env in (fast, slow):
        env.reset(seed=0)
        frames = int(env.task.n_frames[:2].sum())
        env.task.local.set_boxes(torch.arange(2), torch.tensor([0.1, 0.2, 0.6, 0.9]).expand(frames, 4))
    same(fast.step(np.zeros(4, int))[0], slow.step(np.zeros(4, int))[0])


def test_a_callback_before_episodes_runs_in_torch(ragged_store):
    env, seen = TemporalMomentVectorEnv(4, ragged_store), []
    env.before_episode = lambda samples: seen.append(len(samples))
    env.reset(seed=0)
    env.step(np.full(4, 6))
    assert seen == [4, 4]


def test_a_subclass_keeps_its_own_steps(ragged_store):
    class First(TemporalMomentVectorEnv):
        def _start(self, mask, options):
            self.sample = self.sample * 0
            super()._start(mask, options)

    env = First(4, ragged_store)
    env.reset(seed=0)
    assert env.step(np.full(4, 6))[4]["sample"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("flatten", [False, True])
def test_what_somebody_holds_is_never_written_again(output, flatten, ragged_store):
    env = TemporalMomentVectorEnv(4, ragged_store, output=output, flatten=flatten)
    kept = [env.reset(seed=0)[0]]
    rng = np.random.default_rng(0)
    for _ in range(12):
        observation, *_, info = env.step(rng.integers(0, 7, 4))
        kept += [observation] + ([info["final_obs"]] if "final_obs" in info else [])
    # Slices hold an array as well as the array itself does.
    held = [part[1:] for o in kept for part in ([o] if flatten else o.values())]
    copies = [np.asarray(part).copy() for part in held]
    kept.clear()
    del observation, info
    for _ in range(12):
        env.step(rng.integers(0, 7, 4))
    for part, copy in zip(held, copies, strict=True):
        np.testing.assert_array_equal(np.asarray(part), copy)


def test_reused_arrays_are_the_same_object(ragged_store):
    env = TemporalMomentVectorEnv(4, ragged_store, flatten=True, copy=False)
    first, _ = env.reset(seed=0)
    assert all(env.step(np.full(4, action))[0] is first for action in (0, 6, 3))
    fresh = TemporalMomentVectorEnv(4, ragged_store, flatten=True)
    a, b = fresh.reset(seed=0)[0], fresh.step(np.zeros(4, int))[0]
    assert not np.shares_memory(a, b)


def test_plain_python_and_numba_agree_on_one_episode():
    names = ("move_one", "iou_one", "frames_one")
    plain = {f.__name__: f for f in compiled._FUNCTIONS if f.__name__ in names}
    truth = [[2.0, 5.0], [7.5, 9.0]]
    assert plain["move_one"](0.0, 1.0, -1.0, 0.0, 20.0) == (0.0, 1.0, False)
    assert plain["iou_one"](3.0, 6.0, truth, compiled.SIGNED) == 0.5
    assert plain["frames_one"](19.0, 20.0, 20.0, 3) == (2, 3)


def test_info_is_one_of_two(ragged_store):
    with pytest.raises(DataError, match="did you mean 'light'"):
        TemporalMomentVectorEnv(2, ragged_store, info="lihgt")


def test_import_and_scalar_environment_do_not_load_numba():
    code = (
        "import sys, strong_envs, strong_envs.compiled, strong_envs.temporal_moment as t;"
        "assert not {'numba', 'cv2', 'matplotlib', 'stable_baselines3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
