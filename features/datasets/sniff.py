"""Recognise the format of an annotation file from its first bytes."""

from __future__ import annotations

import re
from pathlib import Path

from strong_envs.features.datasets.format import FORMATS

HEAD_BYTES = 2**18
BOXES = "boxes"
"""What `sniff_file` calls a file of box tracks, which is read by `read_boxes` and no format of annotations."""
BOX_KEYS = frozenset({"box_format", "frames"})

_KEY = re.compile(r'"([^"\\]{1,64})"\s*:')


def sniff_file(path: Path) -> str | None:
    """The name of the format of one file, `BOXES` for box tracks, None for anything else."""
    suffix = path.suffix.lower()
    candidates = sorted((f for f in FORMATS.values() if suffix in f.suffixes), key=lambda f: (-f.rank, f.name))
    if not candidates:
        return None
    head = read_head(path)
    if is_json(head):
        keys = set(_KEY.findall(head))
        if keys >= BOX_KEYS:
            return BOXES
        return next((f.name for f in candidates if f.keys and f.keys <= keys), None)
    return next((f.name for f in candidates if f.text is not None and f.text.search(head)), None)


def read_head(path: Path) -> str:
    """The beginning of a file as text without leading space; empty where it cannot be read."""
    try:
        if not path.is_file():  # opening a named pipe would wait for ever
            return ""
        with open(path, "rb") as handle:
            return handle.read(HEAD_BYTES).decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    except (OSError, ValueError):
        return ""


def is_json(head: str) -> bool:
    """Whether text begins like a JSON object or list."""
    return head[:1] in ("{", "[")
