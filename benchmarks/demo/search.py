"""What the page shows: a search for one sentence in one video, as pictures, one a step."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.agents.inference import Moment
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
    predictor: Any
    """`strong_envs.agents.inference.Predictor`, or that of a subclass."""

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

    def in_file(self, path: str | os.PathLike, sentence: str) -> Search:
        """Search a video file; see `search_file`."""
        bank = self.predictor.bank_of(Path(path), sentence)
        return Search(FileViewer(bank, path), 0, self.predictor.answer(bank), DRAWN_ONLY if self.drawn else "")

    def in_bank(self, bank: FeatureBank, sample: int) -> Search:
        """Search the video of a query of a bank."""
        frames, grid, seconds = stored_video(bank, int(bank.video[sample]))
        given = frames if grid is None else (frames, grid)
        return Search(Viewer(bank), sample, self.predictor.predict(given, bank.texts[sample], duration=seconds))


class FileViewer(Viewer):
    """Draws shots of a bank of one video with the pixels of a file."""

    def __init__(self, bank: FeatureBank, path: str | os.PathLike, seek_seconds: float = math.inf) -> None:
        super().__init__(bank)
        self._decoder = Decoder(path, seek_seconds=seek_seconds)
        self._centres = row_centres(float(bank.duration[0]), int(bank.n_frames[0]))

    @staticmethod
    def seconds_of(path: str | os.PathLike) -> float:
        """The length that a file states."""
        decoder = Decoder(path)
        decoder.close()
        return float(decoder.listed_seconds)

    def frame(self, video: int, row: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the frame shown in the middle of a feature row."""
        picture = self._decoder.at(float(self._centres[row]))
        return self._decoder.last() if picture is None else picture


@dataclass
class Search:
    """A search that has ended: the windows in their order, and how to draw each.

    Args:
        viewer: draws the video.
        sample: the query in the viewer's bank.
        moment: the answer, with the windows on the way.
        note: stands below the answer.
        one_by_one: the search looked at one frame a step, and each window is the answer after that look.
    """

    viewer: Viewer
    sample: int
    moment: Moment
    note: str = ""
    one_by_one: bool = False

    @property
    def path(self) -> np.ndarray:
        """(steps, 2) float64 seconds: the windows in their order; the answer alone of a system without moves."""
        if self.moment.path is None:
            return np.array([[self.moment.start, self.moment.end]])
        return np.asarray(self.moment.path)

    @property
    def rows(self) -> int:
        """Feature rows of the video."""
        return int(self.viewer.bank.n_frames[int(self.viewer.bank.video[self.sample])])

    @property
    def duration(self) -> float:
        """Seconds of the video."""
        return float(self.viewer.bank.duration[int(self.viewer.bank.video[self.sample])])

    @property
    def first_step(self) -> int:
        """The number of the first step in words: an agent that moves begins before its first move."""
        return int(self.one_by_one)

    def at(self, step: int) -> int:
        """A step that exists."""
        return min(max(step, 0), len(self.path) - 1)

    def looked(self, step: int) -> list[int]:
        """The feature rows that were read until a step, in their order; all of a system that reads whole videos."""
        seen = self.moment.rows_seen
        if seen is not None:
            return [int(row) for row in (seen[: self.at(step) + 1] if self.one_by_one else seen)]
        return [] if self.moment.frames_seen == 0 else list(range(self.rows))

    def picture(self, step: int, truth: bool = False) -> np.ndarray:
        """The picture of one step, (360, 480, 3) uint8 RGB; ``truth`` draws the true windows and boxes too."""
        step = self.at(step)
        count, duration, looked = self.rows, self.duration, self.looked(step)
        start, end = map(float, self.path[step])
        if self.one_by_one:
            rows = [looked[-1]]
        else:
            first = min(max(int(start / duration * count), 0), count - 1)
            last = min(max(math.ceil(end / duration * count - 1e-9), first + 1), count)
            rows = [first, (first + last - 1) // 2, last - 1]
        boxes = self.moment.boxes
        shown: Sequence[Any] = [] if boxes is None else [boxes[row].tolist() for row in rows]
        captions = [f"{(row + 0.5) * duration / count:.1f} s" for row in rows]
        footer = f"{self.name_of(step)}   {start:.1f} to {end:.1f} s"
        shot = Shot(self.sample, rows, (start, end), shown, captions, footer=footer)
        shot.seen = [(a * duration / count, b * duration / count) for a, b in stretches(looked)]
        shot.true_boxes = shot.true_windows = truth
        return self.viewer.draw(shot)

    def pictures(self, truth: bool = False) -> list[np.ndarray]:
        """The pictures of all steps."""
        return [self.picture(step, truth) for step in range(len(self.path))]

    def name_of(self, step: int) -> str:
        """A step in words."""
        return f"look {step + 1} of {len(self.path)}" if self.one_by_one else f"step {step} of {len(self.path) - 1}"

    def answer(self, truth: bool = False) -> str:
        """The answer in Markdown: window, confidence, frames read; the true windows on request."""
        bank, moment, frames = self.viewer.bank, self.moment, self.rows
        seen = 1.0 if moment.frames_seen is None else moment.frames_seen
        parts = [f"## {moment.start:.1f} to {moment.end:.1f} s"]
        read = f"all {frames} frames" if seen >= 1 else f"{round(seen * frames)} of {frames} frames"
        facts = [] if moment.path is None or self.one_by_one else [f"{len(self.path) - 1} moves"]
        facts.append(f"looked at {read}")
        if moment.confidence is not None:
            facts.append(f"confidence {moment.confidence:.2f} (not calibrated)")
        said = ", ".join(facts)
        parts.append(f"{said[0].upper()}{said[1:]}.")
        if truth:
            windows = bank.queries[self.sample].windows
            best = max(_iou((moment.start, moment.end), window) for window in windows)
            said = " and ".join(f"{a:.1f} to {b:.1f} s" for a, b in windows)
            parts.append(f"Truth: {said}. IoU {best:.2f}.")
        return "\n\n".join([*parts, *([self.note] if self.note else [])])


def search_file(model: Model, path: str | os.PathLike, sentence: str) -> Search:
    """Search a video file. Raises `DataError` for a file that cannot be decoded, or a sentence without words."""
    return model.in_file(path, sentence)


def search_query(model: Model, bank: FeatureBank, qid: str) -> Search:
    """Search the video of a query of a bank, without its truth."""
    if qid not in bank.qids:
        raise DataError(f"{bank.name} has no query {qid!r}")
    return model.in_bank(bank, bank.qids.index(qid))


def stretches(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Rows as half-open stretches of neighbours, ascending."""
    out: list[tuple[int, int]] = []
    for row in sorted(set(rows)):
        if out and out[-1][1] == row:
            out[-1] = (out[-1][0], row + 1)
        else:
            out.append((row, row + 1))
    return out


def stored_video(bank: FeatureBank, video: int) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Frames (n, D), grid (n, h, w, C) or None, and the seconds of one video of a bank."""
    low = int(bank.offsets[video])
    rows = slice(low, low + int(bank.n_frames[video]))
    grid = bank.grid[rows].cpu().numpy() if bank.has_grid else None
    return bank.frames[rows].cpu().numpy(), grid, float(bank.duration[video])


def _iou(one: tuple[float, float], other: tuple[float, float]) -> float:
    from strong_envs.core.spans import CLAMPED, overlap

    return float(overlap(*one, *other, CLAMPED))
