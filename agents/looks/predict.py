"""From a video file to a moment, decoding and encoding only the frames that are looked at.

::

    predictor = LookPredictor.fit(features.load("shapes-v0-medium"))
    predictor.save("looks.safetensors")
    moment = LookPredictor.load("looks.safetensors").predict("cat.mp4", "the cat jumps onto the table", looks=20)
    print(moment)            # 12.4 s to 15.9 s; 20 of 1,800 frames read in 1.3 s
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch

from strong_envs.agents.looks.posterior import MOST_LENGTHS, LookPosterior
from strong_envs.agents.looks.running import RunningPosterior
from strong_envs.agents.looks.search import unique_even_rows
from strong_envs.agents.looks.sensor import FrameSensor, SensorArgs
from strong_envs.agents.training.checkpoint import (
    check_inputs,
    header_of,
    inputs_of,
    load_module,
    load_weights,
    save_weights,
)
from strong_envs.core.validation import check_number, check_whole
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.single_video import VideoFeatures, encoder_of
from strong_envs.features.files.errors import shown
from strong_envs.features.registry import load
from strong_envs.features.store.in_memory import OneVideoStore
from strong_envs.features.video_io import Decoder, row_centres
from strong_envs.looks.task import frames_before

SEEK_SECONDS = 2.0
"""Longer jumps seek; shorter ones are decoded through."""
KIND = "look predictor"
LONGEST = 10_000
"""Most rows of a moment that are read from a file."""


class Header(msgspec.Struct, kw_only=True):
    """What a saved predictor says of itself."""

    kind: str
    inputs: dict[str, Any]
    whole_frames: bool
    weight: Annotated[float, msgspec.Meta(gt=0, le=1000)]
    clip: Annotated[float, msgspec.Meta(gt=0, le=1000)]


@dataclass(frozen=True)
class LookMoment:
    """The window of a sentence in a video, and what it took.

    ``start`` and ``end`` in seconds; ``times`` of the looks in seconds, in their order, and their ``log_odds``;
    ``frames`` that were decoded and encoded, out of ``rows`` at the rate of the training; ``seconds`` from the file to
    the answer.
    """

    start: float
    end: float
    times: tuple[float, ...]
    log_odds: tuple[float, ...]
    frames: int
    rows: int
    seconds: float

    def __str__(self) -> str:
        read = f"{self.frames:,} of {self.rows:,} frames read in {self.seconds:.2f} s"
        return f"{self.start:.1f} s to {self.end:.1f} s; {read}"


class LookPredictor:
    """The uncertainty search on files: a sensor of single frames and a posterior over windows.

    Args:
        sensor: trained. posterior: of the training part. inputs: what the features are made with, see `inputs_of`.
        device: where backbone and text encoder run. allow_import: import a backbone or an encoder that a file names as
            ``module:function``.
    """

    def __init__(
        self,
        sensor: FrameSensor,
        posterior: LookPosterior,
        inputs: dict[str, Any],
        device: str = "cpu",
        allow_import: bool = False,
    ) -> None:
        self.sensor, self.posterior, self.inputs = sensor, posterior, inputs
        self.device, self.allow_import = device, allow_import
        self.neighbours = frames_before(inputs["backbone"])

    @classmethod
    def fit(
        cls,
        bank: FeatureBank | str,
        args: SensorArgs | None = None,
        seed: int = 0,
        report: Callable[[int, int], None] | None = None,
    ) -> LookPredictor:
        """Train a sensor on the training part of a store.

        Args:
            bank: the training part, or the key or path of a store.
            args: see `SensorArgs`.
            seed: of weights and training.
            report: hears of updates done and wanted.

        Raises:
            DataError: neither, or a store that cannot be opened.
        """
        if isinstance(bank, str):
            bank = load(bank, "train")
        if not isinstance(bank, FeatureBank):
            raise DataError(f"bank must be a FeatureBank, or the key or path of a store; got {bank!r}")
        return cls(FrameSensor(bank, args, seed).fit(bank, report), LookPosterior(bank), inputs_of(bank))

    def save(self, path: str | os.PathLike) -> Path:
        """Write one file."""
        tensors = {f"sensor.{name}": value for name, value in self.sensor.net.state_dict().items()}
        posterior = self.posterior
        tensors |= {"lengths": posterior.lengths, "prior": posterior.prior}
        about = {"kind": KIND, "inputs": self.inputs, "whole_frames": self.sensor.net.args.whole_frames}
        return save_weights(path, tensors, about | {"weight": posterior.weight, "clip": posterior.clip})

    @classmethod
    def load(cls, path: str | os.PathLike, device: str = "cpu", allow_import: bool = False) -> LookPredictor:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            DataError: another kind of file, or damage.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise DataError(f"path must name a file of LookPredictor.save, got {path!r}")
        tensors, about = load_weights(path)
        if about.get("kind") != KIND:
            raise DataError(f"{shown(path)} is no {KIND}; it is {str(about.get('kind'))[:40]!r}")
        check_inputs(about, path)
        header = header_of(about, Header, path)
        inputs = about["inputs"]
        grid = inputs.get("grid")
        blank = OneVideoStore(
            np.zeros((2, inputs["frame_dim"]), np.float32),
            None if grid is None else np.zeros((2, *grid), np.float32),
            1.0,
            ["a", "b"],
            np.zeros((2, inputs["query_dim"]), np.float32),
        )
        bank = FeatureBank(blank)
        sensor = FrameSensor(bank, SensorArgs(whole_frames=header.whole_frames))
        lengths, prior = tensors.pop("lengths", torch.zeros(0)), tensors.pop("prior", torch.zeros(0))
        load_module(
            sensor.net, {name.removeprefix("sensor."): t for name, t in tensors.items()}, path, str(inputs["store"])
        )
        sensor.net.eval()
        if (
            (lengths.dtype, prior.dtype) != (torch.int64, torch.float32)
            or not 1 <= len(lengths) <= MOST_LENGTHS
            or not lengths.shape == prior.shape == (len(lengths),)
            or not bool(((lengths >= 1) & (lengths <= LONGEST)).all() & prior.isfinite().all())
        ):
            raise DataError(
                f"{shown(path)} must hold 1 to {MOST_LENGTHS} lengths of moments, int64 in [1, {LONGEST:,}], and as "
                f"many finite float32 logarithms; it holds {tuple(lengths.shape)} {lengths.dtype} and "
                f"{tuple(prior.shape)} {prior.dtype}"
            )
        posterior = LookPosterior.of(lengths, prior, header.weight, header.clip)
        return cls(sensor, posterior, inputs, device, allow_import)

    def predict(
        self, path: str | os.PathLike, sentence: str, looks: int | None = 20, first: float = 0.4, say: bool = True
    ) -> LookMoment:
        """Search a video file: seek to each frame that is looked at, decode and encode it, and nothing else.

        Args:
            path: of the file.
            sentence: the query.
            looks: how many; None reads every row at the rate of the training, one after the other.
            first: share of the looks that are even and come first.
            say: print the answer with seconds and frames.

        Raises:
            DataError: a file that cannot be decoded or does not state its length, or a sentence without a word.
        """
        if not isinstance(sentence, str) or not sentence.strip():
            raise DataError(f"sentence must be a string of words, got {sentence!r}")
        if not isinstance(path, (str, os.PathLike)):
            raise DataError(f"path must name a video file, got {path!r}")
        first = check_number(first, "first", 0, 1)
        wanted = None if looks is None else check_whole(looks, "looks")
        _ = self._features, self._encoder  # loaded once; not part of a search
        begun = time.perf_counter()
        video = _OpenVideo(path, self._features, float(self.inputs["fps"]), self.neighbours, looks is not None)
        count = video.count if wanted is None else min(wanted, video.count)
        score = self._scorer(self._encoder.encode([sentence]))
        seen, n_frames = torch.zeros((1, video.count)), torch.tensor([video.count])
        even = unique_even_rows(n_frames, max(int(first * count), 1))[0].tolist() if looks is not None else []
        order: list[int] = []
        running: RunningPosterior | None = None
        for k in range(count):
            if looks is None:
                row = k
            elif k < len(even):
                row = even[k]
            else:
                if running is None:
                    made = np.array([order])
                    running = RunningPosterior(self.posterior, n_frames.numpy(), made, seen.numpy()[:, order])
                row = int(running.least_sure()[0])
            order.append(row)
            # An uncertain look is still a look: exactly 0 would count as none.
            seen[0, row] = score(*video.features(row)) or 1e-6
            if running is not None:
                running.look(np.array([row]), seen[0, row : row + 1].numpy())
        start, end = (self.posterior.answer(seen, n_frames)[0] * video.duration).tolist()
        video.close()
        centres = row_centres(video.duration, video.count)
        moment = LookMoment(
            start,
            end,
            tuple(float(centres[row]) for row in order),
            tuple(float(seen[0, row]) for row in order),
            len(video.read),
            video.count,
            time.perf_counter() - begun,
        )
        if say:
            print(moment)
        return moment

    @cached_property
    def _encoder(self) -> Any:
        return encoder_of(self.inputs["text"], self.device, None, self.allow_import)

    @cached_property
    def _features(self) -> VideoFeatures:
        made = self.inputs
        grid = made.get("grid") is not None
        if made.get("fps") is None:
            raise DataError("the training store states no rate of feature rows, so a file cannot be searched")
        return VideoFeatures(
            made["backbone"], made["fps"], made["dtypes"], grid, made.get("pca"), self.device, None, self.allow_import
        )

    def _scorer(self, vector: np.ndarray) -> Callable[[np.ndarray, np.ndarray | None], float]:
        net, query = self.sensor.net, torch.as_tensor(vector, dtype=torch.float32)

        @torch.no_grad()
        def score(frame: np.ndarray, grid: np.ndarray | None) -> float:
            maps = torch.as_tensor(frame)[None, None] if net.args.whole_frames else torch.as_tensor(grid)
            cells = net._cells(maps[None].to(torch.float32))
            return float(net.scores(cells[None], net.sentences(query))[0, 0])

        return score


class _OpenVideo:
    """Rows of a file, decoded and encoded when asked for."""

    def __init__(
        self, path: str | os.PathLike, features: VideoFeatures, fps: float, neighbours: int, seek: bool
    ) -> None:
        self.decoder = Decoder(path, seek_seconds=SEEK_SECONDS if seek else math.inf)
        self.duration = self.decoder.listed_seconds
        if not math.isfinite(self.duration):
            raise DataError(f"{shown(path)} does not state its length, so its frames cannot be sought")
        self.made, self.neighbours, self.count = features, neighbours, max(1, round(self.duration * fps))
        self.centres = row_centres(self.duration, self.count)
        self.read: set[int] = set()

    def features(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The frame (D,) and the grid (h, w, C) of a row."""
        rows = list(range(max(row - self.neighbours, 0), row + 1))
        images = []
        for one in rows:
            image = self.decoder.at(float(self.centres[one]))
            # The container may state more than it holds: the last frame is repeated.
            images.append(self.decoder.last() if image is None else image)
        self.read |= set(rows)
        frames, grid = self.made.of_pixels(np.stack(images))
        return frames[-1], None if grid is None else grid[-1]

    def close(self) -> None:
        """Close the file."""
        self.decoder.close()
