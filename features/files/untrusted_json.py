"""JSON of unknown origin: bounded in bytes, depth, digits and keys, and checked by a schema. No code is run.

Every file that this project reads back (manifests, headers of weights and checkpoints, runs, results) and every
annotation file goes through `parse_json`. What it returns holds numbers that fit a float64, text that can be written
as UTF-8, and at most `MAX_DEPTH` levels. `as_type` turns it into a ``msgspec.Struct``, which is a schema with types.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import os_errors, shown

MAX_BYTES = 64 * 2**20
"""Default limit of a file. A tree takes up to 24 times its text in memory."""
MAX_DEPTH = 64
MAX_DIGITS = 320
"""Digits of a number: the largest float64 has 309."""
MAX_HEADER_BYTES = 64 * 2**20
T = TypeVar("T")


def read_text(path: str | os.PathLike, limit: int = MAX_BYTES) -> str:
    """The UTF-8 text of a regular file of at most ``limit`` bytes. Raises `DataError`."""
    file = Path(path)
    with os_errors(f"read {shown(file)}"):
        if not file.exists():
            raise DataError(f"no such file: {shown(file)}")
        if not file.is_file():
            raise DataError(f"{shown(file)} is not a regular file")
        with open(file, "rb") as handle:
            # Asked for at once, a read of the limit would take that much memory for the smallest file.
            raw = handle.read(min(os.fstat(handle.fileno()).st_size, limit) + 1)
    if not raw:
        raise DataError(f"{shown(file)} is empty")
    if len(raw) > limit:
        raise DataError(f"{shown(file)} has more than {limit:,} bytes; files of this kind are read up to that size")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(f"{shown(file)} is not UTF-8: byte {error.start} is 0x{byte:02x}") from None


def read_json(path: str | os.PathLike, limit: int = MAX_BYTES, **options: Any) -> Any:
    """The tree of a JSON file; see `parse_json` for what is refused and for ``options``."""
    return parse_json(read_text(path, limit), shown(path), **options)


def parse_json(
    text: str,
    where: str,
    *,
    repeated_key: Callable[[str], None] | None = None,
    finite: bool = False,
    max_depth: int = MAX_DEPTH,
    any_text: bool = False,
) -> Any:
    """Parse JSON.

    Args:
        text: the document.
        where: its name for messages, quoted.
        repeated_key: called with each key that an object holds twice (the last value counts); None refuses such a
            document.
        finite: refuse ``NaN`` and ``Infinity``, which Python's JSON allows.
        max_depth: levels of nesting.
        any_text: keep text that is not Unicode (half of a surrogate pair), for callers that check it themselves.

    Raises:
        DataError: not JSON, deeper than ``max_depth``, a number of more than `MAX_DIGITS` digits or beyond float64, a
            key twice, text that is not Unicode.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(found)
        if len(result) != len(found):
            seen: set[str] = set()
            for key, _ in found:
                if key in seen:
                    if repeated_key is None:
                        raise DataError(f"{where} holds the key {key[:80]!r} twice in one object")
                    repeated_key(key)
                    break
                seen.add(key)
        return result

    def whole(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise DataError(f"{where} holds a number of {len(digits):,} digits; at most {MAX_DIGITS} are read")
        value = int(digits)
        if len(digits) > 308:
            try:
                float(value)
            except OverflowError:
                raise DataError(f"{where} holds a number beyond 64-bit floating point: {digits[:20]}...") from None
        return value

    def constant(name: str) -> float:
        if finite:
            raise DataError(f"{where} holds {name}, which is not a number")
        return float(name)

    try:
        tree = json.loads(text, object_pairs_hook=pairs, parse_int=whole, parse_constant=constant)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON: {str(error)[:160]}") from None
    _check_depth(tree, where, max_depth)
    if not any_text and "\\u" in text:
        _check_text(tree, where)
    return tree


def _containers(level: list[Any]) -> list[Any]:
    return [
        child
        for part in level
        for child in (part.values() if isinstance(part, dict) else part)
        if isinstance(child, (dict, list))
    ]


def _check_depth(tree: Any, where: str, limit: int) -> None:
    level = [tree] if isinstance(tree, (dict, list)) else []
    depth = 0
    while level:
        depth += 1
        if depth > limit:
            raise DataError(f"{where} is nested deeper than {limit} levels")
        level = _containers(level)


def _check_text(tree: Any, where: str) -> None:
    """Refuse text with half of a surrogate pair, which JSON can spell and no file can hold."""
    level = [tree]
    while level:
        for part in level:
            if isinstance(part, dict):
                texts = [*part.keys(), *(x for x in part.values() if isinstance(x, str))]
            elif isinstance(part, list):
                texts = [x for x in part if isinstance(x, str)]
            else:
                texts = [part] if isinstance(part, str) else []
            for one in texts:
                try:
                    one.encode("utf-8")
                except UnicodeEncodeError:
                    raise DataError(f"{where} holds text that is not Unicode: {one[:60]!a}") from None
        level = _containers([part for part in level if isinstance(part, (dict, list))])


def cut(text: str, length: int) -> str:
    """Text of at most ``length`` characters, with its middle left out."""
    return text if len(text) <= length else f"{text[: length // 2 - 2]}...{text[-(length // 2 - 1) :]}"


def as_type(tree: Any, kind: type[T], where: str) -> T:
    """A parsed tree as a ``msgspec.Struct`` or any type that msgspec knows.

    Raises:
        DataError: a field is missing, of another type or out of its range; the message names the field.
    """
    import msgspec

    try:
        return msgspec.convert(tree, kind, strict=True)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        # A name of an unknown field comes from the file, whatever its length.
        raise DataError(f"{where}: {cut(str(error), 300)}") from None


def read_header(path: str | os.PathLike, limit: int = MAX_HEADER_BYTES) -> dict[str, Any]:
    """The header of a safetensors file: tensor names to dtype, shape and offsets, and ``__metadata__``.

    Nothing but the header is read. Offsets are checked against the size of the file.

    Raises:
        DataError: not a safetensors file, a header above ``limit`` bytes, offsets outside the file, odd values.
    """
    file = Path(path)
    where = shown(file)
    with os_errors(f"read {where}"):
        if not file.is_file():
            raise DataError(f"no such file: {where}")
        size = file.stat().st_size
        with open(file, "rb") as handle:
            first = handle.read(8)
            length = int.from_bytes(first, "little")
            if len(first) < 8 or not 2 <= length <= size - 8:
                raise DataError(f"{where} is not a safetensors file")
            if length > limit:
                raise DataError(f"{where} has a header of {length:,} bytes; at most {limit:,} are read")
            raw = handle.read(length)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{where} is not a safetensors file: its header is not UTF-8") from None
    header = parse_json(text, where)
    if not isinstance(header, dict):
        raise DataError(f"{where} is not a safetensors file: its header is not an object")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DataError(f"{where} is not a safetensors file: its metadata is not text")
    for name, entry in header.items():
        if name != "__metadata__":
            _check_entry(name, entry, size - 8 - length, where)
    return header


def _check_entry(name: str, entry: Any, room: int, where: str) -> None:
    def whole_numbers(value: Any, count: int | None) -> bool:
        sizes = isinstance(value, list) and all(type(x) is int and 0 <= x < 2**53 for x in value)
        return sizes and (count is None or len(value) == count)

    if not (
        isinstance(entry, dict)
        and isinstance(entry.get("dtype"), str)
        and whole_numbers(entry.get("shape"), None)
        and whole_numbers(entry.get("data_offsets"), 2)
        and entry["data_offsets"][0] <= entry["data_offsets"][1] <= room
    ):
        raise DataError(f"{where} misstates the tensor {name[:80]!r}: {str(entry)[:120]}")
