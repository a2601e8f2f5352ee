"""Rows of a list as objects: JSON lines, JSON in several shapes, or a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from strong_envs.features.datasets.parsing import parse_json, read_json, read_lines, show
from strong_envs.features.datasets.types import Report
from strong_envs.features.errors import DataError


def read_rows(file: Path, report: Report) -> Iterator[tuple[str, dict]]:
    """Rows of a file as objects, with the place of each."""
    if file.suffix.lower() in (".csv", ".tsv"):
        yield from _csv_rows(file, report)
        return
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        for where, line in read_lines(file, report):
            try:
                row = parse_json(line, report, where)
            except DataError as error:
                report.add("a line cannot be read as JSON", "dropped", str(error))
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                report.add("a row is not an object", "dropped", f"{where}: {show(row)}")
        return
    tree = read_json(file, report)
    yield from _json_rows(tree, file.name, report)


def _json_rows(tree: object, name: str, report: Report) -> Iterator[tuple[str, dict]]:
    if isinstance(tree, dict) and isinstance(tree.get("sentences"), list):
        lists = [tree["sentences"], tree.get("videos", [])]
    elif isinstance(tree, dict) and isinstance(tree.get("annotations"), list):
        lists = [tree["annotations"], tree.get("images", []), tree.get("videos", [])]
    elif isinstance(tree, dict) and tree and all(isinstance(v, (dict, list, str)) for v in tree.values()):
        lists = [[{"id": k, **(v if isinstance(v, dict) else {"captions": v})} for k, v in tree.items()]]
    elif isinstance(tree, list):
        lists = [tree]
    else:
        raise DataError(f"{name} is no list of clips: it holds {show(tree)}")
    for rows in lists:
        for number_, row in enumerate(rows if isinstance(rows, list) else []):
            if isinstance(row, dict):
                yield f"{name}:{number_}", row
            else:
                report.add("a row is not an object", "dropped", f"{name}:{number_}: {show(row)}")


def delimiter_of(header: str) -> str:
    """What separates the columns of a table, by its first line: a comma, semicolon, tab or bar."""
    return max(",;\t|", key=header.count)


def _csv_rows(file: Path, report: Report) -> Iterator[tuple[str, dict]]:
    lines = [text for _, text in read_lines(file, report)]
    delimiter = "\t" if file.suffix.lower() == ".tsv" else delimiter_of(lines[0] if lines else "")
    reader = csv.DictReader(io.StringIO("\n".join(lines)), delimiter=delimiter)
    try:
        for count, row in enumerate(reader, 2):
            yield f"{file.name}:{count}", {k: v for k, v in row.items() if isinstance(k, str) and isinstance(v, str)}
    except csv.Error as error:
        raise DataError(f"{file.name} is not a csv table: {error}") from None
