"""Policies without training: random looks, even looks, and an oracle that knows the truth."""

from __future__ import annotations

import torch
from torch import Tensor

from strong_envs.looks import dynamics
from strong_envs.looks.task import LookTask

State = dict[str, Tensor]


def random_action(task: LookTask, state: State, generator: torch.Generator) -> Tensor:
    """A uniformly random action among those that do something: (B,) int64."""
    allowed = task.action_mask(state).to(torch.float32)
    return torch.multinomial(allowed.cpu(), 1, generator=generator)[:, 0].to(allowed.device)


def even_rows(n_frames: Tensor, count: int) -> Tensor:
    """Rows in the middles of ``count`` equal parts of videos (B,): (B, count) int64, repeated in short videos."""
    at = (torch.arange(count, device=n_frames.device, dtype=torch.float64) + 0.5) / count
    return dynamics.row_at(at, n_frames[:, None])


def oracle_action(task: LookTask, state: State) -> Tensor:
    """Zoom while that makes a better answer possible, then give the best one: (B,) int64. It reads the truth.

    With an answerer it looks at the frame of the current range nearest to the middle of the true window, until no look
    is left. Discrete actions only.
    """
    sample, low, high = state["sample"], state["low"], state["high"]
    positions, n_frames = task.config.positions, task.n_frames[sample]
    if task.answerer is not None:
        part = torch.arange(positions, device=low.device)
        rows = dynamics.rows_of(low[:, None], high[:, None], part, positions, n_frames[:, None])
        middle = task.truth[sample, 0].mean(-1, keepdim=True) * n_frames[:, None]
        far = (rows + 0.5 - middle).abs() + 1e9 * ~task.action_mask(state)[:, :positions]
        return torch.where((far < 1e9).any(-1), far.argmin(-1), task.n_actions - 1)

    def best(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        windows = low[:, None, None] + (high - low)[:, None, None] * task.answers
        count = windows.shape[1]
        iou = task.iou(sample.repeat_interleave(count), windows.flatten(0, 1)).view(len(sample), count)
        return iou.max(-1).values, iou.argmax(-1)

    now, answer = best(low, high)
    action = answer + task.n_actions - len(task.answers)
    if not task.config.zoom:
        return action
    # Two zooms ahead: a range in which the moment is cut in half may lead to one that fits.
    gain = now.clone()
    left = state["looks"] < task.config.max_looks
    for kind in range(dynamics.OUT):
        index = torch.full_like(sample, kind)
        a, b, valid = dynamics.zoomed(low, high, index, n_frames)
        reached = best(a, b)[0]
        for second in range(dynamics.OUT):
            c, d, _ = dynamics.zoomed(a, b, torch.full_like(sample, second), n_frames)
            reached = torch.maximum(reached, best(c, d)[0])
        better = valid & left & (reached > gain + 1e-9)
        gain = torch.where(better, reached, gain)
        action = torch.where(better, positions + kind, action)
    return action
