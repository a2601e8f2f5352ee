"""What the paper printed in its Tables 1 and 2, and what it claims from them; the numbers are `paper_numbers.json`.

They are of another protocol than ours: windows of 64 to 512 frames cut out of each video, pairs chosen and split at
random by the authors, IoU by Eq. 4, hits counted with ``>``. They only ever stand in columns of their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.protocols import Protocol


@dataclass(frozen=True)
class Claim:
    """The paper says that system ``better`` localises better than ``worse``, in ``section``."""

    better: str
    worse: str
    section: str


_FILE: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
SOURCE: str = _FILE["source"]
METRICS: tuple[str, ...] = tuple(_FILE["metrics"])
TABLES: dict[int, dict[str, dict[str, tuple[float, ...]]]] = {
    table["number"]: {
        data: {system: tuple(values) for system, values in systems.items()} for data, systems in table["rows"].items()
    }
    for table in _FILE["tables"]
}
"""Table number to data set to system to its numbers in percent, in the order of `METRICS`."""
CLAIMS: dict[int, tuple[Claim, ...]] = {
    table["number"]: tuple(Claim(**claim) for claim in table["claims"]) for table in _FILE["tables"]
}
DATA: tuple[str, ...] = tuple(TABLES[1])


def protocol(data: str) -> Protocol:
    """How the paper measured on a data set: it shares a column with no protocol of ours."""
    rules = {name: value for name, value in _FILE["protocol"].items() if name != "splits"}
    return Protocol("the paper", data, **_FILE["protocol"]["splits"][data], **rules)


def rows(number: int, data: str, metrics: tuple[str, ...] = METRICS) -> list[dict[str, Any]]:
    """Rows of Table ``number`` for `benchmarks.results.tables`, as fractions, without seeds and intervals.

    Neither was published.
    """
    about = protocol(data).as_dict()
    return [
        {
            "system": system,
            "protocol": about,
            "seeds": None,
            "metrics": {m: v / 100 for m, v in zip(METRICS, values, strict=True) if m in metrics},
        }
        for system, values in TABLES[number][data].items()
    ]
