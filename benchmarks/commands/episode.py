"""``strong-envs episode results/run``: one query of a finished run as pictures and a video (Figure 5)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from strong_envs.benchmarks.execution.predictions import PREDICTION, read_prediction
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.results.files import read_cell_file, read_result
from strong_envs.features import registry
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import check_output, shown
from strong_envs.features.store.store import FeatureStore

NEEDED = ("rows", "cells", "per_query", "protocol", "curves", "failed", "refused", "about")
"""Parts of the result file of a run."""


def read_folder(folder: str | Path) -> tuple[dict[str, Any], Path]:
    """The result file of a folder that ``run``, ``table1``, ``table2`` or ``converge`` wrote, and its cells' folder."""
    path = Path(folder)
    file = path if path.is_file() else path / "results.json"
    if not file.is_file():
        if (path / "live.html").is_file():
            raise DataError(
                f"the run in {shown(path)} has not ended: {path / 'live.html'} shows how far it is and reloads itself; "
                "results.json comes at the end"
            )
        raise DataError(f"{str(path)!r} holds no results.json; give the folder that was --out of a run")
    result = read_result(file, NEEDED)
    if not result["per_query"]["queries"]:
        raise DataError(f"{shown(file)} has no scores per query")
    return result, file.parent / "cells"


def foremost(labels: Iterable[str]) -> str:
    """The system that is drawn by default: strong, else trl, else the last."""
    labels = list(labels)
    return next((label for wanted in ("strong", "trl") for label in labels if label.lower() == wanted), labels[-1])


def cell_file(result: dict[str, Any], cells: Path, system: str | None, seed: int) -> tuple[str, dict[str, Any]]:
    """The label and the stored result of one cell; without a system, of `foremost`.

    Raises:
        DataError: a system or a seed that the run does not have, or that did not finish.
    """
    known = result["cells"]
    if not known:
        raise DataError("this run has no cells")
    label = system if system is not None else foremost(known)
    if label not in known:
        raise DataError(f"this run has no system {label!r}{nearest(label, known)}; it has {sorted(known)}")
    if not 0 <= seed < len(known[label]):
        raise DataError(f"{label} was run with seeds 0 to {len(known[label]) - 1}, not {seed}")
    return label, read_cell_file(cells / f"{known[label][seed]}.json")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``episode`` command."""
    parser = subparsers.add_parser(
        "episode",
        help="draw one query, step by step",
        description="Draw what a trained system did on one held-out query, from the predictions that a run stored: "
        "episode.png (four steps), episode.mp4 (all steps) and stages.png (the window of a validation query after each "
        "stage of the training, as in the paper's Figure 5: the test part is predicted once, at the end).",
    )
    parser.add_argument("folder", help="folder of a finished run (its --out)")
    parser.add_argument("--query", metavar="ID", help="id of the query (default: one of median IoU)")
    parser.add_argument("--system", metavar="NAME", help="row of the table (default: strong, else trl, else the last)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which of its training runs (%(default)s)")
    parser.add_argument("--features", metavar="STORE", help="key or path of the store (default: that of the run)")
    parser.add_argument(
        "--out", metavar="FOLDER", help="folder of the pictures (default: FOLDER/episodes/SYSTEM-SEED-QUERY)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0."""
    from strong_envs.benchmarks.results import filmstrip

    result, cells = read_folder(args.folder)
    label, stored = cell_file(result, cells, args.system, args.seed)
    bank, watched = bank_of(stored, args.features), stages_bank_of(stored, args.features)
    prediction, stages = read_prediction(cells / f"{stored['key']}{PREDICTION}", bank, watched)
    sample = filmstrip.sample_of(bank, prediction, args.query)
    query = bank.qids[sample]
    slug = "-".join("".join(c if c.isalnum() else "-" for c in part) for part in (label, str(args.seed), query))
    out = Path(args.out) if args.out else cells.parent / "episodes" / slug
    check_output(out)
    filmstrip.episode(prediction, bank, out / "episode.png", out / "episode.mp4", sample)
    files = ["episode.png", "episode.mp4"]
    followed = None
    if stages and watched is not None:
        followed = sample if watched is bank else filmstrip.sample_of(watched, stages[-1][1])
        filmstrip.stages_picture(stages, watched, followed, out / "stages.png")
        files.append("stages.png")
    about = {
        "query": query,
        "text": bank.texts[sample],
        "system": label,
        "seed": args.seed,
        "true": [list(w) for w in bank.queries[sample].windows],
        "path": filmstrip.path_of(prediction, sample),
        "stages": {} if followed is None else {name: stage.spans[followed].tolist() for name, stage in stages},
        "stages_query": None if followed is None or watched is None else watched.qids[followed],
        "tiou": round(float(score(prediction, bank)["IoU"][sample]), 6),
        "files": [str(out / name) for name in files],
    }
    if args.json:
        print(json.dumps(about, indent=1))
    else:
        moves = len(about["path"]) - 1
        print(f"{query}: {about['text']!r}, {label} seed {args.seed}: {moves} moves, tIoU {about['tiou']:.2f}")
        print(f"{out}: {', '.join(files)}")
    return 0


def bank_of(stored: dict[str, Any], override: str | None = None) -> FeatureBank:
    """The test split that a cell was scored on; a store that has changed since is refused."""
    return registry.load_part(_store_of(stored, override), stored["test"])


def stages_bank_of(stored: dict[str, Any], override: str | None = None) -> FeatureBank | None:
    """The split of a cell's stages: its validation part, the test part in files of earlier releases, or none."""
    split = stored.get("stages_split", stored["test"])
    return None if split is None else registry.load_part(_store_of(stored, override), split)


def _store_of(stored: dict[str, Any], override: str | None) -> FeatureStore:
    key = override or registry.named_by_file(stored["features"], "the file of the cell", "--features")
    store = registry.job_store(key, stored.get("train", "train"), stored.get("validation", 0.0))
    if store.content_hash != stored["data"]:
        raise DataError(f"{key!r} is not the data of this run any more: {store.content_hash} against {stored['data']}")
    return store
