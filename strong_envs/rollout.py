"""Greedy episodes for every sample of a split at once: what an agent predicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from strong_envs.core import boxes as box_ops
from strong_envs.core import spans
from strong_envs.features.errors import DataError, nearest
from strong_envs.policies import Policy
from strong_envs.spatial.task import SpatialTask
from strong_envs.temporal.task import TemporalTask


@dataclass
class Episodes:
    """What a greedy policy did: ``spans`` (S, 2) seconds, ``length`` (S,) moves, ``path`` (S, T + 1, 2) seconds."""

    spans: Tensor
    length: Tensor
    path: Tensor


@torch.no_grad()
def localise(
    task: TemporalTask,
    policy: Policy,
    samples: Tensor | None = None,
    batch: int = 4096,
    value: Policy | None = None,
) -> Episodes:
    """Run every sample until stop or ``max_steps``.

    ``value`` (observations to (B, A) Q-values) switches to ``select="value"``: the window of the path in which stopping
    looks best relative to going on, instead of the last one.
    """
    samples = torch.arange(len(task.bank), device=task.bank.device) if samples is None else samples
    parts = [_localise(task, policy, part, value) for part in samples.split(batch)]
    return Episodes(*(torch.cat([getattr(part, name) for part in parts]) for name in ("spans", "length", "path")))


def _localise(task: TemporalTask, policy: Policy, samples: Tensor, value: Policy | None) -> Episodes:
    start, end = task.initial(samples)
    t = torch.zeros_like(samples)
    running = torch.ones_like(samples, dtype=torch.bool)
    path = [task.to_seconds(samples, start, end)]
    best_start, best_end = start, end
    best = torch.full_like(start, float("-inf"))
    # The window after the last move is a candidate too, where values choose.
    for step in range(task.config.max_steps + (value is not None)):
        observation = task.observe(samples, start, end, t)
        if value is not None:
            q = value(observation)
            preference = (q[:, spans.STOP] - q.mean(-1)).to(best.dtype)
            better = running & (preference > best)
            best = torch.where(better, preference, best)
            best_start, best_end = torch.where(better, start, best_start), torch.where(better, end, best_end)
        if step == task.config.max_steps:
            break
        action = policy(observation)
        new_start, new_end, ended = task.shift(start, end, action)
        start, end = torch.where(running, new_start, start), torch.where(running, new_end, end)
        t = t + running
        running = running & ~ended
        path.append(task.to_seconds(samples, start, end))
    if value is not None:
        start, end = best_start, best_end
    return Episodes(task.to_seconds(samples, start, end), t, torch.stack(path, 1))


OUTSIDE = ("whole", "initial", "nearest")
"""What stands for a frame outside the tracked window: the whole frame, f_o := f_s (section 3.4); b0; or the first box
of the window before it and the last one after it."""


@torch.no_grad()
def track(
    task: SpatialTask,
    policy: Policy,
    samples: Tensor | None = None,
    batch: int = 1024,
    windows: tuple[Tensor, Tensor] | None = None,
    outside: str = "whole",
) -> Tensor:
    """Carry a box through the frames of each sample's video or window, greedily, from the first of these frames on.

    The task's ``inheritance`` says whether a frame begins with the box of the one before, with b0, or keeps the first.

    Args:
        task: of the spatial level.
        policy: of the spatial level.
        samples: (S,) int64; all by default.
        batch: samples at a time.
        windows: start and end (S,) float64 of the localised window of each sample, in steps (l_t of Eq. 12); None
            tracks through whole videos.
        outside: what stands for frames outside the windows, see `OUTSIDE`; the paper does not say.

    Returns corners, one box per frame of each sample, packed sample after sample (R, 4) float32: what
    `LocalFeatures` takes.
    """
    if outside not in OUTSIDE:
        raise DataError(f"outside must be one of {OUTSIDE}, got {outside!r}{nearest(str(outside), OUTSIDE)}")
    samples = torch.arange(len(task.bank), device=task.bank.device) if samples is None else samples
    lengths = task.temporal.n_frames[samples]
    first, last = torch.zeros_like(lengths), lengths
    if windows is not None:
        first, last = spans.frame_window(*windows, task.temporal.config.total, lengths)
    parts = zip(samples.split(batch), first.split(batch), last.split(batch), strict=True)
    return torch.cat([_track(task, policy, *part, outside) for part in parts])


def _track(task: SpatialTask, policy: Policy, samples: Tensor, first: Tensor, last: Tensor, outside: str) -> Tensor:
    lengths = task.temporal.n_frames[samples]
    initial = torch.tensor([task.config.initial_box], dtype=torch.float64, device=samples.device)
    box, inheritance = initial.expand(len(samples), 4), task.config.inheritance
    out = []
    for k in range(int((last - first).max())):
        # The k-th frame of every window; shorter windows wait in their last frame.
        now = torch.minimum(first + k, last - 1)
        if inheritance == "none":
            box = initial.expand(len(samples), 4)
        actions = task.config.actions_per_frame if inheritance != "first" else 0
        for _ in range(actions if k else task.config.first_frame_actions):
            action = policy(task.observe_index(samples, first, last, now, box))
            box, _ = box_ops.move(box, action, task.table)
        out.append(box_ops.corners(box).to(torch.float32))
    boxes = torch.stack(out, 1)
    at = torch.arange(int(lengths.max()), device=samples.device)
    place = torch.minimum((at - first[:, None]).clamp(min=0), (last - first)[:, None] - 1)
    boxes = boxes[torch.arange(len(samples), device=samples.device)[:, None], place]
    if outside != "nearest":
        beyond = (at < first[:, None]) | (at >= last[:, None])
        other = torch.tensor([0.0, 0.0, 1.0, 1.0], device=samples.device)
        if outside == "initial":
            other = box_ops.corners(initial[0]).to(torch.float32)
        boxes = torch.where(beyond[..., None], other, boxes)
    return boxes[at < lengths[:, None]]
