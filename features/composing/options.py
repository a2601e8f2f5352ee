"""Options of composing, checked when they are made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from strong_envs.features.composing.clips import PARTS
from strong_envs.features.errors import DataError, nearest

LAYOUTS = {"sequence": (1, 1), "mosaic": (2, 2)}
BOXES = ("auto", "person", "tile", "none")
VIDEOS = {"train": 800, "val": 100, "test": 200}
MOST_VIDEOS = 1_000_000
LONGEST = {"clips": 10_000, "seconds": 86_400, "clip_seconds": 86_400, "gap_seconds": 3_600}
"""Largest values of ranges: a day of video, an hour of nothing."""
_TILES = re.compile(r"^([123])x([123])$")


@dataclass(frozen=True)
class Layout:
    """How clips are arranged.

    Attributes:
        layout: ``"sequence"`` (one clip after another), ``"mosaic"`` (2 x 2 streams of clips), or ``"RxC"`` with one
            to three rows and columns of streams.
        clips: least and most clips of a stream.
        seconds: least and most length of a video, drawn evenly; a stream then takes as many clips as fill it, and the
            last one is cut. None ends a video with its shortest stream.
        clip_seconds: least and most length of a clip, drawn evenly; longer clips are cut at both ends. None keeps them.
        gaps: chance of an empty (black) stretch before each clip.
        gap_seconds: its least and most length.
        repeats: chance that a clip shows again what an earlier clip of its stream shows: another clip of its class or
            sentence, else the same clip. Their query has several windows.
        repeat_classes: draw clips without regard to what the others show. What is seen in two tiles at the same time
            is then not asked about.
        background: chance that nothing is asked about a clip.
        sentences: most sentences asked about a clip.
        tile_cells: cells a side of a mosaic's tile; None takes the grid's side divided by the number of tiles, rounded
            up.
        boxes: what the true box of a query is: ``"person"`` (where the clip's box is known), ``"tile"``, ``"none"``, or
            ``"auto"``: the person's, else the tile where there are several.

    Raises:
        DataError: an option out of range.
    """

    layout: str = "sequence"
    clips: tuple[int, int] | None = None
    seconds: tuple[float, float] | None = None
    clip_seconds: tuple[float, float] | None = None
    gaps: float = 0.0
    gap_seconds: tuple[float, float] = (0.5, 2.0)
    repeats: float = 0.0
    repeat_classes: bool = False
    background: float = 0.0
    sentences: int = 2
    tile_cells: int | None = None
    boxes: str = "auto"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS and not _TILES.match(self.layout):
            raise DataError(
                f"layout must be sequence, mosaic, or rows x columns from 1x1 to 3x3, got {self.layout!r}"
                f"{nearest(self.layout, LAYOUTS)}"
            )
        for name in ("gaps", "repeats", "background"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise DataError(f"{name} is a chance from 0 to 1, got {value}")
        for name in ("clips", "seconds", "clip_seconds", "gap_seconds"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value[1]) and 0 < value[0] <= value[1]):
                raise DataError(f"{name} is a range of positive numbers, least first, got {value[0]} to {value[1]}")
        for name, most in LONGEST.items():
            value = getattr(self, name)
            if value is not None and value[1] > most:
                raise DataError(f"{name} must be at most {most:,}, got {value[1]:g}")
        if self.background == 1:
            raise DataError("background is the chance that nothing is asked about a clip; with 1 there is no query")
        if self.sentences < 1:
            raise DataError(f"sentences must be 1 or more, got {self.sentences}")
        if self.tile_cells is not None and not 1 <= self.tile_cells <= 64:
            raise DataError(f"tile_cells must lie between 1 and 64, got {self.tile_cells}")
        if self.boxes not in BOXES:
            raise DataError(f"boxes must be one of {BOXES}, got {self.boxes!r}{nearest(self.boxes, BOXES)}")

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        if self.layout in LAYOUTS:
            return LAYOUTS[self.layout]
        rows, columns = self.layout.split("x")
        return int(rows), int(columns)

    @property
    def streams(self) -> int:
        """Number of tiles."""
        return self.tiles[0] * self.tiles[1]

    @property
    def name(self) -> str:
        """``"sequence"``, or ``"mosaic-2x2"``."""
        return "sequence" if self.streams == 1 else f"mosaic-{self.tiles[0]}x{self.tiles[1]}"

    @property
    def clips_a_stream(self) -> tuple[int, int]:
        """Least and most clips of a stream: 8 for sequences and 5 for mosaics where nothing is said."""
        if self.clips is not None:
            return self.clips
        if self.seconds is not None:
            return (1, 10_000)
        return (8, 8) if self.streams == 1 else (5, 5)


@dataclass(frozen=True)
class ComposeOptions:
    """Everything that shapes a composed store beside its clips.

    Attributes:
        layout: how clips are arranged.
        videos: number of videos by part.
        seed: of every draw; the same seed and clips give the same store.
        text: name of the text encoder, see `strong_envs.features.encoders.text`; text_weights: its file.
        pca: channels that are kept, by a reduction fitted on training clips; None keeps those of the clips.
        dtype: of the stored features, ``"float16"`` or ``"float32"``; None keeps that of the clips.
        grid: keep the spatial map, which mosaics need.
        device: where the text encoder runs.
    """

    layout: Layout = field(default_factory=Layout)
    videos: Mapping[str, int] = field(default_factory=lambda: dict(VIDEOS))
    seed: int = 0
    text: str = "minilm"
    text_weights: str | None = None
    pca: int | None = None
    dtype: str | None = None
    grid: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        for part, count in self.videos.items():
            if part not in PARTS or count < 0:
                raise DataError(f"videos are counts of {PARTS}, got {part!r}: {count}")
            if count > MOST_VIDEOS:
                raise DataError(f"a part has at most {MOST_VIDEOS:,} videos, got {part}: {count:,}")
        if not sum(self.videos.values()):
            raise DataError("no video is asked for: every count is 0")
        if self.seed < 0:
            raise DataError(f"seed must be 0 or more, got {self.seed}")
        if self.pca is not None and self.pca < 1:
            raise DataError(f"pca must be 1 or more channels, got {self.pca}")
        if self.layout.streams > 1 and not self.grid:
            raise DataError("mosaics are made of grids of cells: they cannot go without (--no-grid)")
