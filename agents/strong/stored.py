"""Saved systems and checkpoints of STRONG: schemas of their headers, and which weights they hold."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor

from strong_envs.agents.strong.args import StrongArgs
from strong_envs.agents.strong.levels.ddpg import DDPGArgs
from strong_envs.agents.strong.levels.dqn import DQNArgs
from strong_envs.agents.strong.levels.level import LevelArgs
from strong_envs.agents.strong.presets import changed_args
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import shown

KNOWN_SENTENCES = "known sentences"
"""The tensor of a saved system that holds the sentences of its training, where these are few."""

FOLDS = "fold_attentions."
"""Prefix of the weights of the frame attentions that predictions average with the one of all groups."""


class Progress(msgspec.Struct):
    """State of a training beside its tensors, and beside the groups of the optimisers."""

    history: list[dict[str, Any]]
    turn: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    seconds: Annotated[float, msgspec.Meta(ge=0)]


class Header(msgspec.Struct):
    """The header of a saved system."""

    args: dict[str, Any]
    history: list[dict[str, Any]]
    turn: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    lean: bool = False


def levels_of(args: StrongArgs) -> dict[str, LevelArgs]:
    """The levels that a system has, by name."""
    levels = {"temporal": args.temporal}
    return levels | {"spatial": args.spatial} if args.boxes == "tracked" else levels


def layer_widths(args: StrongArgs, lean: bool) -> dict[str, int]:
    """Sizes of the layers that a saved system has, by name."""
    widths: dict[str, tuple[int, ...]] = {}
    for name, level in levels_of(args).items():
        if isinstance(level, DQNArgs):
            widths[f"{name}.hidden"] = level.hidden
        if isinstance(level, DDPGArgs):
            widths[f"{name}.actor_hidden"] = level.actor_hidden
            widths[f"{name}.critic_hidden"] = () if lean and not _acts_by_values(level) else level.critic_hidden
        if level.network == "matching":
            widths[f"{name}.width"] = (level.width,)
    if args.attention == "cells":
        widths["cells.hidden"] = (args.cells.hidden,)
    if args.has_frame_attention:
        widths["frame_attention.hidden"] = (args.frame_attention.hidden,)
        if not lean or args.frame_scores:
            widths["frame_attention.inside_hidden"] = (args.frame_attention.inside_hidden,)
    return {f"{name}[{i}]": size for name, sizes in widths.items() for i, size in enumerate(sizes)}


def lean_args(args: StrongArgs) -> StrongArgs:
    """Arguments with the smallest networks in the place of those that a lean file omits."""
    small: dict[str, Any] = {
        name: {"critic_hidden": (1, 1)} for name, level in levels_of(args).items() if not _acts_by_values(level)
    }
    if not args.frame_scores:
        small["frame_attention"] = {"inside_hidden": 1}
    return changed_args(args, small)


def unused_weights(args: StrongArgs) -> tuple[str, ...]:
    """Prefixes of the weights that predictions do not use, by their names in the file."""
    unused = [] if args.frame_scores else ["frame_attention.inside."]
    if not args.frame_scores and args.average_folds:
        unused += [f"{FOLDS}{fold}.inside." for fold in range(args.folds)]
    for name, level in levels_of(args).items():
        unused.append(f"{name}.target_")
        if not _acts_by_values(level):
            unused.append(f"{name}.critic.")
    return tuple(unused)


def known_of(tensors: dict[str, Tensor], query_dim: int, path: str) -> Tensor:
    """The training's sentences (K, Dq) of a saved system; none where they were too many to mix.

    Raises:
        DataError: the tensor has another shape or numbers that are not finite.
    """
    known = tensors.get(KNOWN_SENTENCES)
    if known is None:
        return torch.zeros(0, query_dim)
    usable = known.is_floating_point() and known.dim() == 2 and known.shape[1] == query_dim
    if not usable or not bool(known.isfinite().all()):
        raise DataError(
            f"{shown(path)} has unusable {KNOWN_SENTENCES!r}: finite numbers of shape (sentences, {query_dim}) are "
            f"expected, got {known.dtype} of shape {tuple(known.shape)}"
        )
    return known.to(torch.float32)


def has_values(args: StrongArgs, lean: bool) -> bool:
    """Whether a file holds the critic of the temporal level."""
    return not lean or _acts_by_values(args.temporal)


def _acts_by_values(level: LevelArgs) -> bool:
    """Whether greedy actions need the critic."""
    return not isinstance(level, DDPGArgs) or level.greedy == "critic"
