"""``strong-envs throughput``: the cost of a step, against alternatives that a user has without this project."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces.utils import flatdim
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from strong_envs.benchmarks.results.figures import COLOURS, save
from strong_envs.benchmarks.speed.harness import (
    REPETITIONS,
    SpeedTarget,
    add_options,
    met,
    one_thread,
    outcome,
    race,
    random_actions,
    show_targets,
    speed_target,
    timed,
    write,
)
from strong_envs.benchmarks.speed.numpy_env import PlainMoment, PlainStates, crop_pyramid
from strong_envs.features import FeatureBank, Query, StoreContents, StoredVideo, write_store
from strong_envs.features.bank.pooling import WindowMeans, torch_pyramid
from strong_envs.features.files.errors import check_output
from strong_envs.temporal.env import TemporalMomentEnv, TemporalMomentVectorEnv

WORDS, DIM = 4800, 2048
"""The paper's sizes: Skip-Thought sentences and pooled I3D frames, an observation of 8,898 numbers without context."""
FIRST_STEP = """
import json, time
began = time.perf_counter(); import torch
torch_done = time.perf_counter(); import gymnasium, strong_envs
imported = time.perf_counter(); env = gymnasium.make("TemporalMoment-v0")
made = time.perf_counter(); env.reset(seed=0)
reset = time.perf_counter(); env.step(0)
done = time.perf_counter()
print(json.dumps({"import torch": torch_done - began, "import the rest": imported - torch_done,
                  "gym.make": made - imported, "reset": reset - made, "step": done - reset, "total": done - began}))
"""


def bank_of(folder: Path, videos: int, frames: int, dim: int = DIM, words: int = WORDS, seed: int = 0) -> FeatureBank:
    """A bank of random features, two queries a video."""
    rng = np.random.default_rng(seed)
    stored = [StoredVideo(f"v{i}", float(frames), frames) for i in range(videos)]
    queries = []
    for i in range(2 * videos):
        low, high = np.sort(rng.uniform(0, frames, 2))
        queries.append(Query(f"q{i}", f"v{i // 2}", f"sentence {i}", ((float(low), float(high)),), "train"))
    store = write_store(
        folder / f"{videos}-{frames}-{dim}",
        StoreContents(
            name="random",
            videos=stored,
            queries=queries,
            frames=rng.standard_normal((videos * frames, dim), np.float32),
            query_vectors=rng.standard_normal((2 * videos, words), np.float32),
            backbone={"name": "random"},
            text={"name": "random"},
        ),
    )
    return FeatureBank(store, "train")


def vector(bank: FeatureBank, count: int, **options: Any) -> TemporalMomentVectorEnv:
    """The vector environment with the paper's flat state, by default."""
    if options.get("observation") != "index":
        options = {"context": False, "flatten": True, **options}
    return TemporalMomentVectorEnv(count, bank, autoreset_mode=AutoresetMode.SAME_STEP, **options)


def assert_equal_rollouts(env: TemporalMomentVectorEnv, others: dict[str, Any], actions: np.ndarray) -> None:
    """Raise unless every environment answers like ``env``: flags and rewards to the bit, observations to 1e-5."""
    expected = env.reset(seed=0)[0]
    for name, other in others.items():
        np.testing.assert_allclose(other.reset(seed=0)[0], expected, atol=1e-5, rtol=1e-5, err_msg=name)
    for action in actions:
        observation, *outcome = env.step(action)[:4]
        for name, other in others.items():
            got, *theirs = other.step(action)[:4]
            np.testing.assert_allclose(got, observation, atol=1e-5, rtol=1e-5, err_msg=name)
            for one, two in zip(outcome, theirs, strict=True):
                np.testing.assert_array_equal(one, np.asarray(two, one.dtype), err_msg=name)


def full_observations(bank: FeatureBank, count: int, steps: int, reps: int) -> list[SpeedTarget]:
    """Targets 1 and 2: the flat observation of ``count`` environments against Gymnasium's SyncVectorEnv."""
    same = AutoresetMode.SAME_STEP
    ours, reused = vector(bank, count), vector(bank, count, copy=False, info="light")
    scalar = [lambda: TemporalMomentEnv(bank, context=False, flatten=True)] * count
    others = {
        "our scalar env": SyncVectorEnv(scalar, autoreset_mode=same),
        "plain NumPy env": SyncVectorEnv([lambda: PlainMoment(bank)] * count, autoreset_mode=same),
    }
    assert_equal_rollouts(ours, {**others, "reused": reused}, random_actions(25, count))
    implementations = {name: env.step for name, env in others.items()}
    mine, theirs = race(ours.step, {**implementations, "reused": reused.step}, random_actions(steps, count), reps)
    again, amount, targets = theirs.pop("reused"), steps * count, []
    for what, wanted, taken in (("full observation", 4, mine), ("reused buffer", 10, again)):
        for name, seconds in theirs.items():
            title = f"{what}, {count} envs / SyncVectorEnv, {name}"
            targets.append(speed_target(title, wanted, taken, seconds, amount, "steps/s"))
    return targets


def against_gather(bank: FeatureBank, count: int, steps: int, reps: int) -> list[SpeedTarget]:
    """Target 3: bytes of the observations returned, a second, against a plain gather of rows of that size.

    The final observations of ended episodes are written besides and not counted; a second figure counts them. The
    gathered table is as large as what the environment reads, so that both find as much of it in the caches.
    """
    env = vector(bank, count)
    env.reset(seed=0)
    size, means = flatdim(env.single_observation_space), bank.frame_means
    assert isinstance(means, WindowMeans), "banks of this command are held in memory"
    read = means.prefix.numel() + means.mean.numel() + bank.query.numel()
    rows = np.random.default_rng(0).standard_normal((-(-read // size), size), np.float32)
    out = np.empty((count, size), np.float32)
    picks = iter(np.random.default_rng(1).integers(0, len(rows), (steps * reps + 2, count)))
    written = []

    def step(action: np.ndarray) -> Any:
        result = env.step(action)
        written.append(count + result[4].get("_episode", action[:0]).sum())
        return result

    def gather(_: np.ndarray) -> np.ndarray:
        return np.take(rows, next(picks), axis=0, out=out, mode="clip")

    mine, theirs = race(step, {"gather": gather}, random_actions(steps, count), reps)
    name, amount = f"{count} envs / plain gather", steps * count * size * 4 / 1e9
    counted = speed_target(f"full observation, {name}", 0.7, mine, theirs["gather"], amount, "GB/s")
    share = float(np.mean(written[2:])) / count
    taken = [seconds / share for seconds in mine]
    return [
        counted,
        speed_target(f"same with final observations, {name}", None, taken, theirs["gather"], amount, "GB/s"),
    ]


def states_only(bank: FeatureBank, count: int, wanted: float, steps: int, reps: int) -> list[SpeedTarget]:
    """Target 4: stepping without features against vectorised NumPy, with ``info`` full and ``"light"``."""
    light, full = vector(bank, count, observation="index", info="light"), vector(bank, count, observation="index")
    plain = PlainStates(bank, count)
    expected = light.reset(seed=0)[0]
    full.reset(seed=0)
    state = plain.reset(0)
    for action in random_actions(25, count):
        for name, part in state.items():
            np.testing.assert_array_equal(part, expected[name], err_msg=name)
        expected, *outcome = light.step(action)[:4]
        state, *theirs = plain.step(action)
        full.step(action)
        for one, other in zip(outcome, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    actions = random_actions(steps, count)
    mine, others = race(full.step, {"plain": plain.step, "light": light.step}, actions, reps)
    name, amount = f"{count} envs / vectorised NumPy", steps * count
    return [
        speed_target(f"state only, {name}", wanted, mine, others["plain"], amount, "steps/s"),
        speed_target(f"state with light info, {name}", None, others["light"], others["plain"], amount, "steps/s"),
    ]


def pyramid(count: int, channels: int, reps: int) -> SpeedTarget:
    """Target 6 in eager torch: 1 + 4 + 16 bins of boxes on an 8 x 8 map against cropping and adaptive pooling."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(count, 8, 8, channels, generator=generator)
    # Sides of 4 or 8 whole cells: there a crop and an area mean must agree.
    low = torch.randint(0, 5, (count, 2), generator=generator)
    cells = torch.cat([low, low + 4], 1)
    expected, got = crop_pyramid(maps, cells), torch_pyramid(maps, cells / 8)
    np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-4)
    actions = random_actions(4, 1)
    mine, theirs = race(
        lambda _: torch_pyramid(maps, cells / 8), {"crop": lambda _: crop_pyramid(maps, cells)}, actions, reps
    )
    return speed_target(
        "spatial pyramid / crop and adaptive pooling", 2, mine, theirs["crop"], len(actions) * count, "boxes/s"
    )


def cost(bank: FeatureBank, count: int, seconds: float = 0.15, **options: Any) -> float:
    """Microseconds of a step of all environments: the median over blocks of steps."""
    env = vector(bank, count, info="light", **options)
    env.reset(seed=0)
    actions = random_actions(8, count)
    timed(env.step, actions)
    blocks: list[float] = []
    began = time.perf_counter()
    while len(blocks) < 3 or time.perf_counter() - began < seconds:
        blocks.append(timed(env.step, actions) / len(actions))
    return 1e6 * median(blocks)


def growth(folder: Path, bank: FeatureBank, quick: bool) -> dict[str, list[dict[str, float]]]:
    """How the cost of a step grows with environments, frames of a video, and the feature size."""
    limit, room = (64, 1 << 28) if quick else (16384, 1 << 31)
    counts = [4**i for i in range(8) if 4**i <= limit]
    result: dict[str, list[dict[str, float]]] = {"envs": [], "frames": [], "size": []}
    for count in counts:
        row = {"envs": count, "state only": cost(bank, count, observation="index")}
        # Observations of this and the last step, and those of ended episodes
        if 4 * count * 4 * (bank.query_dim + 2 + 2 * bank.frame_dim) <= room:
            row["full observation"] = cost(bank, count)
            row["reused buffer"] = cost(bank, count, copy=False)
        result["envs"].append(row)
    for frames in (10, 100) if quick else (10, 100, 1000, 10_000):
        short = bank_of(folder, 4, frames, 64 if quick else 512, 64)
        result["frames"].append({"frames": frames, "full observation": cost(short, 64)})
    for dim in (16, 64) if quick else (16, 64, 256, 1024, 4096):
        wide = bank_of(folder, 8, 50, dim, dim)
        result["size"].append({"size": dim, "full observation": cost(wide, 64, context=True)})
    return result


def first_step(reps: int) -> dict[str, float]:
    """Seconds from a fresh interpreter to the first step on the default world, medians; the world is cached before."""
    with gym.make("TemporalMoment-v0") as env:
        env.reset(seed=0)
    runs = []
    for _ in range(reps):
        done = subprocess.run([sys.executable, "-c", FIRST_STEP], check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout))
    return {name: median(run[name] for run in runs) for name in runs[0]}


def measure(quick: bool, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Everything in one run on one thread; raises if two implementations do not agree."""
    reps = 2 if quick else REPETITIONS
    with one_thread():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            bank = bank_of(folder, 4, 20, 32, 64) if quick else bank_of(folder, 64, 60)
            small, many, most = (4, 8, 16) if quick else (64, 1024, 8192)
            steps = 4 if quick else 40
            targets = full_observations(bank, small, steps, reps)
            say("full observations measured")
            targets += against_gather(bank, many, max(steps // 4, 2), reps)
            targets += states_only(bank, small, 5, 25 * steps, reps) + states_only(bank, most, 1.3, steps, reps)
            targets.append(pyramid(8 if quick else 256, 16 if quick else 512, reps))
            say("targets measured")
            curves = growth(folder, bank, quick)
            say("growth measured")
        begun = first_step(1 if quick else 3)
    return outcome(quick, targets, growth=curves, first_step=begun)


def draw(result: dict[str, Any], path: Path) -> None:
    """The targets as ratios to what they have to reach, and the three curves of cost."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(12, 7.6), width_ratios=(1.25, 1), layout="constrained")
    axes, rows = panels[0][0], [row for row in result["targets"] if row["wanted"] is not None][::-1]
    shares = [row["ratio"] / row["wanted"] for row in rows]
    axes.barh(range(len(rows)), shares, color=[COLOURS[0] if row["met"] else COLOURS[1] for row in rows])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["name"].replace(" / ", "\nagainst ") for row in rows], fontsize=7)
    for i, row in enumerate(rows):
        axes.text(shares[i], i, f" {row['ratio']:.2f}x of {row['wanted']:g}x", va="center", fontsize=8)
    axes.set_xlim(0, 1.3 * max(*shares, 1))
    axes.set_xlabel("measured ratio / required ratio (1: met)")
    labels = {"envs": "environments", "frames": "frames of a video", "size": "feature size"}
    for axes, (key, label) in zip((panels[0][1], panels[1][0], panels[1][1]), labels.items(), strict=True):
        for colour, name in zip(COLOURS, ("full observation", "reused buffer", "state only"), strict=False):
            points = [(row[key], row[name]) for row in result["growth"][key] if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(label if key == "envs" else f"{label} (64 environments)")
        axes.set_ylabel("microseconds a step")
        low, high = axes.get_ylim()
        axes.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
        axes.grid(alpha=0.3)
    panels[0][1].legend(fontsize=8)
    save(figure, path)


def show(result: dict[str, Any]) -> None:
    """Print the machine, the targets and the time to the first step."""
    print(", ".join(f"{name} {value}" for name, value in result["machine"].items()), "\n")
    show_targets(result)
    parts = ", ".join(f"{name} {value:.2f}" for name, value in result["first_step"].items() if name != "total")
    total = result["first_step"]["total"]
    own = total - result["first_step"]["import torch"]
    print(f"\nfirst step: {total:.2f} s in all ({parts}); {own:.2f} s of it are not the import of torch")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``throughput`` command to ``strong-envs``."""
    parser = subparsers.add_parser(
        "throughput",
        help="environment steps per second against alternatives",
        description="Time the temporal environment against SyncVectorEnv, plain NumPy and a plain gather, in one "
        "interleaved run on one thread, after checking that all implementations give equal results. Ratios are medians "
        "over repetitions.",
    )
    add_options(parser, "throughput.json and throughput.png")
    parser.add_argument("--env", metavar="ID", help="time this registered environment, with random actions, instead")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0, or 1 where a target is missed (never with ``--quick``)."""
    if args.out is not None:
        check_output(args.out)
    if args.env:
        from strong_envs.benchmarks.speed import any_env as outside_env

        return outside_env.main(args.env, args.json, args.quick, args.out)
    result = measure(args.quick, lambda text: print(text, file=sys.stderr))
    if args.out is not None:
        write(result, args.out, "throughput")
        draw(result, args.out / "throughput.png")
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)
    return int(not met(result))
