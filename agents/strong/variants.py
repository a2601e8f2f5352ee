"""The paper's variants of STRONG (sections 4.1.3 and 4.3, Table 2) as configurations: no code of their own.

Each differs from its neighbour in the part that its name says and in nothing else; arguments that are changed for one
(``--set``) are changed in the others alike.

| system | neighbour | what differs |
|---|---|---|
| strong+attention | strong | windows are weighed by both attentions (Eqs. 2-3 and 13-14) beside the means |
| strong+frame scores | strong | the temporal level also sees the scores of its frame attention (ours) |
| trl | strong | no spatial level, f_o := f_s (`agents.registry`) |
| trl+gau | trl | f_o weighs each frame by a fixed centred Gaussian (`agents.registry`) |
| trl+local | trl | f_o is the mean of the detected objects of each frame |
| trl+cells | trl | f_o is the mean of the five cells of each frame with the largest norm |
| trl+dis | strong | every frame begins with b0 instead of the box before it (no Eq. 12) |
| trl+fix | strong | there are actions in the first frame only; its box serves all others |

The paper's STRONG has the attentions and its STRONG-A has means; here means are the default of all (see
`agents.strong.agent`
for what attention costs and brings), so its STRONG is ``strong+attention`` and its STRONG-A ``strong``.

Known from the paper: which part each removes. Ours: TRL+local's mean over objects; ``trl+cells``, which stands in for
it where a store has no detector features and is named as such; TRL+dis acts as often in a frame as STRONG does, which
with one action a frame leaves its boxes near b0; TRL+fix adjusts its box in the first frame of what is tracked, and
agents here track through whole videos.
"""

from __future__ import annotations

from strong_envs.agents.registry import SystemSpec, register
from strong_envs.agents.strong.system import StrongSystem

STAND_INS = {"trl+local": "trl+cells"}
"""Which system takes the row of another that a store cannot serve; the row says so."""

for _spec in (
    SystemSpec(
        "trl+local",
        StrongSystem,
        "temporal level on the mean of detected objects",
        needs_objects=True,
        defaults={"boxes": "objects"},
    ),
    SystemSpec(
        "trl+cells",
        StrongSystem,
        "temporal level on the five cells of each frame with the largest norm",
        needs_grid=True,
        defaults={"boxes": "cells"},
    ),
    SystemSpec(
        "trl+dis",
        StrongSystem,
        "both levels, every frame's box from b0 alone",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "tracked", "spatial_env": {"inheritance": "none"}},
    ),
    SystemSpec(
        "trl+fix",
        StrongSystem,
        "both levels, the first frame's box for all frames",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "tracked", "spatial_env": {"inheritance": "first"}},
    ),
):
    register(_spec)
