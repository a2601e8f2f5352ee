"""What every environment of the temporal level is made from: the arguments of its task, and spans that users give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import features as feature_registry
from features.bank import FeatureBank
from features.records import DataError
from strong_envs.arguments import check_table, refuse_unknown
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal_task import CONFIG_NAMES, TemporalConfig, TemporalTask

TASK_ARGUMENTS = ("features", "split", "device", "boxes", "spp_levels", "box_margin")
ENV_ARGUMENTS = (*TASK_ARGUMENTS, "flatten", "observation", "render_mode")


def make_task(
    features: str | FeatureBank = "shapes-v0",
    split: str = "train",
    device: str | torch.device = "cpu",
    boxes: str | Tensor = "frame",
    spp_levels: Sequence[int] = (1,),
    box_margin: float = 0.0,
    **config: Any,
) -> TemporalTask:
    """The `TemporalTask` behind the environments, from the same arguments."""
    unknown = [name for name in config if name not in CONFIG_NAMES]
    refuse_unknown(unknown, (*ENV_ARGUMENTS, *CONFIG_NAMES))
    bank = feature_registry.load(features, split, device)
    return TemporalTask(bank, LocalFeatures(bank, boxes, spp_levels, margin=box_margin), TemporalConfig(**config))


def check_spans(
    task: TemporalTask, samples: Tensor, span: Any, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Start and end in seconds, one pair or (B, 2), to steps (B,), (B,); refused if no window inside its video.

    Only rows in ``mask`` (B,) are looked at; the others may hold anything.
    """
    seconds = check_table(span, 2, len(samples), "options['span']", "start and end in seconds")
    durations = task.bank.duration[task.bank.video[samples]].cpu().numpy()
    bad = ~((seconds[:, 0] >= 0) & (seconds[:, 0] < seconds[:, 1]) & (seconds[:, 1] <= durations + 1e-9))
    if mask is not None:
        bad &= mask.cpu().numpy()
    if bad.any():
        i = int(bad.argmax())
        raise DataError(
            f"options['span'] must satisfy 0 <= start < end <= duration; got {seconds[i].tolist()} s "
            f"in a video of {durations[i]:g} s"
        )
    steps = torch.as_tensor(np.array(seconds), device=task.bank.device) / task.seconds[samples][:, None]
    # Seconds round; a span meant as whole steps must be one, or ties of the IoU would be lost.
    whole = steps.round()
    steps = torch.where((steps - whole).abs() < 1e-6, whole, steps)
    return steps[:, 0], steps[:, 1].clamp(max=task.config.total)
