"""The one place where rows of any format become videos and queries, with the same checks for all of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from strong_envs.features.datasets.leaks import find_leaks
from strong_envs.features.datasets.parsing import id_problem, is_unicode, number, show, split_of, whole, written_time
from strong_envs.features.datasets.types import Annotations, Query, Report, Video, clean_window
from strong_envs.features.datasets.units import suspect_units
from strong_envs.features.errors import DataError

MAX_DURATION = 1e7  # seconds; four months. Longer "videos" are a wrong unit or a broken number.
MAX_TEXT_LENGTH = 20_000
SHORT_SECONDS = 1.0


class Collector:
    """Gathers videos and queries and counts every change; `finish` returns the `Annotations`."""

    def __init__(self, name: str, source: object) -> None:
        self.name = name
        self.report = Report(str(source))
        self.videos: dict[str, Video] = {}
        self.queries: list[Query] = []
        self._seen: set[tuple] = set()
        self._qids: Counter[str] = Counter()
        self._times: dict[str, list[tuple[float, float]]] = {}

    def drop(self, kind: str, example: str, rows: int = 1) -> None:
        """Count ``rows`` annotation rows as dropped for one reason (at least one, so that nothing is silent)."""
        for _ in range(max(rows, 1)):
            self.report.add(kind, "dropped", example)

    def split(self, path: str | os.PathLike, given: str | None = None) -> str:
        """The split of a file: the one given, else the one in its name, else "train" with a doubtful row."""
        split = given or split_of(path)
        if split is None:
            self.report.add("the file name names no split; read as train", "doubtful", os.path.basename(path))
            split = "train"
        return split

    def video(
        self,
        video_id: object,
        duration: object,
        where: str,
        *,
        fps: object = None,
        n_frames: object = None,
        slack: float = 0.0,
        rows: int = 1,
    ) -> Video | None:
        """Register a video (``duration`` in seconds), or return None and count its ``rows`` as dropped.

        The other arguments are the fields of `Video`.
        """
        problem = id_problem(video_id)
        if problem or not isinstance(video_id, str):
            self.drop(str(problem), f"{where}: {show(video_id)}", rows)
            return None
        seconds = number(duration)
        if seconds is None or not 0 < seconds <= MAX_DURATION:
            form = written_time(duration) or "is not a positive number"
            self.drop(f"a video's duration {form}", f"{where}: {show(duration)}", rows)
            return None
        known = self.videos.get(video_id)
        if known is None:
            known = self.videos[video_id] = Video(video_id, seconds, number(fps), whole(n_frames), slack=slack)
        elif abs(known.duration - seconds) > 1e-6 * seconds:
            self.report.add(
                "a video has two durations; the first counts",
                "doubtful",
                f"{where}: {video_id} {known.duration:g} s and {seconds:g} s",
            )
        return known

    def query(
        self,
        qid: object,
        video: Video,
        text: object,
        windows: Sequence[object],
        split: str,
        where: str,
        extra: dict | None = None,
    ) -> None:
        """Add one query with its windows in seconds, after the checks that every format needs."""
        if not isinstance(text, str):
            self.report.add("a query is not text", "dropped", f"{where}: {show(text)}")
            return
        text = text.strip()
        if len(text) > MAX_TEXT_LENGTH or not is_unicode(text):
            self.report.add("a query is too long or not valid Unicode", "dropped", f"{where}: {show(text)}")
            return
        if not any(c.isalnum() for c in text):
            self.report.add("a query is empty", "dropped", f"{where}: {show(text)}")
            return
        kept = [w for window in windows if (w := self._window(window, video, split, where)) is not None]
        if not windows:
            self.report.add("a query has no window", "dropped", where)
        if not kept:
            return
        key = (split, video.id, text, tuple(kept))
        if key in self._seen:
            self.report.add("a row repeats an earlier one exactly", "doubtful", f"{where}: {show(text)}")
        self._seen.add(key)
        if min(end - start for start, end in kept) < SHORT_SECONDS:
            start, end = min(kept, key=lambda w: w[1] - w[0])
            self.report.add("a moment is shorter than one second", "doubtful", f"{where}: [{start:g}, {end:g}]")
        name = self._unique(str(qid), where)
        extra = dict(extra or {}) if name == str(qid) else {**(extra or {}), "source_qid": str(qid)}
        self.queries.append(Query(name, video.id, text, tuple(kept), split, extra))

    def finish(self) -> Annotations:
        """The annotations with the videos that still have a query; nothing at all kept raises `DataError`.

        Units that do not fit and data that splits share become doubtful rows of the report.
        """
        for split, times in self._times.items():
            suspect_units(times, self.report, split)
        if not self.queries:
            raise DataError(f"nothing usable in {self.report.source!r} read as {self.name}:\n{self.report}")
        self.report.merge(find_leaks(self.queries))
        self.report.kept = len(self.queries)
        used = {q.video for q in self.queries}
        return Annotations(self.name, {k: v for k, v in self.videos.items() if k in used}, self.queries, self.report)

    def _window(self, window: object, video: Video, split: str, where: str) -> tuple[float, float] | None:
        if not isinstance(window, (list, tuple)) or len(window) != 2:
            self.report.add("a window is not a pair of numbers", "dropped", f"{where}: {show(window)}")
            return None
        start, end = number(window[0]), number(window[1])
        if start is None or end is None:
            form = next((f for f in map(written_time, window) if f is not None), "is not a finite number")
            self.report.add(f"a boundary {form}", "dropped", f"{where}: {show(window)}")
            return None
        self._times.setdefault(split, []).append((end, video.duration))
        if start >= end > video.duration:
            # Kept apart, so that clipped rows and these add up to the published "ends after the duration" counts.
            self.report.add(
                "start is not before end, and the end is past the video's duration",
                "dropped",
                f"{where}: [{start:g}, {end:g}] in {video.duration:g} s",
            )
            return None
        return clean_window(start, end, video.duration, self.report, where)

    def _unique(self, qid: str, where: str) -> str:
        self._qids[qid] += 1
        if self._qids[qid] == 1:
            return qid
        renamed = f"{qid}#{self._qids[qid]}"
        self._qids[renamed] += 1
        self.report.add("a query id is used twice; the later one is renamed", "doubtful", f"{where}: {renamed}")
        return renamed
