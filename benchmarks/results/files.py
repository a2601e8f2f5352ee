"""Result files: JSON that is written whole or not at all, and read with one sentence for what is wrong."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from strong_envs.features.errors import DataError

_NUMBERS = re.compile(r"\[\s+((?:[-+.\deE]+|null),?(?:\s+(?:[-+.\deE]+|null),?)*)\s+\]")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, indented, with lists of numbers on one line each."""
    staging = path.with_name(f".{path.name}.part{os.getpid()}")
    text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", json.dumps(value, indent=1))
    staging.write_text(text + "\n", encoding="utf-8")
    os.replace(staging, path)


def read_result(path: str | Path) -> dict[str, Any]:
    """The object of a JSON file; `DataError` where there is none."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{str(path)!r} is not a result file: it holds a {type(values).__name__}")
    return values
