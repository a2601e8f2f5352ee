"""RLlib (Ray): PPO over environments made in its workers, which do not share our registry, hence the creator."""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import ray
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig

NAME = "strong_envs_temporal"


def create(config: dict[str, Any]) -> gym.Env:
    """Runs in every worker: the import there registers the id."""
    import strong_envs  # noqa: F401

    return gym.make("TemporalMoment-v0", flatten=True, **config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--workers", type=int, default=0, help="processes that collect; 0 collects in this one")
    args = parser.parse_args()

    tune.register_env(NAME, create)
    # Features are named by key or path: what goes to a worker is copied, and a bank is large.
    config = (
        PPOConfig()
        .environment(NAME, env_config={"features": "shapes-v0", "phi": 0.05})
        .env_runners(num_env_runners=args.workers, num_envs_per_env_runner=4, rollout_fragment_length="auto")
        .training(train_batch_size_per_learner=512, minibatch_size=128, num_epochs=4, lr=1e-3, entropy_coeff=0.02)
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    done = 0
    while done < args.steps:
        result = algorithm.train()
        runners = result["env_runners"]
        done = int(result["num_env_steps_sampled_lifetime"])
        print(f"{done} steps: return an episode {runners['episode_return_mean']:.2f}")
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
