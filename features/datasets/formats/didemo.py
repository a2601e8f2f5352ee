"""DiDeMo (Hendricks et al. 2017): moments made of five-second chunks, each marked by four annotators or more."""

from __future__ import annotations

from collections.abc import Mapping

from strong_envs.features.datasets.collect import Collector
from strong_envs.features.datasets.format import annotation_format
from strong_envs.features.datasets.parsing import PathOrPaths, list_files, number, read_json, show, whole
from strong_envs.features.datasets.sniff import sniff_file
from strong_envs.features.datasets.types import Annotations
from strong_envs.features.errors import DataError

CHUNK_SECONDS = 5.0
ANNOTATORS = 4
MAX_ANNOTATORS = 64


@annotation_format(
    "didemo",
    keys={"times", "num_segments"},
    advice={
        "num_segments is not": "Give the number of five-second chunks.",
        "not four annotators": "Kept with all of its annotators, as in the published files.",
        "an annotator's chunks lie outside": "This annotator is left out of this query.",
    },
)
def read_didemo(
    path: PathOrPaths,
    *,
    windows: str = "agreed",
    durations: Mapping[str, float] | None = None,
    split: str | None = None,
) -> Annotations:
    """Read ``{train,val,test}_data.json``: ``[{"description", "video", "times": [[i, j], ...], "num_segments"}]``.

    Chunks are inclusive: ``[i, j]`` covers seconds ``[5 i, 5 (j + 1)]``. The files state no duration, so it is
    5 * num_segments unless given, with a ``slack`` of one chunk, because the last chunk may be shorter: extraction then
    takes the length of the file. Every annotator's window stays in
    ``extra["annotators"]`` (seconds), for the metric of the paper (mean over the best three of four).

    Args:
        path: a folder with the files, one file, or several.
        windows: ``"agreed"`` makes the window with the highest mean IoU with all annotators' windows the truth (the
            earliest of equals); ``"all"`` takes every distinct window, earliest first.
        durations: video id to seconds, where known.
        split: name of the split; None takes it from each file's name.

    Raises:
        DataError: files that cannot be read, an unknown ``windows``, or nothing usable.
    """
    if windows not in ("agreed", "all"):
        raise DataError(f"windows must be 'agreed' or 'all', got {windows!r}")
    files = list_files(path, lambda p: sniff_file(p) == "didemo", "DiDeMo json")
    out = Collector(f"DiDeMo (windows = {windows})", path)
    for file in files:
        name = out.split(file, split)
        data = read_json(file, out.report)
        if not isinstance(data, list):
            raise DataError(f"{str(file)!r} holds a JSON {type(data).__name__}, not a list of descriptions")
        for index, row in enumerate(data):
            where = f"{file.name}:{index}"
            if isinstance(row, dict):
                _add(out, row, name, where, windows, durations or {})
            else:
                out.drop("a row is not an object", f"{where}: {show(row)}")
    return out.finish()


def _add(out: Collector, row: dict, split: str, where: str, mode: str, durations: Mapping[str, float]) -> None:
    segments, times, video_id = whole(row.get("num_segments")), row.get("times"), row.get("video")
    if segments is None or segments < 1:
        out.drop("num_segments is not a positive integer", f"{where}: {show(row.get('num_segments'))}")
        return
    if not isinstance(times, list) or not times:
        out.drop("a query has no window", f"{where}: times {show(times)}")
        return
    known = durations.get(video_id) if isinstance(video_id, str) else None
    if known is None:
        video = out.video(video_id, segments * CHUNK_SECONDS, where, slack=CHUNK_SECONDS)
    else:
        video = out.video(video_id, known, where)
    if video is None:
        return
    chunks: list[tuple[int, int]] = []
    for time in times[:MAX_ANNOTATORS]:
        first, last = map(whole, time) if isinstance(time, list) and len(time) == 2 else (None, None)
        if first is None or last is None or not 0 <= first <= last < segments:
            out.report.add("an annotator's chunks lie outside the video", "doubtful", f"{where}: {show(time)}")
        else:
            chunks.append((first, last))
    if len(times) != ANNOTATORS:
        out.report.add("not four annotators", "doubtful", f"{where}: {len(times)}")
    if not chunks:
        out.drop("a query has no window", f"{where}: times {show(times)}")
        return
    chosen = [_agreed(chunks)] if mode == "agreed" else sorted(set(chunks))
    extra = {"annotators": [_seconds(c) for c in chunks]}
    qid = row.get("annotation_id")
    qid = qid if isinstance(qid, (int, str)) and number(qid if type(qid) is int else 0) is not None else where
    out.query(qid, video, row.get("description"), [_seconds(c) for c in chosen], split, where, extra)


def _seconds(chunk: tuple[int, int]) -> list[float]:
    return [chunk[0] * CHUNK_SECONDS, (chunk[1] + 1) * CHUNK_SECONDS]


def _agreed(chunks: list[tuple[int, int]]) -> tuple[int, int]:
    def agreement(a: tuple[int, int]) -> float:
        return sum(
            max(0, min(a[1], b[1]) + 1 - max(a[0], b[0])) / (max(a[1], b[1]) + 1 - min(a[0], b[0])) for b in chunks
        )

    return max(sorted(set(chunks)), key=agreement)
