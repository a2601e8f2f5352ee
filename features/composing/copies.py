"""One clip under two names: the same id, the same file, or files with the same bytes."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable

from strong_envs.features.composing.clips import Clip, ClipSet
from strong_envs.features.errors import DataError

PRIORITY = {"test": 0, "val": 1, "train": 2, None: 3}
"""What two parts share stays in the first of them: the part that results are reported on stays as published."""
CHUNK = 1 << 20


def one_clip_once(found: ClipSet, conflicts: str) -> None:
    """Keep one of several clips that are the same. Changes ``found.clips`` and its report.

    Args:
        found: clips, perhaps with parts.
        conflicts: what to do with one clip in two parts: ``"refuse"``, or ``"drop"`` it from training.

    Raises:
        DataError: one clip is given in two parts; the message names the rows.
    """
    for what, key in (("id", _by_id), ("file", _by_file), ("content", _by_content(found.clips))):
        same: dict[Hashable, list[Clip]] = defaultdict(list)
        for clip in found.clips:
            name = key(clip)
            if name is not None:
                same[name].append(clip)
        repeated = {k: clips for k, clips in same.items() if len(clips) > 1}
        torn = [clips for clips in repeated.values() if len({c.part for c in clips}) > 1]
        if torn and conflicts == "refuse":
            listed = "; ".join(" and ".join(_shown(c) for c in clips[:4]) for clips in torn[:6])
            raise DataError(
                f"{len(torn)} clips are put into two parts (same {what}): {listed}. Correct the parts, or drop them "
                "from training with --conflicts drop"
            )
        dropped: set[int] = set()
        for clips in repeated.values():
            first = min(clips, key=lambda c: PRIORITY[c.part])
            for clip in clips:
                if clip is not first:
                    dropped.add(id(clip))
                    kind = f"a clip is there twice (same {what}); one is used"
                    found.report.add(kind, "dropped", f"{_shown(clip)} is {_shown(first)}")
        found.clips = [c for c in found.clips if id(c) not in dropped]


def _shown(clip: Clip) -> str:
    part = "" if clip.part is None else f" in {clip.part}"
    return f"{clip.id!r}{part} ({clip.path})" if clip.path else f"{clip.id!r}{part}"


def _by_id(clip: Clip) -> Hashable | None:
    return clip.id


def _by_file(clip: Clip) -> Hashable | None:
    return None if clip.path is None else os.path.realpath(clip.path)


def _by_content(clips: list[Clip]) -> Callable[[Clip], Hashable | None]:
    """Size and SHA-256 of a file; only files that have their size in common with another are read."""
    sizes: dict[str, int] = {}
    for clip in clips:
        if clip.path is not None:
            try:
                sizes[clip.path] = os.stat(clip.path).st_size
            except OSError:
                continue
    count: dict[int, int] = defaultdict(int)
    for size in sizes.values():
        count[size] += 1

    def key(clip: Clip) -> Hashable | None:
        size = sizes.get(clip.path or "")
        if not size or count[size] < 2:
            return None
        digest = hashlib.sha256()
        try:
            with open(str(clip.path), "rb") as handle:
                while chunk := handle.read(CHUNK):
                    digest.update(chunk)
        except OSError:
            return None
        return size, digest.digest()

    return key
