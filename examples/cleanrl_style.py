"""PPO in one file over the vector environment with torch in and out, after the manner of CleanRL's ppo.py."""

from __future__ import annotations

import argparse

import gymnasium as gym
import torch
from torch import nn

import strong_envs  # noqa: F401 (registers the ids)

GAMMA, LAMBDA, CLIP, ENTROPY, EPOCHS, ENVS, LENGTH = 0.99, 0.95, 0.2, 0.02, 4, 32, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4_096)
    args = parser.parse_args()
    torch.manual_seed(0)

    envs = gym.make_vec("TemporalMoment-v0", num_envs=ENVS, flatten=True, output="torch", autoreset_mode="SameStep")
    size = envs.single_observation_space.shape[0]
    actor = nn.Sequential(nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, int(envs.single_action_space.n)))
    critic = nn.Sequential(nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    observation, _ = envs.reset(seed=0)
    for update in range(max(args.steps // (ENVS * LENGTH), 1)):
        rows, ended, paid = [], [], []
        for _ in range(LENGTH):
            with torch.no_grad():
                policy = torch.distributions.Categorical(logits=actor(observation))
                action = policy.sample()
                following, reward, terminated, truncated, info = envs.step(action)
                done, paid = terminated | truncated, [*paid, reward]
                # Stop has no future; a truncated episode has one, seen from its last observation (SAME_STEP).
                after = critic(following)[:, 0]
                if "final_obs" in info:
                    after = torch.where(done, critic(info["final_obs"])[:, 0], after)
                    ended.append(info["final_info"]["tiou"][done])
                target = reward + GAMMA * after * ~terminated
                rows.append((observation, action, policy.log_prob(action), critic(observation)[:, 0], target, done))
            observation = following
        x, taken, old, value, target, done = (torch.stack(part) for part in zip(*rows, strict=True))
        advantage, carry = torch.zeros_like(value), torch.zeros(ENVS)
        for t in reversed(range(LENGTH)):
            carry = target[t] - value[t] + GAMMA * LAMBDA * carry * ~done[t]
            advantage[t] = carry
        returns, scaled = advantage + value, (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        for _ in range(EPOCHS):
            policy = torch.distributions.Categorical(logits=actor(x))
            ratio = (policy.log_prob(taken) - old).exp()
            gain = torch.minimum(ratio * scaled, ratio.clamp(1 - CLIP, 1 + CLIP) * scaled).mean()
            loss = 0.5 * (critic(x)[..., 0] - returns).pow(2).mean() - gain - ENTROPY * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tiou, reward = torch.cat(ended).mean(), torch.cat(paid).mean()
        print(f"update {update}: tIoU at the end of episodes {tiou:.3f}, reward a step {reward:.3f}")


if __name__ == "__main__":
    main()
