"""From planned videos to a store: feature rows by index, true windows and boxes, sentence vectors.

Sequences share the rows of their clips: the store holds each clip once and says which stretches make which video.
Tiles of a mosaic are the clips' grids at fewer cells, put side by side; those rows are written, video by video.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from strong_envs.features.composing.clips import Clip, sentence_key
from strong_envs.features.composing.options import ComposeOptions
from strong_envs.features.composing.plan import Asked, PlannedVideo
from strong_envs.features.composing.recipe import KEY, Piece, Recipe, Source
from strong_envs.features.datasets.types import Query, Report
from strong_envs.features.encoders.text import load as load_text
from strong_envs.features.errors import DataError
from strong_envs.features.extraction import pca as reduction
from strong_envs.features.extraction.options import PCA_VIDEOS
from strong_envs.features.extraction.pca import PCA, sample_videos
from strong_envs.features.store.store import FeatureStore, StoreContents, StoredVideo
from strong_envs.features.store.tensor_file import RowBlocks, gather_rows

DEFAULT_SIZE = (240, 320)
PCA_VECTORS = 40_000
MOSAIC_WIDTH = 320
"""Most pixels a tile of a mosaic is drawn wide."""


@dataclass(frozen=True)
class Blank:
    """Features of a black frame: frame (D,) and grid (h, w, C) or None, as the clips' are."""

    frame: np.ndarray
    grid: np.ndarray | None


@dataclass
class ClipRows:
    """The rows of the clips that are used, reduced and narrowed, one clip after another and a black row at the end.

    Attributes:
        store: where the clips are. clips: all clips. used: numbers of those that are used, in order of their rows.
        first: number of a clip to its first row here. total: rows in all, the black one included.
        pca: applied to every row, or None. dtype: of what is handed out, or None for that of the store.
        blank: the black row.
    """

    store: FeatureStore
    clips: list[Clip]
    used: list[int]
    first: dict[int, int]
    total: int
    pca: PCA | None
    dtype: str | None
    blank: Blank | None

    @classmethod
    def of(
        cls, store: FeatureStore, clips: list[Clip], plan: list[PlannedVideo], pca: PCA | None, dtype: str | None,
        blank: Blank | None,
    ) -> ClipRows:  # fmt: skip
        """The rows that a plan needs."""
        used = sorted({p.clip for v in plan for p in v.pieces}, key=lambda i: (clips[i].rows or (0, 0), i))
        first, row = {}, 0
        for i in used:
            first[i] = row
            row += clips[i].n_rows
        return cls(store, clips, used, first, row + (blank is not None), pca, dtype, blank)

    def dtype_of(self, tensor: str) -> np.dtype:
        """The dtype in which ``frames`` or ``grid`` are written."""
        return np.dtype(self.dtype or self.store.manifest["tensors"][tensor]["dtype"])

    def width(self, tensor: str) -> int:
        """Channels of ``frames`` or ``grid``."""
        return self.store.shape(tensor)[-1] if self.pca is None else self.pca.dim

    def blocks(self, tensor: str) -> Iterator[np.ndarray]:
        """Rows of ``frames`` or ``grid``, a clip at a time, then the black row."""
        maps = self.store.maps(tensor)  # opened once: a file is opened for every call of `tensor`
        for i in self.used:
            flat = self.store.flat_rows(*(self.clips[i].rows or (0, 0)))
            yield self._narrow(gather_rows(maps, flat), self.dtype_of(tensor))
        if self.blank is not None:
            black = self.blank.frame if tensor == "frames" else self.blank.grid
            assert black is not None
            yield self._narrow(black[None], self.dtype_of(tensor))

    def _narrow(self, rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
        rows = rows if self.pca is None else self.pca.apply(rows)
        if dtype == np.float16 and rows.dtype != np.float16 and np.abs(rows).max() > np.finfo(np.float16).max:
            raise DataError(f"features reach {np.abs(rows).max():.3g}, which float16 cannot hold; use --dtype float32")
        return np.asarray(rows, dtype)


def fit_pca(store: FeatureStore, clips: list[Clip], dim: int) -> PCA:
    """A reduction of channels fitted on about `PCA_VECTORS` cells of training clips, whatever the layout."""
    train = {c.id: c.rows for c in clips if c.part == "train" and c.rows is not None}
    chosen = sorted(sample_videos(train, PCA_VIDEOS))
    tensor = "grid" if store.has("grid") else "frames"
    width = store.shape(tensor)[-1]
    cells = sum(b - a for a, b in (train[i] for i in chosen)) * math.prod(store.shape(tensor)[1:-1])
    step = max(1, cells // PCA_VECTORS)
    # In one piece: a scatter matrix for each short clip would cost more than all of their cells.
    maps = store.maps(tensor)
    picked = [gather_rows(maps, store.flat_rows(*train[i])).reshape(-1, width)[::step] for i in chosen]
    return reduction.fit([np.concatenate(picked)], dim)


def area_weights(cells: int, fewer: int) -> np.ndarray:
    """(fewer, cells) float32: which share of each of ``fewer`` equal stretches each of ``cells`` covers."""
    edges = np.arange(fewer + 1) * cells / fewer
    j = np.arange(cells)
    cover = np.minimum(edges[1:, None], j + 1) - np.maximum(edges[:-1, None], j)
    cover = np.clip(cover, 0.0, None)
    return (cover / cover.sum(1, keepdims=True)).astype(np.float32)


def sequence_rows(rows: ClipRows, plan: list[PlannedVideo]) -> tuple[dict[str, RowBlocks], list[tuple[int, int]]]:
    """The tensors of sequences, and the stretches of their rows that make the videos."""
    spans: list[tuple[int, int]] = []

    def add(first: int, last: int) -> None:
        if spans and spans[-1][1] == first:
            spans[-1] = (spans[-1][0], last)
        else:
            spans.append((first, last))

    for video in plan:
        at = 0
        for piece in sorted(video.pieces, key=lambda p: p.at):
            for _ in range(piece.at - at):
                spans.append((rows.total - 1, rows.total))
            start = rows.first[piece.clip] + piece.first
            add(start, start + piece.rows)
            at = piece.end
        for _ in range(video.n_rows - at):
            spans.append((rows.total - 1, rows.total))
    tensors = {}
    for tensor in ("frames", "grid"):
        if rows.store.has(tensor):
            shape = (rows.total, *rows.store.shape(tensor)[1:-1], rows.width(tensor))
            tensors[tensor] = RowBlocks(shape, rows.dtype_of(tensor).name, rows.blocks(tensor))
    return tensors, spans


def mosaic_rows(
    rows: ClipRows, plan: list[PlannedVideo], tiles: tuple[int, int], cells: tuple[int, int], scratch: IO[bytes]
) -> dict[str, RowBlocks]:
    """The tensors of mosaics, written video by video. Every clip's grid is first put at ``cells`` a tile in a file."""
    if not rows.store.has("grid"):
        raise DataError("mosaics are made of grids of cells, and the clips have none: encode them with --grid")
    height, width, _ = rows.store.shape("grid")[1:]
    channels = rows.width("grid")
    down, across = area_weights(height, cells[0]), area_weights(width, cells[1])
    small = np.memmap(scratch, rows.dtype_of("grid"), "w+", shape=(rows.total, *cells, channels))
    means = np.empty((rows.total, channels), np.float32)
    at = 0
    for block in rows.blocks("grid"):
        part = slice(at, at + len(block))
        small[part] = np.einsum("ij,njkc,lk->nilc", down, block.astype(np.float32), across, optimize=True)
        means[part] = small[part].mean((1, 2), dtype=np.float64)
        at += len(block)
    count, total = tiles[0] * tiles[1], sum(v.n_rows for v in plan)

    def index(video: PlannedVideo) -> np.ndarray:
        """(n_rows, tiles) the row of `small` in each tile; the black row where no clip is."""
        out = np.full((video.n_rows, count), rows.total - 1, np.int64)
        for p in video.pieces:
            start = rows.first[p.clip] + p.first
            out[p.at : p.end, p.tile] = np.arange(start, start + p.rows)
        return out

    def frames() -> Iterator[np.ndarray]:
        for video in plan:
            yield means[index(video)].mean(1).astype(rows.dtype_of("frames"))

    def grids() -> Iterator[np.ndarray]:
        for video in plan:
            tile = small[index(video)].reshape(video.n_rows, *tiles, *cells, channels)
            grid = tile.transpose(0, 1, 3, 2, 4, 5)
            yield grid.reshape(video.n_rows, tiles[0] * cells[0], tiles[1] * cells[1], channels)

    shape = (total, tiles[0] * cells[0], tiles[1] * cells[1], channels)
    return {
        "frames": RowBlocks((total, channels), rows.dtype_of("frames").name, frames()),
        "grid": RowBlocks(shape, rows.dtype_of("grid").name, grids()),
    }


def true_boxes(video: PlannedVideo, query: Asked, clips: list[Clip], options: ComposeOptions) -> tuple[np.ndarray, str]:
    """(n_rows, 4) float32 boxes of a query, NaN outside of its windows, and what they are: person, tile or none."""
    rows, columns = options.layout.tiles
    out = np.full((video.n_rows, 4), np.nan, np.float32)
    mode, kinds = options.layout.boxes, set()
    for number in query.pieces:
        piece = video.pieces[number]
        y, x = divmod(piece.tile, columns)
        corner = np.array([x, y, x, y], np.float32)
        scale = np.array([columns, rows, columns, rows], np.float32)
        person = clips[piece.clip].row_boxes
        if mode in ("auto", "person") and person is not None:
            out[piece.at : piece.end] = (person[piece.first : piece.first + piece.rows] + corner) / scale
            kinds.add("person")
        elif mode == "tile" or (mode == "auto" and options.layout.streams > 1):
            out[piece.at : piece.end] = (np.array([0, 0, 1, 1], np.float32) + corner) / scale
            kinds.add("tile")
    known = bool(np.isfinite(out[:, 0]).any())
    return out, " and ".join(sorted(kinds)) if known else "none"


@dataclass
class Records:
    """Videos, queries and boxes of a store."""

    videos: list[StoredVideo]
    queries: list[Query]
    boxes: dict[str, np.ndarray]


def make_records(plan: list[PlannedVideo], clips: list[Clip], options: ComposeOptions, rate: float) -> Records:
    """The records of a plan; rows become seconds by ``rate`` rows a second."""
    out = Records([], [], {})
    size = picture_size(clips, options.layout.streams)
    for video in plan:
        extra = {KEY: _recipe(video, clips, options.layout.tiles, size).as_json(), "part": video.part}
        out.videos.append(StoredVideo(video.id, video.n_rows / rate, video.n_rows, None, extra))
        for k, query in enumerate(video.queries):
            windows: list[tuple[int, int]] = []
            for number in query.pieces:
                piece = video.pieces[number]
                if windows and windows[-1][1] == piece.at:
                    windows[-1] = (windows[-1][0], piece.end)
                else:
                    windows.append((piece.at, piece.end))
            seconds = tuple((a / rate, b / rate) for a, b in windows)
            first = video.pieces[query.pieces[0]]
            clip = clips[first.clip]
            about: dict[str, Any] = {"clip": clip.id, "group": clip.group, "tile": first.tile}
            if clip.label is not None:
                about["event"] = clip.label
            boxes, kind = true_boxes(video, query, clips, options)
            if kind != "none":
                about |= {"track": f"{video.id}/{k}", "box": kind}
                out.boxes[f"{video.id}/{k}"] = boxes
            for j, text in enumerate(query.sentences):
                out.queries.append(Query(f"{video.id}_{k}_{j}", video.id, text, seconds, video.part, dict(about)))
    return out


def _recipe(video: PlannedVideo, clips: list[Clip], tiles: tuple[int, int], size: tuple[int, int]) -> Recipe:
    used = list(dict.fromkeys(p.clip for p in video.pieces))
    sources = []
    for number in used:
        clip = clips[number]
        facts = {k: v for k, v in clip.pixels.items() if k in ("path", "duration", "n_frames", "seed", "level")}
        if facts.get("path") is not None:
            facts["path"] = os.path.abspath(facts["path"])
        sources.append(Source(clip.id, clip.group, **facts))
    pieces = [
        Piece(p.tile, p.at, p.rows, used.index(p.clip), p.first + int(clips[p.clip].pixels.get("first", 0)))
        for p in video.pieces
    ]
    return Recipe(tiles, size, tuple(sources), tuple(pieces))


def picture_size(clips: list[Clip], streams: int) -> tuple[int, int]:
    """(height, width) of a tile when it is drawn: the clips' commonest, smaller for mosaics where that is large."""
    counts: dict[tuple[int, int], int] = {}
    for clip in clips:
        if (size := clip.pixels.get("size")) is not None:
            counts[(int(size[0]), int(size[1]))] = counts.get((int(size[0]), int(size[1])), 0) + 1
    height, width = max(counts, key=lambda s: (counts[s], s)) if counts else DEFAULT_SIZE
    if streams > 1 and width > MOSAIC_WIDTH:
        height, width = max(1, round(height * MOSAIC_WIDTH / width)), MOSAIC_WIDTH
    return min(height, 4096), min(width, 4096)


def encode_sentences(
    queries: list[Query], options: ComposeOptions, report: Report
) -> tuple[np.ndarray, dict[str, Any]]:
    """Vectors (S, Dq) of the sentences and what made them. Reports words that training sentences never use."""
    encoder = load_text(options.text, options.device, options.text_weights)
    vectors = encoder.encode([q.text for q in queries])
    trained = {word for q in queries if q.split == "train" for word in sentence_key(q.text).split()}
    named: set[tuple[str, str]] = set()
    for query, vector in zip(queries, vectors, strict=True):
        if not vector.any():
            report.add("the text encoder knows no word of a query", "doubtful", f"{query.qid}: {query.text!r}")
        if trained and query.split != "train":
            for word in sentence_key(query.text).split():
                if word not in trained and (query.split, word) not in named:
                    named.add((query.split, word))
                    kind = f"a word of the {query.split} part that no training sentence uses"
                    report.add(kind, "doubtful", word)
    return vectors, {**encoder.describe(), "dim": int(vectors.shape[1])}


def assemble(
    name: str, store: FeatureStore, clips: list[Clip], plan: list[PlannedVideo], options: ComposeOptions, rate: float,
    blank: Callable[[], Blank], scratch: IO[bytes], report: Report,
) -> StoreContents:  # fmt: skip
    """Everything of the composed store; the rows are made while it is written."""
    pca = None
    if options.pca is not None and options.pca < store.shape("frames")[-1]:
        pca = fit_pca(store, clips, options.pca)
    empty = any(_has_gap(video, options.layout.streams) for video in plan)
    rows = ClipRows.of(store, clips, plan, pca, options.dtype, blank() if empty else None)
    spans = None
    if options.layout.streams == 1:
        tensors, spans = sequence_rows(rows, plan)
    else:
        cells = tile_cells(store, options)
        tensors = mosaic_rows(rows, plan, options.layout.tiles, cells, scratch)
    if not options.grid:
        tensors.pop("grid", None)
    records = make_records(plan, clips, options, rate)
    vectors, text = encode_sentences(records.queries, options, report)
    extra: dict[str, Any] = {}
    kept = pca.as_json() if pca is not None else (store.manifest.get("extra") or {}).get("pca")
    if kept is not None:
        extra["pca"] = kept
    return StoreContents(
        name=name,
        videos=records.videos,
        queries=records.queries,
        frames=tensors["frames"],
        query_vectors=vectors,
        grid=tensors.get("grid"),
        boxes=records.boxes or None,
        fps=rate,
        backbone=store.manifest.get("backbone") or {},
        text=text,
        extra=extra,
        spans=spans,
    )


def tile_cells(store: FeatureStore, options: ComposeOptions) -> tuple[int, int]:
    """Rows and columns of cells of a mosaic's tile."""
    if options.layout.tile_cells is not None:
        return options.layout.tile_cells, options.layout.tile_cells
    height, width = store.shape("grid")[1:3] if store.has("grid") else (1, 1)
    rows, columns = options.layout.tiles
    return -(-height // rows), -(-width // columns)


def _has_gap(video: PlannedVideo, streams: int) -> bool:
    return sum(p.rows for p in video.pieces) < video.n_rows * streams
