"""Stores of random features."""

from __future__ import annotations

from pathlib import Path


def random_store(
    folder: Path,
    lengths: list[int],
    *,
    windows: int = 1,
    grid: bool = True,
    objects: bool = False,
    wider: int = 0,
    seed: int = 0,
):
    """A store of random features with videos of the given numbers of rows, two queries a video and true boxes.

    The vector of a frame is the mean of its cells, plus ``wider`` numbers of its own.
    """
    import numpy as np

    from strong_envs.features import Query, StoreContents, StoredVideo, write_store

    rng = np.random.default_rng(seed)
    videos = [StoredVideo(f"v{i}", 0.5 * n + 0.25, n) for i, n in enumerate(lengths)]
    queries, boxes = [], {}
    for i, video in enumerate(videos):
        low = rng.uniform(0, 0.6, (video.n_frames, 2))
        boxes[f"t{i}"] = np.concatenate([low, low + rng.uniform(0.1, 0.4, low.shape)], 1).astype(np.float32)
        for j in range(2):
            spans = []
            for _ in range(1 + j * (windows - 1)):
                a, b = np.sort(rng.uniform(0, video.duration, 2))
                spans.append((float(a), float(b)))
            split = "test" if i % 4 == 3 else "train"
            extra = {"track": f"t{i}"} if grid else {}
            queries.append(Query(f"q{i}-{j}", video.id, f"sentence {i} {j}", tuple(spans), split, extra))
    total = sum(lengths)
    maps = rng.normal(size=(total, 4, 5, 6)).astype(np.float32)
    return write_store(
        folder,
        StoreContents(
            name=folder.name,
            videos=videos,
            queries=queries,
            frames=np.concatenate([maps.mean((1, 2)), rng.normal(size=(total, wider)).astype(np.float32)], 1),
            query_vectors=rng.normal(size=(len(queries), 9)).astype(np.float32),
            grid=maps if grid else None,
            objects=rng.normal(size=(total, 3, 6)).astype(np.float32) if objects else None,
            boxes=boxes if grid else None,
            backbone={"name": "random"},
            text={"name": "random"},
        ),
    )
