"""A program of a user: every id, the command line, a training, a run with its report, a trained system.

It is run as a script by the interpreter of an installation, in a folder whose own ``features``, ``agents`` and
``benchmarks`` raise on import. ``python first_use.py FOLDER``: the package has to lie in FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym

import strong_envs

HEAVY = {"torch", "cv2", "matplotlib", "stable_baselines3", "numba", "rich", "safetensors"}


def check_import(folder: str) -> None:
    assert Path(folder) in Path(strong_envs.__file__).resolve().parents, strong_envs.__file__
    assert not HEAVY & set(sys.modules), HEAVY & set(sys.modules)
    assert [name for name in sys.modules if name.startswith("strong_envs.")] == [
        "strong_envs.registration",
        "strong_envs.version",
    ]


def use_environments() -> None:
    for name in strong_envs.IDS:
        for key in (name, f"strong_envs:{name}"):
            env = gym.make(key)
            env.reset(seed=0)
            env.action_space.seed(0)
            for _ in range(3):
                _, _, terminated, truncated, _ = env.step(env.action_space.sample())
                if terminated or truncated:
                    env.reset()
            env.close()
        many = gym.make_vec(name, num_envs=3)
        many.reset(seed=0)
        many.step(many.action_space.sample())
        many.close()


def use_subpackages() -> None:
    from strong_envs import agents, benchmarks, features

    for package in (agents, benchmarks, features):
        assert package.__name__ == f"strong_envs.{package.__name__.rpartition('.')[2]}"
    bank = features.load("shapes-v0", split="test")
    query = bank.queries[0]
    moment = agents.pretrained().predict(query.video, query.text)
    assert 0 <= moment.start < moment.end


if __name__ == "__main__":
    check_import(sys.argv[1])
    use_environments()
    use_subpackages()
    print("used", strong_envs.__version__)
