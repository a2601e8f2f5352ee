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

from strong_envs.core import rewards, spans
from strong_envs.core.spans import IOU_KINDS
from strong_envs.features import DataError
from strong_envs.temporal import compiled_kernels as compiled
from strong_envs.temporal import compiled_tables as host_arrays
from strong_envs.temporal.env import TemporalMomentVectorEnv

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
    {"reward": "iou_delta", "phi": 0.01, "invalid": "penalty"},
    {"reward": "read", "start": "random", "invalid": "clip", "step_scale": 2.0},
]


def pair(monkeypatch, count, store, **options):
    """The same environment twice: compiled, and in torch."""
    options = {"autoreset_mode": AutoresetMode.SAME_STEP, **options}
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
            if key in ("final_obs", "final_info"):
                ended = np.asarray(one[f"_{key}"])
                same(ended_rows(one[key], ended), ended_rows(other[key], ended), key)
            elif (name, key) != ("episode", "t"):
                same(one[key], other[key], key)
        return
    assert one.dtype == other.dtype and one.shape == other.shape, name
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype == np.float32 and name != "reward":
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=name)
    else:
        np.testing.assert_array_equal(one, other, err_msg=name)


def ended_rows(part, ended):
    """The rows of episodes that ended; the others are not specified."""
    return {key: ended_rows(x, ended) for key, x in part.items()} if isinstance(part, dict) else part[ended]


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
    env, seen = TemporalMomentVectorEnv(4, ragged_store, autoreset_mode=AutoresetMode.SAME_STEP), []
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
    env = TemporalMomentVectorEnv(4, ragged_store, output=output, flatten=flatten, autoreset_mode="SameStep")
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


@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_slices_of_all_that_a_step_returns_are_kept(output, ragged_store):
    env = TemporalMomentVectorEnv(5, ragged_store, output=output, observation="index", autoreset_mode="SameStep")
    env.reset(seed=0)
    rng, held = np.random.default_rng(0), []

    def leaves(value):
        return [x for part in value.values() for x in leaves(part)] if isinstance(value, dict) else [value]

    for step in range(60):
        observation, *flags, info = env.step(rng.integers(0, 7, 5))
        if step % 7 == 0 or ("episode" in info and step % 5 == 0):
            kept = leaves({"observation": observation, **dict(enumerate(flags)), "info": info})
            held += [(part[1:4], np.asarray(part[1:4]).copy()) for part in kept]
        observation = flags = info = kept = None
    assert len(held) > 200
    for part, copy in held:
        np.testing.assert_array_equal(np.asarray(part), copy)


def test_arrays_that_nobody_holds_come_again(ragged_store):
    env = TemporalMomentVectorEnv(4, ragged_store, observation="index", autoreset_mode="SameStep")
    env.reset(seed=0)
    seen = {id(env.step(np.zeros(4, int))[1]) for _ in range(10)}
    assert len(seen) == 1
    kept = [env.step(np.zeros(4, int)) for _ in range(10)]
    assert len({id(step[1]) for step in kept}) == 10


def test_reused_arrays_are_the_same_object(ragged_store):
    env = TemporalMomentVectorEnv(4, ragged_store, flatten=True, copy=False)
    first, _ = env.reset(seed=0)
    assert all(env.step(np.full(4, action))[0] is first for action in (0, 6, 3))
    fresh = TemporalMomentVectorEnv(4, ragged_store, flatten=True)
    a, b = fresh.reset(seed=0)[0], fresh.step(np.zeros(4, int))[0]
    assert not np.shares_memory(a, b)


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("scope", ["video", "moment"])
def test_rows_written_past_the_caches_hold_the_same_bits(context, scope, ragged_store, monkeypatch):
    options = {"flatten": True, "context": context, "global_scope": scope, "start": "random"}
    options["autoreset_mode"] = "SameStep"
    plain = TemporalMomentVectorEnv(9, ragged_store, **options)
    streamed = TemporalMomentVectorEnv(9, ragged_store, **options)
    rng = np.random.default_rng(0)
    same(plain.reset(seed=0)[0], streamed.reset(seed=0)[0])
    for _ in range(25):
        actions = rng.integers(0, 7, 9)
        monkeypatch.setattr(host_arrays, "STREAM_BYTES", 1 << 40)
        expected, *_, told = plain.step(actions)
        monkeypatch.setattr(host_arrays, "STREAM_BYTES", 0)
        got, *_, info = streamed.step(actions)
        np.testing.assert_array_equal(got, expected)
        if "final_obs" in told:
            ended = told["_final_obs"]
            np.testing.assert_array_equal(info["final_obs"][ended], told["final_obs"][ended])


def test_long_parts_are_streamed_from_any_address():
    kernels, rng = compiled.kernels(), np.random.default_rng(0)
    for at in range(0, 40, 3):
        for size in (1, 15, 16, 17, 64, 131):
            source, out, expected = rng.standard_normal(size, np.float32), *np.zeros((2, 200), np.float32)
            prefix = rng.standard_normal((4, size), np.float32)
            kernels.copy_into(out, at, source, True)
            expected[at : at + size] = source
            np.testing.assert_array_equal(out, expected)
            kernels.mean_into(out, at, prefix, source, 1, 0, 2, True)
            kernels.mean_into(expected, at, prefix, source, 1, 0, 2, False)
            np.testing.assert_array_equal(out, expected)


def test_plain_python_and_numba_agree_on_one_episode():
    kernels, truth = compiled.kernels(), [[2.0, 5.0], [7.5, 9.0]]
    for function in (spans.shifted, kernels.shifted):
        assert function(0.0, 1.0, -1.0, 0.0, 20.0, spans.BEYOND) == (0.0, 1.0, False)
        assert function(0.0, 1.0, 1.0, 1.0, 20.0, spans.BEYOND) == (1.0, 2.0, True)
        assert function(1.0, 3.0, -2.0, 2.0, 20.0, 0.0) == (0.0, 5.0, True)  # cut off at the edge
        assert function(0.0, 3.0, -2.0, 0.0, 20.0, 0.0) == (0.0, 3.0, False)  # nothing of it is left
    assert spans.frame_window(19.0, 20.0, 20.0, 3) == kernels.frame_window(19.0, 20.0, 20.0, 3) == (2, 3)
    assert spans.context_windows(4, 9, 3, 10) == kernels.context_windows(4, 9, 3, 10)
    low, high = np.array(truth).T[:, :, None].copy()
    rng = np.random.default_rng(0)
    for kind, name in enumerate(IOU_KINDS):
        for start, end in np.sort(rng.integers(0, 21, (50, 2)), -1) + np.array([0, 1.0]):
            plain = max(spans.overlap(start, end, *window, kind) for window in truth)
            assert plain == kernels.overlap_one(start, end, 0, low, high, kind)
            window = (*np.array([[start], [end]]), np.array([truth]))
            assert plain == float(spans.span_iou(*window, name)[0])
            assert spans.nearest_window(*window) == [kernels.nearest_one(start, end, 0, low, high)]


def test_info_is_one_of_two(ragged_store):
    with pytest.raises(DataError, match="did you mean 'light'"):
        TemporalMomentVectorEnv(2, ragged_store, info="lihgt")


def test_the_scalar_environment_on_a_built_world_loads_nothing_heavy():
    gym.make("TemporalMoment-v0").close()  # builds the world where no test has done so
    code = (
        "import sys, gymnasium, strong_envs, strong_envs.temporal.compiled_stepper;"
        "env = gymnasium.make('TemporalMoment-v0'); env.reset(seed=0); env.step(0);"
        "heavy = {'numba', 'llvmlite', 'cv2', 'matplotlib', 'rich', 'stable_baselines3'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


@pytest.mark.parametrize("reward", sorted(rewards.TEMPORAL_REWARDS))
def test_every_reward_is_compiled(reward, ragged_store):
    assert TemporalMomentVectorEnv(4, ragged_store, reward=reward)._compiled is not None
