"""Result files: JSON that is written whole or not at all, and read with one sentence for what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import shown
from strong_envs.features.files.untrusted_json import read_json

_NUMBERS = re.compile(r"\[\s+((?:[-+.\deE]+|null),?(?:\s+(?:[-+.\deE]+|null),?)*)\s+\]")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, indented, with lists of numbers on one line each."""
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", json.dumps(value, indent=1))
    write_text(path, text + "\n")


def read_result(path: str | Path) -> dict[str, Any]:
    """The object of a JSON file; `DataError` where there is none."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{shown(path)} is not a result file: it holds a {type(values).__name__}")
    return values
