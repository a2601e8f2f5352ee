"""VidSTG (Zhang et al. 2020): sentences and questions on objects of VidOR videos, with the objects' box tracks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from strong_envs.features.datasets.boxes import MAX_FRAMES, corners
from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.format import annotation_format
from strong_envs.features.datasets.parsing import PathOrPaths, list_files, number, read_json, show, whole
from strong_envs.features.datasets.sniff import sniff_file
from strong_envs.features.datasets.types import Annotations, Video
from strong_envs.features.errors import DataError

KINDS = ("captions", "questions")


@annotation_format(
    "vidstg",
    keys={"temporal_gt", "vid"},
    advice={
        "no boxes were read": "Needed for spatial training only.",
        "VidOR has no annotation": "Its queries have no boxes; temporal use is unaffected.",
        "an annotation of VidOR cannot be read": "Its queries have no boxes; fetch the file again.",
    },
)
def read_vidstg(
    path: PathOrPaths,
    *,
    vidor: str | os.PathLike | None = None,
    kinds: tuple[str, ...] = KINDS,
    split: str | None = None,
) -> Annotations:
    """Read ``{train,val,test}_annotations.json``: a list of relations, each with captions and questions.

    Frames become seconds by each video's own ``fps``; ``temporal_gt`` runs from ``begin_fid`` up to, not including,
    ``end_fid``. The task's input is the ``used_segment`` of the video, kept in ``extra["segment"]`` (seconds); windows
    are in seconds of the whole video. ``extra["kind"]`` is ``captions`` or ``questions``.

    With ``vidor``, ``extra`` also holds the target's box track: ``boxes`` (k, 4) float32 normalised corners x1, y1,
    x2, y2 (NaN rows without a box), ``first_box_frame`` (from zero) and ``track``. Queries on one object share it.

    Args:
        path: a folder with the files, one file, or several.
        vidor: folder of VidOR's own annotations, searched for ``{video}.json``; None reads no boxes.
        kinds: which sentences to read, of ``("captions", "questions")``.
        split: name of the split; None takes it from each file's name.

    Raises:
        DataError: files that cannot be read, unknown ``kinds``, or nothing usable.
    """
    if not kinds or set(kinds) - set(KINDS):
        raise DataError(f"kinds must be some of {KINDS}, got {kinds!r}")
    files = list_files(path, lambda p: sniff_file(p) == "vidstg", "VidSTG json")
    out = Collector("VidSTG", path)
    tracks = _Tracks(out, vidor)
    for file in files:
        name = out.split(file, split)
        data = read_json(file, out.report)
        if not isinstance(data, list):
            raise DataError(f"{str(file)!r} holds a JSON {type(data).__name__}, not a list of relations")
        for index, record in enumerate(data):
            where = f"{file.name}:{index}"
            if isinstance(record, dict):
                _add(out, record, name, where, kinds, tracks)
            else:
                out.drop("a row is not an object", f"{where}: {show(record)}")
    return out.finish()


def _add(out: Collector, record: dict, split: str, where: str, kinds: tuple[str, ...], tracks: _Tracks) -> None:
    sentences = [(kind, s) for kind in kinds for s in _list(record.get(kind))]
    fps, frames = number(record.get("fps")), whole(record.get("frame_count"))
    if fps is None or fps <= 0 or frames is None or frames < 1:
        what = f"{where}: {show(record.get('fps'))}, {show(record.get('frame_count'))}"
        out.drop("a video lacks a usable frame rate or frame count", what, len(sentences))
        return
    video = out.video(record.get("vid"), frames / fps, where, fps=fps, n_frames=frames, rows=len(sentences))
    if video is None:
        return
    window, segment = (_span(record.get(key), fps) for key in ("temporal_gt", "used_segment"))
    for kind, sentence in sentences:
        if not isinstance(sentence, dict):
            out.drop("a row is not an object", f"{where}: {show(sentence)}")
            continue
        target = whole(sentence.get("target_id"))
        extra: dict = {"kind": kind, "segment": segment, "target": target}
        if target is not None:
            extra |= tracks.of(video, target, where)
        qid = f"{split}:{where.rsplit(':')[-1]}:{kind}:{len(out.queries)}"
        out.query(qid, video, sentence.get("description"), [window], split, where, extra)


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _span(value: object, fps: float) -> list[float | None]:
    record = value if isinstance(value, dict) else {}
    frames = [number(record.get(key)) for key in ("begin_fid", "end_fid")]
    return [None if frame is None else frame / fps for frame in frames]


class _Tracks:
    """Box tracks of VidOR, read when a query asks for one; the objects of one video are kept until the next video."""

    def __init__(self, out: Collector, vidor: str | os.PathLike | None) -> None:
        self._out = out
        self._files: dict[str, Path] | None = None
        self._tracks: dict[tuple[str, int], dict] = {}
        self._current: tuple[str, dict[int, dict[int, np.ndarray]]] = ("", {})
        if vidor is None:
            kind = "no boxes were read; pass vidor= with VidOR's annotations"
            out.report.add(kind, "doubtful", out.report.source)
        else:
            if not Path(vidor).is_dir():
                raise DataError(f"vidor must be the folder of VidOR's annotations, got {str(vidor)!r}")
            self._files = {file.stem: file for file in Path(vidor).rglob("*.json")}

    def of(self, video: Video, target: int, where: str) -> dict:
        """The ``extra`` fields of one object's track, empty where it has none."""
        if self._files is None:
            return {}
        key = (video.id, target)
        if key not in self._tracks:
            if self._current[0] != video.id:
                self._current = (video.id, self._objects(video, where))
            self._tracks[key] = _packed(self._current[1].get(target, {}), f"{video.id}/{target}")
        found = self._tracks[key]
        if not found:
            self._out.report.add("a query has no usable boxes", "doubtful", f"{where}: object {target} of {video.id}")
        return found

    def _objects(self, video: Video, where: str) -> dict[int, dict[int, np.ndarray]]:
        report, file = self._out.report, (self._files or {}).get(video.id)
        if file is None:
            report.add("VidOR has no annotation of a video", "doubtful", f"{where}: {video.id}")
            return {}
        try:
            record = read_json(file, report)
        except DataError as error:
            report.add("an annotation of VidOR cannot be read", "dropped", str(error))
            return {}
        record = record if isinstance(record, dict) else {}
        width, height = number(record.get("width")) or 0.0, number(record.get("height")) or 0.0
        objects: dict[int, dict[int, np.ndarray]] = {}
        for frame, entries in enumerate(_list(record.get("trajectories"))[: min(video.n_frames or 0, MAX_FRAMES)]):
            for entry in _list(entries):
                box = entry.get("bbox") if isinstance(entry, dict) else None
                target = whole(entry.get("tid")) if isinstance(box, dict) else None
                sides = [box.get(side) for side in ("xmin", "ymin", "xmax", "ymax")] if isinstance(box, dict) else None
                found, clipped = corners(sides, "xyxy", width, height)
                if found is None or target is None:
                    kind = "a box is not four numbers that meet the picture"
                    report.add(kind, "dropped", f"{file.name} frame {frame}: {show(entry)}")
                    continue
                if clipped:
                    kind = "a box reaches out of the picture"
                    report.add(kind, "clipped", f"{file.name} frame {frame}: {show(sides)}")
                objects.setdefault(target, {})[frame] = found
        return objects


def _packed(frames: dict[int, np.ndarray], track: str) -> dict:
    if not frames:
        return {}
    first, last = min(frames), max(frames)
    rows = np.full((last - first + 1, 4), np.nan, np.float32)
    for frame, box in frames.items():
        rows[frame - first] = box
    return {"track": track, "boxes": rows, "first_box_frame": first}
