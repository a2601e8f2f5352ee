"""Options of an import."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from strong_envs.features.errors import DataError

Encode = Callable[[list[str]], np.ndarray]
"""S sentences to vectors (S, Dq)."""


@dataclass(frozen=True)
class ImportOptions:
    """What goes into an imported store beside features and annotations, and how files are read.

    Attributes:
        text: a function from S sentences to (S, Dq); or the path of text features by query id, whose token vectors
            (L, Dq) are averaged; None hashes words (`strong_envs.features.encoders.hashed_words.encode`).
        boxes: a boxes.json or what `read_boxes` returns, track or video id to (source frames, 4) corners. Boxes that a
            reader left in ``query.extra`` need no argument. They are sampled at the middle of each feature row.
        objects: path of detector features by video id, arrays (n, K, C), see
            `strong_envs.features.importing.detections.ObjectFiles`; a video without them is dropped.
        name: of the store; None takes the annotations'.
        key: name of the array in npz files and h5 groups.
        normalise: scale feature rows to length 1; None does so where there are several streams.
        seconds_per_row: what one feature row covers; None infers it.
        backbone: JSON-ready description of what made the features; None names the files.
        overwrite: replace an existing store.
        progress: show a bar.
        say: takes one line with the store's size before it is written.

    Raises:
        DataError: ``seconds_per_row`` is not positive.
    """

    text: Encode | str | os.PathLike | None = None
    boxes: Mapping[str, np.ndarray] | str | os.PathLike | None = None
    objects: str | os.PathLike | None = None
    name: str | None = None
    key: str = "features"
    normalise: bool | None = None
    seconds_per_row: float | None = None
    backbone: dict | None = None
    overwrite: bool = False
    progress: bool = False
    say: Callable[[str], object] = len

    def __post_init__(self) -> None:
        if self.seconds_per_row is not None and not self.seconds_per_row > 0:
            raise DataError(f"seconds_per_row must be positive, got {self.seconds_per_row!r}")
