"""STRONG that observes the posterior over windows: every number by hand, before the first turn, files and refusals."""

from __future__ import annotations

import pytest
import torch
from small_strong import small_level, small_strong

from strong_envs import features
from strong_envs.agents.strong.agent import Strong
from strong_envs.agents.strong.frame_attention.posterior import (
    REACH,
    PosteriorScoresTask,
    fit_posterior,
    stretch_scores,
)
from strong_envs.agents.strong.presets import strong_args
from strong_envs.agents.training.window_posterior import WindowPosterior
from strong_envs.core import spans
from strong_envs.features.errors import DataError
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import TemporalConfig

STEPS = 20


@pytest.fixture(scope="module")
def bank(ragged_store):
    return features.load(ragged_store, "train")


@pytest.fixture(scope="module")
def task(bank):
    """Stretches are as long as steps, so that windows of whole steps are windows of the posterior."""
    local = LocalFeatures(bank, "initial")
    frame_logits = torch.randn(int(local.rows[-1]), generator=torch.Generator().manual_seed(0)) * 2
    posterior = WindowPosterior(STEPS)
    posterior.factors.copy_(torch.tensor([0.4, 0.3, 0.05]))
    return PosteriorScoresTask(bank, local, TemporalConfig(), frame_logits, posterior)


def test_the_observation_has_the_posterior_of_both_ends_and_the_expected_iou_of_moves(bank, task):
    state = task.random_states(40, torch.Generator().manual_seed(1))
    samples, start, end, t = (state[name] for name in ("sample", "start", "end", "t"))
    seen = task.observe(samples, start, end, t)
    assert {name: tuple(part.shape[1:]) for name, part in seen.items()} == task.dims()
    scores = stretch_scores(task.frame_logits, task.n_frames, STEPS)[samples]
    shares = task.posterior(scores).exp()
    low, high = (x.tolist() for x in (task.posterior.start, task.posterior.end))

    def iou(a: float, b: float, share: torch.Tensor) -> float:
        return sum(
            float(p) * spans.overlap(a, b, x, y, spans.CLAMPED) for p, x, y in zip(share, low, high, strict=True)
        )

    for row in range(0, 40, 4):
        observed, share = seen["posterior"][row], shares[row]
        for which, (edge, at) in enumerate(((low, float(start[row])), (high, float(end[row])))):
            for place, reach in enumerate(REACH):
                expected = sum(float(p) for p, x in zip(share, edge, strict=True) if x <= at + reach)
                assert abs(float(observed[which * len(REACH) + place]) - expected) < 1e-4
        now = iou(float(start[row]), float(end[row]), share)
        assert abs(float(observed[2 * len(REACH)]) - now) < 2e-3
        for action in range(task.n_actions):
            a, b = (float(x[row]) + float(task.table[action, i]) for i, x in enumerate((start, end)))
            if 0 <= a < b <= STEPS:
                assert abs(float(observed[2 * len(REACH) + 1 + action]) - (iou(a, b, share) - now)) < 2e-3


def test_stretches_have_the_score_of_the_frame_in_their_middle():
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    found = stretch_scores(logits, torch.tensor([3, 2]), 6)
    assert found.tolist() == [[1, 1, 2, 2, 3, 3], [4, 4, 4, 5, 5, 5]]


def test_before_the_frame_attention_is_trained_all_samples_observe_the_same(bank, task):
    blank = PosteriorScoresTask(bank, task.local, task.config, task.frame_logits * 0, task.posterior)
    samples = torch.tensor([0, 1, 2])
    seen = blank.observe(samples, *task.initial(samples), torch.zeros_like(samples))["posterior"]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


class Scored:
    """Stands for frame scores that are high in the true window, with noise."""

    def __init__(self, bank, noise: float) -> None:
        lengths = bank.n_frames[bank.video].tolist()
        generator = torch.Generator().manual_seed(2)
        parts = []
        for windows, n in zip(bank.truth.tolist(), lengths, strict=True):
            middle = (torch.arange(n) + 0.5) / n
            inside = torch.stack([(middle >= a) & (middle < b) for a, b in windows]).any(0)
            parts.append(4.0 * inside + noise * torch.randn(n, generator=generator))
        self.logits = torch.cat(parts)


def test_the_posterior_trusts_scores_as_far_as_they_are_right(bank):
    factors = []
    for noise in (0.5, 20.0):
        posterior = WindowPosterior(STEPS)
        fit_posterior(posterior, bank, [], Scored(bank, noise))
        factors.append(float(posterior.factors[0].abs() + posterior.factors[1].abs()))
        assert posterior.prior.any(), "the lengths of the training are not taken"
    assert factors[0] > 2 * factors[1]


def test_it_enters_after_the_first_turn_and_survives_saving(ragged_store, bank, tmp_path):
    test = features.load(ragged_store, "test")
    args = small_strong(
        "attention",
        "frame labels",
        frame_scores=True,
        score_observation="posterior",
        temporal=small_level(gamma=0.6),
        temporal_env=TemporalConfig(iou="clamped", reward="iou_delta", multi_scale=True),
    )
    system = Strong.of(bank, args)
    assert not system.task.known
    system.fit()
    assert system.task.known and system.posterior.prior.any()
    wanted = system.predict(test)
    for lean in (False, True):
        system.save(str(tmp_path / "system.safetensors"), lean=lean)
        found = Strong.load(str(tmp_path / "system.safetensors"), test).predict(test)
        assert all(torch.equal(getattr(found, n), getattr(wanted, n)) for n in ("spans", "length", "path", "boxes"))
    system.posterior.factors *= -5
    assert not torch.equal(system.predict(test).path, wanted.path), "the agent does not look at it"


def test_it_needs_frame_scores(bank):
    with pytest.raises(DataError, match="score_observation='posterior' requires frame_scores=True"):
        Strong.of(bank, strong_args(learns_from="frame labels", score_observation="posterior"))
