"""Box tracks: from the files of several data sets to normalised corners, one row a frame, NaN where there is no box."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from strong_envs.features.datasets.parsing import id_problem, number, read_json, show, whole
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError

MAX_FRAMES = 5_000_000  # over all tracks of one file: 80 MB of boxes, 46 hours at 30 frames a second


def corners(box: object, layout: str, width: float = 1.0, height: float = 1.0) -> tuple[np.ndarray | None, bool]:
    """One box as normalised corners.

    Args:
        box: four numbers.
        layout: ``"xyxy"`` (two corners) or ``"xywh"`` (corner and size).
        width: of the picture, in the unit of the box (1 where the box is already normalised).
        height: the same.

    Returns:
        The (4,) float32 corners clipped to the picture, or None for what is no box or lies outside; and whether
        anything was clipped (by more than a pixel's rounding, 0.5 % of the side).
    """
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return None, False
    values = [x for x in map(number, box) if x is not None]
    if len(values) != 4 or width <= 0 or height <= 0:
        return None, False
    x1, y1, x2, y2 = values
    if layout == "xywh":
        x2, y2 = x1 + x2, y1 + y2
    raw = np.array([x1 / width, y1 / height, x2 / width, y2 / height])
    if not np.isfinite(raw).all():
        return None, False
    clipped = raw.clip(0.0, 1.0)
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        return None, False
    return clipped.astype(np.float32), bool(np.abs(raw - clipped).max() > 0.005)


def read_boxes(path: str | os.PathLike, report: Report | None = None) -> dict[str, np.ndarray]:
    """Read a ``boxes.json``: one object, or a list of objects, ``{"vid", "num_frames", "box_format", "frames"}``.

    ``frames`` maps a frame's number to four numbers; ``box_format`` names their layout, ``xyxy`` or ``xywh``, and
    says ``normalised`` or ``pixels`` (then ``width`` and ``height`` are needed). A field ``track`` names the track
    where a video has several, else the video's id does.

    Args:
        path: of the file.
        report: takes a row for every box that was clipped or dropped. None refuses files with boxes to drop.

    Returns:
        Track id to (n_frames, 4) float32 corners ``x1, y1, x2, y2`` in [0, 1]; NaN rows where there is no box.

    Raises:
        DataError: not such a file, or (without ``report``) a box that cannot be used.
    """
    strict, report = report is None, report or Report(str(path))
    data = read_json(path, report)
    tracks: dict[str, np.ndarray] = {}
    total = 0
    for index, record in enumerate(data if isinstance(data, list) else [data]):
        where = f"{Path(path).name}:{index}"
        if not isinstance(record, dict):
            report.add("a box track is not an object", "dropped", f"{where}: {show(record)}")
            continue
        track, n_frames = record.get("track", record.get("vid")), whole(record.get("num_frames"))
        problem = id_problem(track)
        if (
            problem
            or not isinstance(track, str)
            or n_frames is None
            or n_frames < 1
            or not isinstance(record.get("frames"), dict)
        ):
            what = problem or "a box track lacks its num_frames or frames"
            report.add(what, "dropped", f"{where}: {show(track)}, num_frames {show(record.get('num_frames'))}")
            continue
        total += n_frames
        if total > MAX_FRAMES:
            raise DataError(f"{where} asks for {total:,} rows of boxes; {MAX_FRAMES:,} are read at most")
        if track in tracks:
            report.add("a box track is given twice; the first counts", "doubtful", f"{where}: {track}")
            continue
        tracks[track] = _track(record, n_frames, f"{where} {track}", report)
    if strict and report.count("dropped"):
        raise DataError(f"boxes would be dropped; pass report= to keep the others:\n{report}")
    report.kept += sum(int(np.isfinite(rows[:, 0]).sum()) for rows in tracks.values())
    if not tracks:
        raise DataError(f"no box track in {str(path)!r}:\n{report}")
    return tracks


def _track(record: dict, n_frames: int, where: str, report: Report) -> np.ndarray:
    layout, width, height = _layout(record, where)
    rows = np.full((n_frames, 4), np.nan, np.float32)
    for key, box in record["frames"].items():
        frame = int(key) if key.isascii() and key.isdigit() and len(key) < 16 else -1
        if not 0 <= frame < n_frames:
            report.add("a box's frame is not in the video", "dropped", f"{where}: frame {show(key)} of {n_frames}")
            continue
        found, clipped = corners(box, layout, width, height)
        if found is None:
            report.add("a box is not four numbers that meet the picture", "dropped", f"{where} {key}: {show(box)}")
            continue
        if clipped:
            report.add("a box reaches out of the picture", "clipped", f"{where} {key}: {show(box)}")
        rows[frame] = found
    return rows


def _layout(record: dict, where: str) -> tuple[str, float, float]:
    text = str(record.get("box_format", "")).lower()
    layout = next((name for name in ("xyxy", "xywh") if name in text), None)
    if layout and ("normalised" in text or "normalized" in text):
        return layout, 1.0, 1.0
    width, height = number(record.get("width")), number(record.get("height"))
    if layout and "pixel" in text and width and height and width > 0 and height > 0:
        return layout, width, height
    raise DataError(
        f"{where}: box_format must name xyxy or xywh, and normalised or pixels (with width and height); "
        f"it is {show(record.get('box_format'))}"
    )


def boxes_at_rows(
    boxes: np.ndarray,
    n_rows: int,
    first_frame: int = 0,
    n_frames: int | None = None,
    frame_of_row: Sequence[int] | None = None,
) -> np.ndarray:
    """Boxes of source frames as boxes of feature rows: each row takes the box of the frame in its middle.

    Args:
        boxes: (k, 4) corners of the source frames ``first_frame`` to ``first_frame + k``.
        n_rows: feature rows of the video.
        first_frame: source frame of the first row of ``boxes``.
        n_frames: source frames of the video; None means ``first_frame + k``.
        frame_of_row: source frame in the middle of each row, where frames are spread unevenly.

    Returns:
        (n_rows, 4) float32, NaN where the middle frame has no box.
    """
    total = first_frame + len(boxes) if n_frames is None else n_frames
    if frame_of_row is None:
        middle = np.floor((np.arange(n_rows) + 0.5) * total / n_rows).astype(np.int64) - first_frame
    else:
        middle = np.asarray(frame_of_row, np.int64) - first_frame
    inside = (middle >= 0) & (middle < len(boxes))
    rows = np.full((n_rows, 4), np.nan, np.float32)
    rows[inside] = boxes[middle[inside]]
    return rows
