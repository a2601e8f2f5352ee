"""The matching network: shapes, scales, what a blind agent sees, and dropout."""

from __future__ import annotations

import pytest
import torch

from strong_envs.agents.training.matching import (
    DROPOUT,
    REDUNDANT,
    GatedScore,
    Matching,
    MatchingInputs,
    Scale,
    dropout_for,
)
from strong_envs.features.errors import DataError

TEMPORAL = {"query": (7,), "location": (2,), "local": (5,), "global": (5,), "context": (20,)}
SPATIAL = {"query": (7,), "scene": (5,), "inside": (5,), "around": (25,), "box": (4,)}


def batch(shapes: dict[str, tuple[int, ...]], count: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: 3 * torch.randn(count, *shape, generator=g) + 1 for name, shape in shapes.items()}


def network(shapes=TEMPORAL, hidden=(), width=8, **options) -> MatchingInputs:
    torch.manual_seed(0)
    made = MatchingInputs(shapes, hidden, width, **options).eval()
    made.fit(batch(shapes, 400, seed=1))
    return made


def test_a_scale_standardises_and_drops_what_is_constant():
    scale = Scale(3)
    rows = torch.randn(500, 3) * torch.tensor([5.0, 0.1, 0.0]) + 2
    scale.fit(rows.view(50, 10, 3))
    out = scale(rows)
    assert torch.allclose(out.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(out.std(0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3)
    assert scale(torch.full((1, 3), 1e9)).abs().max() == 10


def test_a_match_is_the_product_of_both_projections():
    torch.manual_seed(0)
    match, x, query = Matching(5, 7, 16), torch.randn(4, 3, 2, 5), torch.randn(4, 7)
    out = match(x, query)
    assert out.shape == (4, 3, 2, 16)
    expected = match.feature(x[2, 1, 0]) * match.query(query[2]) * 2 / 4
    assert torch.allclose(out[2, 1, 0], expected, atol=1e-6)
    assert torch.allclose(match(x[:, 0, 0], query), out[:, 0, 0], atol=1e-6)


def test_a_gated_score_is_its_formula():
    torch.manual_seed(0)
    score, x, query = GatedScore(5, 7, 6), torch.randn(4, 3, 9, 5), torch.randn(4, 7)
    out = score(x, query)
    hidden = score.feature(x) * score.gate(query)[:, None, None] + score.shift(query)[:, None, None]
    assert out.shape == (4, 3, 9) and torch.allclose(out, score.out(hidden.relu())[..., 0], atol=1e-5)


@pytest.mark.parametrize(("shapes", "windows", "rest"), [(TEMPORAL, 6, 2), (SPATIAL, 7, 4)])
def test_the_inside_stays_and_other_windows_are_differences_from_it(shapes, windows, rest):
    inputs, observation = network(shapes), batch(shapes)
    out = inputs(observation)
    assert out.shape == (12, inputs.size) and inputs.size == windows * 8 + rest
    seen = out[:, : windows * 8].view(12, windows, 8)
    first = next(iter(inputs.windows))
    query = inputs.query(observation["query"])
    inside = inputs.match(inputs.scale(observation[first]), query)
    assert torch.allclose(seen[:, 0], inside, atol=1e-5)
    other = inputs.match(inputs.scale(observation[inputs.windows[1]][:, :5]), query)
    assert torch.allclose(seen[:, 1], other - inside, atol=1e-5)
    # Windows alike inside and outside differ by nothing.
    same = observation[first]
    alike = {n: same.repeat(1, observation[n].shape[1] // 5) if n in inputs.windows else observation[n] for n in shapes}
    assert inputs(alike)[:, 8 : windows * 8].abs().max() < 1e-5


def test_the_gradients_of_the_scores_are_those_of_the_formula():
    torch.manual_seed(0)
    score, x, query = GatedScore(5, 7, 6), torch.randn(4, 3, 5, requires_grad=True), torch.randn(4, 7)
    said = query.requires_grad_()
    hidden = score.feature(x) * score.gate(said)[:, None] + score.shift(said)[:, None]
    inputs, by_row = [x, said, *score.parameters()], torch.randn(4, 3)
    expected = torch.autograd.grad(score.out(hidden.relu())[..., 0], inputs, by_row)
    for got, wanted in zip(torch.autograd.grad(score(x, said), inputs, by_row), expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-5)


def test_scores_can_be_differentiated_again():
    score, x = GatedScore(5, 7, 6), torch.randn(2, 3, 5, requires_grad=True)
    total = score(x, torch.randn(2, 7)).sum()
    first, again = (torch.autograd.grad(total, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again) and first.abs().sum() > 0


def test_a_whole_frame_may_be_a_vector_of_another_length():
    shapes = TEMPORAL | {"global": (9,)}
    inputs, observation = network(shapes), batch(shapes)
    assert inputs.apart == ["global"] and inputs(observation).shape == (12, inputs.size) == (12, 6 * 8 + 2)
    other = {**observation, "global": observation["global"] + 1}
    changed = (inputs(other) - inputs(observation)).abs().amax(0)[:48].view(6, 8).amax(-1) > 1e-6
    assert changed.sum() == 1, "one window is that of the whole frame"


def test_scales_come_from_the_batch_and_those_of_features_can_be_left_out():
    scaled, plain = network(), network(scaled=False)
    assert not torch.equal(scaled.scale.scale, torch.ones(5)) and torch.equal(plain.scale.scale, torch.ones(5))
    assert torch.equal(scaled.query.scale, plain.query.scale) and not torch.equal(plain.query.scale, torch.ones(7))
    assert torch.equal(scaled.rest["location"].shift, plain.rest["location"].shift)


@pytest.mark.parametrize(
    ("shapes", "hidden"), [(TEMPORAL, ("local", "global", "context")), (SPATIAL, ("scene", "inside", "around"))]
)
def test_a_blind_agent_reads_the_sentence_and_sees_nothing(shapes, hidden):
    inputs, observation = network(shapes, hidden), batch(shapes)
    out = inputs(observation)
    for name in shapes:
        changed = not torch.equal(inputs({**observation, name: observation[name] + 1}), out)
        assert changed == (name not in hidden), name


def test_dropout_is_for_training_alone():
    inputs, observation = network(dropout=0.5), batch(TEMPORAL)
    out = inputs(observation)
    assert torch.equal(inputs(observation), out)
    inputs.train()
    dropped = inputs(observation)
    assert not torch.equal(dropped, out)
    assert torch.equal(dropped[:, -2:], out[:, -2:]), "where a window lies is never dropped"
    assert torch.equal(inputs.eval()(observation), out)
    torch.manual_seed(0)
    score = GatedScore(5, 7, 6, dropout=0.5)
    x, query = torch.randn(4, 3, 5), torch.randn(4, 7)
    assert not torch.equal(score(x, query), score(x, query))
    assert torch.equal(score.eval()(x, query), score(x, query))


def test_gradients_reach_every_weight():
    inputs = network().train()
    (inputs(batch(TEMPORAL)) ** 2).sum().backward()
    for name, parameter in inputs.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_an_observation_without_what_is_matched_is_refused():
    with pytest.raises(DataError, match="needs the parts 'query' and 'local' or 'inside'.*use network='plain'"):
        MatchingInputs({"attention_box": (4,)})


def test_dropout_follows_the_number_of_features_unless_it_is_named():
    assert dropout_for(REDUNDANT - 1, None) == 0 and dropout_for(REDUNDANT, None) == DROPOUT > 0
    assert dropout_for(REDUNDANT, 0.0) == 0 and dropout_for(3, 0.5) == 0.5
