"""Checks of the recurrent and tree-structured learners."""

from __future__ import annotations

import torch

from strong_envs.temporal.env import TemporalMomentVectorEnv

TEN = torch.arange(10)


class TenSamples(TemporalMomentVectorEnv):
    """Episodes of the first ten samples only."""

    def _start(self, mask, options):
        self.sample = self.sample % 10
        super()._start(mask, options)


def miou(system, bank, samples=TEN):
    spans = system.predict(bank).spans[samples] / system.task.seconds[samples][:, None]
    return float(system.task.iou(samples, spans[:, 0], spans[:, 1], "clamped").mean())


def initial_miou(system, samples=TEN):
    return float(system.task.iou(samples, *system.task.initial(samples), "clamped").mean())


def gradients(network):
    return {name: float(p.grad.abs().sum()) for name, p in network.named_parameters() if p.grad is not None}
