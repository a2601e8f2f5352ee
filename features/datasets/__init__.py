"""Readers of annotation files, one module a format. Each returns what it kept and a report of what it changed or left.

`READERS` maps a format's name to its reader; `read` tells the format by itself. Times are seconds, splits are
``train``, ``val`` and ``test``, and rows are clipped, dropped and counted by one set of rules (`Collector`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from strong_envs.features.datasets.boxes import boxes_at_rows, read_boxes
from strong_envs.features.datasets.formats.activitynet import read_activitynet_captions
from strong_envs.features.datasets.formats.charades_cd import read_charades_cd
from strong_envs.features.datasets.formats.charades_sta import read_charades_sta
from strong_envs.features.datasets.formats.didemo import read_didemo
from strong_envs.features.datasets.formats.hc_stvg import read_hc_stvg
from strong_envs.features.datasets.formats.qvhighlights import read_qvhighlights
from strong_envs.features.datasets.formats.tacos import read_tacos
from strong_envs.features.datasets.formats.vidstg import read_vidstg
from strong_envs.features.datasets.sniff import sniff_file
from strong_envs.features.datasets.types import Annotations
from strong_envs.features.errors import DataError, nearest

READERS: dict[str, Callable[..., Annotations]] = {
    "activitynet_captions": read_activitynet_captions,
    "charades_cd": read_charades_cd,
    "charades_sta": read_charades_sta,
    "didemo": read_didemo,
    "hc_stvg": read_hc_stvg,
    "qvhighlights": read_qvhighlights,
    "tacos": read_tacos,
    "vidstg": read_vidstg,
}

__all__ = [
    "READERS",
    "boxes_at_rows",
    "find_format",
    "read",
    "read_activitynet_captions",
    "read_boxes",
    "read_charades_cd",
    "read_charades_sta",
    "read_didemo",
    "read_hc_stvg",
    "read_qvhighlights",
    "read_tacos",
    "read_vidstg",
]


def find_format(path: str | os.PathLike) -> str:
    """The name in `READERS` of the format of a file, or of the annotation files in a folder.

    Raises:
        DataError: nothing there is recognised, or a folder holds several formats; the message lists the formats.
    """
    target = Path(path)
    formats = ", ".join(sorted(READERS))
    try:
        files = sorted(p for p in target.iterdir() if p.is_file()) if target.is_dir() else [target]
        exists = target.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"{str(target)!r} cannot be looked at: {error}") from None
    if not exists:
        raise DataError(f"no such file or folder: {str(target)!r}")
    sniffed = {f: sniff_file(f) for f in files}
    found = {f: "tacos" if name == "tacos_tall" else name for f, name in sniffed.items() if name not in (None, "boxes")}
    names = sorted(set(found.values()))
    if len(names) == 1:
        return names[0]
    if not names:
        raise DataError(
            f"{str(target)!r} holds no annotations in a known format; pass format= with one of {formats} "
            "(read_boxes reads boxes.json)"
        )
    held = ", ".join(f"{f.name} ({name})" for f, name in list(found.items())[:8])
    raise DataError(f"{str(target)!r} holds several formats: {held}; pass one file, or format= with one of {formats}")


def read(path: str | os.PathLike, format: str | None = None, **options: object) -> Annotations:
    """Read annotations of any known format.

    Args:
        path: a file, or a folder in the data set's own layout.
        format: a name in `READERS`; None finds it out.
        **options: passed to the reader, such as ``split=`` or ``convention=``.

    Raises:
        DataError: an unknown format, or whatever the reader refuses.
    """
    name = find_format(path) if format is None else format
    if name not in READERS:
        raise DataError(f"unknown format {name!r}{nearest(name, READERS)}; formats are {sorted(READERS)}")
    return READERS[name](path, **options)
