"""Every published baseline learns fifty samples by heart: what it does not fit elsewhere is not a fault of its code."""

from __future__ import annotations

import pytest
from supervised_scores import miou, only

from strong_envs import agents, features

WINDOWS = {"overlap": 0.6, "scale_count": 4}
PLAIN = {"dropout": 0.0, "weight_decay": 0.0, "early_stopping": False}
# Options that regularise are off. Measured on the fifty: .97, .74, .87, .96, .78 and .74, from .06 to .24 before.
CASES = {
    "ctrl": (0.85, {"steps": 800, "intra": 1.0, "weight_decay": 0.0, **WINDOWS}),
    "mcn": (0.6, {"steps": 800, "dropout": 0.0, "lr": 0.1, **WINDOWS}),
    "acrn": (0.7, {"steps": 1000, "intra": 1.0, "contexts": False, "weight_decay": 0.0, **WINDOWS}),
    "sm-rl": (0.8, {"steps": 400, "batch": 50, "concept_steps": 20, "answer": "last", **PLAIN}),
    "read": (0.6, {"steps": 400_000, "num_envs": 50, "entropy": 0.01}),
    "tsp-prl": (0.55, {"steps": 300_000, "num_envs": 50, "entropy": 0.01}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_fifty_samples_are_learnt_by_heart(name):
    fifty = only(features.load("shapes-v0", "train"), range(50))
    least, options = CASES[name]
    system = agents.make(name, fifty, **options)
    before = miou(system, fifty)
    after = miou(system.fit(), fifty)
    assert before < 0.35 and after > max(least, before + 0.15), (before, after)
