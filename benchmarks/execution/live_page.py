"""``live.html``: how far a job is, in a page that reloads itself while the job runs.

It shows the training runs that have ended with their scores on *validation* videos stage by stage, those that run, and
the estimate of the time left. Scores on the test part are in the report of the finished job alone.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from strong_envs.features.files.atomic import write_text

NAME = "live.html"
EVERY = 5.0
"""Seconds between two versions of the page, and after which it reloads itself."""
WIDTH, HEIGHT = 560, 160
STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .6rem; }
tr + tr { border-top: 1px solid #8884; } td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
progress { width: 100%; } svg { width: 100%; max-width: 560px; height: auto; } .scroll { overflow-x: auto; }
"""


class LivePage:
    """Writes the page of one job; where it cannot be written the job goes on without it.

    Args:
        file: of the page.
        clock: seconds.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.file, self.clock = file, clock
        self.rows: list[tuple[str, list[float]]] = []
        self.written: float | None = None

    def finished(self, name: str, result: Mapping[str, Any] | None) -> None:
        """A training run has ended; without a result it failed."""
        history = [] if result is None else result.get("history") or []
        scores = [float(stage["IoU"]) for stage in history if isinstance(stage.get("IoU"), (int, float))]
        self.rows.append((name if result is not None else f"{name} (failed)", scores))

    def write(self, done: int, total: int, left: str, running: Sequence[str], ended: str = "") -> None:
        """Write the page if the last version is old enough; the last one, with ``ended``, always.

        Args:
            done: training runs that have ended.
            total: training runs in all.
            left: the estimate in words.
            running: a line for each that runs.
            ended: why the job is over; empty while it runs.
        """
        now = self.clock()
        if not ended and self.written is not None and now - self.written < EVERY:
            return
        self.written = now
        with suppress(Exception):  # a full disk is the job's to report, when it stores what matters
            write_text(self.file, page_of(self.rows, done, total, left, running, ended))


def page_of(
    rows: Sequence[tuple[str, Sequence[float]]], done: int, total: int, left: str, running: Sequence[str], ended: str
) -> str:
    """The page; arguments as in `LivePage.write`, ``rows`` are names with validation mIoU in [0, 1], stage by stage."""
    again = "" if ended else f'<meta http-equiv="refresh" content="{EVERY:.0f}">'
    state = html.escape(ended or f"running{left}")
    lines = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="n">{f"{100 * scores[-1]:.1f}" if scores else "-"}</td>'
        f"<td>{_curve(scores)}</td></tr>"
        for name, scores in rows
    )
    now = "".join(f"<li>{html.escape(line)}</li>" for line in running)
    table = f"<table><tr><th>training run</th><th>mIoU</th><th>stage by stage</th></tr>{lines}</table>" if rows else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{again}'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{done} of {total}: {state}</title>'
        f"<style>{STYLE}</style><h1>{done} of {total} training runs</h1><p>{state}</p>"
        f'<progress value="{done}" max="{max(total, 1)}">{done} of {total}</progress>'
        + (f"<h2>Now</h2><ul>{now}</ul>" if running else "")
        + f'<h2>Ended</h2><p>Validation videos, per cent.</p><div class="scroll">{table}</div></html>\n'
    )


def _curve(scores: Sequence[float]) -> str:
    """A small curve from 0 to 1 over the stages; nothing for fewer than two."""
    if len(scores) < 2:
        return ""
    step = WIDTH / (len(scores) - 1)
    points = " ".join(f"{i * step:.1f},{HEIGHT * (1 - min(max(s, 0.0), 1.0)):.1f}" for i, s in enumerate(scores))
    return (
        f'<svg viewBox="-4 -4 {WIDTH + 8} {HEIGHT + 8}" role="img" aria-label="from {100 * scores[0]:.1f} to '
        f'{100 * scores[-1]:.1f}"><path d="M0 {HEIGHT}H{WIDTH}M0 {HEIGHT / 2}H{WIDTH}M0 0H{WIDTH}" stroke="#8886"/>'
        f'<polyline points="{points}" fill="none" stroke="#e08020" stroke-width="3"/></svg>'
    )
