"""Does the temporal critic prefer a box on the object? What the reward of Eq. 11 can mean, measured.

Eq. 11 pays the spatial level where max Q rises. It can teach anything only if max Q is higher for boxes on the object
that the sentence names than for boxes elsewhere. Elsewhere is another object of the same video, or an empty place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from strong_envs.core import boxes as box_ops
from strong_envs.temporal.task import random_windows

if TYPE_CHECKING:
    from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.pooling import starts_of

APART = 0.1
"""Largest mean IoU over the frames at which two boxes count as boxes of different objects."""
TRIES = 24
"""Places that are tried for an empty one."""


@torch.no_grad()
def q_ranking(system: Any, bank: FeatureBank, windows: int = 6, seed: int = 0) -> dict[str, float]:
    """Shares of comparisons in which max Q of a box on the object is the higher one; chance is .5.

    Args:
        system: its critic is asked with f_o inside the boxes, in every frame of the video.
        bank: features of one split with GT boxes.
        windows: random windows over which the comparison of a query is averaged.
        seed: of windows and places.

    Returns:
        ``Q: against another object`` and ``Q: against an empty place``, means over the queries that have one; nothing
        for a system without a critic that looks into boxes.
    """
    if not system.values_boxes:
        return {}
    generator = torch.Generator().manual_seed(seed)
    lengths = bank.n_frames[bank.video]
    rows = starts_of(lengths)
    owner = torch.repeat_interleave(torch.arange(len(bank), device=bank.device), lengths)
    frame = torch.arange(len(owner), device=bank.device) - rows[owner]
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=bank.device)
    true = bank.true_box(owner, frame)
    true = torch.where(true.isnan().any(-1, keepdim=True), whole, true)
    shares = {}
    for name, (boxes, usable) in (
        ("Q: against another object", _other_objects(bank, true, rows)),
        ("Q: against an empty place", _empty_places(bank, true, rows, generator)),
    ):
        samples = usable.nonzero().flatten().repeat_interleave(windows)
        if not len(samples):
            continue
        total = system.dynamics.total
        start, end = (x.to(bank.device) for x in random_windows((len(samples),), total, generator))
        values = [system.values(bank, box, samples, start, end).amax(-1) for box in (true, boxes)]
        shares[name] = float((values[0] > values[1]).to(torch.float64).mean())
    return shares


def _tracks(true: Tensor, rows: Tensor, sample: int) -> Tensor:
    return true[rows[sample] : rows[sample + 1]]


def _other_objects(bank: FeatureBank, true: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (R, 4) on another object of each query's video, and for which queries (S,) there is one."""
    boxes, usable = true.clone(), torch.zeros(len(bank), dtype=torch.bool, device=bank.device)
    for samples in _by_video(bank):
        for one in samples:
            mine = _tracks(true, rows, one)
            for other in samples:
                theirs = _tracks(true, rows, other)
                if float(box_ops.box_iou(mine, theirs).mean()) < APART:
                    boxes[rows[one] : rows[one + 1]] = theirs
                    usable[one] = True
                    break
    return boxes, usable


def _empty_places(bank: FeatureBank, true: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Boxes (R, 4) of the object's size where no object of a query is, and for which queries (S,) there is a place."""
    boxes, usable = true.clone(), torch.zeros(len(bank), dtype=torch.bool, device=bank.device)
    for samples in _by_video(bank):
        known = torch.stack([_tracks(true, rows, sample) for sample in samples])
        for sample in samples:
            mine = _tracks(true, rows, sample)
            size = (mine[:, 2:] - mine[:, :2]).mean(0)
            centre = size / 2 + (1 - size) * torch.rand(TRIES, 2, generator=generator).to(bank.device)
            places = torch.cat((centre - size / 2, centre + size / 2), -1)
            taken = box_ops.coverage(places[:, None, None], known).amax((1, 2))
            best = int(taken.argmin())
            if float(taken[best]) < APART:
                boxes[rows[sample] : rows[sample + 1]] = places[best]
                usable[sample] = True
    return boxes, usable


def _by_video(bank: FeatureBank) -> list[list[int]]:
    """The queries of each video."""
    found: dict[int, list[int]] = {}
    for sample, video in enumerate(bank.video.tolist()):
        found.setdefault(video, []).append(sample)
    return list(found.values())
