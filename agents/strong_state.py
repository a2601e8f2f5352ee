"""What a checkpoint holds of `agents.strong.Strong`, beside the training in progress."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from torch import Tensor

from agents.loops import split

if TYPE_CHECKING:
    from agents.strong import Strong
    from agents.strong_args import StrongArgs


def unused(args: StrongArgs) -> tuple[str, ...]:
    """How the names of weights begin that learn and that a prediction does without."""
    return ("target_actor.", "target_critic.", "critic.", *(() if args.evidence else ("inside.",)))


def collect(strong: Strong) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON-ready values of both levels, the gaze, the boxes of the turn, and the history."""
    values: dict[str, Any] = {"history": strong.history, "turn": strong.turn}
    values["seconds"] = time.perf_counter() - strong._began
    tensors: dict[str, Tensor] = {}
    for name in ("temporal", "spatial"):
        level = getattr(strong, name)
        if level is not None:
            held, values[name] = level.training_state()
            tensors |= {f"{name}.{key}": value for key, value in held.items()}
    if strong.gaze is not None:
        tensors |= {f"gaze.{key}": value for key, value in strong.gaze.state_dict().items()}
    if strong.task.local.source == "given":
        tensors["boxes"] = strong.task.local.boxes.clone()
    if strong.args.evidence:
        tensors["told"] = strong.task.told.clone()
    return tensors, values


def restore(strong: Strong, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Bring a system of the same arguments to where `collect` was called."""
    strong.history[:], strong.turn, strong.seconds = values["history"], values["turn"], values["seconds"]
    for name in ("temporal", "spatial"):
        level = getattr(strong, name)
        if level is not None:
            level.load_training_state(split(tensors, f"{name}."), values[name])
    if strong.gaze is not None:
        strong.gaze.load_state_dict(split(tensors, "gaze."))
    if "boxes" in tensors:
        boxes = tensors["boxes"].to(strong.bank.device)
        strong.task = strong._temporal_task(strong.bank, boxes, told=tensors.get("told"))
