"""Tune the settings of examples/rl_zoo3.yml with Optuna: as many trainings for every id, scored on validation videos.

The first trial of an id has the values of the file. At the end the file's values and the best ones are compared by
trainings with other seeds, among which nothing was chosen. docs/results/rl_zoo3.json is the result of

    python .ci/tune_rl_zoo3.py --out docs/results/rl_zoo3.json
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import optuna
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

from strong_envs.adapters.sb3 import vec_env

FILE = Path(__file__).resolve().parents[1] / "examples" / "rl_zoo3.yml"
SPACE = {
    "learning_rate": [1e-4, 3e-4, 1e-3, 3e-3],
    "n_steps": [16, 32, 64, 128],
    "batch_size": [64, 128, 256, 512],
    "n_epochs": [4, 8],
    "gamma": [0.4, 0.6, 0.8, 0.9, 0.99, 1.0],
    "gae_lambda": [0.8, 0.95, 1.0],
    "ent_coef": [0.0, 0.001, 0.01, 0.03],
}


def score(name: str, settings: dict, args: argparse.Namespace, seed: int) -> float:
    """Mean IoU at the end of an episode; SpatialTrack: mean box IoU of all steps; TemporalLook: mean return."""
    common = {"flatten": True, "features": args.features, **settings.get("env_kwargs", {})}
    ppo = {k: v for k, v in settings.items() if k in SPACE or k == "policy"}
    env = vec_env(name.replace("Flat", ""), num_envs=settings["n_envs"], split="train", **common)
    model = PPO(env=env, seed=seed, device="cpu", **ppo).learn(args.steps)
    held, found = vec_env(name.replace("Flat", ""), num_envs=16, split="val", **common), []
    held.seed(0)

    def note(now: dict, _: dict) -> None:
        if name.startswith("SpatialTrack") or now["done"]:
            found.append(float(now["info"]["box_iou" if name.startswith("SpatialTrack") else "tiou"]))

    mean, _ = evaluate_policy(model, held, args.episodes, callback=note, warn=False)
    return float(mean if name.startswith("TemporalLook") else np.mean(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", action="append", help="an id of the file, repeatable (default: all)")
    parser.add_argument("--features", default="shapes-v0-medium")
    parser.add_argument("--trials", type=int, default=8, help="of each id, the values of the file first")
    parser.add_argument("--steps", type=int, default=20_000, help="of each training")
    parser.add_argument("--episodes", type=int, default=320, help="on validation")
    parser.add_argument("--out", type=Path, default=Path("rl_zoo3.json"))
    args = parser.parse_args()
    found: dict = {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name, first in yaml.safe_load(FILE.read_text(encoding="utf-8")).items():
        if name in (args.env or [name]):
            begun, first = time.perf_counter(), {"gae_lambda": 0.95, **first}
            space = {k: v for k, v in SPACE.items() if first["gamma"] != 0 or k not in ("gamma", "gae_lambda")}
            study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
            study.enqueue_trial({k: first[k] for k in space})
            for _ in range(args.trials):
                trial = study.ask()
                tried = {k: trial.suggest_categorical(k, v) for k, v in space.items()}
                study.tell(trial, score(name, first | tried, args, 1000))
            # Trainings that nothing was chosen among compare both.
            again = {
                k: [score(name, first | v, args, s) for s in (0, 1)]
                for k, v in (("before", {}), ("chosen", study.best_params))
            }
            found[name] = {
                "chosen": study.best_params,
                "trials": [{"values": t.params, "score": t.value} for t in study.trials],
                "again": again,
                "seconds": round(time.perf_counter() - begun),
            }
            print(
                f"{name}: {np.mean(again['before']):.3f} to {np.mean(again['chosen']):.3f}, {study.best_params}",
                flush=True,
            )
            made = {k: v for k, v in vars(args).items() if k not in ("env", "out")}
            args.out.write_text(json.dumps({**made, "ids": found}, indent=1) + "\n", encoding="utf-8")
