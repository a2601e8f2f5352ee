"""The way from STRONG to the letter of the paper to the default ``strong``, one change at a time.

Every row has the arguments of the row above with one part changed to what the default has; the first row is
``preset="paper"`` and the last the default. The rows and their order were fixed before any of them was trained: first
what makes networks train at all, then what they observe, then how they learn, then the spatial level. A change that
helps late may not help early; the table shows this order and no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from strong_envs.agents.strong.args import StrongArgs
from strong_envs.agents.strong.levels.ddpg import DDPGArgs
from strong_envs.agents.strong.levels.level import LevelArgs
from strong_envs.agents.strong.presets import strong_args
from strong_envs.features.errors import DataError

LEVELS = ("temporal", "spatial")
DEFAULT = "default"
"""Label of the first row of `taken_back`."""


@dataclass(frozen=True)
class Change:
    """One row: its label, what it changes in a sentence, and the fields of `StrongArgs` that it brings to the default.

    A field is dotted where it belongs to a level or an environment; ``levels.`` stands for both levels.
    """

    label: str
    says: str
    fields: tuple[str, ...]


CHANGES: tuple[Change, ...] = (
    Change("the letter", 'preset="paper"', ()),
    Change("+ standardised inputs", "inputs have mean 0 and spread 1 instead of being raw", ("levels.standardise",)),
    Change(
        "+ initial weights and rates",
        "PyTorch's initial weights, learning rates that rise and fall, weight decay, a bonus for entropy",
        (
            "levels.weights_std",
            "levels.lr_actor",
            "levels.lr_critic",
            "levels.decay",
            "levels.weight_decay",
            "levels.entropy",
        ),
    ),
    Change(
        "+ layers and batches",
        "smaller layers; more episodes side by side, larger batches and more updates in the temporal level",
        (
            "levels.actor_hidden",
            "levels.critic_hidden",
            "levels.num_envs",
            "levels.batch",
            "levels.updates",
        ),
    ),
    Change(
        "+ means of boxes",
        "f_o is the mean of a box instead of the maximum over a pyramid of [1, 4, 16] bins",
        ("spp_levels", "spp_reduce"),
    ),
    Change(
        "+ means of frames",
        "f_o and f_g are means over the frames instead of attention (STRONG-A), f_g of the whole video",
        (
            "attention=none",
            "attention_stretches",
            "levels.attention_heads",
            "levels.attention_timed",
            "temporal_env.global_scope",
        ),
    ),
    Change(
        "+ context",
        "the temporal level also observes the thirds of its window and what lies around it",
        ("temporal_env.context",),
    ),
    Change("+ matching", "the temporal critic multiplies the query with every window", ("temporal.network",)),
    Change(
        "+ double DQN",
        "both levels learn values alone, without an actor",
        ("levels.algorithm", "levels.lr", "levels.hidden", "levels.clip"),
    ),
    Change(
        "+ finer moves",
        "moves of several sizes, paid by the change of the IoU instead of its sign",
        ("temporal_env.multi_scale", "temporal_env.reward", "temporal_env.phi", "levels.gamma"),
    ),
    Change(
        "+ attention over cells",
        "f_o weighs the cells in and around a box by an attention that the critic's error trains; some boxes are whole "
        "frames",
        ("attention", "random_boxes", "box_margin", "cells"),
    ),
    Change(
        "+ attention_box",
        "the spatial level is paid for reaching the peak of that attention instead of by Eq. 11, and observes it",
        ("spatial_env.reward", "spatial_env.payment", "spatial_env.appearance", "spatial_env.surroundings"),
    ),
    Change(
        "+ moves in a frame",
        "several moves in the first frame, so that the box arrives, and in those after it",
        ("spatial_env.first_frame_actions", "spatial_env.actions_per_frame"),
    ),
    Change(
        "+ whole video (default)",
        "the tracker walks through the whole video instead of the localised window: the default strong",
        ("tracked_window", "spatial_env.window", "outside_boxes"),
    ),
)
"""The rows, in order."""


def walk() -> list[tuple[Change, StrongArgs]]:
    """Every row with its arguments."""
    target, args = strong_args(), strong_args("paper")
    found = []
    for change in CHANGES:
        for owner, part in _places(change):
            args = _changed(args, target, owner, part)
        args = replace(args)  # checks what goes with what
        found.append((change, args))
    return found


def taken_back() -> list[tuple[Change, StrongArgs]]:
    """The default, and for each change of the walk the default with that change alone taken back.

    A field that is taken back gets the value of the row of the walk before the change. Later changes of the same field
    are taken back with it, and so are changes that need it; the row says so. Fields that only one of two algorithms has
    stay as they are.
    """
    rows = walk()
    found = [(Change(DEFAULT, "the default strong", ()), rows[-1][1])]
    for at, change in enumerate(CHANGES[1:], 1):
        names, later = _names(change), list(CHANGES[at + 1 :])
        needed = [change, *(other for other in later if names.keys() & _names(other).keys())]
        together, later = list(needed), [other for other in later if other not in needed]
        while _without(together, rows) is None:
            together.append(later.pop(0))
        for other in together[len(needed) :]:
            fewer = [one for one in together if one is not other]
            if _without(fewer, rows) is not None:
                together = fewer
        together.sort(key=CHANGES.index)
        args = _without(together, rows)
        assert args is not None
        label = " ".join(one.label.replace("+", "-").removesuffix(" (default)") for one in together)
        says = "without: " + "; ".join(one.says for one in together)
        found.append((Change(label, says, tuple(name for one in together for name in one.fields)), args))
    return found


def _names(change: Change) -> dict[tuple[str, str], None]:
    """Owner and name of every field of a change, in order and without values."""
    return {(owner, part.partition("=")[0]): None for owner, part in _places(change)}


def _places(change: Change) -> Iterator[tuple[str, str]]:
    """Owner and name of every field of a change; the owner is empty for a field of `StrongArgs` itself."""
    for name in change.fields:
        group, _, part = name.rpartition(".")
        for owner in LEVELS if group == "levels" else (group,):
            yield owner, part


def _without(changes: Sequence[Change], rows: Sequence[tuple[Change, StrongArgs]]) -> StrongArgs | None:
    """The last row of `walk` without some changes; None where what is left does not go together."""
    args = rows[-1][1]
    done: set[tuple[str, str]] = set()
    for change in sorted(changes, key=CHANGES.index):
        earlier = rows[CHANGES.index(change) - 1][1]
        for owner, name in _names(change):
            if (owner, name) in done:
                continue
            ours, theirs = getattr(args, owner, None), getattr(earlier, owner, None)
            shared = hasattr(ours, name) and hasattr(theirs, name)
            if shared or name == "algorithm" or not isinstance(ours, LevelArgs):
                args = _changed(args, earlier, owner, name)
        done.update(_names(change))
    with contextlib.suppress(DataError):
        return replace(args)
    return None


def _changed(args: StrongArgs, target: StrongArgs, owner: str, part: str) -> StrongArgs:
    """The arguments with one field as the target has it."""
    made = _unchecked(args)
    if not owner:
        name, _, value = part.partition("=")
        made[name] = value or getattr(target, name)
        return _rebuilt(made)
    inner, wanted = made[owner], getattr(target, owner)
    if part == "algorithm":
        kind = type(wanted)
        kept = {f.name: getattr(inner, f.name) for f in fields(kind) if hasattr(inner, f.name) and f.name != part}
        made[owner] = kind(**kept)
    elif isinstance(inner, LevelArgs):
        # A level with another algorithm than the target's takes what only its own has from the defaults of its own.
        source: Any = wanted if hasattr(wanted, part) else DDPGArgs()
        made[owner] = replace(inner, **{part: getattr(source, part)})
    else:
        made[owner] = replace(inner, **{part: getattr(wanted, part)})
    return _rebuilt(made)


def _unchecked(args: StrongArgs) -> dict[str, Any]:
    return {f.name: getattr(args, f.name) for f in fields(args)}


def _rebuilt(made: dict[str, Any]) -> StrongArgs:
    """Arguments whose parts may not go together until all fields of a row are changed."""
    args = object.__new__(StrongArgs)
    for name, value in made.items():
        object.__setattr__(args, name, value)
    return args


def options_of(args: StrongArgs) -> dict[str, Any]:
    """All arguments but the seeds, as `agents.make("strong", ...)` takes them: nothing is left to defaults."""
    options: dict[str, Any] = {}
    for part in fields(args):
        value = getattr(args, part.name)
        if is_dataclass(value):
            value = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "seed"}
        options[part.name] = value
    del options["seed"]
    return options


def differences(before: StrongArgs, after: StrongArgs) -> dict[str, list[Any]]:
    """The fields in which two sets of arguments differ, dotted: [before, after], None where one has no such field."""
    flat = [
        {
            f"{name}.{inner}" if isinstance(value, dict) else name: one
            for name, value in options_of(args).items()
            for inner, one in (value.items() if isinstance(value, dict) else [("", value)])
        }
        for args in (before, after)
    ]
    names = dict.fromkeys((*flat[0], *flat[1]))
    return {n: [one.get(n) for one in flat] for n in names if flat[0].get(n) != flat[1].get(n)}
