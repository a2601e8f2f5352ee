"""A STRONG small enough for tests."""

from __future__ import annotations

from strong_envs.agents.strong.args import level_args, strong_args
from strong_envs.agents.strong.frame_attention import FrameAttentionArgs

SMALL = dict(num_envs=16, batch=32, updates=1, warmup=64, actor_hidden=(32, 16), critic_hidden=(32, 16))


def small_strong(boxes: str = "tracked", **changes: object):
    return strong_args(
        boxes=boxes,
        rounds=1,
        pretrain_steps=400,
        spatial_steps=400,
        temporal_steps=400,
        temporal=level_args(**SMALL),
        spatial=level_args(**SMALL, stop=8),
        frame_attention=FrameAttentionArgs(steps=5, queries=4, frames=6, hidden=8, inside_hidden=8),
        **changes,
    )
