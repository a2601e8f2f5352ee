"""Spatial maps of other projects: arrays (n, h, w, C) by video id, as files or folders of files."""

from __future__ import annotations

import math
import os

import numpy as np

from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError
from strong_envs.features.importing.feature_files import FeatureFiles
from strong_envs.features.importing.options import FileOptions
from strong_envs.features.video_io import row_centres

LARGEST_SIDE = 64
"""Cells a side of a map; a longer axis holds channels."""


class GridFiles:
    """Maps of videos: an h5 file, or a folder of npy or npz files, of arrays by video id.

    An array is (n, h, w, C), (n, C, h, w) or (n, cells, C) with a square number of cells, row by row. All videos have
    the h, w and C of the first one.

    Args:
        path: of the file or folder.
        options: how files are named and read.
    """

    def __init__(self, path: str | os.PathLike, options: FileOptions | None = None) -> None:
        self.files = FeatureFiles(path, options)
        self.shape: tuple[int, ...] | None = None

    def read(self, video: str, n_rows: int | None, report: Report) -> np.ndarray:
        """The maps of one video: (n, h, w, C) float32 or float16.

        Args:
            video: its id.
            n_rows: rows of its features; maps of another rate are taken at the middle of each row. None takes all maps.
            report: takes what was changed.

        Raises:
            DataError: no such video, another shape, or values that are not finite numbers.
        """
        where = f"{self.files.path.name}[{video}]"
        array = self._last_channels(self.files.read(video, report), where, report)
        if self.shape is None:
            self.shape = array.shape[1:]
        if array.shape[1:] != self.shape:
            raise DataError(f"{where} has maps of {list(array.shape[1:])}, the first video of {list(self.shape)}")
        if array.dtype != np.float16:
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"{where} holds NaN or infinite values")
        if n_rows is not None and len(array) != n_rows:
            report.add("a grid at another rate than the features", "doubtful", f"{video}: {len(array)} for {n_rows}")
            array = array[np.minimum(row_centres(len(array), n_rows).astype(int), len(array) - 1)]
        return np.ascontiguousarray(array)

    def close(self) -> None:
        """Close the files."""
        self.files.close()

    def _last_channels(self, array: np.ndarray, where: str, report: Report) -> np.ndarray:
        if array.ndim == 3:
            side = math.isqrt(array.shape[1])
            if side * side != array.shape[1]:
                raise DataError(f"{where} has shape {list(array.shape)}; {array.shape[1]} cells are not a square")
            return array.reshape(len(array), side, side, array.shape[2])
        if array.ndim != 4:
            raise DataError(f"{where} has shape {list(array.shape)}; a grid is (rows, h, w, channels)")
        _, a, b, c = array.shape
        if max(a, b) <= LARGEST_SIDE and (c >= max(a, b) or a == b):
            return array
        if max(b, c) <= LARGEST_SIDE:
            report.add(
                "grids are (rows, channels, h, w); the axes were exchanged", "doubtful", f"{where}: {array.shape}"
            )
            return array.transpose(0, 2, 3, 1)
        raise DataError(f"{where} has shape {list(array.shape)}; a grid is (rows, h, w, channels), sides up to 64")
