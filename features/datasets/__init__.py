"""Readers of annotation files, one module a format. Each returns what it kept and a report of what it changed or left.

`READERS` maps a format's name to its reader; `read` recognises the format. Times are seconds, splits are ``train``,
``val`` and ``test``, and rows are clipped, dropped and counted by one set of rules (`Collector`). A new format is one
module in ``formats``, see `annotation_format`. Nothing here imports torch.
"""

from __future__ import annotations

import os
import pkgutil
from importlib import import_module

from strong_envs.features.datasets import formats
from strong_envs.features.datasets.boxes import boxes_at_rows, read_boxes
from strong_envs.features.datasets.format import FORMATS, READERS, Format, annotation_format
from strong_envs.features.datasets.sniff import BOXES, sniff_file
from strong_envs.features.datasets.types import Annotations
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import given_path

__all__ = [
    "FORMATS",
    "READERS",
    "Format",
    "annotation_format",
    "boxes_at_rows",
    "find_format",
    "import_formats",
    "read",
    "read_boxes",
]


def import_formats() -> None:
    """Import every module of `strong_envs.features.datasets.formats`; importing a module registers its format."""
    for module in pkgutil.iter_modules(formats.__path__):
        import_module(f"{formats.__name__}.{module.name}")


def find_format(path: str | os.PathLike) -> str:
    """The name in `READERS` of the format of a file, or of the annotation files in a folder.

    Raises:
        DataError: nothing there is recognised, or a folder holds several formats; the message lists the formats.
    """
    target = given_path(path, "the path of the annotations")
    known = ", ".join(sorted(READERS))
    try:
        files = sorted(p for p in target.iterdir() if p.is_file()) if target.is_dir() else [target]
        exists = target.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"{str(target)!r} cannot be read: {error}") from None
    if not exists:
        raise DataError(f"no such file or folder: {str(target)!r}")
    found = {f: name for f in files if (name := sniff_file(f)) not in (None, BOXES)}
    names = sorted({name for name in found.values() if name is not None})
    if len(names) == 1:
        return names[0]
    if not names:
        raise DataError(
            f"{str(target)!r} holds no annotations in a known format; pass format= with one of {known} "
            "(read_boxes reads boxes.json)"
        )
    held = ", ".join(f"{f.name} ({name})" for f, name in list(found.items())[:8])
    raise DataError(f"{str(target)!r} holds several formats: {held}; pass one file, or format= with one of {known}")


def read(path: str | os.PathLike, format: str | None = None, **options: object) -> Annotations:
    """Read annotations of any known format.

    Args:
        path: a file, or a folder in the data set's own layout.
        format: a name in `READERS`; None recognises it.
        **options: passed to the reader, such as ``split=`` or ``convention=``.

    Raises:
        DataError: an unknown format, and the errors of the reader.
    """
    name = find_format(path) if format is None else format
    if name not in READERS:
        raise DataError(f"unknown format {name!r}{nearest(name, READERS)}; formats are {sorted(READERS)}")
    return READERS[name](path, **options)


import_formats()
