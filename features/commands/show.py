"""A picture of one video of a store: frames, boxes and every query's moments on one time axis in seconds.

``strong-envs show STORE --video ID --out strip.png``. Without pixels, the picture shows a heat map of feature norms.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import unicodedata
from pathlib import Path

import numpy as np

from strong_envs.features.datasets.types import Query
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.atomic import write_bytes
from strong_envs.features.files.errors import check_output, os_errors, shown
from strong_envs.features.store.store import FeatureStore, StoredVideo
from strong_envs.features.video_io import missing_clips, open_frames, row_centres

INK, PALE, LINE = (40, 40, 40), (130, 130, 130), (214, 214, 214)
BARS = {"train": (66, 120, 190), "val": (120, 160, 70), "test": (222, 122, 40)}
OTHER_BAR = (140, 100, 170)
TRACKS = ((255, 225, 60), (80, 240, 255), (255, 110, 220), (120, 255, 120), (255, 150, 80))
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MARGIN, TEXT, AXIS = 16, 590, 1250  # pixels: outer margin, the column of sentences, the time axis
ROW = 22


def draw_strip(
    store: FeatureStore, video_id: str | None = None, n_frames: int = 9, max_queries: int = 80
) -> np.ndarray:
    """Draw a video of a store.

    Args:
        store: with the video.
        video_id: None takes the first video.
        n_frames: frames in the strip, evenly spaced; each stands for its share of the time axis below it.
        max_queries: rows of queries, in the order of their moments; a line at the end counts the rest.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: an unknown video, or numbers below 1.
    """
    if n_frames < 1 or max_queries < 1:
        raise DataError(f"n_frames and max_queries must be at least 1, got {n_frames} and {max_queries}")
    videos = {v.id: v for v in store.videos}
    video_id = store.videos[0].id if video_id is None else video_id
    video = videos.get(video_id)
    if video is None:
        some = ", ".join(list(videos)[:3])
        raise DataError(
            f"no video {video_id!r} in store {store.name!r}{nearest(video_id, videos)} (it has {some}, ...)"
        )
    queries = sorted((q for q in store.queries if q.video == video.id), key=lambda q: (q.windows, q.qid))
    shown, more = queries[:max_queries], max(0, len(queries) - max_queries)
    tracks = list(dict.fromkeys(q.extra["track"] for q in queries if "track" in q.extra))
    band, from_pixels = _frames_band(store, video, tracks, n_frames)

    top = MARGIN + 34
    axis_y = top + band.shape[0] + 6
    rows_y = axis_y + 30
    height = rows_y + ROW * (max(1, len(shown)) + (more > 0)) + MARGIN
    canvas = np.full((height, 2 * MARGIN + TEXT + AXIS, 3), 255, np.uint8)
    _heading(canvas, store, video, len(queries), tracks, from_pixels, {q.split for q in queries})
    left = MARGIN + TEXT
    canvas[top : top + band.shape[0], left : left + AXIS] = band
    _axis(canvas, video.duration, left, axis_y, height - MARGIN)
    for number, query in enumerate(shown):
        y = rows_y + number * ROW
        _query_row(canvas, query, video.duration, left, y)
        if from_pixels and "track" in query.extra:
            canvas[y + 5 : y + ROW - 6, left - 20 : left - 9] = INK
            canvas[y + 6 : y + ROW - 7, left - 19 : left - 10] = TRACKS[
                tracks.index(query.extra["track"]) % len(TRACKS)
            ]
    if more:
        _text(canvas, f"... and {more} more", MARGIN, rows_y + len(shown) * ROW + 15, PALE)
    if not queries:
        _text(canvas, "no query", MARGIN, rows_y + 15, PALE)
    return canvas


def _frames_band(store: FeatureStore, video: StoredVideo, tracks: list[str], n: int) -> tuple[np.ndarray, bool]:
    import cv2

    frame, n = open_frames(video), min(n, video.n_frames)
    centres = row_centres(video.duration, video.n_frames)
    edges = np.linspace(0, AXIS, n + 1).round().astype(int)
    boxes = {t: store.tensor("boxes", *store.tracks[t]) for t in tracks}
    band: np.ndarray | None = None
    for k in range(n):
        row = min(int((k + 0.5) * video.n_frames / n), video.n_frames - 1)
        image = frame(row)
        if image is None:
            return _norm_band(store, video), False
        width = edges[k + 1] - edges[k]
        inner = width - 2
        if band is None:
            tall = min(max(round(inner * image.shape[0] / image.shape[1]), 24), 260)
            band = np.full((tall + 18, AXIS, 3), 255, np.uint8)
        tall = band.shape[0] - 18
        picture = cv2.resize(image, (int(inner), tall), interpolation=cv2.INTER_AREA)
        for number, track in enumerate(tracks):
            if np.isfinite(boxes[track][row]).all():
                _box(picture, boxes[track][row], TRACKS[number % len(TRACKS)])
        band[:tall, edges[k] + 1 : edges[k + 1] - 1] = picture
        label = f"{centres[row]:.1f} s"
        _text(band, label, edges[k] + (width - _width(label, 0.4)) // 2, tall + 14, PALE, 0.4)
    assert band is not None
    return band, True


def _box(picture: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    import cv2

    h, w = picture.shape[:2]
    x1, y1, x2, y2 = (box * (w, h, w, h)).round().astype(int)
    corners = (min(x1, w - 1), min(y1, h - 1)), (min(x2, w - 1), min(y2, h - 1))
    cv2.rectangle(picture, *corners, (0, 0, 0), 4)
    cv2.rectangle(picture, *corners, colour, 2)


def _norm_band(store: FeatureStore, video: StoredVideo) -> np.ndarray:
    """Norms of the features over time: one line a row of the grid, or one line where there is no grid."""
    import cv2

    first = 0
    for other in store.videos:
        if other.id == video.id:
            break
        first += other.n_frames
    rows = (first, first + video.n_frames)
    if store.has("grid"):
        norms = np.linalg.norm(store.tensor("grid", *rows).astype(np.float32), axis=-1).mean(2).T
    else:
        norms = np.linalg.norm(store.tensor("frames", *rows).astype(np.float32), axis=-1)[None]
    low, high = float(norms.min()), float(norms.max())
    scaled = np.round(255 * (norms - low) / max(high - low, 1e-12)).astype(np.uint8)
    tall = 16 * len(scaled) if len(scaled) > 1 else 48
    colours = cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return cv2.resize(colours, (AXIS, tall), interpolation=cv2.INTER_NEAREST)


def _heading(
    canvas: np.ndarray,
    store: FeatureStore,
    video: StoredVideo,
    n_queries: int,
    tracks: list[str],
    from_pixels: bool,
    splits: set[str],
) -> None:
    import cv2

    _text(canvas, _shorten(f"{store.name}: {video.id}", TEXT - 12, 0.6), MARGIN, MARGIN + 16, INK, 0.6)
    facts = [f"{video.duration:.1f} s", f"{video.n_frames} feature rows", f"{n_queries} queries"]
    facts.append(
        f"{len(tracks)} box track{'s' * (len(tracks) != 1)}" if from_pixels else "no pixels: norms of the features"
    )
    absent, clips = missing_clips(video)
    if from_pixels and absent:
        facts.append(f"{absent} of {clips} clips have no file (grey)")
    _text(canvas, ", ".join(facts), MARGIN + TEXT, MARGIN + 16, INK, 0.5)
    x = canvas.shape[1] - MARGIN
    for split in sorted(splits, reverse=True):
        x -= 34 + _width(split, 0.45)
        cv2.rectangle(canvas, (x, MARGIN + 5), (x + 14, MARGIN + 16), BARS.get(split, OTHER_BAR), -1)
        _text(canvas, split, x + 20, MARGIN + 16, INK, 0.45)


def _axis(canvas: np.ndarray, duration: float, left: int, y: int, bottom: int) -> None:
    import cv2

    step = tick_step(duration)
    for k in range(int(duration / step + 1e-9) + 1):
        x = left + round(AXIS * k * step / duration)
        cv2.line(canvas, (x, y + 22), (x, bottom), LINE, 1)
        cv2.line(canvas, (x, y), (x, y + 5), INK, 1)
        label = f"{k * step:g} s"
        width = _width(label, 0.42)
        _text(canvas, label, min(x - width // 2, left + AXIS - width), y + 19, INK)
    cv2.line(canvas, (left, y), (left + AXIS, y), INK, 1)


def tick_step(duration: float, most: int = 14) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides ``duration`` seconds into at most ``most`` parts."""
    power = 10.0 ** math.floor(math.log10(duration / most))
    return next(m * power for m in (1, 2, 5, 10) if duration / (m * power) <= most)


def _query_row(canvas: np.ndarray, query: Query, duration: float, left: int, y: int) -> None:
    import cv2

    colour = BARS.get(query.split, OTHER_BAR)
    cv2.line(canvas, (MARGIN, y + ROW - 1), (left + AXIS, y + ROW - 1), (238, 238, 238), 1)
    _text(canvas, _shorten(query.text, TEXT - 28, 0.48), MARGIN, y + 15, INK, 0.48)
    for start, end in query.windows:
        x1, x2 = (left + round(AXIS * t / duration) for t in (start, end))
        cv2.rectangle(canvas, (x1, y + 4), (max(x2, x1 + 2), y + ROW - 6), colour, -1)
    label = _shorten(", ".join(f"{start:.1f}-{end:.1f}" for start, end in query.windows), 300, 0.4)
    width = _width(label, 0.4)
    bars = [tuple(left + round(AXIS * t / duration) for t in window) for window in query.windows]
    places = [x2 + 6 for _, x2 in reversed(bars)] + [x1 - width - 6 for x1, _ in bars]
    for x in places:
        clear = all(x + width + 4 <= x1 or x - 4 >= x2 for x1, x2 in bars)
        if clear and left <= x and x + width <= left + AXIS:
            canvas[y + 2 : y + ROW - 2, x - 2 : x + width + 2] = 255
            _text(canvas, label, x, y + 15, PALE, 0.4)
            break


def _text(canvas: np.ndarray, text: str, x: float, y: float, colour: tuple[int, int, int], scale: float = 0.42) -> None:
    import cv2

    cv2.putText(canvas, _plain(text), (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _plain(text: str) -> str:
    """The built-in fonts have no accents and no other scripts."""
    letters = [c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)]
    return "".join(letters).encode("ascii", "replace").decode("ascii")


def _width(text: str, scale: float) -> int:
    import cv2

    return cv2.getTextSize(_plain(text), cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]


def _shorten(text: str, pixels: int, scale: float) -> str:
    if len(text) <= 400 and _width(text, scale) <= pixels:
        return text
    short, long = 0, min(len(text), 400)
    while short < long:
        middle = (short + long + 1) // 2
        if _width(text[:middle] + "...", scale) <= pixels:
            short = middle
        else:
            long = middle - 1
    return text[:short].rstrip() + "..."


def write_png(image: np.ndarray, path: str | os.PathLike) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, whole or not at all; of files that are there only a PNG is replaced."""
    import cv2

    target = check_png(path)
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise DataError(f"an image of shape {image.shape} cannot be encoded")
    write_bytes(target, data.tobytes())


def check_png(path: str | os.PathLike) -> Path:
    """Check that a picture can be written to a path. Raises `DataError`."""
    target = check_output(path, "file")
    with os_errors(f"write {shown(target)}"):
        if os.path.lexists(target):
            ours = target.is_file() and not target.is_symlink()
            if not ours or (target.stat().st_size and target.read_bytes()[:8] != PNG_MAGIC):
                raise DataError(f"{shown(target)} exists and is not a PNG; choose another --out")
    return target


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add ``show`` to a command line; ``main`` takes what it parses."""
    parser = subparsers.add_parser(
        "show", help="draw one video of a store with its moments and boxes", description=__doc__
    )
    parser.add_argument("store", help="path of a store, or a registered key such as shapes-v0")
    parser.add_argument("--video", metavar="ID", help="the first one by default")
    parser.add_argument("--out", type=Path, default=Path("strip.png"), metavar="PNG", help="%(default)s")
    parser.add_argument("--frames", type=int, default=9, help="frames in the strip (%(default)s)")
    parser.add_argument("--max-queries", type=int, default=80, help="rows of queries (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print what was drawn as JSON")
    parser.set_defaults(run=main)
    return parser


def main(args: argparse.Namespace) -> int:
    """Run ``show``; 0 when the picture is written."""
    import json

    from strong_envs.features.registry import open_store

    check_png(args.out)
    store = open_store(args.store)
    image = draw_strip(store, args.video, args.frames, args.max_queries)
    write_png(image, args.out)
    video = args.video or store.videos[0].id
    if args.json:
        print(json.dumps({"video": video, "out": str(args.out), "height": image.shape[0], "width": image.shape[1]}))
    else:
        print(f"wrote {args.out}: {video} of {store.name}, {image.shape[1]} x {image.shape[0]} pixels", file=sys.stderr)
    return 0
