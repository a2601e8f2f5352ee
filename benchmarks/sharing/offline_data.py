"""``strong-envs offline-data``: a data set of Minari, made of oracle, medium or random episodes."""

from __future__ import annotations

import argparse
import json

from strong_envs.features.errors import DataError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the ``offline-data`` command."""
    parser = subparsers.add_parser(
        "offline-data",
        help="record episodes as a data set of Minari",
        description="Record whole episodes of an environment as a data set of Minari (extra 'minari'), in the folder "
        "MINARI_DATASETS_PATH. 'oracle' takes the best action by the truth, 'random' any action that changes "
        "something, 'medium' one of both by a coin.",
    )
    parser.add_argument("--env", default="TemporalMomentFlat-v0", metavar="ID", help="environment (%(default)s)")
    parser.add_argument(
        "--kind", default="medium", choices=("oracle", "medium", "random"), help="who acts (%(default)s)"
    )
    parser.add_argument("--episodes", type=int, default=200, metavar="N", help="number of episodes (%(default)s)")
    parser.add_argument(
        "--features", default="shapes-v0", metavar="STORE", help="key or path of a feature store (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of episodes and random actions (%(default)s)")
    parser.add_argument("--name", metavar="ID", help="id of the data set (default: strong-envs/ENV/KIND-v0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns 0."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    from strong_envs.adapters.offline import record

    if args.episodes < 1 or args.seed < 0:
        raise DataError(f"--episodes must be 1 or more and --seed 0 or more, got {args.episodes} and {args.seed}")
    with tqdm(total=args.episodes, unit="episode", disable=None) as bar:
        dataset = record(
            args.env,
            args.kind,
            args.episodes,
            name=args.name,
            seed=args.seed,
            features=args.features,
            report=lambda done: bar.update(done - bar.n),
        )
    about = {
        "id": dataset.id,
        "episodes": int(dataset.total_episodes),
        "steps": int(dataset.total_steps),
        "path": str(dataset.storage.data_path.parent),
    }
    if args.json:
        print(json.dumps(about, indent=1))
    else:
        print(f"{about['id']}: {about['episodes']:,} episodes, {about['steps']:,} steps, in {about['path']}")
    return 0
