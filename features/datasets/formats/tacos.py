"""TACoS (Regneri et al. 2013; splits of Gao et al. 2017): 18,227 moments in 127 kitchen videos of five minutes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.format import annotation_format
from strong_envs.features.datasets.formats.dense import read_dense
from strong_envs.features.datasets.parsing import (
    PathOrPaths,
    list_files,
    number,
    read_json,
    read_lines,
    show,
    strip_video_suffix,
    whole,
)
from strong_envs.features.datasets.sniff import is_json, read_head, sniff_file
from strong_envs.features.datasets.types import Annotations, Report, Video
from strong_envs.features.errors import DataError

_TALL = re.compile(r"([^:]+)_(-?\d{1,15})_(-?\d{1,15}):(.*)")


@annotation_format(
    "tacos",
    keys={"timestamps", "num_frames"},
    text=re.compile(r"^[^\s:]+_\d+_\d+:", re.MULTILINE),
    advice={"TALL text beside json": "The json is read, which has frame rates. Move it away to read the text."},
)
def read_tacos(
    path: PathOrPaths, *, info: PathOrPaths | Mapping[str, tuple[float, int]] | None = None, split: str | None = None
) -> Annotations:
    """Read TACoS: the json of 2D-TAN (Zhang et al. 2020) or the text files of TALL (Gao et al. 2017).

    The json counts in **frames** and carries ``fps`` and ``num_frames`` for every video; seconds are frames / fps and
    the duration is num_frames / fps. Ids lose their ``.avi`` (the original stays in ``extra["source_id"]``, the
    frames in ``extra["frames"]``). Ends past the last frame are clipped. Exact repeats and moments under one second
    are kept and counted as doubtful, since the published 9,790 / 4,436 / 4,001 moments include them.

    Args:
        path: a folder with train.json, val.json and test.json, one file, or several.
        info: for TALL text only, which states no frame rate: a 2D-TAN json (or several), or ``{video: (fps, frames)}``.
        split: name of the split; None takes it from each file's name.

    Raises:
        DataError: files that cannot be read, TALL text without ``info``, or nothing usable.
    """
    files = list_files(path, lambda p: sniff_file(p) == "tacos", "TACoS json or TALL text")
    out = Collector("TACoS", path)
    text = [f for f in files if f.suffix == ".txt" or (sniff_file(f) == "tacos" and not is_json(read_head(f)))]
    # The same moments in both forms side by side would all be read twice.
    if len(text) < len(files):
        for file in text:
            out.report.add("TALL text beside json of the same data set was left out", "doubtful", file.name)
        files, text = [f for f in files if f not in text], []
    rates = _rates(info, out.report) if text else {}
    for file in files:
        if file in text:
            _read_tall(out, file, out.split(file, split), rates)
        else:
            read_dense(out, file, out.split(file, split), lambda *a: _json_video(out, *a))
    return out.finish()


def _json_video(out: Collector, source_id: object, record: dict, where: str, rows: int) -> tuple[Video, float] | None:
    return _video(out, source_id, record.get("fps"), record.get("num_frames"), where, rows)


def _video(
    out: Collector, source_id: object, fps: object, frames: object, where: str, rows: int = 1
) -> tuple[Video, float] | None:
    rate, count = number(fps), whole(frames)
    if rate is None or rate <= 0 or count is None or count <= 0:
        out.drop("a video lacks a usable frame rate or frame count", f"{where}: {show(fps)}, {show(frames)}", rows)
        return None
    video_id = strip_video_suffix(source_id) if isinstance(source_id, str) else source_id
    video = out.video(video_id, count / rate, where, fps=rate, n_frames=count, rows=rows)
    return None if video is None else (video, 1.0 / rate)


def _rates(
    info: PathOrPaths | Mapping[str, tuple[float, int]] | None, report: Report
) -> dict[str, tuple[object, object]]:
    if info is None:
        raise DataError(
            "TALL text counts in frames and states neither frame rate nor length: pass info= with the json of 2D-TAN, "
            "or a dict of video id to (fps, number of frames)"
        )
    if isinstance(info, Mapping):
        return {strip_video_suffix(str(k)): (fps, frames) for k, (fps, frames) in info.items()}
    rates: dict[str, tuple[object, object]] = {}
    for file in list_files(info, lambda p: sniff_file(p) == "tacos" and is_json(read_head(p)), "TACoS json"):
        data = read_json(file, report)
        for source_id, record in data.items() if isinstance(data, dict) else ():
            if isinstance(record, dict):
                rates[strip_video_suffix(source_id)] = (record.get("fps"), record.get("num_frames"))
    return rates


def _read_tall(out: Collector, file: Path, split: str, rates: dict[str, tuple[object, object]]) -> None:
    for where, line in read_lines(file, out.report):
        match = _TALL.fullmatch(line)
        if match is None:
            out.drop("a line is not 'video_start_end:sentence#sentence'", f"{where}: {show(line)}")
            continue
        source_id, first, last, sentences = match.groups()
        texts = [t for t in sentences.split("#") if t.strip()]
        fps, frames = rates.get(strip_video_suffix(source_id), (None, None))
        found = _video(out, source_id, fps, frames, where, len(texts))
        if found is None:
            continue
        video, unit = found
        if not texts:
            out.drop("a query is empty", where)
        for index, text in enumerate(texts):
            extra = {"source_id": source_id, "frames": [int(first), int(last)]}
            window = [int(first) * unit, int(last) * unit]
            qid = f"{video.id}_{first}_{last}_{index}"
            out.query(qid, video, text, [window], split, where, extra)
