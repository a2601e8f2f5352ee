"""What an annotated video is, whatever file it came from: videos, queries, and a report of what a reader changed.

Units are in the names. ``duration`` and ``windows`` are seconds; ``n_frames`` counts rows of a feature file or
decoded frames; a *fraction* is a time divided by the duration. Nothing in this package passes a bare "time".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from strong_envs.features.errors import DataError

MAX_EXAMPLES = 5
UNITS = ("group", "clip", "source_video")
"""Entries of a query's ``extra`` that name the source which it shares with others."""


@dataclass(frozen=True)
class Video:
    """One untrimmed video.

    ``duration`` is in seconds; ``fps`` is the rate of the *source* frames (None where the file does not tell);
    ``n_frames`` the number of source frames (None where unknown); ``path`` the file, where there is one; ``slack`` the
    seconds by which the real video may be shorter, where the annotations count whole chunks.
    """

    id: str
    duration: float
    fps: float | None = None
    n_frames: int | None = None
    path: str | None = None
    slack: float = 0.0


@dataclass(frozen=True)
class Query:
    """One sentence and the moments it describes: ``windows`` holds one or more (start, end) in seconds, start < end."""

    qid: str
    video: str
    text: str
    windows: tuple[tuple[float, float], ...]
    split: str = "train"
    extra: dict = field(default_factory=dict, compare=False)

    @property
    def unit(self) -> str:
        """What statistics draw as a whole, since its queries are not independent: the first of `UNITS`, or the video.

        Composed videos share clips, and clips of one group were cut from one source; windows share their video.
        """
        return next((str(self.extra[name]) for name in UNITS if self.extra.get(name) is not None), self.video)


@dataclass
class Finding:
    """One kind of problem: how often it was met, what was done (see `Report.ACTIONS`), and first examples."""

    kind: str
    action: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Report:
    """Counts what a reader kept, clipped, dropped or found doubtful. Nothing is silent: every change has a row here."""

    ACTIONS = ("clipped", "dropped", "doubtful")

    def __init__(self, source: str) -> None:
        self.source = source
        self.kept = 0
        self.findings: dict[tuple[str, str], Finding] = {}

    def add(self, kind: str, action: str, example: str) -> None:
        """Count one occurrence of ``kind`` (a short phrase) with what was done about it."""
        if action not in self.ACTIONS:
            raise ValueError(f"action must be one of {self.ACTIONS}, got {action!r}")
        finding = self.findings.setdefault((kind, action), Finding(kind, action))
        finding.count += 1
        if len(finding.examples) < MAX_EXAMPLES:
            finding.examples.append(example if len(example) <= 200 else example[:197] + "...")

    def count(self, action: str) -> int:
        """How many rows were ``clipped``, ``dropped`` or ``doubtful``."""
        return sum(f.count for f in self.findings.values() if f.action == action)

    def merge(self, other: Report) -> None:
        """Add the counts of another report to this one."""
        self.kept += other.kept
        for key, finding in other.findings.items():
            mine = self.findings.setdefault(key, Finding(finding.kind, finding.action))
            mine.count += finding.count
            mine.examples = (mine.examples + finding.examples)[:MAX_EXAMPLES]

    def as_dict(self) -> dict:
        """A JSON-ready form of the report."""
        return {
            "source": self.source,
            "kept": self.kept,
            **{action: self.count(action) for action in self.ACTIONS},
            "findings": [vars(f) for f in self.findings.values()],
        }

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.kept} kept, "
            + ", ".join(f"{self.count(action)} {action}" for action in self.ACTIONS)
        ]
        for f in self.findings.values():
            lines.append(f"  {f.count} {f.action}: {f.kind}; for example {f.examples[0]}")
        return "\n".join(lines)


@dataclass
class Annotations:
    """What a reader returns: the videos by id, the kept queries in file order, and the report of what was changed."""

    name: str
    videos: dict[str, Video]
    queries: list[Query]
    report: Report

    def split(self, name: str) -> list[Query]:
        """The queries of one split; an unknown name is refused with the valid ones."""
        known = sorted({q.split for q in self.queries})
        if name not in known:
            raise DataError(f"{self.name} has no split {name!r}; it has {known}")
        return [q for q in self.queries if q.split == name]


def clean_window(start: float, end: float, duration: float, report: Report, where: str) -> tuple[float, float] | None:
    """Apply the rule of the field to one window in seconds: clip to [0, duration], drop if nothing is left.

    Returns the cleaned (start, end), or None when the row must be dropped; either way ``report`` says so.
    """
    if not (math.isfinite(start) and math.isfinite(end)):
        report.add("a boundary is not a finite number", "dropped", f"{where}: [{start}, {end}]")
        return None
    if start >= end:
        report.add("start is not before end", "dropped", f"{where}: [{start:g}, {end:g}]")
        return None
    clipped_start, clipped_end = max(start, 0.0), min(end, duration)
    if clipped_start >= clipped_end:
        report.add("the window lies outside its video", "dropped", f"{where}: [{start:g}, {end:g}] in {duration:g} s")
        return None
    if clipped_end < end:
        report.add("end past the video's duration", "clipped", f"{where}: {end:g} s in {duration:g} s")
    if clipped_start > start:
        report.add("start before zero", "clipped", f"{where}: {start:g} s")
    return clipped_start, clipped_end
