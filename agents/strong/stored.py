"""Saved systems and checkpoints of STRONG: schemas of their headers, and which weights they hold."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from strong_envs.agents.strong.args import StrongArgs, changed_args


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


def layer_widths(args: StrongArgs, lean: bool) -> dict[str, int]:
    """Sizes of the layers that a saved system has, by name."""
    widths: dict[str, tuple[int, ...]] = {}
    for name, level in (("temporal", args.temporal), ("spatial", args.spatial)):
        if name == "temporal" or args.boxes == "tracked":
            widths[f"{name}.actor_hidden"] = level.actor_hidden
            widths[f"{name}.critic_hidden"] = () if lean else level.critic_hidden
    if args.has_frame_attention:
        widths["frame_attention.hidden"] = (args.frame_attention.hidden,)
        if not lean or args.frame_scores:
            widths["frame_attention.inside_hidden"] = (args.frame_attention.inside_hidden,)
    return {f"{name}[{i}]": size for name, sizes in widths.items() for i, size in enumerate(sizes)}


def lean_args(args: StrongArgs) -> StrongArgs:
    """Arguments with the smallest networks in the place of those that a lean file omits."""
    small: dict[str, Any] = {"temporal": {"critic_hidden": (1, 1)}, "spatial": {"critic_hidden": (1, 1)}}
    if not args.frame_scores:
        small["frame_attention"] = {"inside_hidden": 1}
    return changed_args(args, small)


def unused_weights(args: StrongArgs) -> tuple[str, ...]:
    """Prefixes of the weights that predictions do not use."""
    return ("target_actor.", "target_critic.", "critic.", *(() if args.frame_scores else ("inside.",)))
