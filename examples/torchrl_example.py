"""TorchRL: its wrapper takes our vector environment as it is; a DQN update on a replay of tensordicts."""

from __future__ import annotations

import argparse

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymWrapper
from torchrl.modules import EGreedyModule, QValueActor
from torchrl.objectives import DQNLoss, SoftUpdate

import strong_envs  # noqa: F401 (registers the ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2_048)
    args = parser.parse_args()
    torch.manual_seed(0)

    # DISABLED resets are TorchRL's preferred form: it resets the ended episodes itself, through reset_mask.
    mode = gym.vector.AutoresetMode.DISABLED
    env = GymWrapper(gym.make_vec("TemporalMoment-v0", num_envs=16, flatten=True, autoreset_mode=mode))
    size, actions = env.observation_spec["observation"].shape[-1], env.action_spec.space.n
    net = nn.Sequential(nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, actions))
    value = QValueActor(TensorDictModule(net, ["observation"], ["action_value"]), spec=env.action_spec_unbatched)
    explore = EGreedyModule(env.action_spec, annealing_num_steps=args.steps)
    policy = TensorDictSequential(value, explore)

    loss_module = DQNLoss(value, delay_value=True)
    loss_module.make_value_estimator(gamma=0.99)
    target = SoftUpdate(loss_module, eps=0.99)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-3)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=128)
    collector = Collector(env, policy, frames_per_batch=128, total_frames=max(args.steps, 128))
    for number, batch in enumerate(collector):
        explore.step(batch.numel())
        buffer.extend(batch.reshape(-1))
        for _ in range(4):
            loss = loss_module(buffer.sample())["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            target.step()
        reward = batch["next", "reward"].mean()
        print(f"batch {number}: reward a step {reward:.3f}, loss {loss.item():.3f}")
    collector.shutdown()


if __name__ == "__main__":
    main()
