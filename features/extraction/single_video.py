"""Features of a video that no store holds, made as those of a given store were: its backbone, its rate, its dtype."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.features.encoders.backbones import may_run_code
from strong_envs.features.encoders.text import TextEncoder
from strong_envs.features.encoders.text import load as load_text
from strong_envs.features.errors import DataError
from strong_envs.features.video_io import Decoder, row_centres

SHAPES_CELLS = "shapes cells"
BATCH = 32


class VideoFeatures:
    """Turns pixels into the frames and the grid that a store of the same kind would hold.

    Args:
        backbone: the manifest's description, ``name`` above all. fps: feature rows per second.
        dtypes: of the store's tensors, by name. grid: whether the grid is wanted. pca: the manifest's reduction.
        device: where the backbone runs. weights: its file, for backbones that need one.
        allow_import: import a backbone that is a function of a Python module. The name comes from a file, and importing
            runs code, so it is refused by default.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        fps: float | None,
        dtypes: dict[str, str],
        grid: bool = True,
        pca: dict[str, Any] | None = None,
        device: str = "cpu",
        weights: str | Path | None = None,
        allow_import: bool = False,
    ) -> None:
        self.name = backbone.get("name")
        if not self.name:
            raise DataError("the store does not name its backbone: pass an array of features instead of pixels")
        if fps is None:
            raise DataError("the store states no rate of feature rows: pass an array of features instead of pixels")
        self.fps, self.dtypes, self.grid = float(fps), dtypes, grid
        self.pca = None
        self.network = None
        if self.name != SHAPES_CELLS:
            from strong_envs.features.encoders.backbones import load as load_backbone
            from strong_envs.features.extraction.pca import PCA

            _refuse_import("backbone", self.name, allow_import)
            try:
                self.network = load_backbone(self.name, device, weights)
            except DataError as error:
                raise DataError(f"pixels need the backbone {self.name!r} of the training store: {error}") from None
            self.pca = None if pca is None else PCA.from_json(pca)

    def of_file(self, path: str | Path) -> tuple[np.ndarray, np.ndarray | None, float]:
        """Frames (n, D), grid (n, h, w, C) or None, and the duration in seconds of a video file."""
        decoder = Decoder(path)
        duration = decoder.listed_seconds
        if not math.isfinite(duration):
            # The container states no length: decode to the end.
            while decoder.at(decoder.seconds + 0.5 / decoder.fps) is not None:
                pass
            duration = decoder.seconds
        images: list[np.ndarray] = []
        for centre in row_centres(duration, max(1, round(duration * self.fps))):
            image = decoder.at(float(centre))
            # The container states more than it holds: the last frame is repeated.
            if image is None and not images:
                raise DataError(f"{str(path)!r} has no frame at {centre:.2f} s, the middle of its first feature row")
            images.append(images[-1] if image is None else self._fit(image))
        decoder.close()
        return *self.of_pixels(np.stack(images)), duration

    def of_pixels(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Frames (n, D) and grid (n, h, w, C) or None of one frame for every feature row, (n, H, W, 3) uint8 RGB.

        A single frame (H, W, 3) is one row.
        """
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not len(pixels):
            raise DataError(f"pixels must be (n, H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
        pixels = np.stack([self._fit(image) for image in pixels])
        if self.network is None:
            from strong_envs.features.shapes.cells import cell_features

            grid = cell_features(pixels).astype(self.dtypes.get("grid", "float16"))
            return grid.astype(np.float32).mean(axis=(1, 2)), grid
        frames, cells = [], []
        for start in range(0, len(pixels), BATCH):
            grid, pooled = (x.cpu().numpy() for x in self.network(pixels[start : start + BATCH]))
            frames.append(pooled if self.pca is None else self.pca.apply(pooled))
            if self.grid:
                cells.append(grid if self.pca is None else self.pca.apply(grid))
        kept = np.concatenate(cells).astype(self.dtypes.get("grid", "float16")) if cells else None
        return np.concatenate(frames).astype(self.dtypes.get("frames", "float32")), kept

    def _fit(self, image: np.ndarray) -> np.ndarray:
        if self.network is not None:
            return self.network.resize(image)
        import cv2

        return image if image.shape[:2] == (64, 64) else cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)


def encoder_of(
    text: dict[str, Any], device: str = "cpu", weights: str | Path | None = None, allow_import: bool = False
) -> TextEncoder:
    """The sentence encoder that a store's manifest describes.

    Args:
        text: the manifest's description.
        device: where a network runs.
        weights: its file, for encoders that need one.
        allow_import: import an encoder that is a function of a Python module, see `VideoFeatures`.

    Raises:
        DataError: a description without a name, or an encoder that cannot be loaded here.
    """
    name = text.get("name")
    if not name:
        raise DataError("the store does not name its text encoder, so other sentences cannot be encoded")
    if name == "hashed words":
        name = f"hashed-words:{text.get('dim', 128)}"
    _refuse_import("text encoder", name, allow_import)
    try:
        return load_text(name, device, weights)
    except DataError as error:
        raise DataError(f"sentences need the encoder {name!r} of the training store: {error}") from None


def _refuse_import(what: str, name: Any, allow: bool) -> None:
    """Refuse a name from a file that would be imported, unless the caller allows it."""
    if not isinstance(name, str):
        raise DataError(f"the {what} of the training store has no readable name: {str(name)[:80]!r}")
    if may_run_code(name) and not allow:
        raise DataError(
            f"the {what} of the training store is {name!r}, which may run code; what a file names is imported only "
            "with allow_import=True, which runs the code of that module or model"
        )
