"""``strong-envs replay``: a replay of indices against one of observations, and a first layer that keeps sums.

Both are compared in one interleaved run on one thread, after their results were found equal: the transitions in the
same places of both replays, and the layer's output in every step of a rollout.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from strong_envs.agents.training.loop import split
from strong_envs.agents.training.networks import KeptParts, Standardise
from strong_envs.agents.training.replay import IndexReplay
from strong_envs.benchmarks.speed.harness import (
    REPETITIONS,
    SpeedTarget,
    add_command,
    one_thread,
    outcome,
    race,
    speed_target,
)
from strong_envs.benchmarks.speed.throughput import bank_of
from strong_envs.core.observations import flat
from strong_envs.core.spans import STOP
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.temporal.env import TemporalMomentVectorEnv

REPLAY_ERROR, LAYER_ERROR = 1e-5, 1e-4
BATCH = 128
KEPT = ("query", "global")
"""What an episode of the temporal level does not change: 6,848 of the paper's 8,898 numbers."""


@dataclass
class Replays:
    """The same transitions twice: as indices into a bank, and as Stable-Baselines3 stores them."""

    env: TemporalMomentVectorEnv
    ours: IndexReplay
    theirs: Any

    @classmethod
    def fill(cls, bank: FeatureBank, capacity: int, envs: int) -> Replays:
        """Act at random until both replays are full."""
        from stable_baselines3.common.buffers import ReplayBuffer

        env = index_env(bank, envs)
        space = env.task.observation_space(flatten=True)
        theirs = ReplayBuffer(capacity, space, env.single_action_space, device="cpu")
        replays = cls(env, IndexReplay(capacity, env.device), theirs)
        generator = torch.Generator().manual_seed(0)
        env.reset(seed=0)
        while replays.ours.size < capacity:
            action = torch.randint(env.task.n_actions, (envs,), generator=generator)
            replays.add(env.state(), action, *env.step(action)[1:4])
        return replays

    def add(self, state: dict[str, Tensor], action: Tensor, reward: Tensor, terminated: Tensor, late: Tensor) -> None:
        """One step of all environments, into ours as `agents.training.loop.ReplayTraining` stores it."""
        reached = self.env.reached
        self.ours.add(
            **{f"state.{name}": value for name, value in state.items()},
            **{f"next.{name}": value for name, value in reached.items()},
            action=action.to(torch.uint8),
            reward=reward,
            terminated=terminated,
        )
        now, after = (flat(self.env.observe_state(part)).numpy() for part in (state, reached))
        done, cut = (terminated | late).numpy(), late.numpy()
        for i in range(len(done)):
            info = [{"TimeLimit.truncated": bool(cut[i])}]
            self.theirs.add(now[i], after[i], action[i].numpy(), reward[i].numpy(), done[i], info)

    def rebuilt(self, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both flat observations of stored transitions, (B, size) each, from the bank."""
        before, after = self.env.observe_moves(split(rows, "state."), split(rows, "next."))
        return flat(before), flat(after)

    def largest_error(self) -> float:
        """Compare a batch from the same places; raises unless it holds the same transitions."""
        at = torch.randint(self.ours.size, (4 * BATCH,), generator=torch.Generator().manual_seed(1))
        rows, theirs = self.ours.rows(at), self.theirs._get_samples(at.numpy())
        worst = 0.0
        for got, want in zip(self.rebuilt(rows), (theirs.observations, theirs.next_observations), strict=True):
            worst = max(worst, float((got - want).abs().max()))
        if worst > REPLAY_ERROR:
            raise AssertionError(f"observations of the index replay are off by {worst:.2g}")
        columns = {"action": theirs.actions, "reward": theirs.rewards, "terminated": theirs.dones}
        for name, want in columns.items():
            np.testing.assert_array_equal(rows[name].numpy(), want[:, 0].numpy(), err_msg=name)
        return worst

    def targets(self, calls: int, reps: int) -> list[SpeedTarget]:
        """Target 7: bytes of a transition, and a batch with both of its observations."""
        generator = torch.Generator().manual_seed(2)

        def ours(_: Any) -> Any:
            rows = self.ours.sample(BATCH, generator)
            return rows, self.rebuilt(rows)

        kept = [value.nbytes for value in vars(self.theirs).values() if isinstance(value, np.ndarray)]
        sizes = [self.ours.nbytes / self.ours.capacity], [sum(kept) / self.theirs.buffer_size]
        mine, theirs = race(ours, {"sb3": lambda _: self.theirs.sample(BATCH)}, np.zeros(calls), reps)
        return [
            speed_target("transitions in a megabyte, indices / Stable-Baselines3", 1000, *sizes, 1e6, "per MB"),
            speed_target(
                f"{BATCH} transitions, both observations rebuilt / stored", 1, mine, theirs["sb3"], calls, "per s"
            ),
        ]


def index_env(bank: FeatureBank, envs: int) -> TemporalMomentVectorEnv:
    """The paper's observation, shown as indices."""
    return TemporalMomentVectorEnv(
        envs,
        bank,
        autoreset_mode=AutoresetMode.SAME_STEP,
        context=False,
        observation="index",
        output="torch",
        info="light",
    )


def rollout(env: TemporalMomentVectorEnv, steps: int) -> list[dict[str, Tensor]]:
    """Observations of ``steps`` steps in episodes that all begin with the first and do not stop before the last."""
    generator = torch.Generator().manual_seed(3)
    env.reset(seed=3)
    seen = []
    for _ in range(steps):
        seen.append(env.observe_state(env.state()))
        env.step(torch.randint(STOP, (env.num_envs,), generator=generator))
    return seen


def first_layer(
    bank: FeatureBank, envs: int, hidden: int, reps: int
) -> tuple[list[SpeedTarget], float, dict[str, float]]:
    """Target 8: a rollout through the first layer, the sums of the kept parts at its beginning included.

    Returns the targets, the largest error, and what a base has to save before it pays.
    """
    env = index_env(bank, envs)
    steps = env.task.config.max_steps
    seen = rollout(env, steps)
    inputs = Standardise(env.task.dims())
    inputs.fit({name: torch.cat([o[name] for o in seen]) for name in inputs.names})
    torch.manual_seed(0)
    layer = nn.Linear(inputs.size, hidden).requires_grad_(False)
    kept = KeptParts(inputs, layer, KEPT)
    base = kept.begin(seen[0])
    worst = max(float((kept.step(o, base) - layer(inputs(o))).abs().max()) for o in seen)
    if worst > LAYER_ERROR:
        raise AssertionError(f"the first layer with kept parts is off by {worst:.2g}")

    def cached(_: Any) -> Tensor:
        base = kept.begin(seen[0])
        for observation in seen:
            out = kept.step(observation, base)
        return out

    def plain(_: Any) -> Tensor:
        for observation in seen:
            out = layer(inputs(observation))
        return out

    def ready(_: Any) -> Tensor:
        for observation in seen:
            out = kept.step(observation, base)
        return out

    def bases(_: Any) -> Tensor:
        for observation in seen:
            out = kept.begin(observation)
        return out

    mine, theirs = race(cached, {"plain": plain, "ready": ready, "bases": bases}, np.zeros(1), reps)
    amount, name = steps * envs, f"first layer {inputs.size:,} to {hidden:,}, {envs} envs"
    # Of each repetition, as the ratios: what a slow moment does to all of them then cancels.
    taken = zip(theirs["bases"], theirs["plain"], theirs["ready"], strict=True)
    shares = [base / (whole - rest) for base, whole, rest in taken if whole > rest]
    found = {f"{name} ms": 1e3 * median(theirs[name]) / steps for name in ("bases", "ready", "plain")}
    if shares:
        found["steps"] = median(shares)
    return (
        [
            speed_target(f"{name}, kept parts / plain, {steps} steps", 3, mine, theirs["plain"], amount, "steps/s"),
            speed_target(
                f"{name}, the base at hand / plain", None, theirs["ready"], theirs["plain"], amount, "steps/s"
            ),
        ],
        worst,
        found,
    )


def measure(quick: bool) -> dict[str, Any]:
    """Everything in one run on one thread; raises if two implementations do not agree."""
    reps = 2 if quick else REPETITIONS
    with one_thread(), tempfile.TemporaryDirectory() as name:
        # Neither the bank nor the stored observations fit into the caches.
        bank = bank_of(Path(name), 4, 20, 32, 64) if quick else bank_of(Path(name), 256, 60)
        replays = Replays.fill(bank, *((300, 8) if quick else (10_000, 64)))
        errors = {"a rebuilt observation": {"both": replays.largest_error()}}
        targets = replays.targets(2 if quick else 20, reps)
        del replays
        more, worst, found = first_layer(bank, *((8, 16) if quick else (64, 1024)), reps)
    errors["the first layer"] = {"kept parts": worst}
    note = (
        f"A base costs {found['bases ms']:.2f} ms; a step costs {found['ready ms']:.2f} ms with it and "
        f"{found['plain ms']:.2f} ms without: "
        + (f"{found['steps']:.2f} steps pay for it." if "steps" in found else "it never pays.")
    )
    return outcome(quick, targets + more, **{"largest errors": errors, "break-even": found, "notes": [note]})


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``replay`` command to ``strong-envs``."""
    add_command(
        subparsers,
        "replay",
        measure,
        "replay of indices against replay of observations",
        "Times the index replay against Stable-Baselines3's and the first layer with kept parts against the whole one, "
        "in one interleaved run on one thread, after checking that both give equal results. Ratios are medians over "
        "repetitions.",
    )
