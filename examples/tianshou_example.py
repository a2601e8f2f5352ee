"""Tianshou: a double DQN over environments that are made by id, collected into its replay buffer."""

from __future__ import annotations

import argparse

import gymnasium as gym
import torch
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

import strong_envs  # noqa: F401 (registers the ids)

ENVS = 8


def environments(split: str) -> DummyVectorEnv:
    """Environments of one part, with the change of the IoU as reward."""
    options = {"reward": "iou_delta", "phi": 0.0, "split": split}
    return DummyVectorEnv([lambda: gym.make("TemporalMomentFlat-v0", **options) for _ in range(ENVS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    args = parser.parse_args()
    torch.manual_seed(0)

    one = gym.make("TemporalMomentFlat-v0")
    shapes = {"state_shape": one.observation_space.shape, "action_shape": one.action_space.n}
    policy = DiscreteQLearningPolicy(
        model=Net(**shapes, hidden_sizes=[128, 128]), action_space=one.action_space, eps_training=0.2
    )
    algorithm = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3), gamma=0.9, target_update_freq=200)
    training = Collector(algorithm, environments("train"), VectorReplayBuffer(20_000, ENVS), exploration_noise=True)
    validation = Collector(algorithm, environments("val"))
    training.reset()
    validation.reset()
    result = algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=training,
            test_collector=validation,
            max_epochs=1,
            epoch_num_steps=args.steps,
            collection_step_num_env_steps=64,
            test_step_num_episodes=32,
            update_step_num_gradient_steps_per_sample=0.25,
            show_progress=False,
            verbose=False,
        )
    )
    print(f"DQN after {args.steps} steps: return {result.best_score:.3f} an episode on validation videos")


if __name__ == "__main__":
    main()
