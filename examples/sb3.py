"""Stable-Baselines3 on either level: PPO, A2C, DQN, and DDPG, whose Box actions the adapter offers."""

from __future__ import annotations

import argparse

import stable_baselines3
from stable_baselines3.common.evaluation import evaluate_policy

from strong_envs.adapters.sb3 import vec_env

SETTINGS = {
    "ppo": {"n_steps": 32, "batch_size": 128, "ent_coef": 0.02},
    "a2c": {"n_steps": 8, "ent_coef": 0.02},
    "dqn": {"learning_starts": 100, "buffer_size": 5_000, "train_freq": 4},
    "ddpg": {"learning_starts": 100, "buffer_size": 5_000, "train_freq": 4, "policy_kwargs": {"net_arch": [64, 64]}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", choices=SETTINGS, default="ppo")
    parser.add_argument("--env", default="TemporalMoment-v0", help="an id of strong_envs")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    # Flat observations for "MlpPolicy"; without flatten=True take "MultiInputPolicy".
    box_actions = args.algorithm == "ddpg" and args.env != "TemporalOneShot-v0"
    env = vec_env(args.env, num_envs=16, box_actions=box_actions, flatten=True)
    algorithm = getattr(stable_baselines3, args.algorithm.upper())
    model = algorithm("MlpPolicy", env, seed=args.seed, device="cpu", **SETTINGS[args.algorithm])
    model.learn(args.steps)

    held_out = vec_env(args.env, num_envs=16, box_actions=box_actions, flatten=True, split="test")
    mean, spread = evaluate_policy(model, held_out, n_eval_episodes=32)
    print(f"{args.algorithm} after {args.steps} steps: return {mean:.2f} +- {spread:.2f} on held-out videos")


if __name__ == "__main__":
    main()
