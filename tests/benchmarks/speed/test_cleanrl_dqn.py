"""The DQN that seconds of training are compared with is a system like any other, and it learns."""

from __future__ import annotations

import numpy as np
import pytest

from strong_envs import features
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.speed.cleanrl_dqn import CleanDQN


def test_it_trains_saves_and_loads(tmp_path):
    bank = features.load("shapes-v0", "train")
    said = []
    options = {"steps": 4_096, "learning_starts": 512, "boxes": "truth"}
    system = CleanDQN(bank, **options).fit(lambda *words: said.append(words))
    assert [words[1] for words in said] == [3_200] and np.isfinite(said[0][3]["td_loss"])
    system.save(str(tmp_path / "dqn.safetensors"))
    test = features.load("shapes-v0", "test")
    same = CleanDQN.load(str(tmp_path / "dqn.safetensors"), bank)
    assert np.array_equal(same.predict(test).spans, system.predict(test).spans)


@pytest.mark.slow
def test_it_learns():
    bank = features.load("shapes-easy-v0", "train")
    system = CleanDQN(bank, boxes="truth", steps=60_000).fit()
    assert np.mean(score(system.predict(bank), bank)["IoU"]) > 0.5
