"""Inference: load a trained system and localise one sentence in one video.

::

    system = agents.pretrained()                              # the default world's, shipped with the package
    moment = system.predict("shapes-standard-test-000003", "the red circle moves left")
    moment.start, moment.end                                  # seconds
    agents.load("run/system.safetensors").predict("cat.mp4", "the cat jumps onto the table")
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from strong_envs.agents.model_card import Card, read_card, weights_file
from strong_envs.agents.registry import REGISTRY, BaseSystem, with_defaults
from strong_envs.agents.strong.args import BOUNDS
from strong_envs.agents.training.checkpoint import check_inputs, load_weights
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.devices import usable_device
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.extraction.single_video import VideoFeatures, encoder_of
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.registry import Source, keys, open_store
from strong_envs.features.store.in_memory import OneVideoStore

WEIGHTS = Path(__file__).parent / "data" / "strong_shapes.safetensors"
"""The system that ships for the default world; ``strong-envs train-pretrained`` makes it."""


@dataclass
class Moment:
    """The predicted window of one sentence in one video.

    ``start`` and ``end`` in seconds. ``confidence`` in [0, 1] orders predictions and is not calibrated: the probability
    with which STRONG's policy stops in this window, or the score of the best candidate; None where a system has no such
    number. ``boxes`` (n, 4) float32, normalised corners in every feature row, or None where the system does not track.
    ``path`` (moves + 1, 2) float64 seconds, the windows of the episode, the last one being the prediction; None for
    systems that do not move. ``frames_seen`` is the share of the video's frames that was read, None where a
    system does not say. ``ranked`` (K, 2) float64 seconds, the candidates of a system that ranks them, best first;
    None for others. ``rows_seen`` (looks,) int64, the feature rows that were read, in their order, of a system that
    reads single frames; None for others.
    """

    start: float
    end: float
    confidence: float | None
    boxes: np.ndarray | None
    path: np.ndarray | None
    ranked: np.ndarray | None = None
    frames_seen: float | None = None
    rows_seen: np.ndarray | None = None


class Predictor:
    """A trained system loaded for inference; see `load`.

    Args:
        path: a file that the ``save`` of a system wrote, or a folder with ``system.safetensors``.
        features: store in which video ids are looked up; the training store by default.
        device: torch device.
        backbone_weights: a file, for a backbone that does not come as a package.
        text_weights: a file, for a text encoder that does not come as a package.
        allow_import: import a backbone or a text encoder that the file names as ``module:function``.

    Raises:
        DataError: a file that is no saved system, or a system that cannot predict other videos.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        features: Source | None = None,
        device: str | torch.device = "cpu",
        backbone_weights: str | None = None,
        text_weights: str | None = None,
        allow_import: bool = False,
    ) -> None:
        self.device = usable_device(device)
        path = weights_file(path)
        _, about = load_weights(path)
        check_inputs(about, path)
        self.inputs: dict[str, Any] = about["inputs"]
        self.path, self._features, self._allow_import = Path(path), features, allow_import
        self._weights = {"backbone": backbone_weights, "text": text_weights}
        if self.inputs.get("frame_dim") is None:
            raise DataError(f"{str(path)!r} was trained on annotations alone and takes no video")
        args = about.get("args")
        boxes = args.get("boxes", about.get("boxes")) if isinstance(args, dict) else None
        if isinstance(boxes, str) and boxes in BOUNDS:
            raise DataError(f"{str(path)!r} is an upper bound on GT boxes; it cannot predict other videos")
        if boxes is None and "boxes" in about:
            raise DataError(f"{str(path)!r} was trained on given boxes and has none of other videos")
        self.system: BaseSystem = load_system(path, self._bank(*self._blank(), 1.0, ["a", "b"], np.zeros))

    def predict(
        self,
        video: str | os.PathLike | np.ndarray | torch.Tensor | tuple[np.ndarray, np.ndarray],
        sentence: str,
        duration: float | None = None,
    ) -> Moment:
        """Localise a sentence in a video.

        Args:
            video: the id of a video of the store; the path of a video or image file; or an array: features (n, D) or
                cells (n, h, w, C) as a store of the same kind holds them, both as a pair ``(frames, grid)``, or pixels
                (n, H, W, 3) uint8 RGB, one frame for each feature row, or one image (H, W, 3).
            sentence: the query.
            duration: seconds, for arrays; the number of rows over the store's rate by default.

        Raises:
            DataError: an unknown video, features of other sizes than those of the training, or a sentence that cannot
                be encoded.
        """
        return self.answer(self.bank_of(video, sentence, duration))

    def bank_of(self, video: Any, sentence: str, duration: float | None = None) -> FeatureBank:
        """A bank of one video and one sentence, whose truth is unknown; arguments and errors as in `predict`."""
        if not isinstance(sentence, str) or not sentence.strip():
            raise DataError(f"sentence must be a string of words, got {sentence!r}")
        if duration is not None and not (isinstance(duration, Real) and math.isfinite(duration) and duration > 0):
            raise DataError(f"duration must be a positive number of seconds, got {duration!r}")
        frames, grid, seconds = self._features_of(video, duration)
        if not (np.isfinite(seconds) and seconds > 0):
            raise DataError(f"duration must be a positive number of seconds, got {seconds}")
        return self._bank(frames, grid, seconds, [sentence], None)

    def answer(self, bank: FeatureBank) -> Moment:
        """The moment of the first query of a bank, as `bank_of` makes it."""
        out = self.system.predict(bank)
        start, end = out.spans[0].tolist()
        if not (math.isfinite(start) and math.isfinite(end)):
            raise DataError(f"the system in {shown(self.path)} predicts {start} to {end}: its weights are out of range")
        path = None if out.path is None else out.path[0].cpu().numpy()
        if path is not None and out.length is not None:
            path = path[: int(out.length[0]) + 1]
        confidence = self.system.confidence(bank, out)
        return Moment(
            start,
            end,
            None if confidence is None else float(confidence[0]),
            None if out.boxes is None else out.boxes.cpu().numpy(),
            path,
            None if out.ranked is None else _present(out.ranked[0].cpu().numpy()),
            None if out.frames_seen is None else float(out.frames_seen[0]),
            None if out.rows_seen is None else out.rows_seen[0].cpu().numpy(),
        )

    @cached_property
    def card(self) -> Card | None:
        """The model card beside the weights; None where there is none."""
        return read_card(self.path)

    # Features -------------------------------------------------------------------------------------------------------

    @cached_property
    def _encoder(self) -> Any:
        return encoder_of(self.inputs["text"], str(self.device), self._weights["text"], self._allow_import)

    @cached_property
    def _pixels(self) -> VideoFeatures:
        made = self.inputs
        return VideoFeatures(
            made["backbone"],
            made.get("fps"),
            made["dtypes"],
            made.get("grid") is not None,
            made.get("pca"),
            str(self.device),
            self._weights["backbone"],
            self._allow_import,
        )

    def _blank(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Features of the right sizes, from which the networks take theirs."""
        grid = self.inputs.get("grid")
        return np.zeros((2, self.inputs["frame_dim"]), np.float32), None if grid is None else np.zeros((2, *grid), "f4")

    def _bank(
        self, frames: np.ndarray, grid: np.ndarray | None, seconds: float, sentences: list[str], vectors: Any
    ) -> FeatureBank:
        if vectors is not None:
            encoded = vectors((len(sentences), self.inputs["query_dim"]), np.float32)
        else:
            encoded = self._encoder.encode(sentences)
        if encoded.shape[1] != self.inputs["query_dim"]:
            raise DataError(
                f"sentences have {encoded.shape[1]} numbers, the system was trained on {self.inputs['query_dim']}"
            )
        return FeatureBank(OneVideoStore(frames, grid, seconds, sentences, encoded), None, self.device)

    def _features_of(self, video: Any, duration: float | None) -> tuple[np.ndarray, np.ndarray | None, float]:
        """Frames, grid and duration of a video in any of its forms."""
        if isinstance(video, (str, os.PathLike)):
            with os_errors(f"read {shown(video)}"):
                is_file = Path(video).is_file()
            if is_file:
                return self._pixels.of_file(Path(video))
            return self._stored(str(video))
        frames, grid = self._arrays(video)
        fps = self.inputs.get("fps")
        if duration is not None:
            return frames, grid, float(duration)
        if fps is None:
            raise DataError("the training store states no rate of feature rows; pass duration, in seconds")
        return frames, grid, len(frames) / fps

    def _arrays(self, video: Any) -> tuple[np.ndarray, np.ndarray | None]:
        pair = video if isinstance(video, tuple) else (video,)
        given = [x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in pair]
        dim, wanted = self.inputs["frame_dim"], self.inputs.get("grid")
        if len(given) == 1 and given[0].dtype == np.uint8:
            # One image is a video of one frame.
            return self._pixels.of_pixels(given[0][None] if given[0].ndim == 3 else given[0])
        frames = next((x for x in given if x.ndim == 2), None)
        grid = next((x for x in given if x.ndim == 4), None)
        if grid is not None and wanted is not None and list(grid.shape[1:]) == wanted:
            grid = grid.astype(self.inputs["dtypes"].get("grid", "float16"))
            if frames is None and wanted[2] == dim:
                frames = grid.astype(np.float32).mean(axis=(1, 2))
        elif grid is not None:
            frames = None
        needed = self.system.needs_cells
        if frames is None or frames.shape[1] != dim or not len(frames) or (needed and grid is None):
            shapes = [x.shape for x in given]
            cells = "no grid" if wanted is None else f"cells (n, {', '.join(map(str, wanted))})"
            need = "this system needs cells" if needed else "frames are enough"
            raise DataError(f"features must be frames (n, {dim}) or {cells}, and {need}; got {shapes}")
        return frames.astype(self.inputs["dtypes"].get("frames", "float32")), grid

    def _stored(self, video: str) -> tuple[np.ndarray, np.ndarray | None, float]:
        source = self._features if self._features is not None else self.inputs["store"]
        if self._features is None and source not in keys():
            raise DataError(f"{video!r} is no file; for the id of a video pass features=, the store that holds it")
        store = open_store(source)
        row = 0
        for held in store.videos:
            if held.id == video:
                stop = row + held.n_frames
                grid = store.tensor("grid", row, stop) if store.has("grid") else None
                return store.tensor("frames", row, stop), grid, held.duration
            row += held.n_frames
        ids = [held.id for held in store.videos]
        raise DataError(f"{video!r} is neither a file nor a video of {store.name!r}{nearest(video, ids)}")


def _present(ranked: np.ndarray) -> np.ndarray:
    """Candidates without the rows of NaN that fill up the array."""
    return ranked[np.isfinite(ranked).all(-1)]


def load(
    path: str | os.PathLike,
    features: Source | None = None,
    device: str | torch.device = "cpu",
    backbone_weights: str | None = None,
    text_weights: str | None = None,
    allow_import: bool = False,
) -> Predictor:
    """Load a trained system for inference; see `Predictor`.

    Args:
        path: a file that the ``save`` of a system wrote, or a folder with ``system.safetensors``.
        features: store in which video ids are looked up.
        device: torch device.
        backbone_weights: a file, for a backbone that does not come as a package.
        text_weights: a file, for a text encoder that does not come as a package.
        allow_import: import a backbone or a text encoder that the file names as ``module:function``, which runs the
            code of that module.
    """
    return Predictor(path, features, device, backbone_weights, text_weights, allow_import)


def pretrained(features: Source | None = None, device: str | torch.device = "cpu") -> Predictor:
    """STRONG as it ships for the default world, standard level; ``strong-envs train-pretrained`` trains it again.

    Video ids are those of ``shapes-v0`` unless ``features`` names another store.
    """
    if not WEIGHTS.is_file():
        raise DataError(f"{WEIGHTS} is missing; strong-envs train-pretrained makes it")
    return Predictor(WEIGHTS, "shapes-v0" if features is None else features, device)


def load_system(path: str | os.PathLike, bank: FeatureBank) -> BaseSystem:
    """Read a file that the ``save`` of any registered system wrote.

    Args:
        path: a file of weights, or a folder with ``system.safetensors``.
        bank: gives the device and must have the features of the training.

    Raises:
        DataError: no such file, a kind of system that is not registered here, other features.
    """
    path = weights_file(path)
    kind = kind_of(load_weights(path)[1])
    known = kinds()
    if kind not in known:
        raise DataError(f"{str(path)!r} holds a system of the kind {kind!r}; registered here are {sorted(known)}")
    return with_defaults(known[kind].load(str(path), bank))


def kind_of(about: dict[str, Any]) -> str:
    """The kind of system in a file; files of STRONG of earlier releases have no name but ``turn``."""
    return "Strong" if "turn" in about else str(about.get("system") or "unknown")


def kinds() -> dict[str, Any]:
    """Classes of registered systems that can be loaded, by their names in files."""
    classes = {entry.factory for entry in REGISTRY.values() if hasattr(entry.factory, "load")}
    return {getattr(kind, "name", kind.__name__): kind for kind in classes}
