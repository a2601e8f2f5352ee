"""Seconds that a search thinks for one answer, frames and sensor not included: medians of interleaved runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from strong_envs.agents.looks.agent import LookAgent
from strong_envs.agents.looks.search import uncertainty_rows, unique_even_rows
from strong_envs.agents.training.window_posterior import WindowPosterior
from strong_envs.benchmarks.looks.frontier import AT_ONCE, OURS, TOGETHER, UNCERTAIN
from strong_envs.benchmarks.looks.world import World

REPEATS, BATCHES, BATCH = 21, 5, 256
MOST_ROWS = 1000
"""A posterior over all windows of longer videos does not fit into memory."""


def seconds_per_answer(world: World, looks: int, first: int) -> dict[str, dict[str, float]]:
    """Seconds of the processor to choose ``looks`` rows, ``first`` of them even, by kind of search.

    ``one``: the median of single videos, one after the other; ``batch``: those of one video where the validation part
    is searched together. The uncertainty search keeps its posterior up to date look by look; computed anew for every
    look, and over windows of all lengths (`WindowPosterior`), it is measured for one video. The policies are untrained,
    which makes no difference to their speed.
    """
    posterior, table, n_frames = world.posterior, world.table("val"), world.n_frames("val")
    agent = LookAgent(posterior)
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        UNCERTAIN: lambda s: uncertainty_rows(posterior, table, n_frames, looks, first, s),
        OURS: lambda s: agent.rows(table, n_frames, looks, first, s),
        TOGETHER: lambda s: agent.rows(table, n_frames, looks, first, s, AT_ONCE[TOGETHER]),
    }
    single = {f"{UNCERTAIN}, computed anew": lambda s: _anew(posterior.inside, table, n_frames, looks, first, s)}
    if table.shape[1] <= MOST_ROWS:
        full = _inside_of(WindowPosterior(table.shape[1]))
        single[f"{UNCERTAIN}, all windows"] = lambda s: _anew(full, table, n_frames, looks, first, s)
    one, batch = _taken(kinds | single, [torch.tensor([i % len(table)]) for i in range(REPEATS)]), {}
    everything = torch.arange(min(len(table), BATCH))
    for name, seconds in _taken(kinds, [everything] * BATCHES).items():
        batch[name] = seconds / len(everything)
    return {"one": one, "batch": batch}


def _taken(kinds: Mapping[str, Callable[[Tensor], Tensor]], samples: Sequence[Tensor]) -> dict[str, float]:
    """Median seconds of the processor for each kind of search, which take turns; the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for part in (samples[0], *samples):
        for name, search in kinds.items():
            begun = time.process_time()
            search(part)
            taken[name].append(time.process_time() - begun)
    return {name: float(torch.tensor(seconds[1:]).median()) for name, seconds in taken.items()}


def _inside_of(posterior: WindowPosterior) -> Callable[[Tensor, Tensor], Tensor]:
    """Probability of rows to lie in the moment, from a posterior over all windows of its grid."""
    cells = posterior.cells

    def inside(seen: Tensor, n_frames: Tensor) -> Tensor:
        chance = posterior(seen).exp()
        empty = seen.new_zeros((len(seen), cells + 1))
        begun, ended = (empty.index_add(1, ends, chance) for ends in (posterior.start, posterior.end))
        return (begun - ended).cumsum(1)[:, :cells]

    return inside


def _anew(
    inside: Callable[[Tensor, Tensor], Tensor], table: Tensor, n_frames: Tensor, looks: int, first: int, sample: Tensor
) -> Tensor:
    """`uncertainty_rows` of one sample, the posterior computed anew before every look."""
    scores, length = table[sample], n_frames[sample]
    looked = unique_even_rows(length, first)[0].tolist() if first else []
    seen = torch.zeros_like(scores)
    seen[0, looked] = scores[0, looked]
    while len(looked) < looks:
        doubt = (inside(seen, length)[0] - 0.5).abs()
        doubt[looked] = 9.0
        row = int(doubt.argmin())
        looked.append(row)
        seen[0, row] = scores[0, row]
    return torch.tensor([looked])
