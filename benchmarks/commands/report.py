"""``strong-envs report results/run --out report.html``: one self-contained page of a finished run.

The page has no external address: figures and frames are data URIs, the script is inside. It opens from a disk.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.benchmarks.commands.episode import bank_of, foremost, read_folder
from strong_envs.benchmarks.execution.predictions import PREDICTION, read_prediction
from strong_envs.benchmarks.looks.page import is_frontier, looks_page
from strong_envs.benchmarks.metrics import breakdown
from strong_envs.benchmarks.metrics.columns import legend_of
from strong_envs.benchmarks.metrics.ground_truth import units_of
from strong_envs.benchmarks.metrics.statistics import difference_test
from strong_envs.benchmarks.results import figures
from strong_envs.benchmarks.results.files import read_cell_file
from strong_envs.benchmarks.results.html_episodes import episodes
from strong_envs.benchmarks.results.tables import columns_of, table_cells
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import check_output, os_errors, shown

PAGE_START = b"<!doctype html>"
TEMPLATE = Path(__file__).with_name("report.html")
MOST_BYTES = 5_000_000
FRAME_BYTES = 3_000_000
"""Room for the frames of all episodes together, as they stand in the page."""
MOST_QUERIES = 4_000
SMALL = (4.2, 3.3)
"""Inches: text of 7 points stays readable where the page is as wide as a phone."""


def page(folder: str | Path, count: int = 12, features: str | None = None) -> str:
    """The page of a finished run as HTML.

    Args:
        folder: what ``run``, ``table1``, ``table2`` or ``converge`` wrote.
        count: episodes that can be played.
        features: key or path of the store, where it is not the run's.

    Raises:
        DataError: no finished run, data that changed since, or a page that would be too large.
    """
    result, cells = read_folder(folder)
    done = finished(result, cells)
    if not done:
        raise DataError(f"{str(folder)!r} has no finished cell to report on")
    bank = bank_of(next(iter(done.values()))[0], features)
    if result["per_query"]["queries"] != bank.qids:
        raise DataError(f"{shown(folder)} was scored on other queries than those of {bank.name}")
    predictions = {
        label: read_prediction(cells / f"{runs[0]['key']}{PREDICTION}", bank)[0] for label, runs in done.items()
    }
    judge = foremost(done)
    data = {
        "title": f"{result['protocol']['data']}, {result['protocol']['test']}",
        "table": table_of(result),
        "comparisons": comparisons(result),
        "claims": result.get("claims", []),
        "figures": draw_all(result, bank, done) + frontier_of(Path(folder)),
        "breakdowns": {kind: _rounded(breakdown.table(result["per_query"], kind)) for kind in breakdown.KINDS},
        "failed": [f"{key}: {reason}" for key, reason in result["failed"].items()],
        "refused": [f"{label}: {reason}" for label, reason in result["refused"].items()],
        "notes": result.get("notes", []),
        "about": result["about"],
        "queries": queries_of(result, bank),
        "systems": list(done),
        "judge": judge,
        **episodes(bank, predictions, judge, count, FRAME_BYTES),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    # A "<" of a sentence could end the script, two characters of Unicode could break its lines.
    payload = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    html = text.replace("{{DATA}}", payload)
    if len(html) > MOST_BYTES:
        size = f"{len(html) / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:g}"
        raise DataError(f"the page would have {size}; ask for fewer --episodes")
    return html


def finished(result: dict[str, Any], cells: Path) -> dict[str, list[dict[str, Any]]]:
    """The stored results of each label that has predictions, one a seed."""
    found = {}
    for label, keys in result["cells"].items():
        runs = [read_cell_file(cells / f"{key}.json") for key in keys if (cells / f"{key}{PREDICTION}").is_file()]
        if runs:
            if any(len(run["queries"]) != len(result["per_query"]["queries"]) for run in runs):
                raise DataError(f"cells of {label!r} were scored on other queries than the result file")
            found[label] = runs
    return found


def table_of(result: dict[str, Any]) -> dict[str, Any]:
    """The table with its intervals and notes as strings; the paper's columns where the result has them."""
    options: dict[str, Any] = {}
    if "paper" in result:
        from strong_envs.benchmarks.commands.paper_tables import columns

        options = columns(result)
    laid = table_cells(result["rows"], **options)
    kinds = {row["system"]: "reference" if row.get("reference") else "system" for row in result["rows"]}
    return {
        "header": laid.header,
        "body": laid.body,
        "notes": laid.notes,
        "legend": legend_of(columns_of(result["rows"])),
        "kinds": [kinds.get(line[0], "system") for line in laid.body],
        "descriptions": {row["system"]: row.get("description", "") for row in result["rows"]},
    }


def comparisons(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every trained system minus the constant window and minus the system before it, over training runs and videos."""
    scores = result["per_query"]
    systems = [label for label in result["cells"] if label in scores["IoU"]]
    pairs = [(label, "constant") for label in systems if "constant" in scores["IoU"]]
    pairs += [(b, a) for a, b in pairwise(systems)]
    found = []
    for a, b in pairs:
        test = difference_test(scores["IoU"][a], scores["IoU"][b], groups=units_of(scores), draws=4000)
        found.append({"a": a, "b": b, **test.as_dict()})
    return found


def draw_all(result: dict[str, Any], bank: Any, done: dict[str, list[dict]]) -> list[dict[str, str]]:
    """Every figure as title, sentence and data URI."""
    scores = result["per_query"]
    shown = [label for label in ("constant", *result["cells"], "oracle") if label in scores["IoU"]]
    duration = bank.duration[bank.video].cpu().numpy()[:, None]
    truth = scores["truth"]
    drawn: list[tuple[str, str, Callable[[Path], None]]] = [
        (
            "mIoU of every system",
            "Dots are means over seeds and queries, bars 95 % intervals; hollow dots are baselines and bounds.",
            lambda path: figures.table_figure(result["rows"], path, size=(3.3, 0.9 + 0.25 * len(result["rows"]))),
        ),
        (
            "Learning curves",
            "mIoU on validation over the share of the training; a dot a seed, shaded the 95 % interval of their mean.",
            lambda path: figures.learning_curves(figures.with_traces(result), path, "share", size=(3.3, 3.1)),
        ),
        (
            "Performance profiles",
            "Share of queries whose IoU reaches m: Acc@m at every threshold at once.",
            lambda path: figures.performance_profiles(scores, path, shown, SMALL),
        ),
        (
            "By length of the moment",
            "A query is in the bin of each of its moments; bins with fewer than five queries are left out.",
            lambda path: figures.breakdown(scores, "length", path, shown, SMALL),
        ),
        (
            "By position in the video",
            "A system that learnt only where moments tend to lie falls at the ends.",
            lambda path: figures.breakdown(scores, "position", path, shown, SMALL),
        ),
    ]
    for label, runs in done.items():
        windows = np.array([run["spans"] for run in runs]) / duration
        drawn.append(
            (
                f"Predicted against true: {label}",
                "All seeds. Perfect predictions lie on the diagonal; a horizontal band ignores the video.",
                partial(_heat_map, {label: windows}, truth),
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        out = []
        for index, (title, caption, draw) in enumerate(drawn):
            file = Path(folder) / f"{index}.svg"
            draw(file)
            out.append({"title": title, "caption": caption, "uri": data_uri(file.read_bytes(), "image/svg+xml")})
    return out


def frontier_of(folder: Path) -> list[dict[str, str]]:
    """The figure of `strong-envs looks`, where its folder is that of the run."""
    file = folder / "looks.png"
    if not (folder.is_dir() and is_frontier(folder) and file.is_file()):
        return []
    caption = "Quality after a number of looks (strong-envs looks); bands are 95 % intervals, dashed: all frames."
    return [{"title": "Looks", "caption": caption, "uri": data_uri(file.read_bytes(), "image/png")}]


def _heat_map(windows: dict[str, np.ndarray], truth: Any, path: Path) -> None:
    figures.heat_maps(windows, truth, path)


def queries_of(result: dict[str, Any], bank: Any) -> list[dict[str, Any]]:
    """Id, sentence, video, true windows (seconds) and each system's mean IoU of every query, `MOST_QUERIES` at most."""
    scores = result["per_query"]
    labels = [label for label in result["cells"] if label in scores["IoU"]]
    means = {label: np.mean(scores["IoU"][label], axis=0) for label in labels}
    rows = []
    for i, query in enumerate(bank.queries[:MOST_QUERIES]):
        windows = [[round(a, 2), round(b, 2)] for a, b in query.windows]
        iou = {label: round(float(values[i]), 3) for label, values in means.items()}
        rows.append({"id": query.qid, "text": query.text, "video": query.video, "true": windows, "iou": iou})
    return rows


def data_uri(content: bytes, kind: str) -> str:
    """``data:`` address of an image."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**row, "systems": {label: [round(v, 4) for v in values] for label, values in row["systems"].items()}}
        for row in rows
    ]


def check_page(path: Path) -> None:
    """Check that the page can be written. Raises `DataError`, also where a file is there that is no such page."""
    check_output(path, "file")
    with os_errors(f"write {shown(path)}"):
        if os.path.lexists(path):
            with open(path, "rb") as file:
                start = file.read(len(PAGE_START))
            if path.is_symlink() or start not in (b"", PAGE_START):
                raise DataError(f"{shown(path)} exists and is no page of this command; choose another --out")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``report`` command."""
    parser = subparsers.add_parser(
        "report",
        help="write one HTML page with tables, figures and episodes",
        description="Write one self-contained HTML page of a finished run: table, paired comparisons, figures, "
        "breakdowns, and episodes that play step by step. It needs no server and no network.",
    )
    parser.add_argument("folder", help="folder of a finished run or of looks (its --out)")
    parser.add_argument("--out", metavar="FILE", help="file of the page (default: FOLDER/report.html)")
    parser.add_argument(
        "--episodes", type=int, default=12, metavar="N", help="held-out queries that can be played (%(default)s)"
    )
    parser.add_argument("--features", metavar="STORE", help="key or path of the store (default: that of the run)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0."""
    if args.episodes < 0:
        raise DataError(f"--episodes must be 0 or more, got {args.episodes}")
    given = Path(args.folder)
    searches = given.is_dir() and is_frontier(given) and not (given / "results.json").is_file()
    if not searches:
        read_folder(args.folder)
    out = Path(args.out) if args.out else (given if given.is_dir() else given.parent) / "report.html"
    check_page(out)
    html = looks_page(given) if searches else page(args.folder, args.episodes, args.features)
    write_text(out, html)
    if args.json:
        print(json.dumps({"page": str(out), "bytes": len(html.encode())}))
    else:
        print(f"{out}: {len(html.encode()) / 1e6:.1f} MB")
    return 0
