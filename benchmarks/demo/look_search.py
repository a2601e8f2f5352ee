"""A search that looks at a few frames, one after the other, and what the page shows of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from strong_envs import agents
from strong_envs.agents.inference import Moment
from strong_envs.agents.looks.predict import KIND, LookPredictor
from strong_envs.agents.looks.search import uncertainty_rows
from strong_envs.agents.model_card import Card, read_card
from strong_envs.agents.training.checkpoint import load_weights
from strong_envs.benchmarks.demo.search import DRAWN_ONLY, FileViewer, Model, Search, stored_video
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.single_video import encoder_of
from strong_envs.features.store.in_memory import OneVideoStore
from strong_envs.features.video_io import SEEK_SECONDS
from strong_envs.rendering.viewer import Viewer

SHIPPED = Path(agents.__file__).parent / "data" / "looks_shapes.safetensors"
"""The predictor that ships for the default world; ``strong-envs train-pretrained --looks`` makes it."""
LOOKS, FIRST = 20, 0.4
"""Looks of a search, and the share of them that are even and come first."""


def is_look_predictor(file: str | os.PathLike) -> bool:
    """Whether a file of weights holds a `LookPredictor`. Raises `DataError` for what is no file of weights."""
    return load_weights(file)[1].get("kind") == KIND


@dataclass
class LookModel(Model):
    """A `LookPredictor` by the name that the page shows."""

    predictor: LookPredictor
    given: Card | None = None
    looks: int = LOOKS
    allow_import: bool = False

    @classmethod
    def of_file(cls, name: str, file: str | os.PathLike, allow_import: bool = False) -> LookModel:
        """Load a file that `LookPredictor.save` wrote, and the card beside it."""
        return cls(
            name, LookPredictor.load(file, allow_import=allow_import), read_card(file), allow_import=allow_import
        )

    @property
    def card(self) -> Card | None:
        """The model card; None where there is none."""
        return self.given

    def in_file(self, path: str | os.PathLike, sentence: str) -> Search:
        """Decode and encode only the frames that are looked at."""
        found = self.predictor.predict(path, sentence, self.looks, FIRST, say=False)
        blank = np.zeros((found.rows, 1), np.float32)
        seconds = FileViewer.seconds_of(path)
        bank = FeatureBank(OneVideoStore(blank, None, seconds, [sentence], np.zeros((1, 1), np.float32)))
        rows = np.array([int(time / seconds * found.rows) for time in found.times])
        moment = self._moment(rows, np.array(found.log_odds), found.rows, seconds)
        note = f"With their neighbours, {found.frames} of {found.rows} frames were decoded: {found.seconds:.1f} s."
        viewer = FileViewer(bank, path, SEEK_SECONDS)
        return Search(viewer, 0, moment, "\n\n".join([note, *self._warning()]), one_by_one=True)

    def in_bank(self, bank: FeatureBank, sample: int) -> Search:
        """Search the stored features; rows that are not chosen are not used."""
        frames, grid, seconds = stored_video(bank, int(bank.video[sample]))
        text, made = bank.texts[sample], self.predictor.inputs
        if frames.shape[1] != made["frame_dim"] or (None if grid is None else list(grid.shape[1:])) != made.get("grid"):
            cells = None if grid is None else list(grid.shape[1:])
            raise DataError(
                f"{bank.name} has frames of {frames.shape[1]} numbers and cells {cells}; {self.name} was trained on "
                f"{made['frame_dim']} and {made.get('grid')}"
            )
        one = FeatureBank(OneVideoStore(frames, grid, seconds, [text], self._encoder.encode([text])))
        table, count = self.predictor.sensor.table(one), min(self.looks, len(frames))
        chosen = uncertainty_rows(self.predictor.posterior, table, one.n_frames, count, max(int(FIRST * count), 1))[0]
        rows = chosen[chosen >= 0]
        moment = self._moment(rows.numpy(), table[0, rows].numpy(), len(frames), seconds)
        return Search(Viewer(bank), sample, moment, one_by_one=True)

    def _moment(self, rows: np.ndarray, log_odds: np.ndarray, count: int, seconds: float) -> Moment:
        """The answer after each look: the last one is that of the search."""
        seen, length = torch.zeros((len(rows), count)), torch.full((len(rows),), count)
        for k, (row, score) in enumerate(zip(rows.tolist(), log_odds.tolist(), strict=True)):
            # An uncertain look is still a look: exactly 0 would count as none.
            seen[k:, row] = score or 1e-6
        path = (self.predictor.posterior.answer(seen, length) * seconds).numpy()
        start, end = path[-1].tolist()
        return Moment(start, end, None, None, path, frames_seen=len(set(rows.tolist())) / count, rows_seen=rows)

    @cached_property
    def _encoder(self) -> Any:
        return encoder_of(self.predictor.inputs["text"], "cpu", None, self.allow_import)

    def _warning(self) -> list[str]:
        return [DRAWN_ONLY] if self.drawn else []
