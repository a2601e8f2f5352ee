"""MaskablePPO of sb3-contrib beside PPO on the temporal level: the masks leave out moves that change nothing."""

from __future__ import annotations

import argparse

import numpy as np
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import PPO

from strong_envs.adapters.sb3 import vec_env

SETTINGS = {"n_steps": 32, "batch_size": 128, "ent_coef": 0.02, "device": "cpu"}


def held_out(model: PPO | MaskablePPO, episodes: int = 128) -> tuple[float, float]:
    """Mean tIoU on held-out videos, and the share of moves that changed nothing."""
    env = vec_env("TemporalMoment-v0", num_envs=16, flatten=True, split="test", reveal_truth=True)
    env.seed(0)
    shown, ious, refused = env.reset(), [], []
    while len(ious) < episodes:
        masks = {"action_masks": get_action_masks(env)} if isinstance(model, MaskablePPO) else {}
        actions, _ = model.predict(shown, deterministic=True, **masks)
        shown, _, done, infos = env.step(actions)
        ious += [float(info["tiou"]) for info, ended in zip(infos, done, strict=True) if ended]
        refused += [bool(info["invalid_move"]) for info, ended in zip(infos, done, strict=True) if not ended]
    return float(np.mean(ious)), float(np.mean(refused or [0.0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()

    for algorithm in (PPO, MaskablePPO):
        scores = []
        for seed in range(args.seeds):
            env = vec_env("TemporalMoment-v0", num_envs=16, flatten=True)
            model = algorithm("MlpPolicy", env, seed=seed, **SETTINGS).learn(args.steps)
            scores.append(held_out(model))
        iou, refused = np.mean(scores, 0)
        print(f"{algorithm.__name__}: mIoU {iou:.3f}, {refused:.1%} of the moves changed nothing, {args.steps} steps")


if __name__ == "__main__":
    main()
