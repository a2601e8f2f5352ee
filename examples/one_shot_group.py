"""A group-relative policy gradient (GRPO without clipping) on `TemporalOneShot-v0`: many answers to one question."""

from __future__ import annotations

import argparse

import gymnasium as gym
import torch
from torch import nn

import strong_envs  # noqa: F401 (registers the ids)

QUESTIONS, ANSWERS = 16, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="answers in all")
    args = parser.parse_args()
    torch.manual_seed(0)

    # The episodes that a step begins are not used: every question is put to a whole group by options["sample"].
    options = {"flatten": True, "output": "torch", "autoreset_mode": "SameStep"}
    envs = gym.make_vec("TemporalOneShot-v0", num_envs=QUESTIONS * ANSWERS, **options)
    samples = len(envs.unwrapped.bank)
    net = nn.Sequential(nn.Linear(envs.single_observation_space.shape[0], 64), nn.Tanh(), nn.Linear(64, 2))
    spread = nn.Parameter(torch.full((2,), -1.0))
    optimizer = torch.optim.Adam([*net.parameters(), spread], lr=1e-3)
    rounds = max(args.steps // (QUESTIONS * ANSWERS), 1)
    for number in range(rounds):
        asked = torch.randint(samples, (QUESTIONS,)).repeat_interleave(ANSWERS)
        observation, _ = envs.reset(options={"sample": asked})
        policy = torch.distributions.Normal(net(observation), spread.exp())
        raw = policy.sample()
        _, reward, *_ = envs.step(torch.sigmoid(raw))
        groups = reward.view(QUESTIONS, ANSWERS)
        advantage = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
        loss = -(policy.log_prob(raw).sum(1) * advantage.flatten()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number % 20 == 0 or number == rounds - 1:
            print(f"round {number}: mean IoU {reward.mean():.3f}")


if __name__ == "__main__":
    main()
