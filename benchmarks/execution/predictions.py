"""What a system predicted, on disk: tables, episodes and reports are computed from it, of any system."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strong_envs.agents.registry import Prediction
from strong_envs.features.errors import DataError

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
STAGE_KINDS = {"spans": torch.float32, "boxes": torch.float16}
"""What is stored of each stage of the training, for pictures: half a thousandth of a frame cannot be seen."""


def checked(prediction: Any, bank: Any, system: str) -> Prediction:
    """The prediction of a system that is not ours too: windows alone, (S, 2) in seconds, will do.

    Raises:
        DataError: windows of another shape, not finite, or with an end before their start; candidates that are not
            ranked, or of which the first is not the prediction.
    """
    if not hasattr(prediction, "spans"):
        prediction = Prediction(torch.as_tensor(np.asarray(prediction), dtype=torch.float64, device=bank.device))
    spans = prediction.spans
    if tuple(spans.shape) != (len(bank), 2):
        raise DataError(f"{system} must predict one window a query, ({len(bank)}, 2) seconds; got {tuple(spans.shape)}")
    wrong = ~torch.isfinite(spans).all(1) | (spans[:, 1] < spans[:, 0])
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
    """Write a prediction whole or not at all, with windows and boxes after each stage of the training."""
    from safetensors.torch import save_file

    tensors = _tensors("", prediction, KINDS)
    for index, (_, stage) in enumerate(stages):
        tensors |= _tensors(f"stage{index}.", stage, STAGE_KINDS)
    staging = path.with_name(f".{path.name}.part{os.getpid()}")
    save_file(tensors, str(staging), {"stages": json.dumps([name for name, _ in stages])})
    os.chmod(staging, 0o644)  # safetensors makes it readable by its owner alone
    os.replace(staging, path)


def read_prediction(path: Path) -> tuple[Prediction, list[tuple[str, Prediction]]]:
    """What `write_prediction` wrote: the prediction, and one after each stage with its name. On the CPU."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"no predictions at {str(path)!r}; delete the .json of that cell and run again to have them")
    try:
        with safe_open(str(path), framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            stages = json.loads((handle.metadata() or {}).get("stages", "[]"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise DataError(f"{str(path)!r} does not hold predictions: {error}") from None
    return _prediction("", tensors), [(name, _prediction(f"stage{i}.", tensors)) for i, name in enumerate(stages)]


def _tensors(prefix: str, prediction: Prediction, kinds: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    found = {}
    for name, kind in kinds.items():
        value = getattr(prediction, name, None)
        if value is not None:
            found[prefix + name] = value.detach().to("cpu", kind).contiguous()
    return found


def _prediction(prefix: str, tensors: Mapping[str, Tensor]) -> Prediction:
    values = {name: tensors[prefix + name] for name in KINDS if prefix + name in tensors}
    if "boxes" in values:
        values["boxes"] = values["boxes"].float()
    return Prediction(**values)
