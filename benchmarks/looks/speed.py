"""Seconds that a search thinks for one answer, frames and sensor not included: medians of interleaved runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from strong_envs.agents.looks.agent import LookAgent, LookAgentArgs
from strong_envs.agents.looks.search import uncertainty_rows, unique_even_rows
from strong_envs.agents.training.window_posterior import WindowPosterior
from strong_envs.benchmarks.looks.frontier import OURS, UNCERTAIN
from strong_envs.benchmarks.looks.world import World

REPEATS = 7
MOST_ROWS = 1000
"""A posterior over all windows of longer videos does not fit into memory."""


def seconds_per_answer(world: World, looks: int, first: int) -> dict[str, float]:
    """Median seconds to choose ``looks`` rows of one video, ``first`` of them even, by kind of search.

    The uncertainty search is measured with the posterior over windows of the lengths that moments have, which all rows
    use, and with the one over all windows (`WindowPosterior`); the policy with and without a posterior. The policies
    are untrained, which makes no difference to their speed.
    """
    posterior, table, n_frames = world.posterior, world.table("val"), world.n_frames("val")
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        UNCERTAIN: lambda s: uncertainty_rows(posterior, table, n_frames, looks, first, s)
    }
    if table.shape[1] <= MOST_ROWS:
        full = WindowPosterior(table.shape[1])
        kinds[f"{UNCERTAIN}, all windows"] = lambda s: _over_all_windows(full, table, n_frames, looks, first, s)
    for sees in (True, False):
        agent = LookAgent(posterior, LookAgentArgs(posterior=sees))
        name = f"{OURS}{'' if sees else ' without a posterior'}"
        kinds[name] = lambda s, agent=agent: agent.rows(table, n_frames, looks, first, s)  # type: ignore[misc]
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for repeat in range(REPEATS + 1):
        sample = torch.tensor([repeat % len(table)])
        for name, search in kinds.items():
            begun = time.perf_counter()
            search(sample)
            taken[name].append(time.perf_counter() - begun)
    # The first round warms up.
    return {name: float(torch.tensor(seconds[1:]).median()) for name, seconds in taken.items()}


def _over_all_windows(
    posterior: WindowPosterior, table: Tensor, n_frames: Tensor, looks: int, first: int, sample: Tensor
) -> Tensor:
    """`uncertainty_rows` of one sample with a posterior over all windows of its grid."""
    cells, scores = posterior.cells, table[sample]
    seen, looked = torch.zeros_like(scores), []
    for row in unique_even_rows(n_frames[sample], first)[0].tolist() if first else []:
        looked.append(row)
        seen[0, row] = scores[0, row]
    while len(looked) < looks:
        chance = posterior(seen).exp()[0]
        begun = torch.zeros(cells + 1).index_add_(0, posterior.start, chance)
        ended = torch.zeros(cells + 1).index_add_(0, posterior.end, chance)
        doubt = ((begun - ended).cumsum(0)[:cells] - 0.5).abs()
        doubt[looked] = 9.0
        row = int(doubt.argmin())
        looked.append(row)
        seen[0, row] = scores[0, row]
    return torch.tensor([looked])
