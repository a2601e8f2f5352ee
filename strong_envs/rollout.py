"""Greedy episodes for every sample of a split at once: what an agent predicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from strong_envs.core import boxes as box_ops
from strong_envs.core import spans
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


@torch.no_grad()
def track(task: SpatialTask, policy: Policy, samples: Tensor | None = None, batch: int = 1024) -> Tensor:
    """Carry a box through all frames of each sample's video, greedily, from the first frame on.

    The task's ``inheritance`` says whether a frame begins with the box of the one before, with b0, or keeps the first.

    Returns corners, one box per frame of each sample, packed sample after sample (R, 4) float32: what
    `LocalFeatures` takes.
    """
    samples = torch.arange(len(task.bank), device=task.bank.device) if samples is None else samples
    return torch.cat([_track(task, policy, part) for part in samples.split(batch)])


def _track(task: SpatialTask, policy: Policy, samples: Tensor) -> Tensor:
    lengths = task.temporal.n_frames[samples]
    initial = torch.tensor([task.config.initial_box], dtype=torch.float64, device=samples.device)
    box, inheritance = initial.expand(len(samples), 4), task.config.inheritance
    first = torch.zeros_like(samples)
    out = []
    for frame in range(int(lengths.max())):
        now = torch.full_like(samples, frame)
        if inheritance == "none":
            box = initial.expand(len(samples), 4)
        actions = task.config.actions_per_frame if inheritance != "first" else 0
        for _ in range(actions if frame else task.config.first_frame_actions):
            action = policy(task.observe_index(samples, first, lengths, now, box))
            box, _ = box_ops.move(box, action, task.table)
        out.append(box_ops.corners(box).to(torch.float32))
    boxes = torch.stack(out, 1)
    return boxes[torch.arange(boxes.shape[1], device=boxes.device) < lengths[:, None]]
