"""Telling an annotation file's format from its first bytes, so that nobody has to name it."""

from __future__ import annotations

import re
from pathlib import Path

HEAD_BYTES = 2**18
SUFFIXES = (".json", ".jsonl", ".txt")

_KEY = re.compile(r'"([^"\\]{1,64})"\s*:')
_CHARADES = re.compile(r"^\S+[ \t]+-?[\d.]+[ \t]+-?[\d.]+##", re.MULTILINE)
_TALL = re.compile(r"^[^\s:]+_\d+_\d+:", re.MULTILINE)

# The first whose keys all occur wins; the order puts the telling keys before the ones that formats share.
_JSON_KEYS = (
    ("boxes", {"box_format", "frames"}),
    ("hc_stvg", {"bbox", "st_time"}),
    ("vidstg", {"temporal_gt", "vid"}),
    ("didemo", {"times", "num_segments"}),
    ("tacos", {"timestamps", "num_frames"}),
    ("charades_cd", {"timestamps", "video_duration"}),
    ("activitynet_captions", {"timestamps", "duration"}),
    ("qvhighlights", {"query", "vid"}),
)


def sniff_file(path: Path) -> str | None:
    """The format of one file, ``"boxes"`` for box tracks, ``"tacos_tall"`` for TALL text, or None."""
    if path.suffix.lower() not in SUFFIXES:
        return None
    try:
        if not path.is_file():  # opening a named pipe would wait for ever
            return None
        with open(path, "rb") as handle:
            head = handle.read(HEAD_BYTES).decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    except (OSError, ValueError):
        return None
    if head[:1] in ("{", "["):
        keys = set(_KEY.findall(head))
        return next((name for name, needed in _JSON_KEYS if needed <= keys), None)
    if _CHARADES.search(head):
        return "charades_sta"
    return "tacos_tall" if _TALL.search(head) else None
