"""The error for input that cannot be used, and the nearest valid name for its message."""

from __future__ import annotations

from collections.abc import Iterable


class DataError(ValueError):
    """Input that cannot be used. The message says what was wrong, the offending value, and what is valid."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` when a valid name is close to ``name``, else the empty string, for error messages."""
    import difflib

    close = difflib.get_close_matches(str(name), [str(v) for v in valid], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
