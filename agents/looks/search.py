"""Searches without training: looks spread evenly, at random, and where the posterior is least sure."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from strong_envs.agents.looks.posterior import LookPosterior
from strong_envs.agents.looks.running import RunningPosterior
from strong_envs.looks.policies import even_rows

BATCH = 64
"""Videos that are searched together: more of them leave the processor's cache."""


def unique_even_rows(n_frames: Tensor, count: int) -> Tensor:
    """`even_rows` with -1 for what is repeated in videos of fewer rows: (B, count) int64."""
    rows = even_rows(n_frames, count)
    again = torch.nn.functional.pad(rows[:, 1:] == rows[:, :-1], (1, 0))
    return torch.where(again, -1, rows)


def random_rows(n_frames: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Different rows of videos (B,), drawn uniformly: (B, count) int64, -1 where a video has fewer."""
    keys = torch.rand((len(n_frames), max(int(n_frames.max()), count)), generator=generator)
    keys.masked_fill_(torch.arange(keys.shape[1]) >= n_frames[:, None], 2.0)
    value, rows = keys.topk(count, 1, largest=False)
    return torch.where(value > 1.0, -1, rows)


def uncertainty_rows(
    posterior: LookPosterior, table: Tensor, n_frames: Tensor, count: int, first: int, samples: Tensor | None = None
) -> Tensor:
    """Some even looks, then always the row whose chance to lie in the moment is nearest to one half.

    Args:
        posterior: over windows; it is kept up to date look by look (`agents.looks.running`).
        table: (S, N) log-odds; only rows that were chosen are read.
        n_frames: (S,) rows of the videos.
        count: looks.
        first: how many of them are even.
        samples: (B,) to search, all by default.

    Returns:
        (B, count) int64 rows in the order of the looks, -1 where a video has fewer rows.
    """
    samples = torch.arange(len(table)) if samples is None else samples
    return torch.cat([_search(posterior, table, n_frames, count, first, part) for part in samples.split(BATCH)])


def _search(
    posterior: LookPosterior, table: Tensor, n_frames: Tensor, count: int, first: int, samples: Tensor
) -> Tensor:
    length, scores, index = n_frames[samples], table.numpy(), samples.numpy()
    rows = np.full((len(samples), count), -1)
    if first:
        rows[:, :first] = unique_even_rows(length, first).numpy()
    begun = rows[:, :first]
    running = RunningPosterior(posterior, length.numpy(), begun, scores[index[:, None], np.maximum(begun, 0)])
    for k in range(first, count):
        row = rows[:, k] = running.least_sure()
        if k + 1 < count:
            running.look(row, scores[index, np.maximum(row, 0)])
    return torch.as_tensor(rows)
