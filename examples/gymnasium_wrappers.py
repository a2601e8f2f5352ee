"""Gymnasium's own wrappers around our environments, scalar and vector; nothing is trained here."""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
from gymnasium import wrappers

import strong_envs  # noqa: F401 (registers the ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    env = gym.make("TemporalMoment-v0", render_mode="rgb_array")
    # Gymnasium's Dict sorts its keys, so this order is not the one of flatten=True.
    env = wrappers.FlattenObservation(env)
    env = wrappers.TimeLimit(env, 10)  # ours truncates after max_steps=20; the shorter limit holds
    env = wrappers.TimeAwareObservation(env)
    env = wrappers.NormalizeObservation(env)
    env = wrappers.TransformReward(env, lambda reward: float(np.clip(reward, -1, 1)))
    env = wrappers.RecordEpisodeStatistics(env)
    env = wrappers.Autoreset(env)
    env.reset(seed=0)
    for _ in range(args.steps):
        env.step(env.action_space.sample())
    lengths = env.get_wrapper_attr("length_queue")
    print(f"scalar: {len(lengths)} episodes, the longest of {max(lengths)} steps")

    # The wrappers that carry something from step to step expect the reset after the step that ended an episode.
    mode = gym.vector.AutoresetMode.NEXT_STEP
    many = gym.make_vec("TemporalMoment-v0", num_envs=8, flatten=True, autoreset_mode=mode)
    # Our info holds "episode" already; a second record of it needs a key of its own.
    many = counted = wrappers.vector.RecordEpisodeStatistics(many, stats_key="again")
    many = wrappers.vector.NormalizeObservation(many)
    many = wrappers.vector.NormalizeReward(many)
    many.action_space.seed(0)
    observation, _ = many.reset(seed=0)
    for _ in range(args.steps // 8):
        observation, *_ = many.step(many.action_space.sample())
    print(f"vector: {counted.episode_count} episodes, observations {observation.shape}, std {observation.std():.2f}")


if __name__ == "__main__":
    main()
