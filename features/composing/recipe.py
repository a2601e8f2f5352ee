"""How a composed video is made: which rows of which clips stand in which tile when, for features and pixels alike.

A recipe lies in ``StoredVideo.extra["composed"]`` as JSON, so that a store tells by itself what its videos are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from strong_envs.features.errors import DataError
from strong_envs.features.store.store import StoredVideo

KEY = "composed"


@dataclass(frozen=True)
class Piece:
    """Rows ``[at, at + rows)`` of tile ``tile`` show rows ``[first, first + rows)`` of source ``source``."""

    tile: int
    at: int
    rows: int
    source: int
    first: int

    @property
    def end(self) -> int:
        """The first row after it."""
        return self.at + self.rows


@dataclass(frozen=True)
class Source:
    """A clip of a recipe: its id and group, and the video its pixels are in.

    ``path``, or ``seed`` and ``level`` of a drawn video, are None where there are no pixels; ``duration`` and
    ``n_frames`` are those of the file or the drawn video, of which the clip may be a part.
    """

    id: str
    group: str
    duration: float
    n_frames: int
    path: str | None = None
    seed: int | None = None
    level: str | None = None

    def video(self) -> StoredVideo:
        """The video that `strong_envs.features.video_io.open_frames` opens."""
        drawn = {} if self.seed is None else {"seed": self.seed, "level": self.level}
        return StoredVideo(self.id, self.duration, self.n_frames, self.path, drawn)

    def has_pixels(self) -> bool:
        """Whether its file is there, or it is drawn."""
        try:
            return self.seed is not None or (self.path is not None and os.path.isfile(self.path))
        except ValueError:
            return False

    def as_json(self) -> dict[str, Any]:
        """Without what is None."""
        return {k: v for k, v in vars(self).items() if v is not None}


@dataclass(frozen=True)
class Recipe:
    """A composed video.

    Attributes:
        tiles: (rows, columns) of tiles; tile k stands in row k // columns, column k % columns.
        size: (height, width) in pixels of a tile when it is drawn.
        sources: the clips.
        pieces: what stands where; a tile shows nothing (black) where no piece covers a row.
    """

    tiles: tuple[int, int]
    size: tuple[int, int]
    sources: tuple[Source, ...]
    pieces: tuple[Piece, ...]

    def used_sources(self) -> Iterator[Source]:
        """The sources of its pieces, each once."""
        for number in dict.fromkeys(p.source for p in self.pieces):
            yield self.sources[number]

    def at(self, row: int) -> list[Piece]:
        """The pieces that cover a row."""
        return [p for p in self.pieces if p.at <= row < p.end]

    def as_json(self) -> dict[str, Any]:
        """For ``StoredVideo.extra["composed"]``."""
        return {
            "tiles": list(self.tiles),
            "size": list(self.size),
            "sources": [s.as_json() for s in self.sources],
            "pieces": [[p.tile, p.at, p.rows, p.source, p.first] for p in self.pieces],
        }

    @classmethod
    def of(cls, video: StoredVideo) -> Recipe | None:
        """The recipe of a stored video, or None where it is not composed.

        Raises:
            DataError: a recipe that cannot be one of this video.
        """
        data = video.extra.get(KEY)
        if data is None:
            return None
        try:
            recipe = cls(
                _pair(data["tiles"]),
                _pair(data["size"]),
                tuple(_source(s) for s in data["sources"]),
                tuple(Piece(*(_whole(x) for x in p)) for p in data["pieces"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"video {video.id!r} has a recipe that cannot be read: {error!r}") from None
        count = recipe.tiles[0] * recipe.tiles[1]
        for p in recipe.pieces:
            inside = 0 <= p.tile < count and 0 <= p.at < p.end <= video.n_frames and 0 <= p.source < len(recipe.sources)
            if not inside or not 0 <= p.first <= p.first + p.rows <= recipe.sources[p.source].n_frames:
                raise DataError(f"video {video.id!r} has a recipe whose piece {p} lies outside of it or of its clip")
        return recipe


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _pair(value: Any) -> tuple[int, int]:
    a, b = (_whole(x) for x in value)
    if not (1 <= a <= 4096 and 1 <= b <= 4096):
        raise ValueError(f"{value!r} is out of range")
    return a, b


def _source(data: dict) -> Source:
    source = Source(**data)
    texts = (source.id, source.group, *(x for x in (source.path, source.level) if x is not None))
    numbers = type(source.n_frames) is int and source.n_frames > 0 and isinstance(source.duration, (int, float))
    if not all(isinstance(x, str) for x in texts) or not numbers or not source.duration > 0:
        raise ValueError(f"{data!r} is no source")
    return source
