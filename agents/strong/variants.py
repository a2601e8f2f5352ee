"""STRONG, its simpler relatives and the paper's variants (sections 4.1.3 and 4.3, Table 2), as configurations.

Each differs from its neighbour in the part that its name says and in nothing else; arguments that are changed for one
(``--set``) are changed in the others alike.

| system | neighbour | what differs |
|---|---|---|
| blind | trl | every visual part of the observation is hidden; trained for fewer steps |
| trl+gau | trl | f_o weighs each frame by a fixed centred Gaussian |
| trl+local | trl | f_o is the mean of the detected objects of each frame |
| trl+cells | trl | f_o is the mean of the five cells of each frame with the largest norm |
| trl+attention | trl | attention over the cells of whole frames, inside the critic |
| strong | trl+attention | the attention is limited to boxes, which the spatial level moves |
| trl+dis | strong | every frame begins with b0 instead of the box before it (no Eq. 12) |
| trl+fix | strong | there are actions in the first frame only; its box serves all others |
| strong-a | strong | means of the boxes instead of attention; Eq. 11 pays the spatial level |
| attention boxes | strong | no tracker: the box around the peak of the attention in every frame (ours) |
| static attention box | attention boxes | one box a video, the median of these (ours) |
| strong (frame labels) | strong | boxes follow an attention that is trained with frame labels (ours) |
| strong+frame scores | strong (frame labels) | the temporal level also observes the scores of that attention (ours) |
| strong+posterior | strong+frame scores | it observes the posterior over windows that these scores give (ours) |
| strong+posterior (own rewards) | strong+posterior | no labels: windows recovered from rewards (ours) |
| trl+posterior | trl | it observes such a posterior, of whole frames (ours) |
| strong (ddpg) | strong | DDPG with its own batches and layers: an actor chooses the moves of either level |
| strong (all rewards) | strong (frame labels) | both levels know the rewards of all moves (ours) |
| strong (paper) | | the letter of the paper, ``preset="paper"`` |
| GT static box, GT boxes | trl | f_o from GT boxes (upper bounds); trained for fewer steps |
| DDPG on GT boxes | GT boxes | DDPG instead of double DQN (upper bound) |

Known from the paper: which part each removes. Ours: the mean over objects of TRL+local; ``trl+cells``, which stands in
for it where a store has no detector features; TRL+dis has as many actions in every frame as STRONG has in its first,
for to it every frame is a first one, and with fewer its boxes stay near b0; TRL+fix adjusts its box in the first frame
of what is tracked, and agents here track through whole videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strong_envs.agents.registry import SEES_BOXES, SystemSpec, register
from strong_envs.agents.search_space import Between, OneOf, Space
from strong_envs.agents.strong.agent import Strong
from strong_envs.agents.strong.args import BOUNDS, LEARNT, StrongArgs

STAND_INS = {"trl+local": "trl+cells"}
"""Systems whose result replaces that of another which a store cannot serve; a note names the replacement."""


SPACE: Space = {
    "temporal.lr": Between(1e-3, 3e-2),
    "temporal.weight_decay": Between(1e-3, 1.0),
    "temporal.gamma": Between(0.0, 0.9, log=False),
    "temporal.width": OneOf(32, 64, 128),
    "temporal.updates": OneOf(1, 2, 4),
}
"""Of the temporal level that learns by double DQN."""
ACTOR_CRITIC: Space = {
    "temporal.lr_actor": Between(1e-4, 1e-2),
    "temporal.lr_critic": Between(1e-4, 1e-2),
    "temporal.weight_decay": Between(1e-4, 0.1),
    "temporal.entropy": Between(0.05, 1.0),
    "temporal.updates": OneOf(1, 2, 4),
}
"""Of one with an actor."""
OVER_CELLS: Space = {"cells.hidden": OneOf(32, 64, 128)}
"""What is searched as well where the level is trained together with attention over cells."""
SHORT: dict[str, Any] = {"pretrain_steps": 512_000}
"""Steps of `blind`, whose validation curve is flat: 24.0 after these, 24.4 after the 1,280,000 of `trl`."""
BOUND: dict[str, Any] = {"pretrain_steps": 800_000, "temporal": {"num_envs": 512, "batch": 1024, "updates": 1}}
"""Of the systems on GT boxes, which learn faster than those that must find what a sentence names. A quarter as many
updates from four times as many moves take four fifths of the time and are no worse (docs/systems/strong.md)."""
WITH_ACTOR: dict[str, Any] = {"algorithm": "ddpg", "lr_actor": 2e-3, "lr_critic": 8e-3, "weight_decay": 0.01}
"""Of the levels of a system that learns by DDPG; other batches and layers are the defaults of `DDPGArgs`. The rate of
the critic and the decay are those of double DQN."""
POSTERIOR: dict[str, Any] = {
    "frame_scores": True,
    "score_observation": "posterior",
    "average_folds": True,
    "temporal": {"gamma": 0.6},
    "env": {"iou": "clamped"},
}
"""Of systems that observe the posterior over windows."""
SPATIAL: Space = {"box_margin": Between(0.0, 0.3, log=False)}
"""Of a system with learnt boxes, besides."""


def _space(boxes: str, defaults: Mapping[str, Any]) -> Space:
    """What is tuned of a variant. The letter of the paper is not tuned, nor are the upper bounds."""
    if defaults.get("preset") == "paper" or boxes in BOUNDS:
        return {}
    learns_from = defaults.get("learns_from", "own rewards")
    cells = (
        learns_from == "own rewards" and defaults.get("attention", "cells" if boxes in LEARNT else "none") == "cells"
    )
    with_actor = learns_from == "all rewards" or defaults.get("temporal", {}).get("algorithm") == "ddpg"
    temporal = dict(ACTOR_CRITIC if with_actor else SPACE)
    if cells:
        # Updates follow ``cells.steps_per_update``.
        del temporal["temporal.updates"]
        temporal |= OVER_CELLS
    return {**temporal, **(SPATIAL if boxes in LEARNT else {})}


def _sees(boxes: str, attention: str) -> str:
    """What f_o is made of: attention over the cells of whole frames reads the grid."""
    return "grid" if boxes == "frame" and attention == "cells" else SEES_BOXES[boxes]


def _register(
    name: str, description: str, boxes: str, *, needs: str = "grid", tuned_as: str | None = None, **defaults: Any
) -> None:
    """Register a configuration of `Strong`; ``needs`` is the part of a store that its f_o is made of."""
    register(
        SystemSpec(
            name,
            Strong,
            description,
            needs_grid=needs == "grid",
            needs_objects=needs == "objects",
            needs_frames=not defaults.get("blind", False),
            needs_boxes=boxes in ("truth", "static"),
            upper_bound=boxes in ("truth", "static"),
            tracks_boxes=boxes in ("tracked", "attention", "static_attention"),
            defaults={"boxes": boxes, **defaults},
            sees="sentences" if defaults.get("blind") else _sees(boxes, defaults.get("attention", "none")),
            learns_from=defaults.get("learns_from", "own rewards"),
            space=_space(boxes, defaults),
            tuned_as=tuned_as,
        )
    )


_register("blind", "the same agent with every visual input hidden", "frame", needs="frames", blind=True, **SHORT)
_register("trl", "temporal level alone, whole frames", "frame", needs="frames")
_register("trl+gau", "temporal level, a fixed centred Gaussian over the frame", "gaussian", tuned_as="trl")
_register("trl+attention", "temporal level alone, attention over the cells of whole frames", "frame", attention="cells")
_register("strong", "both levels, trained in turns from their own rewards alone", "tracked")
_register(
    "strong (ddpg)",
    "the same by DDPG instead of double DQN: the actors of both levels choose the moves",
    "tracked",
    temporal={**WITH_ACTOR, "network": "matching"},
    spatial={**WITH_ACTOR},
)
_register(
    "strong (frame labels)",
    "both levels from their own rewards, on boxes that follow an attention trained with frame labels",
    "tracked",
    learns_from="frame labels",
)
_register(
    "strong (all rewards)",
    "the same with levels that know the rewards of all moves in uniformly drawn states",
    "tracked",
    learns_from="all rewards",
)
_register(
    "strong+frame scores",
    "STRONG with frame labels that also observes the scores of its frame attention",
    "tracked",
    learns_from="frame labels",
    frame_scores=True,
    frame_attention={"change": 0.05},
)
_register(
    "strong+posterior",
    "the same, which observes the posterior over windows that these scores give",
    "tracked",
    learns_from="frame labels",
    **POSTERIOR,
    frame_attention={"change": 0.05, "objective": "both"},
)
_register(
    "trl+posterior",
    "temporal level alone, whole frames; it observes a posterior over windows that is learned from its own rewards",
    "frame",
    needs="frames",
    **POSTERIOR,
    frame_attention={"whole_frames": True, "change": 0.05, "objective": "both"},
)
_register(
    "strong+posterior (own rewards)",
    "STRONG+posterior without labels: its frame attention learns windows recovered from rewards",
    "tracked",
    attention="none",
    random_boxes=0.0,
    box_margin=0.0,
    **POSTERIOR,
    frame_attention={"change": 0.05, "objective": "both"},
)
_register(
    "strong (paper)", "STRONG to the letter of the paper: DDPG, Eq. 11, plain networks", "tracked", preset="paper"
)
_register(
    "strong-a",
    "STRONG with means of its boxes instead of attention, its spatial level paid by Eq. 11",
    "tracked",
    attention="none",
    spatial_env={"reward": "q_value"},
)
_register(
    "attention boxes",
    "STRONG without the tracker: in every frame the box around the attention's peak",
    "attention",
    tuned_as="strong",
)
_register(
    "static attention box",
    "the same with one box for the whole video, the median of these",
    "static_attention",
    tuned_as="strong",
)
_register(
    "GT static box", "temporal level on one box around the GT boxes of the moment (upper bound)", "static", **BOUND
)
_register("GT boxes", "temporal level on the GT boxes (upper bound)", "truth", box_margin=0.05, **BOUND)
_register(
    "DDPG on GT boxes",
    "the same with DDPG instead of double DQN (upper bound)",
    "truth",
    box_margin=0.05,
    temporal={"algorithm": "ddpg", "network": "matching"},
)
_register("trl+local", "temporal level on the mean of detected objects", "objects", needs="objects", tuned_as="trl")
_register("trl+cells", "temporal level on the five cells of each frame with the largest norm", "cells", tuned_as="trl")
_register(
    "trl+dis",
    "both levels, every frame's box from b0 alone, with as many moves as STRONG has in its first frame",
    "tracked",
    tuned_as="strong",
    spatial_env={"inheritance": "none", "actions_per_frame": StrongArgs().spatial_env.first_frame_actions},
)
_register(
    "trl+fix",
    "both levels, the first frame's box for all frames",
    "tracked",
    tuned_as="strong",
    spatial_env={"inheritance": "first"},
)
