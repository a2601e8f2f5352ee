"""Discrete CQL on episodes of Minari: Q-learning that keeps to the data, beside behaviour cloning."""

from __future__ import annotations

import argparse
import os
import tempfile

import numpy as np
import torch
from torch import nn

from strong_envs.adapters.offline import record

GAMMA, ALPHA, BATCH = 0.9, 0.5, 256


def held_out(env, net: nn.Module, episodes: int = 64) -> float:
    """Mean IoU on held-out videos."""
    ious = []
    for number in range(episodes):
        (observation, info), ended = env.reset(seed=0 if number == 0 else None), False
        while not ended:
            action = int(net(torch.tensor(observation)).argmax())
            observation, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        ious.append(float(info["tiou"]))
    return float(np.mean(ious))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3_000, help="updates of each learner")
    parser.add_argument("--kind", default="medium", choices=("oracle", "medium", "random"))
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        dataset = record("TemporalMomentFlat-v0", args.kind, max(args.steps // 10, 10))
        episodes, env = list(dataset.iterate_episodes()), dataset.recover_environment(eval_env=True)
    parts = [(e.observations[:-1], e.observations[1:], e.actions, e.rewards, e.terminations) for e in episodes]
    at, after, taken, paid, ended = (torch.tensor(np.concatenate(part)) for part in zip(*parts, strict=True))
    for learner in ("behaviour cloning", "discrete CQL"):
        net, target = (nn.Sequential(nn.Linear(at.shape[1], 128), nn.ReLU(), nn.Linear(128, 7)) for _ in range(2))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        for step in range(args.steps):
            if step % 100 == 0:
                target.load_state_dict(net.state_dict())
            rows = torch.randint(len(taken), (BATCH,))
            values = net(at[rows])
            loss = nn.functional.cross_entropy(values, taken[rows])  # the penalty of CQL too
            if learner == "discrete CQL":
                with torch.no_grad():
                    best = target(after[rows]).gather(1, net(after[rows]).argmax(1, keepdim=True))[:, 0]
                    aim = paid[rows].float() + GAMMA * best * ~ended[rows]
                loss = ALPHA * loss + nn.functional.mse_loss(values.gather(1, taken[rows, None])[:, 0], aim)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"{learner} on {len(episodes)} {args.kind} episodes: mIoU {held_out(env, net):.3f} on held-out videos")


if __name__ == "__main__":
    main()
