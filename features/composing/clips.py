"""What a trimmed clip is, whatever it was read from: a file or rows of a store, sentences, a group, a part, boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from strong_envs.features.datasets.types import Report
from strong_envs.features.encoders.hashed_words import words

PARTS = ("train", "val", "test")
"""Names of the parts, in the order in which videos are composed."""
PART_NAMES = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "public_test": "test",
}
"""Spellings of the parts in files and folders."""


def part_of(name: object) -> str | None:
    """The part that a word of a file names, or None."""
    return PART_NAMES.get(name.strip().lower()) if isinstance(name, str) else None


@lru_cache(maxsize=1 << 20)
def sentence_key(text: str) -> str:
    """What makes two sentences the same: words in lower case without punctuation, ``""`` for text without a word."""
    return " ".join(words(text))


def about_label(label: str) -> str:
    """The key of a class, which no sentence has."""
    return f"label: {label}"


@dataclass(frozen=True)
class Clip:
    """One trimmed clip.

    Attributes:
        id: unique within its set.
        group: clips of one source share it; a group lies in one part.
        label: its class, or None.
        about: key of what its sentences are about, where all say the same; None where each says something of its own.
        sentences: what is asked about it; of a class, filled in by `strong_envs.features.composing.sentences`.
        part: one of `PARTS`, or None before parts are assigned.
        path: its file, or None where its rows lie in a store already.
        duration: seconds, or None before the file was opened.
        boxes: (n_frames, 4) float32 normalised corners of its source frames, NaN rows without one, or None.
        shows: keys of everything that is known to be seen in it, ``about`` and those of its sentences included.
        rows: first and last row in the store of encoded clips, or None before it is encoded.
        row_boxes: (n_rows, 4) float32 boxes at its rows, or None.
        stretch: seconds of its source that a list gives for it, or None; its file must be as long.
        pixels: what `strong_envs.features.composing.recipe.Source` needs to find its pixels, JSON-ready.
    """

    id: str
    group: str
    label: str | None = None
    about: str | None = None
    sentences: tuple[str, ...] = ()
    part: str | None = None
    path: str | None = None
    duration: float | None = None
    boxes: np.ndarray | None = field(default=None, compare=False, repr=False)
    shows: frozenset[str] = frozenset()
    rows: tuple[int, int] | None = None
    row_boxes: np.ndarray | None = field(default=None, compare=False, repr=False)
    pixels: dict = field(default_factory=dict, compare=False, repr=False)
    stretch: tuple[float, float] | None = field(default=None, compare=False)

    def asks(self) -> list[tuple[str, tuple[str, ...]]]:
        """What can be asked about it: a key of the truth with the sentences that share it."""
        if self.about is not None:
            return [(self.about, self.sentences)] if self.sentences else []
        return [(sentence_key(text), (text,)) for text in self.sentences]

    @property
    def n_rows(self) -> int:
        """Feature rows; 0 before it is encoded."""
        return 0 if self.rows is None else self.rows[1] - self.rows[0]


@dataclass
class ClipSet:
    """Clips of one source with the report of what was left out.

    Attributes:
        name: of the source, such as the folder's.
        kind: ``"class folders"``, ``"clips with labels"``, ``"clips with captions"`` or ``"store"``.
        root: folder that the paths of files are written relative to; None where there are no files.
        clips: in a fixed order.
        report: counts of what was read, left out or found doubtful.
    """

    name: str
    kind: str
    root: Path | None
    clips: list[Clip]
    report: Report
