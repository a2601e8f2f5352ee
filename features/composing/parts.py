"""Train, validation and test parts: whole groups, carved by a seed where none are given, and checked at the end."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from strong_envs.features.composing.clips import PARTS, Clip, ClipSet, sentence_key
from strong_envs.features.composing.copies import PRIORITY, one_clip_once
from strong_envs.features.composing.recipe import Recipe
from strong_envs.features.datasets.types import Query
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.store.store import StoredVideo

CONFLICTS = ("refuse", "drop")


def assign_parts(
    found: ClipSet, seed: int = 0, val_share: float = 0.1, test_share: float = 0.25, conflicts: str = "refuse"
) -> None:
    """Give every clip a part, and every group one part only. Changes ``found.clips`` and its report.

    Parts that are given stay. Without any, groups are dealt to the three parts by shares, class by class; a missing
    validation part is carved from training groups, and a missing test part is the validation part where there is one.

    Args:
        found: clips, some with a part.
        seed: of the dealing; the same seed gives the same parts whatever the order of the clips.
        val_share: share of the training groups, class by class.
        test_share: share of all groups, class by class.
        conflicts: what to do with groups that are given in two parts: ``"refuse"``, or ``"drop"`` their clips from
            training (from validation where the other part is test).

    Raises:
        DataError: shares outside (0, 1), groups in two parts, or a part without a clip.
    """
    for name, share in (("val_share", val_share), ("test_share", test_share)):
        if not 0 < share < 1:
            raise DataError(f"{name} must lie between 0 and 1, got {share}")
    if conflicts not in CONFLICTS:
        raise DataError(f"conflicts must be one of {CONFLICTS}, got {conflicts!r}{nearest(conflicts, CONFLICTS)}")
    one_clip_once(found, conflicts)
    clips = found.clips
    if any(c.part is not None for c in clips):
        for clip in clips:
            if clip.part is None:
                found.report.add("a clip has no part, others have", "dropped", clip.id)
        clips = [c for c in clips if c.part is not None]
        clips = _one_part_a_group(clips, conflicts, found)
    else:
        chosen = _deal(clips, seed, test_share, "test")
        clips = [replace(c, part="test" if c.group in chosen else "train") for c in clips]
    have = {c.part for c in clips}
    if "test" not in have and "val" in have:
        found.report.add("no clip is given to the test part; the validation part is used as such", "doubtful", "val")
        clips = [replace(c, part="test") if c.part == "val" else c for c in clips]
    elif "test" not in have:
        chosen = _deal(clips, seed, test_share, "test")
        clips = [replace(c, part="test" if c.group in chosen else "train") for c in clips]
    if "val" not in {c.part for c in clips}:
        chosen = _deal([c for c in clips if c.part == "train"], seed, val_share, "val")
        clips = [replace(c, part="val") if c.part == "train" and c.group in chosen else c for c in clips]
    counts = Counter(c.part for c in clips)
    for part in PARTS:
        if not counts[part]:
            groups = len({c.group for c in clips})
            raise DataError(
                f"the {part} part of {found.name} has no clip: {len(clips)} clips of {groups} groups are there; parts "
                f"are made of whole groups{_largest(clips) if groups < 3 else ''}"
            )
    found.clips = clips


def _largest(clips: list[Clip]) -> str:
    group, count = Counter(c.group for c in clips).most_common(1)[0]
    return f" (group {group!r} has {count}; a field named group or source, --field group=NAME or --groups makes groups)"


def _one_part_a_group(clips: list[Clip], conflicts: str, found: ClipSet) -> list[Clip]:
    of_group: dict[str, dict[str, str]] = defaultdict(dict)
    for clip in clips:
        of_group[clip.group].setdefault(str(clip.part), clip.id)
    torn = {group: parts for group, parts in of_group.items() if len(parts) > 1}
    if torn and conflicts == "refuse":
        listed = "; ".join(
            f"group {group!r} ({', '.join(f'{clip} in {part}' for part, clip in parts.items())})"
            for group, parts in list(torn.items())[:6]
        )
        raise DataError(
            f"{len(torn)} groups are put into two parts: {listed}. Clips of one source must not be trained and tested "
            "on: correct the splits, or drop them from training with --conflicts drop"
        )
    keep = {group: min(parts, key=lambda p: PRIORITY[p]) for group, parts in torn.items()}
    kept = []
    for clip in clips:
        if keep.get(clip.group, clip.part) != clip.part:
            kind = "a clip is left out of its part: its group is in another part as well"
            found.report.add(kind, "dropped", f"{clip.id} of {clip.part}: {clip.group} is in {keep[clip.group]}")
        else:
            kept.append(clip)
    return kept


def _deal(clips: list[Clip], seed: int, share: float, purpose: str) -> set[str]:
    """Groups of about ``share`` of the groups of every class, at least one where a class has three or more."""
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        classes[clip.group][clip.label or ""] += 1
    by_class: dict[str, list[str]] = defaultdict(list)
    for group, labels in classes.items():
        by_class[min(labels, key=lambda name: (-labels[name], name))].append(group)
    chosen: set[str] = set()
    for label, groups in sorted(by_class.items()):
        order = sorted(groups, key=lambda g: hashlib.sha256(f"{seed}/{purpose}/{label}/{g}".encode()).digest())
        count = round(share * len(groups))
        chosen.update(order[: max(count, 1) if len(groups) > 2 else count])
    if not chosen and len(classes) > 1:
        chosen.add(min(classes, key=lambda g: hashlib.sha256(f"{seed}/{purpose}/{g}".encode()).digest()))
    return chosen


def one_part_a_sentence(found: ClipSet) -> None:
    """Leave every sentence to one part: to test before validation before training. Counts what the others lose."""
    where: dict[str, str] = {}
    for clip in found.clips:
        for text in clip.sentences:
            key, part = sentence_key(text), str(clip.part)
            if PRIORITY[part] < PRIORITY[where.get(key)]:
                where[key] = part
    clips = []
    for clip in found.clips:
        kept = tuple(t for t in clip.sentences if where[sentence_key(t)] == clip.part)
        for text in clip.sentences:
            if text not in kept:
                other = where[sentence_key(text)]
                kind = f"a sentence of the {clip.part} part stands in the {other} part as well and is left to that one"
                found.report.add(kind, "dropped", f"{clip.id}: {text}")
        if clip.sentences and not kept:
            found.report.add("a clip has lost all its sentences and is used as background", "doubtful", clip.id)
        clips.append(clip if len(kept) == len(clip.sentences) else replace(clip, sentences=kept))
    found.clips = clips


def find_leaks(videos: Iterable[StoredVideo], queries: Iterable[Query]) -> list[str]:
    """Clips, groups and sentences that stand in two parts of a composed store, one line each; empty where none does.

    The parts are those of the queries; the clips and groups are those of the recipes of the videos.

    Args:
        videos: of the store.
        queries: of the store.
    """
    parts: dict[str, dict[str, str]] = {}
    part_of_video: dict[str, str] = {}
    lines: list[str] = []

    def put(what: str, part: str, where: str) -> None:
        known = parts.setdefault(what, {})
        if part not in known:
            known[part] = where
            if len(known) > 1:
                lines.append(f"{what} is in two parts: " + ", ".join(f"{p} ({w})" for p, w in known.items()))

    for query in queries:
        part_of_video.setdefault(query.video, query.split)
        put(f"video {query.video!r}", query.split, f"query {query.qid}")
        put(f"sentence {sentence_key(query.text)!r}", query.split, f"query {query.qid}")
    for video in videos:
        recipe = Recipe.of(video)
        if recipe is None or video.id not in part_of_video:
            continue
        for source in recipe.used_sources():
            put(f"clip {source.id!r}", part_of_video[video.id], f"video {video.id}")
            put(f"group {source.group!r}", part_of_video[video.id], f"video {video.id}")
    return lines


def refuse_leaks(lines: Iterable[str]) -> None:
    """Raise `DataError` that names the first of what stands in two parts."""
    listed = list(lines)
    if listed:
        more = f"; and {len(listed) - 6} more" if len(listed) > 6 else ""
        raise DataError(f"the parts leak: {'; '.join(listed[:6])}{more}")
