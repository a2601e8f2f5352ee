"""Rows of the frontier: searches of one world, their choices on validation, their answers on the test part.

One sensor and one rule for the answer serve all rows; what differs is which frames are looked at. Numbers of even looks
that a search begins with, and weight and clip of the posterior, are chosen on validation. The test part is searched
once, with what was chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from strong_envs.agents.looks.agent import LookAgent, LookAgentArgs
from strong_envs.agents.looks.library import LibraryLookArgs, LibraryLooker
from strong_envs.agents.looks.search import random_rows, uncertainty_rows, unique_even_rows
from strong_envs.agents.looks.sm_rl import SmRlLooker
from strong_envs.agents.registry import OWN_REWARDS_AND_WINDOWS
from strong_envs.benchmarks.looks.world import OWN, World, judged
from strong_envs.looks import dynamics

EVEN, RANDOM, UNCERTAIN, OURS, TOGETHER, LIBRARY, SMRL, SMRL_OWN = (
    "even looks",
    "random looks",
    "uncertainty search",
    "look policy",
    "look policy by threes",
    "MaskablePPO",
    "SM-RL",
    "SM-RL's own answers",
)
ROWS = (EVEN, RANDOM, UNCERTAIN, OURS, TOGETHER, LIBRARY, SMRL, SMRL_OWN)
ALL = "all frames"
LEARNS = {EVEN: "nothing", RANDOM: "nothing", UNCERTAIN: "nothing", OURS: "own rewards", LIBRARY: "own rewards"}
LEARNS |= {TOGETHER: "own rewards", SMRL: OWN_REWARDS_AND_WINDOWS, SMRL_OWN: OWN_REWARDS_AND_WINDOWS}
AT_ONCE = {OURS: 1, TOGETHER: 3}
"""Looks of a decision of the policy."""
LONGEST_TRAINED = 1000
"""Rows up to which the policy trains on videos as long as those that are searched; what it learned holds for longer."""
FIRSTS = (0.0, 0.2, 0.4, 0.6, 0.8)
"""Shares of the looks that are even and come first, chosen from for every number of looks."""
LONG, LONG_FIRSTS = 200, (0.4, 0.6, 0.8)
"""Rows from which on a video has first to be covered, and the shares that are tried there."""
MOST_SLOTS = 64
"""Most looks of the library's agent, whose observation has a slot for each."""
SMRL_LOOKS, SMRL_MOST = 6, 20
"""SM-RL is trained anew for every number of looks: the one nearest to that of its description, and, where the posterior
answers, the middle one of those asked for if it is at most the second number."""

Rows = Callable[[str, int, float, Tensor], Tensor]
"""Part, looks, share of even looks and samples (B,) to rows (B, looks)."""


@dataclass
class Search:
    """How a row looks.

    Args:
        rows: see `Rows`.
        begins: whether it begins with even looks, whose share is chosen.
        numbers: of looks that it can be asked for; None is any.
        windows: its own answers (B, 2) for a part, a number of looks and samples (B,), as fractions of the videos; None
            where the posterior answers.
        notes: what is worth noting of its training, JSON-ready.
    """

    rows: Rows
    begins: bool = False
    numbers: set[int] | None = None
    windows: Callable[[str, int, Tensor], Tensor] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def searcher(world: World, row: str, seed: int) -> Search:
    """The search of a row, trained where it learns."""
    posterior, begun = world.posterior, time.perf_counter()
    if row == EVEN:
        return Search(lambda part, k, share, s: unique_even_rows(world.n_frames(part)[s], k))
    if row == RANDOM:
        generator = torch.Generator().manual_seed(seed)
        return Search(lambda part, k, share, s: random_rows(world.n_frames(part)[s], k, generator))
    if row == UNCERTAIN:

        def uncertain(part: str, k: int, share: float, samples: Tensor) -> Tensor:
            table, n_frames = world.table(part), world.n_frames(part)
            return uncertainty_rows(posterior, table, n_frames, k, int(share * k), samples)

        return Search(uncertain, True)
    made = {OURS: _ours, TOGETHER: _ours, LIBRARY: _library}.get(row, _sm_rl)(world, row, seed)
    made.notes.setdefault("train_seconds", time.perf_counter() - begun)
    return made


def _ours(world: World, row: str, seed: int) -> Search:
    begun = time.perf_counter()
    if seed not in world.agents:
        part = OWN if world.bank(OWN).max_frames <= LONGEST_TRAINED else "train"
        agent = LookAgent(world.posterior, policy_args(world.budgets.agent, world.table(part).shape[1]), seed)
        agent.fit(
            world.bank(part),
            world.table(part),
            lambda i, n, r: world.say(f"{row} {seed}: {i}/{n}, return {r:.3f}") if i % 50 == 0 else None,
        )
        world.agents[seed] = agent, time.perf_counter() - begun
    agent, seconds = world.agents[seed]

    def learned(part: str, k: int, share: float, samples: Tensor) -> Tensor:
        return agent.rows(world.table(part), world.n_frames(part), k, int(share * k), samples, AT_ONCE[row])

    return Search(learned, True, notes={"train_seconds": seconds})


def policy_args(steps: int, rows: int) -> LookAgentArgs:
    """Arguments of the policy for videos of so many rows; where these are long, fewer of them are played."""
    if rows < LONG:
        return LookAgentArgs(steps=steps, copies=2 * steps)
    return LookAgentArgs(
        steps=steps * 5 // 8,
        copies=steps * 5 // 6,
        queries=8,
        firsts=LONG_FIRSTS,
        least_looks=rows // 30,
        most_looks=rows // 10,
    )


def _library(world: World, row: str, seed: int) -> Search:
    """Trained on videos as long as those that are searched: its positions are parts of a video, not rows."""
    most = min(max(world.looks), MOST_SLOTS)
    library = LibraryLooker(world.posterior, LibraryLookArgs(steps=world.budgets.library, most_looks=most), seed)
    library.fit(world.bank(OWN), world.table(OWN))
    held: dict[tuple[str, int], Tensor] = {}

    def masked(part: str, k: int, share: float, samples: Tensor) -> Tensor:
        if (part, len(samples)) not in held:
            held[part, len(samples)] = library.rows(world.bank(part), world.table(part), samples)
        return held[part, len(samples)][:, :k]

    return Search(masked, numbers={k for k in world.looks if k <= most}, notes={"most_looks": most})


def _sm_rl(world: World, row: str, seed: int) -> Search:
    """Trained on videos as long as those that are searched, once for each number of looks."""
    middle = world.looks[len(world.looks) // 2]
    numbers = {min(world.looks, key=lambda k: abs(k - SMRL_LOOKS))}
    if row == SMRL and middle <= SMRL_MOST:
        numbers.add(middle)
    tables = None if row == SMRL_OWN else {part: world.table(part) for part in ("val", world.part)}
    if tables is not None:
        tables["train"] = world.table(OWN)
    systems = {}
    for k in sorted(numbers):
        world.say(f"{row} {seed}: training for {k} looks")
        systems[k] = SmRlLooker(world.bank(OWN), tables, seed=seed, looks=k, steps=world.budgets.sm_rl).fit()

    def rows(part: str, k: int, share: float, samples: Tensor) -> Tensor:
        return systems[k].looks(world.bank(part), samples)[0]

    def windows(part: str, k: int, samples: Tensor) -> Tensor:
        return systems[k].looks(world.bank(part), samples)[1]

    return Search(rows, numbers=numbers, windows=windows if row == SMRL_OWN else None)


def run_row(world: World, row: str, seed: int) -> dict[str, Any]:
    """Train a row, choose on validation, answer the test part once.

    Returns:
        JSON-ready: ``looks``, and for each number of looks the ``iou`` of every query, the mean ``frames`` read and the
        share of even ``firsts``; ``validation`` mIoU of what was chosen.
    """
    search = searcher(world, row, seed)
    val = judged(world.bank("val"))
    firsts = FIRSTS if world.bank("val").max_frames < LONG else LONG_FIRSTS
    everything = torch.arange(len(world.bank(world.part)))
    cell: dict[str, Any] = {"row": row, "seed": seed, "looks": [], "iou": [], "frames": [], "firsts": []}
    cell |= search.notes | {"validation": []}

    def iou(part: str, k: int, rows: Tensor, samples: Tensor) -> Tensor:
        if search.windows is None:
            return world.iou(part, rows, samples)
        return world.iou_of(part, search.windows(part, k, samples), samples)

    for k in world.looks:
        if search.numbers is not None and k not in search.numbers:
            continue
        choices: list[tuple[float, float]] = []
        for share in firsts if search.begins else (0.0,):
            if int(share * k) in {int(s * k) for _, s in choices}:
                continue
            choices.append((float(iou("val", k, search.rows("val", k, share, val), val).mean()), share))
        value, share = max(choices)
        rows = search.rows(world.part, k, share, everything)
        cell["looks"].append(k)
        cell["iou"].append([round(x, 4) for x in iou(world.part, k, rows, everything).tolist()])
        cell["frames"].append(round(float(dynamics.frames_read(rows, world.neighbours).double().mean()), 2))
        cell["firsts"].append(share)
        cell["validation"].append(round(value, 4))
        world.say(f"{row} {seed}: {k} looks, validation {value:.3f}")
    return cell


def run_all(world: World) -> dict[str, Any]:
    """The bound: the answer after a look at every frame."""
    _ = world.posterior
    frames = world.n_frames(world.part)
    iou = [round(x, 4) for x in world.iou(world.part, None).tolist()]
    return {"row": ALL, "seed": world.seed, "looks": [float(frames.double().mean())], "iou": [iou]}
