"""Which clips stand where: a composed video is drawn from a seed, clip by clip, with what can be asked about it."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from strong_envs.features.composing.clips import PARTS, Clip
from strong_envs.features.composing.options import Layout
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError

TRIES = 400
"""Clips that are drawn before a video is begun anew."""
VIDEO_TRIES = 40


@dataclass(frozen=True)
class Placed:
    """Rows ``[at, at + rows)`` of a tile show rows ``[first, first + rows)`` of a clip; ``asks``: keys of queries."""

    tile: int
    at: int
    rows: int
    clip: int
    first: int
    asks: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """The first row after it."""
        return self.at + self.rows


@dataclass(frozen=True)
class Asked:
    """A query of a planned video: the sentences, and the pieces (numbers) that they are true of, in order of time."""

    key: str
    sentences: tuple[str, ...]
    pieces: tuple[int, ...]


@dataclass(frozen=True)
class PlannedVideo:
    """A video before its features are put together; pieces are ordered by tile and time."""

    id: str
    part: str
    n_rows: int
    pieces: tuple[Placed, ...]
    queries: tuple[Asked, ...]


@dataclass
class Pool:
    """The clips of a part, by what they show.

    Attributes:
        part: its name. clips: all clips of the set. members: numbers of the part's clips.
        by_kind: their numbers by what they are about; a clip with sentences of its own is a kind of its own.
        by_key: numbers of clips by what can be asked about them.
    """

    part: str
    clips: list[Clip]
    members: list[int]
    by_kind: list[list[int]] = field(default_factory=list)
    by_key: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, clips: list[Clip], part: str) -> Pool:
        """The pool of a part."""
        members = [i for i, c in enumerate(clips) if c.part == part]
        kinds: dict[str, list[int]] = defaultdict(list)
        keys: dict[str, list[int]] = defaultdict(list)
        for i in members:
            about = clips[i].about
            kinds[about if about is not None else f"clip {i}"].append(i)
            for key, _ in clips[i].asks():
                keys[key].append(i)
        return cls(part, clips, members, [kinds[name] for name in sorted(kinds)], dict(keys))

    def draw(self, rng: np.random.Generator) -> int:
        """A clip: a kind first, then one of its clips."""
        group = self.by_kind[int(rng.integers(len(self.by_kind)))]
        return group[int(rng.integers(len(group)))]


def plan_videos(
    clips: list[Clip], videos: Mapping[str, int], layout: Layout, rate: float, seed: int
) -> list[PlannedVideo]:
    """Plan the videos of all parts. A larger plan begins with a smaller one: a video's draws are its own.

    Args:
        clips: encoded clips with their parts and sentences.
        videos: number of videos by part.
        layout: how clips are arranged.
        rate: feature rows a second.
        seed: of every draw.

    Raises:
        DataError: a part without clips to ask about, or with too few different ones.
    """
    out = []
    for number, part in enumerate(PARTS):
        count = videos.get(part, 0)
        if not count:
            continue
        pool = _checked_pool(clips, part, layout)
        for i in range(count):
            rng = np.random.default_rng([seed, number, i])
            out.append(_plan(rng, pool, layout, rate, f"{layout.name}_{part}_{i:05d}"))
    return out


def _checked_pool(clips: list[Clip], part: str, layout: Layout) -> Pool:
    pool = Pool.of(clips, part)
    if not pool.by_key:
        raise DataError(f"the {part} part has {len(pool.members)} clips and no sentence to ask about any of them")
    least = layout.clips_a_stream[0] * layout.streams
    if not layout.repeat_classes and least > len(pool.by_kind):
        raise DataError(
            f"a video needs {least} clips that show different things, the {part} part has {len(pool.by_kind)}: "
            "lower --clips-per-stream or the number of tiles, pass --repeat-classes, or change the shares of parts"
        )
    return pool


def check_pools(clips: list[Clip], videos: Mapping[str, int], layout: Layout) -> None:
    """Raise `DataError` for parts that no plan can serve, which is known before a clip is encoded."""
    fixed = layout.clips is not None or layout.seconds is not None or layout.repeat_classes
    least = layout if fixed else replace(layout, clips=(2, 2))  # the fewest that `plan_fitting` comes down to
    for part in PARTS:
        if videos.get(part, 0):
            _checked_pool(clips, part, least)


def plan_fitting(
    clips: list[Clip], videos: Mapping[str, int], layout: Layout, rate: float, seed: int, report: Report
) -> tuple[Layout, list[PlannedVideo]]:
    """The layout that the clips allow, and its plan; see `plan_videos` for the arguments.

    Where the layout asks for no number of clips, streams have as many as every part allows, at most the usual number.
    The report says so where there are fewer.
    """
    if layout.clips is not None or layout.seconds is not None or layout.repeat_classes:
        return layout, plan_videos(clips, videos, layout, rate, seed)
    usual = layout.clips_a_stream[0]
    for count in range(usual, 1, -1):
        fitting = layout if count == usual else replace(layout, clips=(count, count))
        try:
            plan = plan_videos(clips, videos, fitting, rate, seed)
        except DataError:
            if count == 2:
                raise
            continue
        if count < usual:
            kind = "a part has few clips that show different things; streams are shorter than usual"
            report.add(kind, "doubtful", f"{count} instead of {usual} clips a stream")
        return fitting, plan
    return layout, plan_videos(clips, videos, layout, rate, seed)


def _plan(rng: np.random.Generator, pool: Pool, layout: Layout, rate: float, name: str) -> PlannedVideo:
    filled = False
    for _ in range(VIDEO_TRIES):
        draft = _Draft(rng, pool, layout, rate)
        if draft.fill():
            filled = True
            pieces = draft.cut()
            queries = _queries(rng, pool.clips, pieces, layout)
            if queries:
                return PlannedVideo(name, pool.part, draft.n_rows, tuple(pieces), tuple(queries))
    where = f"no video could be drawn from the {len(pool.members)} clips of the {pool.part} part"
    if filled:
        raise DataError(f"{where}: nothing is left to ask about; lower --background or --repeats")
    length = "shorten --seconds" if layout.seconds is not None else "lower --clips-per-stream or the number of tiles"
    raise DataError(f"{where}: too few of them show different things; {length}, or pass --repeat-classes")


class _Draft:
    """One video while its clips are drawn."""

    def __init__(self, rng: np.random.Generator, pool: Pool, layout: Layout, rate: float) -> None:
        self.rng, self.pool, self.layout, self.rate = rng, pool, layout, rate
        self.used: set[int] = set()
        self.groups: set[str] = set()
        self.asked: set[str] = set()
        self.shown: set[str] = set()
        self.streams: list[list[Placed]] = []
        self.lengths: list[int] = []
        self.n_rows = 0

    def fill(self) -> bool:
        """Draw all streams; False where no clip fits."""
        target = None if self.layout.seconds is None else self._rows(self.layout.seconds)
        for tile in range(self.layout.streams):
            low, high = self.layout.clips_a_stream
            wanted = int(self.rng.integers(low, high + 1)) if target is None else high
            stream: list[Placed] = []
            at = 0
            while len(stream) < wanted and (target is None or at < target):
                if self.layout.gaps and self.rng.random() < self.layout.gaps:
                    at += self._rows(self.layout.gap_seconds)
                    if target is not None and at >= target:
                        break
                piece = self._piece(tile, at, stream)
                if piece is None:
                    return False
                stream.append(piece)
                at = piece.end
            self.streams.append(stream)
            self.lengths.append(at)
        self.n_rows = min(self.lengths) if target is None else target
        return True

    def cut(self) -> list[Placed]:
        """The pieces inside the video. Nothing is asked about the rest of a clip that is a single row."""
        out = []
        for stream in self.streams:
            for piece in stream:
                rows = min(piece.rows, self.n_rows - piece.at)
                if rows > 0:
                    asks = piece.asks if rows == piece.rows or rows > 1 else ()
                    out.append(Placed(piece.tile, piece.at, rows, piece.clip, piece.first, asks))
        return out

    def _rows(self, seconds: tuple[float, float]) -> int:
        low, high = (max(1, round(s * self.rate)) for s in seconds)
        return int(self.rng.integers(low, high + 1))

    def _piece(self, tile: int, at: int, stream: list[Placed]) -> Placed | None:
        again = [k for p in stream for k in p.asks]
        if self.layout.repeats and again and self.rng.random() < self.layout.repeats:
            key = again[int(self.rng.integers(len(again)))]
            chosen = self._again(key, stream)
            if chosen is not None:
                return self._place(tile, at, chosen, ())
        for attempt in range(TRIES):
            chosen = self.pool.draw(self.rng)
            asks = self._asks(chosen)
            # Another source and other captions for every clip where there are enough of them.
            late = 2 * attempt >= TRIES
            elsewhere = late or self.pool.clips[chosen].group not in self.groups
            if self.layout.repeat_classes or (elsewhere and self._fits(chosen, asks, late)):
                self.asked.update(asks)
                return self._place(tile, at, chosen, asks)
        return None

    def _again(self, key: str, stream: list[Placed]) -> int | None:
        """A clip that shows what an earlier one of the stream shows, another one where there is any."""
        if stream and key in self.pool.clips[stream[-1].clip].shows:
            return None  # Side by side they would be one window.
        fresh = [i for i in self.pool.by_key[key] if self._fits(i, (), but=key)]
        if fresh:
            return fresh[int(self.rng.integers(len(fresh)))]
        return next((p.clip for p in stream if key in self.pool.clips[p.clip].shows), None)

    def _asks(self, clip: int) -> tuple[str, ...]:
        found = [key for key, _ in self.pool.clips[clip].asks()]
        if not found or (self.layout.background and self.rng.random() < self.layout.background):
            return ()
        most = self.layout.sentences
        if len(found) > most:
            found = [found[i] for i in sorted(self.rng.choice(len(found), most, replace=False))]
        return tuple(found)

    def _fits(self, number: int, asks: tuple[str, ...], late: bool = False, but: str | None = None) -> bool:
        """Whether a clip leaves every query of the video with one window.

        Clips that share a caption are both its truth: they are taken where no others are found (``late``).
        """
        clip = self.pool.clips[number]
        if number in self.used:
            return False
        if late and clip.about is None:
            return True
        if any(key in self.asked and key != but for key in clip.shows):
            return False
        return not any(key in self.shown for key in asks)

    def _place(self, tile: int, at: int, number: int, asks: tuple[str, ...]) -> Placed:
        clip = self.pool.clips[number]
        self.used.add(number)
        self.groups.add(clip.group)
        self.shown.update(clip.shows)
        rows, first = clip.n_rows, 0
        if self.layout.clip_seconds is not None:
            rows = min(rows, self._rows(self.layout.clip_seconds))
            first = int(self.rng.integers(0, clip.n_rows - rows + 1))
        return Placed(tile, at, rows, number, first, asks)


def _queries(rng: np.random.Generator, clips: list[Clip], pieces: list[Placed], layout: Layout) -> list[Asked]:
    """What is asked about a video: every key once, with all pieces that show it."""
    out = []
    done: set[str] = set()
    for piece in pieces:
        sentences = dict(clips[piece.clip].asks())
        for key in piece.asks:
            if key in done:
                continue
            done.add(key)
            where = [i for i, p in enumerate(pieces) if key in clips[p.clip].shows]
            where.sort(key=lambda i: (pieces[i].at, pieces[i].tile))
            if any(pieces[a].end > pieces[b].at for a, b in itertools.pairwise(where)):
                continue  # Seen in two tiles at the same time: it has no one place.
            texts = sentences[key]
            if len(texts) > layout.sentences:
                texts = tuple(texts[i] for i in sorted(rng.choice(len(texts), layout.sentences, replace=False)))
            out.append(Asked(key, texts, tuple(where)))
    return out
