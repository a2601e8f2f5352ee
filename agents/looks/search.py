"""Searches without training: looks spread evenly, at random, and where the posterior is least sure."""

from __future__ import annotations

import torch
from torch import Tensor

from strong_envs.agents.looks.posterior import LookPosterior
from strong_envs.looks.policies import even_rows

BATCH = 256


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
        posterior: over windows; it is computed anew before every look.
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
    length, scores = n_frames[samples], table[samples]
    seen, looked = torch.zeros_like(scores), torch.arange(scores.shape[1]) >= length[:, None]
    rows = []
    for row in unique_even_rows(length, first).T if first else ():
        rows.append(row)
        _look(row, scores, seen, looked)
    for _ in range(count - first):
        inside = posterior.inside(seen, length)
        # An almost even posterior has ties everywhere; the first of equals is taken.
        unsure = (inside - 0.5).abs().masked_fill(looked, 9.0)
        row = unsure.argmin(1)
        row = torch.where(looked.gather(1, row[:, None])[:, 0], -1, row)
        rows.append(row)
        _look(row, scores, seen, looked)
    return torch.stack(rows, 1)


def _look(row: Tensor, scores: Tensor, seen: Tensor, looked: Tensor) -> None:
    there = row >= 0
    at = row.clamp(min=0)[:, None]
    seen.scatter_(1, at, torch.where(there[:, None], scores.gather(1, at), seen.gather(1, at)))
    looked.scatter_(1, at, looked.gather(1, at) | there[:, None])
