"""The time bar of the page: a mark for every frame that was looked at, the window of a step, the truth on request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from strong_envs.benchmarks.demo.search import Search, stretches
from strong_envs.rendering.viewer import CHOSEN_COLOUR, SEEN_COLOUR, TRUE_COLOUR

MOST_MARKS = 400
"""More frames than this are drawn as stretches."""


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


CSS = f"""
.bar {{ display: grid; grid-template-columns: max-content 1fr; gap: .35rem .6rem; align-items: center;
  font-size: .85rem; }}
.bar .lane {{ position: relative; height: 1.1rem; border-radius: 2px; background: color-mix(in srgb, currentColor 12%,
  transparent); overflow: hidden; }}
.bar .lane i {{ position: absolute; top: 0; bottom: 0; min-width: 2px; }}
.bar .look {{ background: {_hex(SEEN_COLOUR)}; box-shadow: inset -1px 0 #0006; }}
.bar .look.last {{ background: #d6249f; }}
.bar .now {{ background: {_hex(CHOSEN_COLOUR)}; }}
.bar .true {{ background: {_hex(TRUE_COLOUR)}; }}
.bar .ends {{ display: flex; justify-content: space-between; opacity: .8; }}
"""


def time_bar(search: Search, step: int, truth: bool = False) -> str:
    """The bar of one step as HTML: marks have their times as titles; a sentence says it to screen readers."""
    step = search.at(step)
    duration, looked = search.duration, search.looked(step)
    second = duration / search.rows
    if len(looked) > MOST_MARKS:
        marks = [_mark("look", a * second, b * second, duration) for a, b in stretches(looked)]
    else:
        last = looked[-1] if search.one_by_one and looked else None
        kinds = ("look last" if row == last else "look" for row in looked)
        marks = [
            _mark(kind, row * second, (row + 1) * second, duration) for kind, row in zip(kinds, looked, strict=True)
        ]
    start, end = map(float, search.path[step])
    lanes = [("looked at", marks), ("window", [_mark("now", start, end, duration)])]
    said = [search.name_of(step), f"{len(set(looked))} of {search.rows} frames looked at"]
    said.append(f"window {start:.1f} to {end:.1f} s")
    if truth:
        windows = search.viewer.bank.queries[search.sample].windows
        lanes.append(("truth", [_mark("true", a, b, duration) for a, b in windows]))
        said += [f"true window {a:.1f} to {b:.1f} s" for a, b in windows]
    rows = "".join(f'<span>{name}</span><div class="lane">{"".join(found)}</div>' for name, found in lanes)
    shown = said[1] + (", the last one in pink" if search.one_by_one else "")
    ends = f'<span></span><div class="ends"><span>0</span><span>{duration:.1f} s</span></div>'
    ends += f"<span></span><div>{shown}.</div>"
    return f'<div class="bar" role="img" aria-label="{_sentence(said)}">{rows}{ends}</div>'


def _mark(kind: str, start: float, end: float, duration: float) -> str:
    left, right = (100 * min(max(at / duration, 0.0), 1.0) for at in (start, end))
    said = f"{start:.1f} to {end:.1f} s"
    return f'<i class="{kind}" style="left:{left:.3f}%;width:{right - left:.3f}%" title="{said}"></i>'


def _sentence(parts: Iterable[str]) -> str:
    return "; ".join(parts)
