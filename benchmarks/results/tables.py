"""Rows of results to tables: GitHub Markdown for documents, rich for terminals, the same cells in both.

A row is a dict, ready for JSON::

    {"system": "constant",                    # the label of the row
     "protocol": {...},                       # Protocol.as_dict(), or a Protocol
     "seeds": 5,                              # training runs; None for a system without randomness
     "metrics": {"mIoU": 0.3047, ...},        # fractions for the metrics that are shares, else the plain number
     "intervals": {"mIoU": [0.29, 0.32]},     # optional: low and high
     "caveat": None,                          # optional: a sentence to print below the table
     "note": None,                            # optional: another, about this system alone
     "sees": "grid",                          # optional: what it is given to predict, see `agents.registry.SEES`
     "learns_from": "frame labels",           # optional: what it is trained with, see `agents.registry.LEARNS_FROM`
     "description": "..."}                    # optional: one sentence on the system

Tables have the columns "sees" and "learns from" where any row says them; rows of files of earlier releases do not.

All rows of a column share one protocol. Numbers of another protocol, such as those printed in papers, are given as
``beside`` and get columns of their own under their own heading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strong_envs.benchmarks.metrics.columns import drop_rank, in_order, is_detail, is_percent, legend_of
from strong_envs.benchmarks.metrics.curves import FLAT, verdict
from strong_envs.benchmarks.protocols import Protocol, same_column
from strong_envs.features.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = Mapping[str, Any]
ABSENT = "\N{EN DASH}"
INFORMATION = {"sees": "sees", "learns_from": "learns from"}
"""Columns that say what a system knows: systems are compared within a kind."""
WORDS = ("system", *INFORMATION.values())
"""Columns of words, which begin at the left."""
WIDE = 10_000
"""Characters: a terminal in which any table finds room."""


@dataclass(frozen=True)
class TableCells:
    """A table before it is drawn: ``header`` (C,), ``body`` rows of C strings, ``notes`` to print below."""

    header: list[str]
    body: list[list[str]]
    notes: list[str]


def table_cells(
    rows: Sequence[Row],
    metrics: Sequence[str] | None = None,
    *,
    intervals: bool = True,
    beside: Mapping[str, Sequence[Row]] | None = None,
    legend: bool = False,
    information: bool = True,
) -> TableCells:
    """Lay out rows as strings.

    Args:
        rows: results of one protocol, in the order of the table.
        metrics: columns; None takes those of `columns_of`.
        intervals: write half the width of the interval behind each number that has one.
        beside: heading to rows of another protocol, matched by system; each heading gets its own columns.
        legend: add a note for each metric that says what it is.
        information: say what systems see and learn from in columns; else in notes.

    Raises:
        DataError: no rows, two protocols in one column, or a system with two rows in one column.
    """
    groups = [("", list(rows)), *((label, list(other)) for label, other in (beside or {}).items())]
    if not groups[0][1]:
        raise DataError("a table needs at least one row")
    known = [name for name in INFORMATION if any(row.get(name) for row in groups[0][1])]
    kinds = known if information else []
    header = ["system", *(INFORMATION[name] for name in kinds), "seeds"]
    notes: list[str] = []
    shown: list[str] = []
    columns: list[dict[str, str]] = []
    for label, group in groups:
        by_system = _one_protocol(group, label)
        for name in _as_given(group) if label else columns_of(group) if metrics is None else metrics:
            header.append(f"{name} ({label})" if label else name)
            shown.append(name)
            columns.append({system: _number(name, row, intervals) for system, row in by_system.items()})
        notes.extend(f"{label}: {_protocol(row)}" if label else str(_protocol(row)) for row in group[:1])
    systems = list(dict.fromkeys(row["system"] for _, group in groups for row in group))
    seeds = {row["system"]: _count(row.get("seeds")) for row in rows}
    information_of = {row["system"]: [row.get(name) or ABSENT for name in kinds] for row in rows}
    absent = [ABSENT] * len(kinds)
    body = [
        [s, *information_of.get(s, absent), seeds.get(s, ABSENT), *(column.get(s, ABSENT) for column in columns)]
        for s in systems
    ]
    if intervals and any(row.get("intervals") for _, group in groups for row in group):
        notes.append("± is half the width of the 95 % bootstrap interval.")
    if known and not information:
        notes.extend(_kinds(rows))
    notes.extend(_ends(rows))
    notes.extend(_caveats([row for _, group in groups for row in group]))
    notes.extend(f"{row['system']}: {row['note']}" for _, group in groups for row in group if row.get("note"))
    notes.extend(legend_of(shown) if legend else [])
    return TableCells(header, body, notes)


def markdown_table(rows: Sequence[Row], metrics: Sequence[str] | None = None, **options: Any) -> str:
    """A GitHub-Markdown table with its notes below; arguments as in `table_cells`."""
    laid = table_cells(rows, metrics, **options)
    lines = [[_escape(cell) for cell in line] for line in (laid.header, *laid.body)]
    rule = ["---" if name in WORDS else "---:" for name in laid.header]
    table = [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]
    return "\n".join([*table, "", *(f"- {_escape(note)}" for note in laid.notes)]) + "\n"


def console_table(
    rows: Sequence[Row], metrics: Sequence[str] | None = None, *, title: str | None = None, **options: Any
) -> Table:
    """The same table for `rich.print`, with its notes as the caption; arguments as in `table_cells`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # Names of systems and reasons of failures are the user's: as Text, nothing in them is read as markup or emoji.
    laid = table_cells(rows, metrics, **options)
    notes = Text("\n".join(laid.notes))
    table = Table(title=title and Text(title), caption=notes, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in laid.header:
        table.add_column(Text(name), justify="left" if name in WORDS else "right", no_wrap=True)
    for line in laid.body:
        table.add_row(*map(Text, line))
    return table


def print_table(
    rows: Sequence[Row],
    metrics: Sequence[str] | None = None,
    *,
    title: str | None = None,
    console: Console | None = None,
    **options: Any,
) -> None:
    """Print `console_table` with a legend; in a narrow terminal without intervals, and then with fewer columns.

    What systems see and learn from is then said in notes below the table.
    `benchmarks.metrics.columns.drop_rank` says which columns go first; columns that were asked for by name stay.
    """
    from rich.console import Console

    console = console or Console()
    wide = console.options.update(width=WIDE)

    def fits(table: Table) -> bool:
        return console.measure(table, options=wide).maximum <= console.width

    options = {"legend": True, **options}
    table = console_table(rows, metrics, title=title, **options)
    if not fits(table) and options.get("intervals", True):
        options = {**options, "intervals": False}
        table = console_table(rows, metrics, title=title, **options)
    if not fits(table):
        options = {**options, "information": False}
        table = console_table(rows, metrics, title=title, **options)
    shown: list[str] = columns_of(rows) if metrics is None else []
    gone: list[str] = []
    for rank in sorted({drop_rank(name) for name in shown} - {0}):
        if fits(table):
            break
        gone += [name for name in shown if drop_rank(name) == rank]
        shown = [name for name in shown if drop_rank(name) != rank]
        table = console_table(rows, shown, title=title, **options)
    console.print(table)
    if gone:
        console.print(
            f"columns left out (narrow terminal): {', '.join(gone)}", highlight=False, markup=False, soft_wrap=True
        )


def format_number(name: str, value: float | None, interval: Sequence[float] | None = None) -> str:
    """``30.47 ± 0.61`` for a share (in percent, two decimals), whole parameters, three digits for anything else."""
    if value is None:
        return ABSENT
    share = is_percent(name)
    text = f"{100 * value:.2f}" if share else f"{value:,.0f}" if name == "params" else f"{value:.3g}"
    if interval is None:
        return text
    half = (interval[1] - interval[0]) / 2
    return f"{text} ± {100 * half:.2f}" if share else f"{text} ± {half:.2g}"


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The metrics that a table of these rows shows, in the order of the table of metrics."""
    names = in_order(name for row in rows for name in row["metrics"])
    return [name for name in names if not is_detail(name)]


def _as_given(rows: Sequence[Row]) -> list[str]:
    """All metrics of the rows, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row["metrics"]))


def _number(name: str, row: Row, intervals: bool) -> str:
    interval = (row.get("intervals") or {}).get(name) if intervals else None
    return format_number(name, row["metrics"].get(name), interval)


def _protocol(row: Row) -> Protocol:
    protocol = row.get("protocol")
    if isinstance(protocol, Protocol):
        return protocol
    if protocol is None:
        raise DataError(f"the row of {row.get('system')!r} carries no protocol, so nothing can be compared with it")
    return Protocol.from_dict(protocol)


def _one_protocol(group: Sequence[Row], label: str) -> dict[str, Row]:
    by_system: dict[str, Row] = {}
    for row in group:
        same_column(_protocol(group[0]), _protocol(row))
        if row["system"] in by_system:
            where = f" under {label!r}" if label else ""
            raise DataError(f"{row['system']!r} has two rows{where}; give them two labels")
        by_system[row["system"]] = row
    return by_system


def _count(seeds: int | None) -> str:
    return ABSENT if seeds is None else f"{seeds:,}"


def _caveats(rows: Sequence[Row]) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.get("caveat"):
            found.setdefault(row["caveat"], []).append(row["system"])
    return [
        f"{'every system' if len(systems) == len(rows) > 1 else ', '.join(dict.fromkeys(systems))}: {text}"
        for text, systems in found.items()
    ]


def _kinds(rows: Sequence[Row]) -> list[str]:
    """A note for each kind of information, with the systems that have it."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.get("sees") or row.get("learns_from"):
            found.setdefault((row.get("sees") or ABSENT, row.get("learns_from") or ABSENT), []).append(row["system"])
    return [f"sees {sees}, learns from {learns}: {', '.join(names)}" for (sees, learns), names in found.items()]


def _ends(rows: Sequence[Row]) -> list[str]:
    """Which learning curves are flat at the end of the training, and which the common budget cut off."""
    changes = {row["system"]: row["metrics"].get("rise") for row in rows}
    known = {system: change for system, change in changes.items() if change is not None}
    flat = [system for system, change in known.items() if verdict(change) == "flat"]
    rising = [f"{system} {100 * change:+.1f}" for system, change in known.items() if verdict(change) == "rising"]
    rule = f"points of mIoU on validation in the last quarter of the training, flat below {100 * FLAT:g}"
    notes = [f"validation curve flat at the end of the training ({rule}): {', '.join(flat)}."] if flat else []
    if rising:
        notes.append(f"the common budget ended while the validation curve rose ({rule}): {', '.join(rising)}.")
    return notes


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
