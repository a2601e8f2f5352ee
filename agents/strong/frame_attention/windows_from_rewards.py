"""Windows of the training queries, recovered from the rewards of a level's own episodes.

A reward of the temporal level compares the IoU of the window before a move with that after it (Eq. 5, or their
difference). An agent that remembers what its moves paid can therefore ask of every window: *if this were the moment,
what would these moves have paid?* The windows whose answer agrees with the rewards received are those that the moment
may be. The window of highest expected IoU among them stands for it.

Only what `step` pays is used, in episodes of random moves. A few episodes determine the window, so rewards that are
computed from the IoU contain the label; docs/systems/strong.md has the numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strong_envs.agents.training.window_posterior import grid_windows
from strong_envs.core import spans
from strong_envs.features.devices import sent
from strong_envs.temporal.task import TemporalTask, random_windows

CELLS = 60
"""Stretches of a video between which the windows begin and end."""
AGREES = 0.3
"""Difference of a reward that is within the coarseness of these windows, in units of the spread of rewards."""
TOGETHER = 64
"""Queries whose windows are compared at the same time."""


@torch.no_grad()
def windows_from_rewards(task: TemporalTask, episodes: int, seed: int) -> Tensor:
    """The most plausible window of every sample of a task.

    Args:
        task: its moves and rewards are used; observations are not.
        episodes: in each sample, of ``max_steps`` random moves from a random window.
        seed: of the windows and the moves.

    Returns:
        (S, 1, 2) float64, fractions of the duration. A query with several true windows has the one that explains its
        rewards best.
    """
    device = task.bank.device
    generator = torch.Generator().manual_seed(seed)
    windows, shared = grid_windows(CELLS, device)
    grid = windows.to(torch.float32)
    steps = grid * task.config.total
    made = torch.arange(task.config.max_steps, dtype=torch.float32, device=device)
    samples = torch.arange(len(task.bank), device=device).repeat_interleave(episodes)
    path, paid, moved = (part.unflatten(0, (-1, episodes)) for part in _random_episodes(task, samples, generator))
    deviation = AGREES * paid[moved].std().clamp(min=1e-6)
    found = []
    for rows in torch.arange(len(task.bank), device=device).split(TOGETHER):
        error = torch.zeros(len(rows), len(grid), device=device)
        for episode in range(episodes):
            # One move at a time, (B, windows), stays in the processor's cache.
            before = spans.iou_with_each(path[rows, episode, 0], steps, task.config.iou)
            for move in range(task.config.max_steps):
                after = spans.iou_with_each(path[rows, episode, move + 1], steps, task.config.iou)
                expected = task.reward(before, after, made[move], task.config.phi)
                difference = (expected - paid[rows, episode, move, None]).square_()
                error.addcmul_(difference, moved[rows, episode, move, None].to(difference.dtype))
                before = after
        plausible = (-error / (2 * deviation**2)).softmax(-1)
        found.append(grid[(plausible @ shared).argmax(-1)])
    return torch.cat(found)[:, None].to(torch.float64)


def _random_episodes(task: TemporalTask, samples: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Windows passed (E, T + 1, 2) in steps, what each move paid (E, T), and whether it moved the window (E, T)."""
    drawn = random_windows(samples.shape, task.config.total, generator)
    start, end = (sent(part, samples.device) for part in drawn)
    iou, t = task.iou(samples, start, end), torch.zeros_like(samples)
    path, paid, moved = [torch.stack((start, end), -1)], [], []
    running = torch.ones_like(samples, dtype=torch.bool)
    for _ in range(task.config.max_steps):
        lots = torch.rand(len(samples), task.n_actions, generator=generator)
        lots[:, spans.STOP] = -1.0
        result = task.move(samples, start, end, t, iou, sent(lots.argmax(-1), samples.device))
        start, end, iou, t = result.start, result.end, result.iou, t + 1
        path.append(torch.stack((start, end), -1))
        paid.append(result.reward.to(torch.float32))
        moved.append(running & result.valid)
        running = running & ~result.terminated
    return torch.stack(path, 1).to(torch.float32), torch.stack(paid, 1), torch.stack(moved, 1)
