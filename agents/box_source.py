"""Sources of f_o by name: one of `LocalFeatures`, or the boxes of a trained STRONG.

The spatial level of a trained STRONG tracks the named object, and any system that takes boxes can take these::

    agents.make("mcn", train, boxes="pretrained")                  # the system that ships for the default world
    agents.make("mcn", train, boxes="results/strong.safetensors")  # one that was saved
"""

from __future__ import annotations

from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from strong_envs.agents.ranges import check_value
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError, nearest
from strong_envs.local_features import SOURCES, LocalFeatures

PRETRAINED = "pretrained"
WITHOUT_MARGIN = ("frame", "gaussian")
"""Sources that have no box to be widened."""

# Tracking a split takes seconds and every prediction needs it; the boxes of a bank are freed with it.
_tracked: WeakKeyDictionary[FeatureBank, dict[tuple[str, int], Tensor]] = WeakKeyDictionary()


def local_features(bank: FeatureBank, boxes: str | Tensor, margin: float) -> LocalFeatures:
    """Features inside boxes of a bank's frames.

    Args:
        bank: features of one split.
        boxes: see `LocalFeatures`; or ``"pretrained"``, or the path of a saved STRONG (``.safetensors``).
        margin: added around every box, in fractions of the frame; whole frames have none.
    """
    if isinstance(boxes, str) and from_tracker(boxes):
        boxes = tracked_boxes(boxes, bank)
    without = isinstance(boxes, str) and boxes in WITHOUT_MARGIN
    return LocalFeatures(bank, boxes, margin=0.0 if without else margin)


def check_common(seed: int, budget: float, boxes: str | Tensor, margin: float) -> None:
    """Check the arguments that all systems beside STRONG share.

    Raises:
        DataError: a value of another type or outside its range, or an unknown source of boxes.
    """
    check_value("seed", seed, int)
    check_value("budget", budget, float)
    check_value("box_margin", margin, float)
    if isinstance(boxes, Tensor) or (isinstance(boxes, str) and from_tracker(boxes)):
        return
    valid = (*SOURCES, PRETRAINED, "FILE.safetensors")
    if boxes not in SOURCES:
        raise DataError(f"boxes must be one of {valid} or a tensor, got {boxes!r}{nearest(str(boxes), valid)}")


def from_tracker(boxes: str | Tensor) -> bool:
    """Whether boxes are named by the system that tracks them."""
    return isinstance(boxes, str) and (boxes == PRETRAINED or boxes.endswith(".safetensors"))


@torch.no_grad()
def tracked_boxes(source: str, bank: FeatureBank) -> Tensor:
    """Boxes of a trained STRONG in every frame of each sample of a bank: corners, packed (R, 4) float32.

    Args:
        source: ``"pretrained"`` or the path of a saved system.
        bank: features of one split.

    Raises:
        DataError: a file that does not exist, a system without a tracker, or one trained on other features.
    """
    from strong_envs.agents.inference import WEIGHTS
    from strong_envs.agents.strong.agent import Strong

    path = WEIGHTS if source == PRETRAINED else Path(source)
    if not path.is_file():
        raise DataError(f"boxes={source!r}: there is no saved system at {str(path)!r}")
    key = (str(path.resolve()), path.stat().st_mtime_ns)
    held = _tracked.setdefault(bank, {})
    if key not in held:
        strong = Strong.load(str(path), bank)
        if not (strong.args.takes_turns and strong.turn):
            raise DataError(f"boxes={source!r}: that system tracks nothing, it was trained with {strong.args.boxes!r}")
        held[key] = strong.boxes(bank)
    return held[key]
