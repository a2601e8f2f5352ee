"""Classes put into words, in another wording for every part: from a small file, else from templates."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from strong_envs.features.composing.clips import PARTS, ClipSet, part_of, sentence_key
from strong_envs.features.datasets.parsing import read_json, show
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError, nearest

TEMPLATES = {
    "train": ("a person doing {}", "someone is busy with {}"),
    "val": ("the part of the video that shows {}",),
    "test": ("{} can be seen here",),
}
"""Sentences about a class whose wording is not given."""
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
Wording = dict[str, dict[str, tuple[str, ...]]]
"""Label to part to sentences."""


def plain_name(label: str) -> str:
    """``"ApplyEyeMakeup"`` and ``"brush_hair"`` as words: ``"apply eye makeup"``, ``"brush hair"``."""
    return " ".join(re.split(r"[\s_\-]+", _CAMEL.sub(" ", label).strip())).lower()


def read_sentences(path: str | os.PathLike) -> Wording:
    """Read ``{"label": {"train": ["..."], "val": ["..."], "test": ["..."]}}``; parts may be missing.

    Raises:
        DataError: another form, a sentence without a word, or one that stands in two parts or under two labels; the
            message names the rows.
    """
    file = Path(path)
    tree = read_json(file, Report(file.name))
    if not isinstance(tree, dict) or not tree:
        raise DataError(f"{file.name} must hold an object of labels, it holds {show(tree)}")
    wording: Wording = {}
    first: dict[str, tuple[str, str]] = {}
    wrong: list[str] = []
    for label, parts in tree.items():
        if not isinstance(parts, dict) or not parts:
            raise DataError(
                f"{file.name}: {label!r} needs its sentences by part, such as {{'train': [...], 'test': [...]}}"
            )
        for name, texts in parts.items():
            part = part_of(name)
            if part is None:
                raise DataError(
                    f"{file.name}: {label!r} names the part {name!r}{nearest(name, PARTS)}; parts are {PARTS}"
                )
            texts = [texts] if isinstance(texts, str) else texts
            if not isinstance(texts, list) or not all(isinstance(t, str) and sentence_key(t) for t in texts):
                raise DataError(f"{file.name}: {label!r}, {name}: sentences are texts with words, got {show(texts)}")
            unique = {sentence_key(t): " ".join(t.split()) for t in texts}
            for key, text in unique.items():
                before = first.setdefault(key, (label, part))
                if before != (label, part):
                    wrong.append(f"{text!r} stands at {before[0]} {before[1]} and at {label} {part}")
            wording.setdefault(label, {})[part] = tuple(unique.values())
    if wrong:
        raise DataError(f"{file.name}: {len(wrong)} sentences are in two places: {'; '.join(wrong[:6])}")
    return wording


def word_classes(found: ClipSet, wording: Wording | None = None) -> None:
    """Give clips of a class the sentences of their part, from ``wording`` or else from `TEMPLATES`.

    Raises:
        DataError: labels that read the same in words.
    """
    labels = sorted({c.label for c in found.clips if c.about is not None and not c.sentences and c.label is not None})
    given = wording or {}
    for label in given:
        if label not in labels:
            found.report.add("sentences are given for a class without clips", "doubtful", label)
    table: Wording = {}
    owner: dict[str, str] = {}
    for label in labels:
        own = given.get(label, {})
        table[label] = {}
        for part in PARTS:
            texts = own.get(part) or tuple(t.format(plain_name(label)) for t in TEMPLATES[part])
            table[label][part] = texts
            if given and part not in own:
                found.report.add(
                    "a class has no sentence for a part; a template is used", "doubtful", f"{label}, {part}"
                )
            for text in texts:
                other = owner.setdefault(sentence_key(text), label)
                if other != label:
                    raise DataError(
                        f"the classes {other!r} and {label!r} have the sentence {text!r} in common: give their "
                        "sentences in a file (--sentences)"
                    )
    found.clips = [
        replace(c, sentences=table[c.label][str(c.part)]) if c.about is not None and not c.sentences and c.label else c
        for c in found.clips
    ]
