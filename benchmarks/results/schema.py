"""What result files and the files of cells must hold; anything else is refused with the name of the field.

The types are those of `msgspec`. Fields that a command does not read may have any value; fields with a default may be
absent, as in files of other commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from strong_envs.benchmarks.protocols import Protocol
from strong_envs.features.errors import DataError
from strong_envs.features.files.untrusted_json import as_type

Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e12)]
Score = Annotated[float, Meta(ge=-1e6, le=1e6)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Name = Annotated[str, Meta(max_length=10_000)]
Key = Annotated[str, Meta(pattern=r"^[\w-]{1,300}\Z")]
"""Names a file beside the result: no separators, no dots."""
Interval = tuple[Number, Number]


class Row(Struct):
    """A row of a table."""

    system: Name
    metrics: dict[str, Number | None]
    protocol: dict[str, Any]
    seeds: Count | None = None
    intervals: dict[str, Interval] | None = None
    caveat: Name | None = None
    note: Name | None = None
    description: Name | None = None
    sees: Name | None = None
    learns_from: Name | None = None
    reference: Name | None = None


class ValueRow(Row, kw_only=True):
    """A baseline of a sweep."""

    value: Any


class Point(ValueRow, kw_only=True):
    """A point of a sweep."""

    label: Name


class Stage(Struct):
    """A stage of a training, or a score within one."""

    stage: Name = ""
    seconds: Seconds = 0.0
    IoU: Score | UnsetType = UNSET


class PerQuery(Struct):
    """IoU of every query and run."""

    queries: list[Name]
    videos: list[Name]
    truth: list[Any]
    IoU: dict[str, list[list[Score]]]
    units: list[Name] = []


class Claim(Struct):
    """A claim of the paper and what became of it."""

    better: Name
    worse: Name
    section: Name
    verdict: Name
    form: Name = ""
    same_information: bool | UnsetType = UNSET
    difference: Number | UnsetType = UNSET
    low: Number | UnsetType = UNSET
    high: Number | UnsetType = UNSET
    p_value: Number | UnsetType = UNSET
    p_adjusted: Number | UnsetType = UNSET


class Machine(Struct):
    """The machine of a result."""

    processor: Name
    cores: Count | None
    accelerator: Name | UnsetType = UNSET


class About(Struct):
    """Where a result comes from."""

    command: Name | UnsetType = UNSET
    date: Name | UnsetType = UNSET
    machine: Machine | UnsetType = UNSET
    versions: dict[str, Name] | UnsetType = UNSET
    commit: Name | UnsetType | None = UNSET
    seeds: list[Count] | UnsetType = UNSET


class Validation(Struct):
    """The part that curves and traces are of, and the references of that part."""

    split: Name
    references: list[Row]


class ResultFile(Struct):
    """``results.json`` or ``sweep.json``."""

    protocol: dict[str, Any] | UnsetType = UNSET
    rows: list[Row] | UnsetType = UNSET
    points: list[Point] | UnsetType = UNSET
    references: list[ValueRow] = []
    parameter: Name = ""
    values: list[bool | int | float | str | list[Any] | None] = []
    curves: dict[str, list[list[Stage]]] | UnsetType = UNSET
    traces: dict[str, list[list[Stage]]] = {}
    validation: Validation | UnsetType = UNSET
    cells: dict[str, list[Key]] | UnsetType = UNSET
    failed: dict[str, Name] | UnsetType = UNSET
    refused: dict[str, Name] | UnsetType = UNSET
    notes: list[Name] = []
    per_query: PerQuery | UnsetType = UNSET
    claims: list[Claim] | UnsetType = UNSET
    tuned: dict[str, Any] | UnsetType = UNSET
    paper: dict[str, list[Row]] | UnsetType = UNSET
    wall_seconds: Seconds = 0.0
    about: About | UnsetType = UNSET


class CellFile(Struct):
    """The result of a cell."""

    key: Key
    system: Name
    queries: list[Name]
    videos: list[Name]
    protocol: dict[str, Any]
    seconds: Seconds
    history: list[Stage]
    spans: list[tuple[Number, Number]]
    scores: dict[str, list[Score]]
    features: Name
    data: Name
    test: Name
    seed: int
    train: Name = "train"
    validation: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    stages_split: Name | UnsetType | None = UNSET
    seconds_per_query: Seconds = 0.0
    parameters: Count | None = None
    dynamics: dict[str, Any] | None = None
    options: dict[str, Any] = {}
    trace: list[Stage] = []
    units: list[Name] = []
    commit: Name | None = None
    candidate_oracle: list[Score] | UnsetType = UNSET


def checked_result(values: Mapping[str, Any], where: str, need: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a result file.

    Args:
        values: as parsed.
        where: the file, for messages.
        need: parts that must be there, such as ``"rows"``.

    Raises:
        DataError: a part that is missing or has another form; the message names it.
    """
    missing = [name for name in need if name not in values]
    if missing:
        raise DataError(f"{where} is not a result file of this command: it has no {', '.join(map(repr, missing))}")
    found = as_type(values, ResultFile, where)
    for protocol in _protocols(found):
        _protocol(protocol, where)
    if not isinstance(found.per_query, UnsetType):
        _check_per_query(found.per_query, where)
    if not isinstance(found.points, UnsetType):
        for point in [*found.points, *found.references]:
            if point.value not in found.values:
                raise DataError(f"{where}: the value {str(point.value)[:40]!r} of a row is not one of the sweep")
    return dict(values)


def checked_cell(values: Mapping[str, Any], where: str, key: str) -> dict[str, Any]:
    """The content of a cell's file, whose name is ``key``; raises as `checked_result`."""
    found = as_type(values, CellFile, where)
    if found.key != key:
        raise DataError(f"{where} belongs to the cell {found.key!r}, not to {key!r}")
    _protocol(found.protocol, where)
    count = len(found.queries)
    lengths = {"videos": len(found.videos), "spans": len(found.spans)}
    lengths |= {f"scores of {name}": len(each) for name, each in found.scores.items()}
    if not isinstance(found.candidate_oracle, UnsetType):
        lengths["candidate_oracle"] = len(found.candidate_oracle)
    if found.units:
        lengths["units"] = len(found.units)
    for name, length in lengths.items():
        if length != count:
            raise DataError(f"{where} has {count} queries and {length} {name[:80]}")
    if not count or "IoU" not in found.scores:
        raise DataError(f"{where} has no queries or no IoU of them")
    return dict(values)


def _protocols(found: ResultFile) -> list[dict[str, Any]]:
    groups: list[Sequence[Row]] = [found.references]
    groups += [] if isinstance(found.validation, UnsetType) else [found.validation.references]
    groups += [rows for rows in (found.rows, found.points) if not isinstance(rows, UnsetType)]
    if not isinstance(found.paper, UnsetType):
        groups += found.paper.values()
    whole = [] if isinstance(found.protocol, UnsetType) else [found.protocol]
    return whole + [row.protocol for rows in groups for row in rows]


def _protocol(values: dict[str, Any], where: str) -> None:
    try:
        Protocol.from_dict(values)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _check_per_query(found: PerQuery, where: str) -> None:
    from strong_envs.benchmarks.metrics.breakdown import true_windows

    count = len(found.queries)
    if not (count or found.videos or found.truth or found.IoU):
        return  # the scores of queries were taken out, to have a small file
    if len(found.videos) != count or len(found.truth) != count or len(found.units) not in (0, count):
        raise DataError(f"{where}: per_query must have one query, video and true moment for each query")
    if len(set(found.queries)) != count:
        raise DataError(f"{where}: per_query names a query twice")
    for label, runs in found.IoU.items():
        if not runs or any(len(run) != count for run in runs):
            raise DataError(f"{where}: per_query must have {count} IoUs for each run of {label[:80]!r}")
    single, several = list[Interval], list[list[Interval]]
    try:
        msgspec.convert(found.truth, single, strict=True)
    except msgspec.ValidationError:
        as_type(found.truth, several, f"{where}: per_query.truth")
    true_windows(found.truth)
