"""The shape of TACoS, ActivityNet Captions and Charades-CD: ``{video: {"timestamps": [[s, e]], "sentences": []}}``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.parsing import read_json, show
from strong_envs.features.datasets.types import Video
from strong_envs.features.errors import DataError

# Given (id in the file, record, where, number of rows): the registered video and the seconds of one unit, or None.
VideoOf = Callable[[object, dict, str, int], tuple[Video, float] | None]


def read_dense(out: Collector, file: Path, split: str, video_of: VideoOf, prefix: str = "") -> None:
    """Add every sentence of one file. Query ids are ``{prefix}{video}_{index}``, indices as in the file.

    A boundary is multiplied by the unit ``video_of`` returns (1 for seconds, 1 / fps for frames); an id that differs
    from the video's and a unit other than seconds leave the original in ``extra`` (``source_id``, ``frames``).
    """
    data = read_json(file, out.report)
    if not isinstance(data, dict):
        raise DataError(f"{str(file)!r} holds a JSON {type(data).__name__}, not an object keyed by video id")
    for source_id, record in data.items():
        where = f"{file.name}:{show(source_id)}"
        if not isinstance(record, dict):
            out.drop("a video's record is not an object", f"{where}: {show(record)}")
            continue
        windows, sentences = record.get("timestamps"), record.get("sentences")
        if not isinstance(windows, list) or not isinstance(sentences, list):
            out.drop("a record lacks its timestamps or sentences", where)
            continue
        rows = max(len(windows), len(sentences))
        if len(windows) != len(sentences):
            lost = rows - min(len(windows), len(sentences))
            out.drop("a sentence without a window, or a window without a sentence", where, lost)
        found = video_of(source_id, record, where, min(len(windows), len(sentences)))
        if found is None:
            continue
        video, unit = found
        for index, (window, text) in enumerate(zip(windows, sentences, strict=False)):
            extra = {"source_id": source_id} if source_id != video.id else {}
            if unit != 1.0:
                extra["frames"] = window
                window = _scaled(window, unit)
            out.query(f"{prefix}{video.id}_{index}", video, text, [window], split, f"{where} {index}", extra)


def _scaled(window: object, unit: float) -> object:
    """Frames to seconds; anything but a pair of numbers is returned unchanged, and the collector refuses it."""
    if not isinstance(window, list):
        return window
    return [x * unit if isinstance(x, float) or (type(x) is int and abs(x) < 2**53) else x for x in window]
