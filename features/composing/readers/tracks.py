"""Box tracks of a boxes.json, found for clips by what they are called."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from strong_envs.features.composing.readers.fields import plain_path
from strong_envs.features.datasets.types import Report


class Tracks:
    """Tracks by name, and which of them a clip has taken.

    Args:
        boxes: track id to (n_frames, 4) normalised corners of source frames, or None for no tracks.
    """

    def __init__(self, boxes: Mapping[str, np.ndarray] | None) -> None:
        self._boxes = {plain_path(name): rows for name, rows in (boxes or {}).items()}
        self._unused = {plain_path(name): name for name in boxes or {}}

    def of(self, *names: str | None) -> np.ndarray | None:
        """The track of a clip by its id, its path, or the last part of either, without the suffix of a file."""
        whole = [plain_path(name) for name in names if name]
        for name in (*whole, *(n.rsplit("/", 1)[-1] for n in whole)):
            if name in self._boxes:
                self._unused.pop(name, None)
                return self._boxes[name]
        return None

    def report_unused(self, report: Report) -> None:
        """Count the tracks that no clip has taken."""
        for name in self._unused.values():
            report.add("a box track that no clip uses", "doubtful", name)
