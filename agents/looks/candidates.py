"""What the look agent chooses from: some rows in every gap between neighbouring looks, and what is known about each."""

from __future__ import annotations

import torch
from torch import Tensor

PLACES = (0.25, 0.5, 0.75)
"""Where in a gap candidates lie, as shares of it."""
STEP = 0.7
"""Distance of one more candidate from either end of a gap, in mean lengths of a moment."""
FEATURES, WITH_POSTERIOR = 26, 29
"""Numbers that are known about a candidate, without and with a posterior."""
UNSEEN = 1 << 30
"""Stands for a look that was not made; it sorts behind every row."""


def candidates(
    rows: Tensor, scores: Tensor, n_frames: Tensor, left: Tensor, length: float, inside: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that may be looked at next, what is known about each, and which of them exist.

    Args:
        rows: (B, K) int64 looks in any order, `UNSEEN` in empty slots.
        scores: (B, K) log-odds of the looks, 0 in empty slots.
        n_frames: (B,) rows of the videos.
        left: (B,) looks that are left.
        length: mean length of a moment, in rows.
        inside: (B, N) probability of each row to lie in the moment, where the agent sees a posterior. The row that is
            least sure is then one more candidate.

    Returns:
        rows (B, C) int64, features (B, C, F) float32 and (B, C) bool, C = (K + 1) (3 `PLACES` and 2 sides of `STEPS`).
    """
    order = rows.sort(1)
    end = n_frames[:, None]
    at = torch.minimum(order.values, end)
    z = scores.gather(1, order.indices)
    before, after = end.new_full((len(end), 2), -1), end.expand(-1, 2)
    at = torch.cat((before, at, after), 1)
    z = torch.nn.functional.pad((z / 4).tanh(), (2, 2))
    gaps = rows.shape[1] + 1
    low, high = at[:, 1 : gaps + 1], at[:, 2 : gaps + 2]
    room = high - low - 1
    share = torch.tensor(PLACES, device=rows.device)
    row = low[..., None] + 1 + (share * room[..., None].clamp(min=1)).floor().to(torch.int64)
    step = max(round(STEP * length), 1)
    row = torch.cat((row, low[..., None] + step, high[..., None] - step), -1)
    row, gap = (
        row.flatten(1),
        torch.arange(gaps, device=rows.device).repeat_interleave(row.shape[2]).expand(len(row), -1),
    )
    if inside is not None:
        looked = torch.arange(inside.shape[1], device=rows.device) >= end
        looked = looked.scatter(1, rows.clamp(max=inside.shape[1] - 1), True) if rows.shape[1] else looked
        unsure = (inside - 0.5).abs().masked_fill(looked, 9.0).argmin(1, keepdim=True)
        row = torch.cat((row, unsure), 1)
        gap = torch.cat((gap, (low <= unsure).sum(1, keepdim=True) - 1), 1)
    low_of, high_of = low.gather(1, gap), high.gather(1, gap)
    there = (row > low_of) & (row < high_of)

    def far(distance: Tensor) -> Tensor:
        return (distance / length).clamp(max=6.0)

    place = torch.arange(at.shape[1], device=rows.device)
    # Looks that found nothing bound a run of looks inside the moment; the borders of the video count as such.
    nothing = z <= 0
    bound = torch.where(nothing, place, 0).cummax(1).values[:, 1 : gaps + 1]
    turned = torch.where(nothing, at.shape[1] - 1 - place, 0).flip(1).cummax(1).values.flip(1)
    other = (at.shape[1] - 1 - turned)[:, 2 : gaps + 2]
    run = torch.minimum(bound + 1, place[1 : gaps + 1])
    end_of_run = torch.maximum(other - 1, place[2 : gaps + 2])

    known = [
        far(low - at.gather(1, bound)),
        far(low - at.gather(1, run)),
        far(at.gather(1, other) - high),
        far(at.gather(1, end_of_run) - high),
        z[:, 1 : gaps + 1],
        z[:, 2 : gaps + 2],
        z[:, :gaps],
        z[:, 3 : gaps + 3],
        (low < 0).float(),
        (high >= end).float(),
        far(low - at[:, :gaps]),
        far(at[:, 3 : gaps + 3] - high),
        far(room.clamp(min=0)),
        (room.clamp(min=0) + 1.0).log() / 4,
        room / room.amax(1, keepdim=True).clamp(min=1),
    ]
    best = z.amax(1, keepdim=True)
    total = [
        best,
        (z > 0).sum(1, keepdim=True) / 4,
        (z.relu().sum(1, keepdim=True)).log1p(),
        (left[:, None] + 1.0).log() / 3,
        (left[:, None] * length / end).clamp(max=6.0),
        (end / length).log() / 4,
        z.amin(1, keepdim=True),
    ]
    wide = torch.stack([*known, *(one.expand(-1, gaps) for one in total)], -1).to(torch.float32)
    wide = wide.gather(1, gap[..., None].expand(-1, -1, wide.shape[2]))
    sides = (row - low_of).clamp(min=1), (high_of - row).clamp(min=1)
    near = [*map(far, sides), *(side.log() / 3 for side in sides)]
    if inside is not None:
        chance = inside.gather(1, row.clamp(0, inside.shape[1] - 1))
        unsure = 1 - (2 * inside - 1).abs()
        near += [chance, 1 - (2 * chance - 1).abs(), unsure.sum(1, keepdim=True).log1p().expand_as(chance)]
    return row, torch.cat((wide, torch.stack(near, -1).to(torch.float32)), -1), there
