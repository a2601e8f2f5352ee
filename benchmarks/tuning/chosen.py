"""The file of a tuning, and its use: ``--tuned FILE`` of the commands that train."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from strong_envs.agents.overrides import check_settings, setting_paths, with_setting
from strong_envs.benchmarks.execution.learned_boxes import SUFFIX, plain_name
from strong_envs.benchmarks.results.files import read_tree
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import shown
from strong_envs.features.files.untrusted_json import as_type

if TYPE_CHECKING:
    from strong_envs.benchmarks.execution.job import Variant

FILE = "tuned.json"
Value = bool | int | float | str | None


class TunedTrial(Struct):
    """A trial."""

    number: int
    values: dict[str, Value]
    mIoU: float | None
    scores: list[float] = []
    seconds: float = 0.0


class TunedSystem(Struct):
    """What was tried of a system, and what was chosen; ``chosen`` is None where no trial has finished."""

    space: dict[str, dict[str, Any]]
    defaults: dict[str, Value]
    trials: list[TunedTrial]
    chosen: dict[str, Value] | None
    mIoU: float | None = None
    default_mIoU: float | None = None
    budget: float | None = None
    """Of its trials; None in an older file, where it is that of the whole file."""


class TunedFile(Struct):
    """``tuned.json``."""

    data: str
    part: str
    trials: int
    seeds: list[int]
    budget: float
    systems: dict[str, TunedSystem]
    about: dict[str, Any] = {}


def read_tuned(path: str) -> TunedFile:
    """The file of a tuning, or that of its folder, checked; `DataError` names what is wrong with it."""
    if Path(path).is_dir():
        path = str(Path(path) / FILE)
    return as_type(read_tree(path), TunedFile, f"{shown(path)} is not the file of strong-envs tune")


def with_tuned(args: argparse.Namespace, variants: Sequence[Variant]) -> list[Variant]:
    """Variants with the chosen values of ``--tuned``; what ``--set`` gave stays.

    Raises:
        DataError: not such a file, or values that a system does not take.
    """
    path = getattr(args, "tuned", None)
    if not path:
        return list(variants)
    found = read_tuned(path)
    made = []
    for variant in variants:
        _, tuned = chosen_of(key_of(variant), found)
        if tuned is None or not tuned.chosen:
            made.append(variant)
            continue
        known = setting_paths(variant.system)
        # An unknown name stays, so that it is refused below.
        free = {k: value for k, value in tuned.chosen.items() if k not in known or not is_given(variant, k)}
        try:
            check_settings([variant.system], free)
        except DataError as error:
            raise DataError(f"{shown(path)}: {variant.system}: {error}") from None
        options = variant.options
        for name, value in free.items():
            options = with_setting(variant.system, options, name, value)
        made.append(replace(variant, options=options))
    return made


def key_of(variant: Variant) -> str:
    """The name of a row in the file of a tuning: that of its system, and whether it looks through learned boxes."""
    return variant.system + (SUFFIX if variant.boxes else "")


def chosen_of(key: str, file: TunedFile) -> tuple[str, TunedSystem | None]:
    """What a file holds for a row, and the key it stands under.

    That is the row's own; where it was not searched, that of the system it is a variant of, or on learned boxes that of
    the same system on whole frames.
    """
    from strong_envs import agents

    if key not in file.systems:
        key = plain_name(key) if key.endswith(SUFFIX) else agents.find(key).tuned_as or key
    return key, file.systems.get(key)


def is_given(variant: Variant, name: str) -> bool:
    """Whether the options of a variant hold a setting already: ``--set`` gave it."""
    for path in setting_paths(variant.system)[name]:
        place: Any = variant.options
        for part in path:
            place = place.get(part) if isinstance(place, Mapping) else None
        if place is not None:
            return True
    return False


def tuned_note(system: str, tuned: TunedFile, data: str) -> str:
    """A sentence for the row of a system: the values that were chosen, by how many trials, on what."""
    key, found = chosen_of(system, tuned)
    if found is None:
        return "not tuned: default values."
    if not found.chosen:
        return "default values: no trial of its tuning has finished."
    values = ", ".join(f"{name}={shown_value(value)}" for name, value in found.chosen.items())
    where = f"the part {tuned.part}" + ("" if tuned.data == data else f" of {tuned.data}")
    before = "" if found.default_mIoU is None else f"; default values: {100 * found.default_mIoU:.2f}"
    score = "" if found.mIoU is None else f" (mIoU {100 * found.mIoU:.2f} there{before})"
    budget = tuned.budget if found.budget is None else found.budget
    whose = "" if key == system else f"values of {key}, "
    return f"{whose}tuned in {len(found.trials)} trials at a budget of {budget:g} on {where}{score}: {values}."


def shown_value(value: Any) -> str:
    """A value as in a table: three digits of a number that is not whole."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
