"""HC-STVG (Tang et al. 2021), versions 1 and 2: one sentence, one person's box track and one moment a clip."""

from __future__ import annotations

import numpy as np

from strong_envs.features.datasets.boxes import corners
from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.format import annotation_format
from strong_envs.features.datasets.parsing import (
    PathOrPaths,
    list_files,
    number,
    read_json,
    show,
    strip_video_suffix,
    whole,
)
from strong_envs.features.datasets.sniff import sniff_file
from strong_envs.features.datasets.types import Annotations
from strong_envs.features.errors import DataError

CLIP_SECONDS = 20.0


@annotation_format(
    "hc_stvg", keys={"bbox", "st_time"}, advice={"boxes past the last frame": "These boxes are left out."}
)
def read_hc_stvg(path: PathOrPaths, *, clip_seconds: float = CLIP_SECONDS, split: str | None = None) -> Annotations:
    """Read ``{"clip.mp4": {"bbox", "st_frame", "st_time", "ed_time", "img_num", "caption", "width", "height"}}``.

    Version 2 writes ``English`` for ``caption`` and ``img_size`` (height, width) for the two sides. Clips last 20
    seconds by construction, so a clip's own frame rate is img_num / 20. ``bbox`` are ``[x, y, w, h]`` in pixels for
    the frames from ``st_frame`` on, which counts from one.

    Each query's ``extra`` holds ``boxes``, a (k, 4) float32 array of normalised corners x1, y1, x2, y2 (NaN rows for
    unusable boxes), ``first_box_frame``, the source frame (from zero) of the first row, ``track``, and ``source_id``.

    Args:
        path: a folder with the files, one file, or several.
        clip_seconds: duration of every clip, for re-cut versions.
        split: name of the split; None takes it from each file's name.

    Raises:
        DataError: files that cannot be read, or nothing usable.
    """
    files = list_files(path, lambda p: sniff_file(p) == "hc_stvg", "HC-STVG json")
    out = Collector("HC-STVG", path)
    for file in files:
        name = out.split(file, split)
        data = read_json(file, out.report)
        if not isinstance(data, dict):
            raise DataError(f"{str(file)!r} holds a JSON {type(data).__name__}, not an object keyed by clip")
        for source_id, record in data.items():
            where = f"{file.name}:{show(source_id)}"
            if isinstance(record, dict):
                _add(out, source_id, record, name, where, clip_seconds)
            else:
                out.drop("a video's record is not an object", f"{where}: {show(record)}")
    return out.finish()


def _add(out: Collector, source_id: str, record: dict, split: str, where: str, clip_seconds: float) -> None:
    frames = whole(record.get("img_num"))
    if frames is None or frames < 1:
        out.drop("a video lacks a usable frame rate or frame count", f"{where}: {show(record.get('img_num'))}")
        return
    video_id = strip_video_suffix(source_id)
    video = out.video(video_id, clip_seconds, where, fps=frames / clip_seconds, n_frames=frames)
    if video is None:
        return
    extra: dict = {"source_id": source_id}
    boxes, first = _boxes(out, record, frames, where)
    if boxes is not None:
        extra |= {"track": video_id, "boxes": boxes, "first_box_frame": first}
    text = record.get("English", record.get("caption"))
    window = [record.get("st_time"), record.get("ed_time")]
    out.query(video_id, video, text, [window], split, where, extra)


def _boxes(out: Collector, record: dict, frames: int, where: str) -> tuple[np.ndarray | None, int]:
    size = record.get("img_size")
    height, width = size if isinstance(size, list) and len(size) == 2 else (record.get("height"), record.get("width"))
    raw, first, width, height = record.get("bbox"), whole(record.get("st_frame")), number(width), number(height)
    if not isinstance(raw, list) or not raw or first is None or not 1 <= first <= frames or not width or not height:
        out.report.add("a query has no usable boxes", "doubtful", f"{where}: st_frame {show(record.get('st_frame'))}")
        return None, 0
    first -= 1
    if first + len(raw) > frames:
        out.report.add("boxes past the last frame", "clipped", f"{where}: {first + len(raw)} of {frames}")
    rows = np.full((min(len(raw), frames - first), 4), np.nan, np.float32)
    for index in range(len(rows)):
        found, clipped = corners(raw[index], "xywh", width, height)
        if found is None:
            kind = "a box is not four numbers that meet the picture"
            out.drop(kind, f"{where} box {index}: {show(raw[index])}")
            continue
        if clipped:
            out.report.add("a box reaches out of the picture", "clipped", f"{where} box {index}: {show(raw[index])}")
        rows[index] = found
    return rows, first
