"""Attention over windows and spatial pyramids: compiled, eager and mapped against the equations in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from strong_envs.features.bank import pooling_numba
from strong_envs.features.bank.mapped import MappedRows
from strong_envs.features.bank.pooling import AdditiveScore, WindowAttention, spatial_pyramid, torch_pyramid

LENGTHS = [1, 7, 64, 40, 23]
DIM, WORDS, HIDDEN, SAMPLES = 12, 5, 6, 9


@pytest.fixture(params=["compiled", "torch"])
def path(request, monkeypatch) -> str:
    if request.param == "compiled":
        pytest.importorskip("numba")
    monkeypatch.setenv("STRONG_ENVS_COMPILED", "1" if request.param == "compiled" else "0")
    assert pooling_numba.available() == (request.param == "compiled")
    return request.param


def parts(spread: float = 1.0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    table = torch.randn(sum(LENGTHS), DIM, generator=g)
    offsets = torch.tensor([0, *np.cumsum(LENGTHS)])
    group = torch.randint(0, len(LENGTHS), (SAMPLES,), generator=g)
    v = torch.randn(HIDDEN, generator=g)
    return {
        "table": table,
        "query": torch.randn(SAMPLES, WORDS, generator=g),
        "w_row": torch.randn(DIM, HIDDEN, generator=g),
        "w_query": torch.randn(WORDS, HIDDEN, generator=g),
        "bias": torch.randn(HIDDEN, generator=g),
        # tanh lies in [-1, 1]: all scores within the spread, and much of it used
        "v": v * spread / (2 * v.abs().sum()),
        "base": offsets[group],
        "length": torch.tensor(LENGTHS)[group],
    }


def attention(p: dict[str, torch.Tensor], table=None) -> WindowAttention:
    table = p["table"] if table is None else table
    score = AdditiveScore.of(table, p["query"], p["w_row"], p["w_query"], p["bias"], p["v"])
    return WindowAttention(table, p["base"], p["length"], score)


def windows(p: dict[str, torch.Tensor], count: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    samples = torch.randint(0, SAMPLES, (count,), generator=g)
    ends = (torch.rand(count, 2, generator=g) * (p["length"][samples][:, None] + 1)).long().sort(1).values
    ends[0] = torch.tensor([0, 0])
    return samples, ends[:, 0], ends[:, 1]


def literal(p: dict[str, torch.Tensor], sample: int, first: int, last: int) -> torch.Tensor:
    """Eqs. 2 and 3 word for word, in float64."""
    d = {name: x.double() for name, x in p.items()}
    rows = d["table"][int(p["base"][sample]) :][first:last]
    scores = torch.tanh(rows @ d["w_row"] + d["bias"] + d["query"][sample] @ d["w_query"]) @ d["v"]
    return (torch.softmax(scores, 0)[:, None] * rows).sum(0)


@pytest.mark.parametrize("spread", [1, 5, 10, 20, 40, 1000])
@pytest.mark.parametrize("kind", ["plain", "mapped", "half"])
def test_attended_means_are_exact_at_any_spread(spread, kind, path):
    p = parts(spread)
    table = {"plain": p["table"], "mapped": MappedRows([p["table"].numpy()]), "half": p["table"].half()}[kind]
    if kind == "half":
        p["table"] = table.float()
    pool = attention(p) if kind == "plain" else WindowAttention(table, p["base"], p["length"], attention(p).score)
    samples, first, last = windows(p)
    scores = pool.scores(samples)
    # The scores themselves round to float32; what is pooled from them is compared to the equations.
    tolerance = 1e-5 if spread <= 40 else 1e-4
    got = pool(samples, first, last, scores)
    for i in range(len(samples)):
        want = literal(p, int(samples[i]), int(first[i]), int(last[i]))
        assert torch.allclose(got[i].double(), want, atol=tolerance), (i, (got[i] - want).abs().max())
    assert not got[0].any() and scores.shape == (40, 64)
    many = pool(samples, torch.stack([first, first], 1), torch.stack([last, first], 1), scores)
    assert torch.allclose(many[:, 0], got, atol=1e-6) and not many[:, 1].any()


def test_attention_learns(path):
    p = parts(5)
    p["v"].requires_grad_()
    pool = attention(p)
    samples, first, last = windows(p)
    pool(samples, first, last, pool.scores(samples)).square().sum().backward()
    got = p["v"].grad.clone()
    p["v"].grad = None
    total = sum(literal(p, *(int(x[i]) for x in (samples, first, last))).square().sum() for i in range(len(samples)))
    total.backward()
    assert torch.allclose(got, p["v"].grad, rtol=1e-3, atol=1e-4)


def test_attention_on_a_device_waits_for_nothing(path):
    p = parts()
    pool = attention(p)
    length = pool.longest
    meta = WindowAttention(*(x.to("meta") for x in (pool.table, pool.base, pool.length)), lambda s, r: r.float())
    vars(meta)["longest"] = length
    samples, first, last = (x.to("meta") for x in windows(p))
    assert meta(samples, first, last, meta.scores(samples)).shape == (40, DIM)


@pytest.mark.parametrize("levels", [(1, 2, 4), (1,), (4, 1), (1, 3), (2, 3, 6)])
@pytest.mark.parametrize("size", [(8, 8), (4, 5), (7, 7)])
def test_a_pyramid_is_the_same_on_every_path(levels, size, path):
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(6, *size, 10, generator=g)
    ends = torch.rand(20, 2, 2, generator=g).sort(1).values
    corners = torch.cat([ends[:, 0], ends[:, 1]], 1)
    corners[0], corners[1] = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.25, 0.5, 0.75, 1.0])
    rows = torch.randint(0, 6, (20,), generator=g)
    want = torch_pyramid(maps[rows].double(), corners.double(), levels)
    assert torch.allclose(spatial_pyramid(maps, corners, levels, rows).double(), want, atol=1e-4)
    assert torch.allclose(spatial_pyramid(maps[rows], corners, levels).double(), want, atol=1e-4)
    assert torch.allclose(torch_pyramid(maps[rows], corners, levels).double(), want, atol=1e-4)
    mapped = MappedRows([maps.numpy()])
    assert torch.allclose(spatial_pyramid(mapped, corners, levels, rows).double(), want, atol=1e-4)
    half = spatial_pyramid(maps.half(), corners, levels, rows)
    assert half.dtype == torch.float32 and torch.allclose(half.double(), want, atol=1e-2)


def test_a_pyramid_has_gradients(path):
    maps = torch.randn(2, 4, 4, 3, requires_grad=True)
    spatial_pyramid(maps, torch.tensor([[0.0, 0, 1, 1], [0, 0, 0.5, 0.5]]), (1, 2)).sum().backward()
    assert maps.grad is not None and float(maps.grad.sum()) == pytest.approx(2 * 3 * 5, rel=1e-5)


def test_a_row_that_does_not_exist_is_refused(path):
    maps, box = torch.randn(2, 4, 4, 3), torch.tensor([[0.0, 0, 1, 1]])
    for row in (2, -3):
        with pytest.raises(IndexError):
            spatial_pyramid(maps, box, (1, 2), torch.tensor([row]))


def test_a_window_out_of_bounds_is_refused_before_it_is_read():
    pytest.importorskip("numba")
    p = parts()
    pool = attention(p)
    scores = pool.scores(torch.tensor([0]))
    for first, last in ((0, 65), (-1, 2), (0, 10**9)):
        with pytest.raises(IndexError):
            pool(torch.tensor([0]), torch.tensor([first]), torch.tensor([last]), scores)
