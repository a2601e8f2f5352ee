"""Detector features of K objects in every row: read from files of other projects, or made by a user's own function.

Both end as the tensor ``objects`` (N, K, C) of a store, which the local-object variant uses instead of boxes. A row
with fewer than K objects ends in zeros.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from strong_envs.features.datasets.types import Report
from strong_envs.features.encoders.backbones import import_dotted
from strong_envs.features.errors import DataError
from strong_envs.features.importing.feature_files import FeatureFiles
from strong_envs.features.importing.options import FileOptions
from strong_envs.features.video_io import row_centres

PROBE = (64, 64, 3)


class ObjectFiles:
    """Detector features of videos: an h5 file, or a folder of npy or npz files, of arrays (n, K, C) by video id.

    K and C are those of the first video that is read.
    """

    def __init__(self, path: str | os.PathLike, options: FileOptions | None = None) -> None:
        self.files = FeatureFiles(path, options)
        self.shape: tuple[int, int] | None = None
        self.dtype = "float32"

    def read(self, video: str, n_rows: int, report: Report) -> np.ndarray:
        """The objects of one video at its feature rows: (n_rows, K, C) float32 or float16, counted where changed.

        Objects of another rate are taken at the middle of each feature row. A video with more than K objects a row
        keeps the first K (detectors list the surest first); one with fewer is filled with zeros.

        Raises:
            DataError: no such video, another C, or values that are not finite numbers.
        """
        array = self.files.read(video, report)
        where = f"{self.files.path.name}[{video}]"
        if array.ndim != 3 or array.dtype.kind != "f":
            raise DataError(f"{where} holds {array.dtype} {list(array.shape)}; objects are floats (rows, K, C)")
        if self.shape is None:
            self.shape, self.dtype = array.shape[1:], "float16" if array.dtype == np.float16 else "float32"
        count, width = self.shape
        if array.shape[2] != width:
            raise DataError(f"{where} has {array.shape[2]} numbers an object, the first video {width}")
        if not np.isfinite(array).all():
            raise DataError(f"{where} holds NaN or infinite values")
        if len(array) != n_rows:
            report.add("objects at another rate than the features", "doubtful", f"{video}: {len(array)} for {n_rows}")
            array = array[np.minimum(row_centres(len(array), n_rows).astype(int), len(array) - 1)]
        if array.shape[1] > count:
            report.add("more objects a row than in the first video", "clipped", f"{video}: {array.shape[1]} to {count}")
        elif array.shape[1] < count:
            kind = "fewer objects a row than in the first video"
            report.add(kind, "doubtful", f"{video}: {array.shape[1]} of {count}")
        out = np.zeros((n_rows, count, width), self.dtype)
        kept = array[:, :count]
        if len(kept) and float(np.abs(kept).max(initial=0.0)) > np.finfo(self.dtype).max:
            raise DataError(f"{where} holds values that {self.dtype}, the first video's type, cannot hold")
        out[:, : kept.shape[1]] = kept
        return out

    def close(self) -> None:
        """Close the files."""
        self.files.close()


class Detector:
    """A user's function named ``my.module:function``: frames to the features of K objects in each.

    It takes a list of B frames, (H, W, 3) uint8 RGB in the size of the video, and returns (B, K, C) floats with the
    same K and C for every frame, zeros where there are fewer objects. ``shape`` is (K, C), from a grey frame.
    """

    def __init__(self, name: str) -> None:
        self.name, self._function = name, import_dotted(name)
        self.shape: tuple[int, int] = (0, 0)
        found = self._call([np.full(PROBE, 127, np.uint8)])
        if found.ndim != 3 or len(found) != 1 or not found.size:
            raise DataError(f"{name} must return (B, K, C) for B frames, got {tuple(found.shape)} for one")
        self.shape = found.shape[1:]

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """(B, K, C) float32 of B frames; raises `DataError` when the function fails or gives another shape."""
        found = self._call(frames)
        if found.shape != (len(frames), *self.shape):
            wanted = (len(frames), *self.shape)
            raise DataError(f"{self.name} must return {wanted} for {len(frames)} frames, got {tuple(found.shape)}")
        return found

    def _call(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        function: Callable = self._function
        try:
            return np.asarray(function(list(frames)), np.float32)
        except Exception as error:
            raise DataError(f"{self.name} failed on {len(frames)} frames: {error!r}") from error

    def describe(self) -> dict:
        """JSON-ready facts for the store's manifest."""
        version = str(getattr(self._function, "version", "unknown"))
        return {"name": self.name, "objects": int(self.shape[0]), "dim": int(self.shape[1]), "version": version}
