"""What the page shows: a search for one sentence in one video, as pictures, one a step."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.agents.inference import Moment, Predictor
from strong_envs.agents.model_card import Card
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.video_io import Decoder, row_centres
from strong_envs.rendering.viewer import Shot, Viewer

DRAWN_ONLY = (
    "**This model knows nothing but videos of drawn shapes.** It answers about any video, but its answer about other "
    "footage means nothing. Train a model on footage of your kind, and give its folder to `strong-envs demo`."
)
NO_CARD = "No model card lies beside this model, so how good it is on held-out data is unknown."


@dataclass
class Model:
    """A trained system by the name that the page shows."""

    name: str
    predictor: Predictor

    @property
    def card(self) -> Card | None:
        """The model card; None where there is none."""
        return self.predictor.card

    @property
    def drawn(self) -> bool:
        """Whether the model was trained on the drawn world: by its card, else by its features."""
        from strong_envs.features.extraction.single_video import SHAPES_CELLS

        by_features = self.predictor.inputs["backbone"].get("name") == SHAPES_CELLS
        return by_features if self.card is None else self.card.drawn

    def about(self) -> str:
        """What the model is and how good it is, in Markdown."""
        if self.card is None:
            return f"**{self.name}**. {NO_CARD}" + (f"\n\n{DRAWN_ONLY}" if self.drawn else "")
        card = self.card
        lines = [f"**{self.name}**: {card.system}, {card.description}.", f"Held-out scores: {card.score_line()}."]
        return "\n\n".join([*lines, *([DRAWN_ONLY] if self.drawn else [])])


class FileViewer(Viewer):
    """Draws shots of a bank of one video with the pixels of a file."""

    def __init__(self, bank: FeatureBank, path: str | os.PathLike) -> None:
        super().__init__(bank)
        self._decoder = Decoder(path)
        self._centres = row_centres(float(bank.duration[0]), int(bank.n_frames[0]))

    def frame(self, video: int, row: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the frame shown in the middle of a feature row."""
        picture = self._decoder.at(float(self._centres[row]))
        return self._decoder.last() if picture is None else picture


@dataclass
class Search:
    """A search that has ended: the windows in their order, and how to draw each."""

    viewer: Viewer
    sample: int
    moment: Moment
    note: str = ""

    @property
    def path(self) -> np.ndarray:
        """(steps + 1, 2) float64 seconds: the windows in their order; the answer alone of a system without moves."""
        if self.moment.path is None:
            return np.array([[self.moment.start, self.moment.end]])
        return np.asarray(self.moment.path)

    def picture(self, step: int, truth: bool = False) -> np.ndarray:
        """The picture of one step, (360, 480, 3) uint8 RGB; ``truth`` draws the true windows and boxes too."""
        bank, sample = self.viewer.bank, self.sample
        video = int(bank.video[sample])
        count, duration = int(bank.n_frames[video]), float(bank.duration[video])
        start, end = map(float, self.path[min(max(step, 0), len(self.path) - 1)])
        first = min(max(int(start / duration * count), 0), count - 1)
        last = min(max(math.ceil(end / duration * count - 1e-9), first + 1), count)
        rows = [first, (first + last - 1) // 2, last - 1]
        boxes = self.moment.boxes
        shown: Sequence[Any] = [] if boxes is None else [boxes[row].tolist() for row in rows]
        captions = [f"{(row + 0.5) * duration / count:.1f} s" for row in rows]
        footer = f"step {step} of {len(self.path) - 1}   {start:.1f} to {end:.1f} s"
        shot = Shot(sample, rows, (start, end), shown, captions, footer=footer)
        shot.true_boxes = shot.true_windows = truth
        return self.viewer.draw(shot)

    def pictures(self, truth: bool = False) -> list[np.ndarray]:
        """The pictures of all steps."""
        return [self.picture(step, truth) for step in range(len(self.path))]

    def answer(self, truth: bool = False) -> str:
        """The answer in Markdown: window, confidence, frames read; the true windows on request."""
        bank, moment = self.viewer.bank, self.moment
        frames = int(bank.n_frames[int(bank.video[self.sample])])
        seen = 1.0 if moment.frames_seen is None else moment.frames_seen
        parts = [f"## {moment.start:.1f} to {moment.end:.1f} s"]
        read = f"all {frames} frames" if seen >= 1 else f"{round(seen * frames)} of {frames} frames"
        facts = [f"{len(self.path) - 1} moves", f"looked at {read}"]
        if moment.confidence is not None:
            facts.append(f"confidence {moment.confidence:.2f} (not calibrated)")
        parts.append(", ".join(facts) + ".")
        if truth:
            windows = bank.queries[self.sample].windows
            best = max(_iou((moment.start, moment.end), window) for window in windows)
            said = " and ".join(f"{a:.1f} to {b:.1f} s" for a, b in windows)
            parts.append(f"Truth: {said}. IoU {best:.2f}.")
        return "\n\n".join([*parts, *([self.note] if self.note else [])])


def search_file(model: Model, path: str | os.PathLike, sentence: str) -> Search:
    """Search a video file. Raises `DataError` for a file that cannot be decoded, or a sentence without words."""
    bank = model.predictor.bank_of(Path(path), sentence)
    return Search(FileViewer(bank, path), 0, model.predictor.answer(bank), DRAWN_ONLY if model.drawn else "")


def search_query(model: Model, bank: FeatureBank, qid: str) -> Search:
    """Search the video of a query of a bank, without its truth."""
    if qid not in bank.qids:
        raise DataError(f"{bank.name} has no query {qid!r}")
    sample = bank.qids.index(qid)

    predictor: Predictor = model.predictor
    frames, grid, seconds = stored_video(bank, int(bank.video[sample]))
    given = frames if grid is None else (frames, grid)
    return Search(Viewer(bank), sample, predictor.predict(given, bank.texts[sample], duration=seconds))


def stored_video(bank: FeatureBank, video: int) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Frames (n, D), grid (n, h, w, C) or None, and the seconds of one video of a bank."""
    low = int(bank.offsets[video])
    rows = slice(low, low + int(bank.n_frames[video]))
    grid = bank.grid[rows].cpu().numpy() if bank.has_grid else None
    return bank.frames[rows].cpu().numpy(), grid, float(bank.duration[video])


@lru_cache(maxsize=8)
def model_of(source: str, allow_import: bool = False) -> Model:
    """A model by ``pretrained``, the path of a file of weights, or of a folder with them."""
    from strong_envs import agents

    if source == "pretrained":
        return Model("pretrained", agents.pretrained())
    return Model(source, agents.load(source, allow_import=allow_import))


def _iou(one: tuple[float, float], other: tuple[float, float]) -> float:
    from strong_envs.core.spans import CLAMPED, overlap

    return float(overlap(*one, *other, CLAMPED))
