"""Options of an import."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from strong_envs.features.errors import DataError

if TYPE_CHECKING:
    from strong_envs.features.encoders.text import TextEncoder

Encode = Callable[[list[str]], np.ndarray]
"""S sentences to vectors (S, Dq)."""


@dataclass(frozen=True)
class FileOptions:
    """How feature files are named and read.

    Attributes:
        key: name of the array in npz files and h5 groups.
        normalise: scale feature rows to length 1; None does so where there are several streams.
        transposed: arrays are (channels, rows).
        prefix: what file names have before the id, such as ``"v_"``.
        suffix: what file names have after the id, such as ``"_clip"``, before the suffix of the file.
    """

    key: str = "features"
    normalise: bool | None = None
    transposed: bool = False
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True)
class ImportOptions(FileOptions):
    """What goes into an imported store beside features and annotations, and how files are read.

    Attributes:
        text: a function from S sentences to (S, Dq), or a `TextEncoder`; or the path of text features by query id, of
            which token vectors (L, Dq) are averaged; None hashes words (`strong_envs.features.encoders.hashed_words`).
        boxes: a boxes.json or what `read_boxes` returns, track or video id to (source frames, 4) corners. Boxes that a
            reader left in ``query.extra`` need no argument. They are sampled at the middle of each feature row.
        objects: path of detector features by video id, arrays (n, K, C), see
            `strong_envs.features.importing.detections.ObjectFiles`; a video without them is dropped.
        grid: path of spatial maps by video id, see `strong_envs.features.importing.grids.GridFiles`, which STRONG and
            the spatial level need; a video without them is dropped.
        pca: number of channels to which the grid (or, without one, the features) is reduced, fitted on train videos;
            or the path of a store whose reduction is used again.
        name: of the store; None takes the annotations'.
        seconds_per_row: what one feature row covers; None infers it.
        backbone: JSON-ready description of what made the features; None names the files.
        overwrite: replace an existing store.
        progress: show a bar.
        say: takes one line with the store's size before it is written.

    Raises:
        DataError: ``seconds_per_row`` is not positive, or an empty name or path.
    """

    text: Encode | TextEncoder | str | os.PathLike | None = None
    boxes: Mapping[str, np.ndarray] | str | os.PathLike | None = None
    objects: str | os.PathLike | None = None
    grid: str | os.PathLike | None = None
    pca: int | str | os.PathLike | None = None
    name: str | None = None
    seconds_per_row: float | None = None
    backbone: dict | None = None
    overwrite: bool = False
    progress: bool = False
    say: Callable[[str], object] = len

    def __post_init__(self) -> None:
        if self.seconds_per_row is not None and not 0 < self.seconds_per_row < float("inf"):
            raise DataError(f"seconds_per_row must be positive, got {self.seconds_per_row!r}")
        for option in ("text", "boxes", "objects", "grid", "pca", "name"):
            value = getattr(self, option)
            if isinstance(value, str) and not value.strip():
                raise DataError(f"{option} (--{option}) is empty, got {value!r}; leave it out to take its default")
