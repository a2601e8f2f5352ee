"""One search as a picture: what was looked at, one after another, until the answer."""

from __future__ import annotations

from pathlib import Path

import torch

from strong_envs.agents.looks.posterior import seen_of
from strong_envs.benchmarks.looks.world import World
from strong_envs.features.files.atomic import replaced_file
from strong_envs.looks.env import TemporalLookEnv

PICTURES = 9


def draw_search(world: World, rows: list[int], sample: int, path: Path) -> None:
    """Play the looks of one query in `TemporalLookEnv` and write its last pictures side by side, the answer last.

    Args:
        world: of the query.
        rows: looked at, in their order.
        sample: index into the test part.
        path: of the picture.
    """
    import cv2

    from strong_envs.rendering.viewer import tiled

    bank, table, n_frames = world.bank(world.part), world.table(world.part), world.n_frames(world.part)

    def answer(state: dict[str, torch.Tensor]) -> torch.Tensor:
        seen = seen_of(table, state["sample"], state["rows"])
        return world.posterior.answer(seen, n_frames[state["sample"]])

    rows = [row for row in rows if row >= 0]
    env = TemporalLookEnv(
        bank,
        positions=table.shape[1],
        zoom=False,
        max_looks=len(rows),
        sensor=lambda samples, at: table[samples, at][:, None],
        answerer=answer,
        render_mode="rgb_array",
        # A figure of a result shows what was asked for, also on a test part.
        reveal_truth=True,
    )
    env.reset(options={"sample": sample})
    pictures, count = [], int(n_frames[sample])
    for row in rows:
        env.step(int((row + 0.5) / count * table.shape[1]))
        picture = env.render()
        assert picture is not None
        pictures.append(picture)
    env.close()
    canvas = cv2.cvtColor(tiled(pictures[-PICTURES:]), cv2.COLOR_RGB2BGR)
    ok, content = cv2.imencode(".png", canvas)
    assert ok
    with replaced_file(path) as staging:
        staging.write_bytes(content.tobytes())
