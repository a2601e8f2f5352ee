"""Scores of small supervised systems."""

from __future__ import annotations

import copy

from strong_envs.agents.baselines.candidates import best_iou


def only(bank, keep):
    """The same bank with the samples ``keep`` alone."""
    few = copy.copy(bank)
    few.__dict__.pop("frame_means", None)
    for name in ("queries", "texts", "qids"):
        setattr(few, name, [getattr(bank, name)[i] for i in keep])
    for name in ("video", "query", "truth"):
        setattr(few, name, getattr(bank, name)[list(keep)])
    return few


def miou(system, bank) -> float:
    spans = system.predict(bank).spans / bank.duration[bank.video][:, None]
    return float(best_iou(spans[:, None], bank.truth).mean())
