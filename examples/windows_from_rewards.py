"""How closely the moments of queries can be recovered from the rewards of random episodes.

Nothing is trained and no feature is read: for each query, random moves are made and their rewards are kept. The
window that predicts these rewards best is compared with the true one. Rewards are computed from the IoU with the true
window, so training from rewards is not training without labels.

    python examples/windows_from_rewards.py --features shapes-v0-medium --steps 320
"""

from __future__ import annotations

import argparse

from strong_envs import features
from strong_envs.agents.strong.frame_attention.windows_from_rewards import windows_from_rewards
from strong_envs.core import spans
from strong_envs.local_features import LocalFeatures
from strong_envs.temporal.task import TemporalConfig, TemporalTask

REWARDS = {
    "sign of the change (Eq. 5)": TemporalConfig(),
    "change of the IoU": TemporalConfig(multi_scale=True, reward="iou_delta", iou="clamped", phi=0.001),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", default="shapes-v0", help="key or path of a feature store")
    parser.add_argument("--split", default="val", help="its part")
    parser.add_argument("--steps", type=int, default=160, help="most environment steps in each query, 20 an episode")
    args = parser.parse_args()
    counts = [2**k for k in range(20) if 20 * 2**k <= max(args.steps, 20)]
    bank = features.load(args.features, args.split)
    print("| reward | " + " | ".join(f"{n} episode{'s' if n > 1 else ''}" for n in counts) + " |")
    print("| --- |" + " ---: |" * len(counts))
    for name, config in REWARDS.items():
        task = TemporalTask(bank, LocalFeatures(bank, "frame"), config)
        found = [windows_from_rewards(task, n, seed=0) for n in counts]
        ious = [spans.iou_with_each(windows, bank.truth).amax((1, 2)).mean() for windows in found]
        print(f"| {name} | " + " | ".join(f"{100 * float(iou):.1f}" for iou in ious) + " |")


if __name__ == "__main__":
    main()
