"""``strong-envs pooling``: attention over windows and spatial pyramids of boxes, against direct implementations.

Both are compared in one interleaved run on one thread, after their results were found equal: attention to the equations
in float64, pyramids to cropping and adaptive pooling.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strong_envs.benchmarks.speed.harness import (
    REPETITIONS,
    SpeedTarget,
    add_command,
    one_thread,
    outcome,
    race,
    speed_target,
)
from strong_envs.benchmarks.speed.numpy_env import crop_pyramid
from strong_envs.features.bank import pooling_numba
from strong_envs.features.bank.pooling import AdditiveScore, WindowAttention, spatial_pyramid, torch_pyramid

SPREADS = (1, 5, 10, 20, 40)
ATTENTION_ERROR, PYRAMID_ERROR = 1e-5, 1e-4


@dataclass
class Weights:
    """Additive attention over rows: scores v . tanh(row w_row + sentence w_query + bias)."""

    w_row: Tensor
    w_query: Tensor
    bias: Tensor
    v: Tensor

    def double(self) -> Weights:
        """The same weights in float64."""
        return Weights(*(x.double() for x in vars(self).values()))


@dataclass
class Scene:
    """Videos of one length and the windows of one batch of episodes, step by step."""

    table: Tensor
    query: Tensor
    frames: int
    samples: Tensor
    first: Tensor
    last: Tensor
    weights: Weights

    @classmethod
    def draw(cls, videos: int, frames: int, dim: int, words: int, hidden: int, envs: int, steps: int) -> Scene:
        """``envs`` episodes of ``steps`` windows in videos of ``frames`` rows of standard normal numbers."""
        g = torch.Generator().manual_seed(0)
        ends = torch.randint(0, frames + 1, (steps, envs, 2), generator=g).sort(-1).values
        first = ends[..., 0].clamp(max=frames - 1)
        weights = Weights(
            torch.randn(dim, hidden, generator=g) / dim**0.5,
            torch.randn(words, hidden, generator=g) / words**0.5,
            torch.randn(hidden, generator=g),
            torch.randn(hidden, generator=g),
        )
        return cls(
            torch.randn(videos * frames, dim, generator=g),
            torch.randn(videos, words, generator=g),
            frames,
            torch.randint(0, videos, (envs,), generator=g),
            first,
            torch.maximum(ends[..., 1], first + 1),
            weights,
        )

    def pool(self) -> WindowAttention:
        """Ours: what depends on the weights alone is projected once for all episodes."""
        w, videos = self.weights, len(self.query)
        score = AdditiveScore.of(self.table, self.query, w.w_row, w.w_query, w.bias, w.v)
        base = torch.arange(videos) * self.frames
        return WindowAttention(self.table, base, torch.full((videos,), self.frames), score)

    def spread_to(self, spread: float) -> None:
        """Scale v until the scores of the widest episode span ``spread``."""
        scores = self.pool().scores(self.samples)
        self.weights.v *= spread / float((scores.amax(1) - scores.amin(1)).max())


def attend(rows: Tensor, query: Tensor, w: Weights) -> Tensor:
    """The equations for one window: rows (n, D) and a projected sentence (H,) to (D,)."""
    scores = torch.tanh(rows @ w.w_row + w.bias + query) @ w.v
    return torch.softmax(scores, 0) @ rows


def direct_one_by_one(scene: Scene, step: int, w: Weights, table: Tensor, query: Tensor) -> Tensor:
    """Every window by itself, scored anew: no row is touched that does not lie in it."""
    projected = query[scene.samples] @ w.w_query
    out = []
    for i, sample in enumerate(scene.samples.tolist()):
        base = sample * scene.frames
        rows = table[base + int(scene.first[step, i]) : base + int(scene.last[step, i])]
        out.append(attend(rows, projected[i], w))
    return torch.stack(out)


def direct_batched(scene: Scene, step: int) -> Tensor:
    """All windows at once, padded to the longest video, scored anew."""
    w, at = scene.weights, torch.arange(scene.frames)
    rows = scene.table[scene.samples[:, None] * scene.frames + at]
    inside = (at >= scene.first[step][:, None]) & (at < scene.last[step][:, None])
    projected = (scene.query[scene.samples] @ w.w_query)[:, None]
    scores = torch.tanh(rows @ w.w_row + w.bias + projected) @ w.v
    weights = scores.masked_fill(~inside, float("-inf")).softmax(-1)
    return torch.bmm(weights[:, None], rows)[:, 0]


def attention_errors(scene: Scene) -> dict[int, float]:
    """Largest difference from the equations in float64, by spread of the scores; raises where it is too large."""
    errors = {}
    for spread in SPREADS:
        scene.spread_to(spread)
        pool = scene.pool()
        scores = pool.scores(scene.samples)
        wide = scene.weights.double(), scene.table.double(), scene.query.double()
        worst = 0.0
        for step in range(min(2, len(scene.first))):
            got = pool(scene.samples, scene.first[step], scene.last[step], scores)
            want = direct_one_by_one(scene, step, *wide)
            worst = max(worst, float((got - want).abs().max()))
        if worst > ATTENTION_ERROR:
            raise AssertionError(f"attention is off by {worst:.2g} at a spread of {spread}")
        errors[spread] = worst
    return errors


def attention(scene: Scene, reps: int) -> list[SpeedTarget]:
    """Target 5: whole episodes, scoring at reset included, against scoring every window anew."""
    steps, envs = scene.first.shape
    pool, w = scene.pool(), scene.weights

    def ours(_: Any) -> Tensor:
        scores = pool.scores(scene.samples)
        for step in range(steps):
            out = pool(scene.samples, scene.first[step], scene.last[step], scores)
        return out

    def projecting(_: Any) -> Tensor:
        rows = (scene.samples[:, None] * scene.frames + torch.arange(scene.frames)).flatten()
        keys = scene.table[rows] @ w.w_row + w.bias
        projected = (scene.query[scene.samples] @ w.w_query)[:, None]
        scores = torch.tanh(keys.view(envs, scene.frames, -1) + projected) @ w.v
        for step in range(steps):
            out = pool(scene.samples, scene.first[step], scene.last[step], scores)
        return out

    def one_by_one(_: Any) -> Tensor:
        for step in range(steps):
            out = direct_one_by_one(scene, step, w, scene.table, scene.query)
        return out

    def batched(_: Any) -> Tensor:
        for step in range(steps):
            out = direct_batched(scene, step)
        return out

    expected = one_by_one(None)
    for function in (ours, projecting, batched):
        np.testing.assert_allclose(function(None).numpy(), expected.numpy(), atol=1e-4)
    others = {"projecting": projecting, "one by one": one_by_one, "batched": batched}
    mine, theirs = race(ours, others, np.zeros(1), reps)
    again, amount, unit = theirs.pop("projecting"), steps * envs, "steps/s"
    targets = [
        speed_target(f"attention / direct, {name}", 10, mine, took, amount, unit) for name, took in theirs.items()
    ]
    name = "attention, frames projected at each reset / direct, one by one"
    return [*targets, speed_target(name, None, again, theirs["one by one"], amount, unit)]


def whole_cell_boxes(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Boxes (B, 4) in cells with sides of 4 or 8: there a crop's adaptive pooling and an area mean must agree."""
    low = torch.randint(0, size - 3, (count, 2), generator=generator)
    wide = (torch.rand(count, 2, generator=generator) < 0.2) & (size == 8)
    low = torch.where(wide, 0, low)
    return torch.cat([low, low + torch.where(wide, 8, 4)], 1)


def pyramids(boxes: int, channels: int, reps: int) -> tuple[list[SpeedTarget], dict[str, float]]:
    """Target 6: 1 + 4 + 16 bins of boxes on 8 x 8 maps, compiled and in eager torch, against cropping."""
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(boxes, 8, 8, channels, generator=g)
    cells = whole_cell_boxes(boxes, 8, g)
    corners = cells / 8
    expected = crop_pyramid(maps, cells)
    implementations: dict[str, Callable[[Any], Tensor]] = {"eager": lambda _: torch_pyramid(maps, corners)}
    if pooling_numba.available():
        implementations["compiled"] = lambda _: spatial_pyramid(maps, corners)
    errors = {}
    for name, function in implementations.items():
        errors[name] = float((function(None) - expected).abs().max())
        if errors[name] > PYRAMID_ERROR:
            raise AssertionError(f"the {name} pyramid is off by {errors[name]:.2g}")
    wanted = {"compiled": 10, "eager": 2}
    first = list(implementations)[-1]
    others = {name: f for name, f in implementations.items() if name != first}
    others["crop"] = lambda _: crop_pyramid(maps, cells)
    mine, theirs = race(implementations[first], others, np.zeros(2), reps)
    took = {first: mine, **theirs}
    amount = 2 * boxes
    return [
        speed_target(
            f"pyramid, {name} / crop and adaptive pooling", wanted[name], took[name], took["crop"], amount, "boxes/s"
        )
        for name in implementations
    ], errors


def measure(quick: bool) -> dict[str, Any]:
    """Everything in one run on one thread; raises if two implementations do not agree."""
    reps = 2 if quick else REPETITIONS
    with one_thread():
        scene = Scene.draw(*((4, 16, 8, 6, 5, 4, 3) if quick else (64, 64, 2048, 4800, 256, 64, 20)))
        errors: dict[str, Any] = {"attention, by spread": attention_errors(scene)}
        targets = attention(scene, reps)
        more, errors["pyramid"] = pyramids(*((8, 16) if quick else (256, 512)), reps)
    return outcome(quick, targets + more, **{"largest errors": errors})


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``pooling`` command to ``strong-envs``."""
    add_command(
        subparsers,
        "pooling",
        measure,
        "attention and spatial pyramids against direct implementations",
        "Times attention (Eqs. 2-3) and spatial pyramids in one interleaved run on one thread, after "
        "checking that all implementations give equal results. Ratios are medians over repetitions.",
    )
