"""A data format in one place: `annotation_format` gives a reader its name, the signs of its files, and its advice.

A module of `strong_envs.features.datasets.formats` holds one format, and the package finds it by itself. A module of
your own works as well, once it is imported::

    @annotation_format("my_format", keys={"clip", "sentence"}, advice={"a clip is": "Cut the clip again."})
    def read_my_format(path: PathOrPaths, *, split: str | None = None) -> Annotations: ...

From then on `read`, `check` and `import` know it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from strong_envs.features.datasets.types import Annotations
from strong_envs.features.errors import DataError

Reader = Callable[..., Annotations]
"""A function from a path, or several paths, and options by keyword to annotations."""

R = TypeVar("R", bound=Reader)


@dataclass(frozen=True)
class Format:
    """One format of annotation files.

    Attributes:
        name: key in `READERS`, and value of ``format=``.
        read: the reader.
        keys: JSON keys that all occur at the beginning of each of its JSON files; empty for text formats.
        text: pattern of one line of its text files, None for JSON formats.
        suffixes: file suffixes to look at, in lower case.
        rank: formats of higher rank are tried first; one whose keys occur in files of others has a lower rank.
        advice: beginning of a kind of finding to what to do about it, for findings that only this format makes.
    """

    name: str
    read: Reader
    keys: frozenset[str] = frozenset()
    text: re.Pattern[str] | None = None
    suffixes: tuple[str, ...] = (".json", ".jsonl", ".txt")
    rank: int = 0
    advice: Mapping[str, str] = field(default_factory=dict)


FORMATS: dict[str, Format] = {}
"""All formats by name."""
READERS: dict[str, Reader] = {}
"""All readers by the name of their format."""


def annotation_format(
    name: str,
    *,
    keys: Iterable[str] = (),
    text: re.Pattern[str] | None = None,
    suffixes: tuple[str, ...] = Format.suffixes,
    rank: int = 0,
    advice: Mapping[str, str] | None = None,
) -> Callable[[R], R]:
    """Decorate the reader of a format; the arguments are the attributes of `Format`.

    Raises:
        DataError: another reader has the name, or there is neither ``keys`` nor ``text`` to recognise a file by.
    """
    if not (keys or text):
        raise DataError(f"format {name!r} needs keys= (of its JSON) or text= (a pattern of its lines)")

    def register(read: R) -> R:
        known = FORMATS.get(name)
        if known is not None and (known.read.__module__, known.read.__qualname__) != (
            read.__module__,
            read.__qualname__,
        ):
            raise DataError(f"format {name!r} is registered already, by {known.read.__module__}")
        FORMATS[name] = Format(name, read, frozenset(keys), text, suffixes, rank, dict(advice or {}))
        READERS[name] = read
        return read

    return register
