"""One HTML page of a frontier: tables, figure and one search, without any address outside of it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.looks.result import world_markdown
from strong_envs.benchmarks.results.files import read_tree
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import shown

RESULT = "looks.json"
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.2em .6em;border-bottom:1px solid #ccc;"
    "text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}"
)
PICTURES = (("looks.png", "mIoU and Acc@.5 over looks"), ("search.png", "One search, look by look"))


def is_frontier(folder: Path) -> bool:
    """Whether a folder holds the result of `strong-envs looks`."""
    return (folder / RESULT).is_file()


def looks_page(folder: Path) -> str:
    """The page as HTML.

    Raises:
        DataError: a result file that cannot be read.
    """
    result = read_tree(folder / RESULT)
    if not isinstance(result.get("worlds"), list) or not result["worlds"]:
        raise DataError(f"{shown(folder / RESULT)} holds no world; compute it again with strong-envs looks")
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>Looks</title>", f"<style>{STYLE}</style>"]
    parts.append("<h1>Quality over the number of frames looked at</h1>")
    for name, title in PICTURES:
        file = folder / name
        if file.is_file():
            data = base64.b64encode(file.read_bytes()).decode()
            parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">')
    try:
        for world in result["worlds"]:
            parts += [f"<h2>{html.escape(str(world['features']))}</h2>", _table(world), _differences(world)]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{shown(folder / RESULT)} is not the result of strong-envs looks: {error!r}") from None
    about = html.escape(json.dumps(result.get("about", {}), indent=1))
    parts.append(f"<h2>Provenance</h2><pre>{about}</pre></html>")
    return "\n".join(parts)


def _table(world: Mapping[str, Any]) -> str:
    head, *lines = world_markdown(world).split("\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in (rows[0], *rows[2:]))
    return f"<p>{html.escape(head)}</p><table>{cells}</table>"


def _differences(world: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td>{html.escape(d['a'])} minus {html.escape(d['b'])}</td><td>{d['looks']:g}</td>"
        f"<td>{100 * d['difference']:+.2f}</td><td>[{100 * d['low']:+.2f}, {100 * d['high']:+.2f}]</td></tr>"
        for d in world["differences"]
    ]
    head = "<tr><th>mIoU</th><th>looks</th><th>difference</th><th>95 % interval</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" if rows else ""
