"""``strong-envs videos pretrained --count 10``: held-out queries drawn by a seed, as tracked-box videos.

The queries are drawn at random, so that good and bad ones are seen; ``videos.json`` has the scores of each. A query
has an mp4 of its whole video with the tracked and the true box and both windows, and a filmstrip of the stretch that
the true moment and the prediction cover.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from strong_envs.agents.registry import Prediction
from strong_envs.benchmarks.commands.episode import bank_of, cell_file, read_folder
from strong_envs.benchmarks.execution.predictions import PREDICTION, read_prediction
from strong_envs.benchmarks.metrics.score import score
from strong_envs.benchmarks.results.files import write_json
from strong_envs.benchmarks.results.filmstrip import boxes_of, fitted, labelled_bar, path_of, write_picture
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import check_output, shown
from strong_envs.rendering.viewer import (
    CHOSEN_COLOUR,
    FAINT,
    INK,
    PAPER,
    TRUE_COLOUR,
    Shot,
    Viewer,
    put,
    rectangle,
    wrap,
    write_video,
)

SIDE, GAP, COLUMNS, LINES = 176, 10, 6, 2
"""Pixels of a frame in the filmstrip and between two, and how many there are."""


def drawn(bank: FeatureBank, count: int, seed: int) -> list[int]:
    """Rows of ``count`` queries, drawn without replacement, in the order of the split."""
    return sorted(np.random.default_rng(seed).permutation(len(bank))[:count].tolist())


def tracked_pictures(viewer: Viewer, bank: FeatureBank, prediction: Prediction, sample: int) -> Iterator[np.ndarray]:
    """The whole video, a picture a feature row: both boxes, both windows, and where in the video it is."""
    n_frames, duration = size_of(bank, sample)
    boxes, answer = boxes_of(prediction, bank, sample), path_of(prediction, sample)[-1]
    windows = bank.queries[sample].windows
    for row in range(n_frames):
        second = (row + 0.5) * duration / n_frames
        said = [f"{second:.1f} s"]
        said += ["in the answer"] if answer[0] <= second < answer[1] else []
        said += ["in the true moment"] if any(a <= second < b for a, b in windows) else []
        view = [None if boxes is None else boxes[row]]
        yield viewer.draw(Shot(sample, [row], answer, view, cursor=second, footer="   ".join(said)))


def strip(viewer: Viewer, bank: FeatureBank, prediction: Prediction, sample: int, said: str) -> np.ndarray:
    """Frames over the stretch that the true moment and the answer cover, with both boxes, above both windows.

    Returns (H, W, 3) uint8 RGB. ``said`` is the line below the sentence.
    """
    n_frames, duration = size_of(bank, sample)
    boxes, answer = boxes_of(prediction, bank, sample), path_of(prediction, sample)[-1]
    windows = bank.queries[sample].windows
    low, high = (f([answer[i], *(w[i] for w in windows)]) for f, i in ((min, 0), (max, 1)))
    width = GAP + COLUMNS * (SIDE + GAP)
    line = SIDE + 26
    canvas = np.full((64 + LINES * line + 84, width, 3), PAPER, np.uint8)
    put(canvas, wrap(bank.texts[sample], 110)[0], (GAP, 26), 0.6, INK)
    put(canvas, said, (GAP, 50), 0.45, FAINT)
    video = int(bank.video[sample])
    for i, second in enumerate(np.linspace(low, high, 2 * COLUMNS * LINES + 1)[1::2]):
        row = min(int(second / duration * n_frames), n_frames - 1)
        view = fitted(viewer.frame(video, row), SIDE)
        if bank.has_boxes:
            rectangle(view, true_box(bank, sample, row), TRUE_COLOUR)
        if boxes is not None:
            rectangle(view, boxes[row], CHOSEN_COLOUR)
        x, y = GAP + i % COLUMNS * (SIDE + GAP), 64 + i // COLUMNS * line
        canvas[y : y + SIDE, x : x + SIDE] = view
        at = (row + 0.5) * duration / n_frames
        # A mark under a frame says in which of the two windows it lies.
        marks = [(answer[0] <= at < answer[1], CHOSEN_COLOUR), (any(a <= at < b for a, b in windows), TRUE_COLOUR)]
        for j, (inside, colour) in enumerate(marks):
            if inside:
                canvas[y + SIDE + 8 : y + SIDE + 16, x + SIDE - 12 * (j + 1) : x + SIDE - 12 * j - 4] = colour
        put(canvas, f"{at:.1f} s", (x, y + SIDE + 17), 0.42, FAINT)
    y = 64 + LINES * line + 8
    labelled_bar(canvas, y, width, "true", windows, duration, TRUE_COLOUR)
    labelled_bar(canvas, y + 24, width, "predicted", [answer], duration, CHOSEN_COLOUR)
    legend = "green: ground truth, orange: prediction; squares mark frames inside a window"
    put(canvas, f"0 to {duration:.1f} s   {legend}", (GAP + 70, y + 60), 0.42, FAINT)
    return canvas


def sheet(strips: list[np.ndarray], columns: int = 2) -> np.ndarray:
    """All filmstrips at half their size on one picture, line by line."""
    import cv2

    height, width = max(s.shape[0] for s in strips) // 2, max(s.shape[1] for s in strips) // 2
    lines = -(-len(strips) // columns)
    canvas = np.full((lines * height, min(columns, len(strips)) * width, 3), strips[0][0, 0], np.uint8)
    for k, one in enumerate(strips):
        small = cv2.resize(one, (one.shape[1] // 2, one.shape[0] // 2), interpolation=cv2.INTER_AREA)
        top, left = (k // columns) * height, (k % columns) * width
        canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


def size_of(bank: FeatureBank, sample: int) -> tuple[int, float]:
    """Feature rows and seconds of a query's video."""
    video = int(bank.video[sample])
    return int(bank.n_frames[video]), float(bank.duration[video])


def true_box(bank: FeatureBank, sample: int, row: int) -> np.ndarray:
    """Corners (4,) of the true box, NaN where there is none."""
    import torch

    at = (torch.tensor([number], device=bank.device) for number in (sample, row))
    return bank.true_box(*at)[0].cpu().numpy()


def source_of(args: argparse.Namespace) -> tuple[str, FeatureBank, Prediction, dict[str, np.ndarray]]:
    """Name, held-out bank, predictions and scores of a finished run's system, of a saved one, or of that which ships.

    Raises:
        DataError: neither a run nor a saved system.
    """
    from strong_envs import agents, features
    from strong_envs.agents.inference import WEIGHTS, load_system
    from strong_envs.features.registry import named_by_file

    path = WEIGHTS if args.source == "pretrained" else Path(args.source)
    if path.suffix == ".safetensors":
        saved = agents.load(path)
        key = args.features or named_by_file(str(saved.inputs["store"]), shown(path), "--features")
        bank = features.load(key, args.test)
        prediction = load_system(path, bank).predict(bank.masked())
        return args.source, bank, prediction, score(prediction, bank)
    result, cells = read_folder(path)
    label, stored = cell_file(result, cells, args.system, args.seed)
    bank = bank_of(stored, args.features)
    prediction, _ = read_prediction(cells / f"{stored['key']}{PREDICTION}", bank)
    return f"{label}, seed {args.seed}", bank, prediction, score(prediction, bank)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``videos`` command."""
    parser = subparsers.add_parser(
        "videos",
        help="write videos of held-out queries with tracked boxes",
        description="Write an mp4 of the whole video and a filmstrip (png) for each of --count held-out queries, with "
        "tracked and true boxes and windows, sheet.png with all filmstrips, and videos.json with their scores. The "
        "queries are drawn at random with the seed --draw.",
    )
    parser.add_argument("source", help="folder of a finished run, a saved system (.safetensors), or 'pretrained'")
    parser.add_argument("--count", type=int, default=10, metavar="N", help="number of queries (%(default)s)")
    parser.add_argument("--draw", type=int, default=0, metavar="N", help="seed that draws the queries (%(default)s)")
    parser.add_argument(
        "--system", metavar="NAME", help="row of the table of a run (default: strong, else trl, else the last)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which of its training runs (%(default)s)")
    parser.add_argument("--features", metavar="STORE", help="key or path of the store (default: that of the training)")
    parser.add_argument(
        "--test", default="test", metavar="SPLIT", help="split of the queries of a saved system (%(default)s)"
    )
    parser.add_argument("--out", default="results/videos", metavar="FOLDER", help="folder of the videos (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    if args.count < 1 or args.draw < 0:
        raise DataError(f"--count must be 1 or more and --draw 0 or more, got {args.count} and {args.draw}")
    out = check_output(args.out)
    name, bank, prediction, scores = source_of(args)
    viewer, described, strips = Viewer(bank), [], []
    samples = drawn(bank, args.count, args.draw)
    # Nothing is drawn where nobody watches.
    for number, sample in enumerate(tqdm(samples, "videos", unit="video", disable=None, leave=False)):
        query = bank.queries[sample]
        stem = f"{number:02d}-" + "".join(c if c.isalnum() or c in "-_" else "-" for c in query.qid)
        known = [key for key in ("IoU", "m_vIoU", "box IoU", "coverage") if key in scores]
        found: dict[str, Any] = {key: float(scores[key][sample]) for key in known}
        said = f"{name}   " + "   ".join(f"{key} {value:.2f}" for key, value in found.items())
        n_frames, duration = size_of(bank, sample)
        pictures = list(tracked_pictures(viewer, bank, prediction, sample))
        write_video(out / f"{stem}.mp4", pictures, fps=min(max(n_frames / duration, 1.0), 30.0))
        strips.append(strip(viewer, bank, prediction, sample, said))
        write_picture(out / f"{stem}.png", strips[-1])
        answer = [round(x, 3) for x in path_of(prediction, sample)[-1]]
        about: dict[str, Any] = {
            "query": query.qid,
            "video": query.video,
            "text": query.text,
            "answer": answer,
            **found,
        }
        described.append(about | {"true": [list(w) for w in query.windows], "files": [f"{stem}.mp4", f"{stem}.png"]})
    every = {key: float(np.mean(scores[key])) for key in ("IoU", "m_vIoU", "coverage") if key in scores}
    result = {
        "source": name,
        "data": bank.name,
        "draw": args.draw,
        "of": len(bank),
        "means": every,
        "videos": described,
    }
    write_json(out / "videos.json", result)
    write_picture(out / "sheet.png", sheet(strips))
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    for entry in described:
        coverage = f", coverage {entry['coverage']:.2f}" if "coverage" in entry else ""
        print(f"{entry['files'][0]}: tIoU {entry['IoU']:.2f}{coverage}, {entry['text']!r}")
    print(
        f"{out}: {len(described)} of {len(bank):,} queries, seed {args.draw}; over all of them mIoU {every['IoU']:.3f}"
    )
    return 0
