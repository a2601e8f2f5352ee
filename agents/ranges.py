"""Types and ranges of all settings: the one table that every system checks its arguments against."""

from __future__ import annotations

import math
import numbers
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from strong_envs.features.errors import DataError


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; an open end does not belong to them."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        low, high = (f"{end:,.0f}" if float(end).is_integer() else f"{end:g}" for end in (self.low, self.high))
        return f"{'(' if self.open_low else '['}{low}, {high}{')' if self.open_high else ']'}"


STEPS = Range(1, 10**12)
COUNT = Range(1, 10**6)
WIDTH = Range(1, 16_384)
SHARE = Range(0, 1)
DROPPED = Range(0, 1, open_high=True)
RATE = Range(0, math.inf, open_low=True, open_high=True)
WEIGHT = Range(0, 1000)

RANGES: dict[str, Range] = {
    # of the constructors
    "seed": Range(0, 2**32 - 2),
    "budget": Range(0, 10**6, open_low=True),
    "box_margin": SHARE,
    # of the training
    "steps": STEPS,
    "pretrain_steps": STEPS,
    "spatial_steps": STEPS,
    "temporal_steps": STEPS,
    "concept_steps": Range(0, 10**12),
    "rounds": Range(0, 100),
    "folds": Range(2, 100),
    "ramp": Range(0, 100, open_low=True),
    "num_envs": COUNT,
    "batch": COUNT,
    "queries": COUNT,
    "moves": COUNT,
    "episodes": COUNT,
    "window_episodes": COUNT,
    "slots": COUNT,
    "steps_per_update": COUNT,
    "lattice": COUNT,
    "updates": Range(1, 10_000),
    "capacity": Range(1, 10**8),
    "buffer": Range(1, 10**8),
    "warmup": Range(0, 10**9),
    "switch": STEPS,
    "check_every": STEPS,
    "lr": RATE,
    "lr_actor": RATE,
    "lr_critic": RATE,
    "weight_decay": Range(0, 100),
    "clip": Range(0, 10**6),
    "random_boxes": SHARE,
    "held_out": DROPPED,
    # of the algorithms
    "gamma": SHARE,
    "rise": DROPPED,
    "tau": SHARE,
    "entropy": Range(0, 100),
    "gain": Range(0, 100),
    "stop": Range(0, 100),
    "epsilon_start": SHARE,
    "epsilon_end": SHARE,
    "epsilon_share": Range(0, 1, open_low=True),
    "noise": Range(0, 100),
    "explore": SHARE,
    "sigma": Range(0, 10, open_low=True),
    "baseline": DROPPED,
    "hit": SHARE,
    "value_weight": WEIGHT,
    "iou_weight": WEIGHT,
    "location_weight": WEIGHT,
    "match_weight": WEIGHT,
    "detection_weight": WEIGHT,
    "policy_weight": WEIGHT,
    "location_above": SHARE,
    "regression": WEIGHT,
    "margin": WEIGHT,
    "intra": WEIGHT,
    "inter": WEIGHT,
    "negative_iou": SHARE,
    "positive_iou": SHARE,
    "positive_outside": SHARE,
    # of the networks
    "actor_hidden": WIDTH,
    "critic_hidden": WIDTH,
    "attention_heads": Range(1, 64),
    "attention_stretches": Range(1, 10_000),
    "spp_levels": Range(1, 64),
    "weights_std": Range(0, 10),
    "hidden": WIDTH,
    "width": WIDTH,
    "inside_hidden": WIDTH,
    "iou_hidden": WIDTH,
    "sizes": WIDTH,
    "part": WIDTH,
    "embedding": WIDTH,
    "visual": WIDTH,
    "language": WIDTH,
    "pool": Range(1, 16_384),
    "dropout": DROPPED,
    "input_dropout": DROPPED,
    "concepts": Range(0, 100_000),
    "concept_least": COUNT,
    # of what is read of a video, and of the windows
    "frames": Range(1, 10_000),
    "copies": Range(0, 10**12),
    "copy_lr": RATE,
    "at_once": COUNT,
    "firsts": SHARE,
    "least_looks": Range(1, 4096),
    "most_looks": Range(1, 4096),
    "stretches": Range(1, 10_000),
    "parts": Range(1, 10_000),
    "looks": Range(1, 1000),
    "size": Range(0, 1, open_low=True),
    "change": Range(0, 0.5),
    "context": SHARE,
    "cells": Range(1, 1000),
    "scales": Range(0, 1, open_low=True),
    "scale_count": Range(1, 100),
    "overlap": Range(0, 0.99),
    "reach": Range(0, 0.5, open_high=True),
    "top": Range(1, 10_000),
    "nms": SHARE,
    # of the environments
    "phi": SHARE,
    "max_steps": Range(1, 100_000),
    "z_e": Range(0.5, 10**6),
    "step_scale": Range(0, 10**6, open_low=True),
    "initial_span": SHARE,
    "z_s": Range(0, 10**6, open_low=True),
    "actions_per_frame": Range(1, 10_000),
    "first_frame_actions": Range(1, 10_000),
    "tie_tolerance": Range(0, 10**6),
    "initial_box": SHARE,
}
"""Range of every numeric setting of a system or its environments by its name; in tuples, of each entry."""
LONGEST = 16
"""Most entries of a tuple."""


def check_fields(arguments: Any) -> None:
    """Check the types and ranges of all fields of a dataclass, nested dataclasses by their type alone.

    Raises:
        DataError: a value of another type, or outside its range.
    """
    kind: Any = type(arguments)
    for name, annotation in hints_of(kind).items():
        check_value(name, getattr(arguments, name), annotation)


def check_value(name: str, value: Any, annotation: Any = Any) -> None:
    """Check one setting.

    Args:
        name: key of `RANGES`, or any other name, whose type alone is checked.
        value: whole numbers count as numbers, and lists as tuples.
        annotation: a type, a union, or ``tuple[...]``; `Any` accepts every value.

    Raises:
        DataError: a value of another type, or outside its range.
    """
    choices = _choices(annotation)
    if Any not in choices and not any(_is_a(value, choice) for choice in choices):
        words = " or ".join(_words(choice) for choice in choices)
        raise DataError(f"{name} must be of type {words}, got {value!r}")
    span = RANGES.get(name)
    if span is None or value is None or isinstance(value, (bool, str)):
        return
    entries = value if isinstance(value, (tuple, list)) else (value,)
    if len(entries) > LONGEST or not entries:
        raise DataError(f"{name} must have 1 to {LONGEST} entries, got {value!r}")
    for entry in entries:
        if isinstance(entry, numbers.Real) and _number(entry) not in span:
            whole = "whole number" if int in choices or isinstance(value, (tuple, list)) else "number"
            each = f"each entry of {name}" if isinstance(value, (tuple, list)) else name
            raise DataError(f"{each} must be a {whole} in {span}, got {entry!r}")


@cache
def hints_of(kind: Any) -> Mapping[str, Any]:
    """Annotations of the fields of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _choices(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a type or of a ``tuple[...]``."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, (tuple, list)) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            return False
        return all(_is_a(entry, inner[0]) for entry in value)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral)
    if kind is float:
        return isinstance(value, numbers.Real)
    return isinstance(value, typing.get_origin(kind) or kind)


def _words(kind: Any) -> str:
    if kind is type(None):
        return "None"
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"tuple of {count}{inner[0].__name__}"
    return str(getattr(kind, "__name__", kind))


def widths_of(arguments: Any) -> dict[str, int]:
    """Sizes of layers among the fields of a dataclass, by name, entry by entry."""
    found: dict[str, int] = {}
    for part in fields(arguments):
        value = getattr(arguments, part.name)
        if RANGES.get(part.name) is WIDTH:
            found |= (
                {f"{part.name}[{i}]": v for i, v in enumerate(value)}
                if isinstance(value, tuple)
                else {part.name: value}
            )
    return found


def numeric(annotation: Any) -> bool:
    """Whether values of an annotation are numbers, or tuples of numbers."""
    parts = [part for choice in _choices(annotation) for part in (typing.get_args(choice) or (choice,))]
    return any(part in (int, float) for part in parts) and not is_dataclass(annotation)
