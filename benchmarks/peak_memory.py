"""The largest memory of a command and of its worker processes, for the last line of every long command."""

from __future__ import annotations

import sys

LONG = 10.0
"""Seconds from which a command counts as long."""


def peak_memory() -> str | None:
    """``"peak memory 1.2 GiB, largest worker 0.9 GiB"`` of this process so far; None where the system does not tell.

    Memory is what was resident at once, files that are mapped and were read included.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Kilobytes, on macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    own, worker = (
        resource.getrusage(who).ru_maxrss * unit / 2**30 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return f"peak memory {own:.1f} GiB" + (f", largest worker {worker:.1f} GiB" if worker else "")
