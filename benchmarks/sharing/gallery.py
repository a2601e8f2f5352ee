"""``strong-envs gallery --out docs/gallery``: a GIF of every registered environment, in the drawn world.

An environment is acted by its entry of `strong_envs.demonstrations`, which looks at the truth; one without an entry by
random actions. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.atomic import write_bytes
from strong_envs.features.files.errors import check_output

LAST, FIRST, OTHER = 1.6, 0.8, 0.3
"""Seconds for which the last picture of an episode is shown, the first, and any other."""
MOST_BYTES = 2_000_000


def episode(env: gym.Env, policy: Any, seed: int) -> Iterator[tuple[np.ndarray, float]]:
    """The pictures of one episode and for how many seconds each is shown.

    Args:
        env: scalar, with ``render_mode="rgb_array"``.
        policy: a `strong_envs.demonstrations.Demonstration`.
        seed: of the episode and of random actions.
    """
    env.action_space.seed(seed)
    _, info = env.reset(seed=seed)
    yield picture(env), FIRST
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step(policy(env, info))
        ended = terminated or truncated
        yield picture(env), LAST if ended else OTHER


def picture(env: gym.Env) -> np.ndarray:
    """The picture of an environment as it is, (H, W, 3) uint8."""
    return np.asarray(env.render())


def gif_of(name: str, features: str, episodes: int, seed: int) -> tuple[list[np.ndarray], list[float]]:
    """Pictures of some episodes of a registered id one after another, and the seconds of each."""
    from strong_envs.demonstrations import demonstration

    policy, arguments = demonstration(name)
    env = gym.make(name, features=features, render_mode="rgb_array", **arguments)
    shown = [pair for number in range(episodes) for pair in episode(env, policy, seed + number)]
    env.close()
    return [p for p, _ in shown], [s for _, s in shown]


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``gallery`` command."""
    parser = subparsers.add_parser(
        "gallery",
        help="write a GIF of every environment",
        description="Write a GIF of some episodes of every registered environment. Actions are chosen by a policy "
        "that looks at the truth, so the GIFs show the environments and not what an agent has learned.",
    )
    parser.add_argument(
        "--features", default="shapes-v0", metavar="STORE", help="key or path of a feature store (%(default)s)"
    )
    parser.add_argument("--env", metavar="ID", help="only this environment (default: all)")
    parser.add_argument("--episodes", type=int, default=3, metavar="N", help="episodes in a GIF (%(default)s)")
    parser.add_argument("--seed", type=int, default=4, metavar="N", help="of the first episode (%(default)s)")
    parser.add_argument("--out", default="results/gallery", metavar="FOLDER", help="folder of the GIFs (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0."""
    from strong_envs import IDS
    from strong_envs.rendering.gif import gif_bytes

    if args.episodes < 1 or args.seed < 0:
        raise DataError(f"--episodes must be 1 or more and --seed 0 or more, got {args.episodes} and {args.seed}")
    if args.env is not None and args.env not in IDS:
        raise DataError(f"--env must be one of {list(IDS)}, got {args.env!r}{nearest(args.env, IDS)}")
    out: Path = check_output(args.out)
    written: list[dict[str, Any]] = []
    for name in IDS if args.env is None else [args.env]:
        pictures, seconds = gif_of(name, args.features, args.episodes, args.seed)
        content, file = gif_bytes(pictures, seconds), out / f"{name}.gif"
        if len(content) > MOST_BYTES:
            raise DataError(
                f"the GIF of {name} would have {len(content):,} bytes, more than {MOST_BYTES:,}; take fewer --episodes"
            )
        write_bytes(file, content)
        written.append({"id": name, "file": str(file), "pictures": len(pictures), "bytes": len(content)})
    if args.json:
        print(json.dumps(written, indent=1))
    else:
        for entry in written:
            print(f"{entry['file']}: {entry['pictures']} pictures, {entry['bytes'] / 1000:,.0f} kB")
    return 0
