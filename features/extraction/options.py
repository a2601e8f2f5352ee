"""Options of an extraction."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from strong_envs.features.errors import DataError

DTYPES = ("float16", "float32")
PCA_VIDEOS = 256
"""Train videos that a PCA is fitted on: plenty for a covariance, few enough to wait on disk at full size."""


@dataclass(frozen=True)
class ExtractOptions:
    """How videos become features, checked when it is made.

    Attributes:
        backbone: name of the network, see `strong_envs.features.encoders.backbones`.
        weights: file of its weights; None takes those that are installed.
        text: name of the text encoder, see `strong_envs.features.encoders.text`.
        text_weights: file of its weights; None takes those that are installed.
        fps: feature rows per second.
        grid: keep the (h, w, C) map of every row, which the spatial level needs.
        objects: ``my.module:function`` that gives the features of K objects in each frame, which become the tensor
            ``objects``; see `strong_envs.features.importing.detections.Detector`.
        pca: number of channels to reduce to, fitted on videos with a train query; or the path of a store whose
            reduction is used again; None keeps all channels.
        pca_videos: most videos that the reduction is fitted on.
        dtype: of the stored features, ``"float16"`` or ``"float32"``.
        batch: frames in one call of the backbone.
        workers: processes over videos.
        device: where the networks run.
        overwrite: replace a store at the target.
        progress: show bars, and a line for each stage, on the standard error stream.

    Raises:
        DataError: a number out of range or an unknown dtype.
    """

    backbone: str = "efficientnet-lite0"
    weights: str | os.PathLike | None = None
    text: str = "minilm"
    text_weights: str | os.PathLike | None = None
    fps: float = 2.0
    grid: bool = True
    objects: str | None = None
    pca: int | str | os.PathLike | None = None
    pca_videos: int = PCA_VIDEOS
    dtype: str = "float16"
    batch: int = 32
    workers: int = 1
    device: str = "cpu"
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise DataError(f"fps must be a positive number of feature rows per second, got {self.fps}")
        for name, value in (("batch", self.batch), ("workers", self.workers), ("pca_videos", self.pca_videos)):
            if value < 1:
                raise DataError(f"{name} must be at least 1, got {value}")
        if self.dtype not in DTYPES:
            raise DataError(f"dtype must be one of {DTYPES}, got {self.dtype!r}")
