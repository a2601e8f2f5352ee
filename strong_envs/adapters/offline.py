"""Offline data sets for Minari: episodes of a policy that looks at the truth, of random actions, or of both mixed.

::

    from strong_envs.adapters.offline import record

    dataset = record("TemporalMomentFlat-v0", "medium", episodes=200)
    for episode in dataset.iterate_episodes(): ...
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np

from strong_envs.core.validation import check_choice, check_seed, check_whole
from strong_envs.demonstrations import at_random, demonstration
from strong_envs.features.errors import DataError
from strong_envs.registration import FLAT_IDS, IDS

RANDOM_SHARE = {"oracle": 0.0, "medium": 0.5, "random": 1.0}
"""By the kind of data: the share of actions that are drawn at random. The others are the best ones."""


def default_name(env_id: str, kind: str) -> str:
    """The id of a data set in Minari, such as ``strong-envs/temporal-moment-flat/oracle-v0``."""
    words = re.sub(r"(?<!^)(?=[A-Z])", "-", env_id.rsplit("-v", 1)[0]).lower()
    return f"strong-envs/{words}/{kind}-v0"


def record(
    env_id: str,
    kind: str = "medium",
    episodes: int = 100,
    *,
    name: str | None = None,
    seed: int = 0,
    features: Any = "shapes-v0",
    report: Callable[[int], None] | None = None,
    **arguments: Any,
) -> Any:
    """Record whole episodes and store them as a data set of Minari, in its folder of local data sets.

    Args:
        env_id: a registered id; ids with ``Flat`` have one array an observation, which most learners want.
        kind: ``oracle`` (the best action by the truth), ``random``, or ``medium`` (half of the actions at random).
        episodes: how many.
        name: id of the data set; `default_name` by default.
        seed: of the episodes and of the random actions.
        features: key or path of a store.
        report: called with the number of episodes done.
        arguments: of ``gym.make``, beside those of `strong_envs.demonstrations.demonstration`.

    Returns:
        The ``minari.MinariDataset``; its ``recover_environment(eval_env=True)`` has the test part.

    Raises:
        DataError: Minari is absent, an unknown id or kind, or a data set of this name exists.
    """
    check_choice(kind, "kind", tuple(RANDOM_SHARE))
    check_whole(episodes, "episodes")
    base = FLAT_IDS.get(env_id, env_id)
    if base not in IDS:
        raise DataError(f"env_id must be one of {[*IDS, *FLAT_IDS]}, got {env_id!r}")
    try:
        minari: Any = import_module("minari")
    except ImportError:
        raise DataError('offline data sets need Minari: pip install "strong-envs[minari]"') from None
    name = default_name(env_id, kind) if name is None else name
    if not re.fullmatch(r"(?:[\w-]+/)*[\w.-]+?-v\d+", name) or re.search(r"-v\d+-v\d+$", name):
        raise DataError(f"name must be of the form FOLDER/NAME-v0, got {name!r}")
    if name in minari.list_local_datasets():
        raise DataError(f"a data set {name!r} exists; choose another name, or delete it with minari.delete_dataset")
    policy, options = demonstration(base)
    settings = {"features": features, **options, **arguments}
    env = minari.DataCollector(gym.make(env_id, **settings), record_infos=False)
    held_out = gym.make(env_id, **(settings | {"split": "test", "reveal_truth": True}))
    check_seed(seed)
    # Minari would seed episodes without a seed by chance. Videos and coins are apart: all kinds have the same videos.
    seeds, coins = (np.random.default_rng([seed, part]) for part in range(2))
    env.action_space.seed(seed)
    for number in range(episodes):
        _, info = env.reset(seed=int(seeds.integers(2**31)))
        ended = False
        while not ended:
            chosen = at_random if coins.random() < RANDOM_SHARE[kind] else policy
            *_, terminated, truncated, info = env.step(chosen(env, info))
            ended = terminated or truncated
        if report is not None:
            report(number + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an address of the author is missing
        dataset = env.create_dataset(
            name,
            eval_env=held_out.spec,
            algorithm_name=f"{kind}: {1 - RANDOM_SHARE[kind]:.0%} of the actions are the best ones by the truth",
            description=f"{episodes} episodes of {env_id} on {features}, seed {seed}, {options | arguments}",
            author="STRONG-envs",
            code_permalink="https://github.com/strong-envs/strong-envs",
            requirements=["strong-envs"],
        )
    held_out.close()
    env.close()
    return dataset
