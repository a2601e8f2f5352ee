"""What a system predicted, on disk: tables, episodes and reports are computed from it, of any system."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strong_envs.agents.registry import Prediction
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import replaced_file
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.files.untrusted_json import as_type, parse_json, read_header

PREDICTION = ".prediction.safetensors"
"""Ends the name of a cell's file of predictions; its beginning is the cell's key."""
KINDS = {
    "spans": torch.float64,
    "length": torch.int32,
    "path": torch.float32,
    "boxes": torch.float32,
    "ranked": torch.float64,
    "scores": torch.float32,
    "frames_seen": torch.float64,
}
"""What is stored, and as what: windows so that an IoU on a threshold stays there."""
MOST_SECONDS, MOST_FRAMES_WIDE = 1e9, 100.0
"""Windows and boxes beyond these are no answers."""
WHOLE = (torch.int32, torch.int64)
STAGE_KINDS = {"spans": torch.float32, "boxes": torch.float16}
"""What is stored of each stage of the training, for pictures: half a thousandth of a frame cannot be seen."""


def checked(prediction: Any, bank: Any, system: str) -> Prediction:
    """The prediction of a system that is not ours too: windows alone, (S, 2) in seconds, will do.

    Raises:
        DataError: windows of another shape, not finite, beyond `MOST_SECONDS`, or with an end before their start;
            candidates that are not ranked, or of which the first is not the prediction.
    """
    if not hasattr(prediction, "spans"):
        prediction = Prediction(torch.as_tensor(np.asarray(prediction), dtype=torch.float64, device=bank.device))
    spans = prediction.spans
    if tuple(spans.shape) != (len(bank), 2):
        raise DataError(f"{system} must predict one window a query, ({len(bank)}, 2) seconds; got {tuple(spans.shape)}")
    wrong = ~(spans.abs() <= MOST_SECONDS).all(1) | (spans[:, 1] < spans[:, 0])
    if wrong.any():
        first = int(wrong.nonzero()[0, 0])
        raise DataError(
            f"{system} returned {int(wrong.sum())} invalid windows, the first {spans[first].tolist()} for query "
            f"{bank.qids[first]!r}; a window is (start, end) in seconds, start <= end"
        )
    for name in ("ranked", "scores", "frames_seen"):
        if not hasattr(prediction, name):
            setattr(prediction, name, None)
    if prediction.ranked is not None:
        _check_ranked(prediction.ranked, prediction.scores, spans, system)
    if prediction.frames_seen is not None:
        seen = prediction.frames_seen
        if tuple(seen.shape) != (len(bank),) or not ((seen >= 0) & (seen <= 1)).all():
            raise DataError(f"frames_seen of {system} must be the share of each video's frames that it saw, in [0, 1]")
    return prediction


def _check_ranked(ranked: Tensor, scores: Tensor | None, spans: Tensor, system: str) -> None:
    count = len(spans)
    if ranked.ndim != 3 or len(ranked) != count or ranked.shape[2] != 2:
        raise DataError(f"{system} must rank windows of shape ({count}, K, 2), got {tuple(ranked.shape)}")
    if not torch.equal(ranked[:, 0].to(spans.dtype), spans):
        raise DataError(f"the predicted windows of {system} are not the first of those it ranks; R@1 would not be Acc")
    if scores is None:
        return
    if scores.shape != ranked.shape[:2]:
        raise DataError(f"{system} gives scores of shape {tuple(scores.shape)} for windows {tuple(ranked.shape)}")
    rising = (scores.diff(dim=1) > 0).any(1)
    if rising.any():
        first = int(rising.nonzero()[0, 0])
        raise DataError(f"{system} must rank the best window first; the scores of query {first} rise again")


def write_prediction(path: Path, prediction: Prediction, stages: Sequence[tuple[str, Prediction]] = ()) -> None:
    """Write a prediction whole or not at all, with those of the validation part after each stage of the training."""
    from safetensors.torch import save_file

    tensors = _tensors("", prediction, KINDS)
    for index, (_, stage) in enumerate(stages):
        tensors |= _tensors(f"stage{index}.", stage, STAGE_KINDS)
    with replaced_file(path) as staging:
        save_file(tensors, str(staging), {"stages": json.dumps([name for name, _ in stages])})


def read_prediction(
    path: Path, bank: FeatureBank | None = None, validation: FeatureBank | None = None
) -> tuple[Prediction, list[tuple[str, Prediction]]]:
    """What `write_prediction` wrote: the prediction, and one of the validation part after each stage. On the CPU.

    Args:
        path: the file.
        bank: the split that was predicted; with it, the shapes of the prediction are checked.
        validation: the validation part; with it, the shapes of the stages are checked.

    Raises:
        DataError: no predictions, not such a file, or predictions of other queries than the bank's.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise DataError(f"no predictions at {shown(path)}; delete the .json of that cell and run again to have them")
    with os_errors(f"read the predictions {shown(path)}"):
        read_header(path)
        with safe_open(str(path), framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            text = (handle.metadata() or {}).get("stages", "[]")
    names = as_type(parse_json(text, shown(path)), list[str], f"{shown(path)}: stages")
    found = _prediction("", tensors, path)
    stages = [(name, _prediction(f"stage{i}.", tensors, path)) for i, name in enumerate(names)]
    if bank is not None:
        _check_fit(found, bank, path)
    if validation is not None:
        for _, stage in stages:
            _check_fit(stage, validation, path)
    return found, stages


def _check_fit(prediction: Prediction, bank: FeatureBank, path: Path) -> None:
    """Refuse predictions that are not of this bank's queries."""
    where, count = f"the file {shown(path)}", len(bank)
    checked(prediction, bank, where)
    shapes: dict[str, tuple[int, ...]] = {"boxes": (int(bank.n_frames[bank.video].sum()), 4)}
    moves = prediction.path
    if moves is not None:
        shapes |= {"path": (count, moves.shape[1] if moves.ndim == 3 else 0, 2), "length": (count,)}
    for name, shape in shapes.items():
        value = getattr(prediction, name)
        if value is not None and tuple(value.shape) != shape:
            raise DataError(f"{where} has {name} of shape {tuple(value.shape)}; {shape} belong to this data")
    if prediction.boxes is not None and (prediction.boxes.abs() > MOST_FRAMES_WIDE).any():
        raise DataError(f"{where} has boxes far outside the frame")
    if moves is not None:
        wrong = ~(moves.abs() <= MOST_SECONDS).all() or (moves[..., 0] > moves[..., 1] + 1e-3).any()
        if (
            wrong
            or prediction.length is None
            or not ((prediction.length >= 0) & (prediction.length < moves.shape[1])).all()
        ):
            raise DataError(f"{where} has moves that are not windows, or more of them than it says")
    elif prediction.length is not None and (prediction.length.shape != (count,) or (prediction.length < 0).any()):
        raise DataError(f"{where} has a number of moves below 0 or not one a query")


def _tensors(prefix: str, prediction: Prediction, kinds: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    found = {}
    for name, kind in kinds.items():
        value = getattr(prediction, name, None)
        if value is not None:
            found[prefix + name] = value.detach().to("cpu", kind).contiguous()
    return found


def _prediction(prefix: str, tensors: Mapping[str, Tensor], path: Path) -> Prediction:
    values = {name: tensors[prefix + name] for name in KINDS if prefix + name in tensors}
    if "spans" not in values:
        raise DataError(f"{shown(path)} has no windows {prefix + 'spans'!r}; it does not hold predictions")
    for name, value in values.items():
        if not (value.is_floating_point() or value.dtype in WHOLE):
            raise DataError(f"{shown(path)} has {name} of the type {value.dtype}")
        values[name] = value.to(KINDS[name] if prefix == "" and name != "boxes" else torch.float32)
    return Prediction(**values)
