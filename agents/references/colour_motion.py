"""The rule that learns nothing: where the named colour and the named motion meet in one cell of the grid.

The sentence names a colour and an event, and the default world has a channel for each: a hue, and the flow or the
change of brightness that the event causes. A frame scores the sum over its cells of hue times motion, and the window
with the largest sum of scores above the video's mean is the answer. Nothing is trained and no truth is read.

The words are those of the default world's grammar and the channels those of its cells, so the rule exists for its
stores alone (``shapes-*``, and stores with the same channels).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from strong_envs.agents.references.heuristics import windows_on_grid
from strong_envs.agents.registry import BaseSystem, Prediction, SystemSpec, register
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.shapes.language import COLOUR_WORDS, EVENT_PHRASES

HUES = {colour: f"hue {60 * i}" for i, colour in enumerate(("red", "yellow", "green", "cyan", "blue", "magenta"))}
MOTIONS: dict[str, tuple[str, str | None]] = {
    "moves left": ("flow left", None),
    "moves right": ("flow right", None),
    "moves up": ("flow up", None),
    "moves down": ("flow down", None),
    "grows": ("brightening", "dimming"),
    "shrinks": ("dimming", "brightening"),
    "blinks": ("change", None),
}
"""The channel that an event raises, and the one that is taken from it."""
CHANNELS = tuple(dict.fromkeys([*HUES.values(), *(name for pair in MOTIONS.values() for name in pair if name)]))
CELLS = 60
"""Stretches of a video that windows are made of."""


def meaning(text: str) -> tuple[str | None, str | None]:
    """Colour and event that a sentence names, None where it names none."""
    words = f" {re.sub(r'[^a-z ]', ' ', text.lower())} "
    colour = next((c for c, names in COLOUR_WORDS.items() if any(f" {name} " in words for name in names)), None)
    # The longest phrase decides: "moves up" must not be found in another one.
    phrases = sorted(
        ((phrase, e) for e, all_of in EVENT_PHRASES.items() for phrase in all_of), key=lambda p: -len(p[0])
    )
    return colour, next((event for phrase, event in phrases if f" {phrase} " in words), None)


class ColourMotion(BaseSystem):
    """The rule, see the module.

    Args:
        bank: of the default world; none of its samples is read.
        seed: unused.
        budget: unused.
    """

    name = "colour x motion rule"

    def __init__(self, bank: FeatureBank, seed: int = 0, budget: float = 1.0) -> None:
        backbone = bank.store.manifest["backbone"]
        self.channels: list[str] = list(backbone["channels"])
        # What makes the numbers of a store out of sums of pixels: undone, nothing is 0 again.
        self.mean, self.scale = (torch.tensor(backbone[name], device=bank.device) for name in ("mean", "scale"))

    @property
    def needs_cells(self) -> bool:
        """It reads the grid."""
        return True

    def scores(self, bank: FeatureBank, sample: int) -> Tensor:
        """Hue times motion, summed over the cells of every frame of a sample: (n,) float32."""
        video = int(bank.video[sample])
        first = int(bank.offsets[video])
        cells = bank.grid[first : first + int(bank.n_frames[video])].to(torch.float32) * self.scale + self.mean
        names = self.channels
        colour, event = meaning(bank.texts[sample])
        hue = torch.ones(()) if colour is None else cells[..., names.index(HUES[colour])]
        if event is None:
            return (hue * torch.ones(cells.shape[:3])).sum((1, 2))
        more, less = MOTIONS[event]
        motion = cells[..., names.index(more)]
        found = (hue * motion).sum((1, 2))
        if less is not None:
            found = (found - (hue * cells[..., names.index(less)]).sum((1, 2))).clamp(min=0)
        return found

    @torch.no_grad()
    def predict(self, bank: FeatureBank) -> Prediction:
        """The window with the largest sum of scores above the mean of the video."""
        windows = torch.as_tensor(windows_on_grid(CELLS))
        start, end = (windows * CELLS).round().to(torch.int64).unbind(-1)
        best = []
        for sample in range(len(bank)):
            score = self.scores(bank, sample)
            score = torch.nn.functional.interpolate(score[None, None], CELLS, mode="linear")[0, 0]
            above = torch.nn.functional.pad((score - score.mean()).cumsum(0), (1, 0))
            best.append(windows[(above[end] - above[start]).argmax()])
        spans = torch.stack(best).to(bank.device) * bank.duration[bank.video][:, None]
        return Prediction(spans, frames_seen=torch.ones(len(bank), dtype=torch.float64, device=bank.device))


register(
    SystemSpec(
        "colour x motion rule",
        ColourMotion,
        "no training: where the named colour and the named motion meet in one cell; default world only",
        needs_grid=True,
        needs_training=False,
        needs_channels=CHANNELS,
        sees="grid",
        learns_from="nothing",
    )
)
