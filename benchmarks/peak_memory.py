"""The largest memory of a command and of its worker processes, for the last line of every long command."""

from __future__ import annotations

import sys

LONG = 10.0
"""Seconds from which a command counts as long."""
_workers = [0.0]
"""Peaks that workers reported, in GiB."""


def own_peak(children: bool = False) -> float | None:
    """GiB that this process, or the largest of its children that ended, had resident at once.

    Files that are mapped and were read are included. None where the system does not tell.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Kilobytes, on macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def note_worker(peak: float | None) -> None:
    """Count a worker that is no child of this process, with its `own_peak`."""
    _workers.append(peak or 0.0)


def peak_memory() -> str | None:
    """``"peak memory 1.2 GiB, largest worker 0.9 GiB"`` so far; None where the system does not tell."""
    own, children = own_peak(), own_peak(children=True)
    if own is None or children is None:
        return None
    worker = max(children, *_workers)
    return f"peak memory {own:.1f} GiB" + (f", largest worker {worker:.1f} GiB" if worker else "")
