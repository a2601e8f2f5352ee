"""Result files: JSON that is written whole or not at all, and read with one sentence for what is wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.results.schema import checked_cell, checked_result
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import ascii_safe, given_path, os_errors, shown
from strong_envs.features.files.untrusted_json import read_json

MOST_BYTES = 256 * 2**20
_NUMBERS = re.compile(r"\[\s+((?:[-+.\deE]+|null),?(?:\s+(?:[-+.\deE]+|null),?)*)\s+\]")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, indented, with lists of numbers on one line each.

    NaN and infinity, which JSON does not have, are written as null; text that is not Unicode as escapes.
    """
    text = json.dumps(_plain(value), indent=1)
    write_text(path, _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return ascii_safe(value) if isinstance(value, str) and not value.isascii() else value


def read_tree(path: str | Path) -> dict[str, Any]:
    """The object of a JSON file; `DataError` where there is none, which names the result file of a folder."""
    file = given_path(path, "the path of the result file")
    with os_errors(f"read {shown(path)}"):
        if file.is_dir():
            found = [p for p in (file / "results.json", *sorted(file.glob("*/results.json"))) if p.is_file()]
            instead = f"give {shown(found[0])}" if found else "no results.json lies in it; give the file of a result"
            raise DataError(f"{shown(path)} is a folder; {instead}")
    values = read_json(path, MOST_BYTES, finite=True)
    if not isinstance(values, dict):
        raise DataError(f"{shown(path)} is not a result file: it holds a {type(values).__name__}")
    return values


def read_result(path: str | Path, need: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a result file with the parts that are needed, checked; see `checked_result`."""
    return checked_result(read_tree(path), shown(path), need)


def read_cell_file(path: str | Path) -> dict[str, Any]:
    """The content of a cell's file, checked; see `checked_cell`."""
    return checked_cell(read_tree(path), shown(path), Path(path).stem)
