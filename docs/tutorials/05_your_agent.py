# %% [markdown]
# # Your agent in the table
#
# An agent is a class with `fit` and `predict`. `bank` is one part of the data: `bank.frames` (rows x D),
# `bank.query` (queries x Dq), `bank.truth` (fractions of the video; refused for the part that is predicted),
# `bank.duration`, and `bank.video`, the video of each query. This one is a ridge regression from the sentence and
# the mean of the video to the window.

# %%
from pathlib import Path

Path("my_agent.py").write_text(
    '''
import torch

from strong_envs.agents.registry import BaseSystem, Prediction


class Ridge(BaseSystem):
    """Ridge regression from the sentence and the mean frame of the video to the window."""

    sees, learns_from = "whole frames", "window labels"  # what the table says of it

    def __init__(self, bank, seed=0, budget=1.0):
        self.bank = bank

    def inputs(self, bank):
        """(S, Dq + D + 1) float64: one row per query."""
        means = torch.stack([
            bank.frames[int(bank.offsets[v]) : int(bank.offsets[v]) + int(bank.n_frames[v])].double().mean(0)
            for v in bank.video.tolist()
        ])
        return torch.cat([bank.query.double(), means, torch.ones(len(means), 1, dtype=torch.float64)], 1)

    def fit(self, report=None, evaluate=None):
        x, y = self.inputs(self.bank), self.bank.truth[:, 0].double()
        self.weights = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
        return self

    def predict(self, bank):
        ends = (self.inputs(bank) @ self.weights).clamp(0, 1).sort(1).values
        return Prediction(spans=bank.duration[bank.video][:, None] * ends)
''',
    encoding="utf-8",
)

# %% [markdown]
# ## A row beside the others
#
# No registration is needed. The table has the reference rows, 95 % intervals, and the columns `sees` and `learns
# from`, which say what a row may use: compare rows of one kind.

# %%
import subprocess

systems = '--systems "blind one-shot" --agent my_agent:Ridge'
command = f"strong-envs run --features shapes-v0 {systems} --seeds 1 --budget 0.1 --out results"
subprocess.run(command, shell=True, check=True)
print(Path("results/table.md").read_text(encoding="utf-8"))

# %% [markdown]
# ## The same in Python

# %%
import sys

sys.path.insert(0, ".")
from my_agent import Ridge

from strong_envs import features
from strong_envs.benchmarks.metrics.score import score

test = features.load("shapes-v0", "test")
prediction = Ridge(features.load("shapes-v0", "train")).fit().predict(test.masked())
print(f"mIoU {score(prediction, test)['IoU'].mean():.3f}")

# %% [markdown]
# [CONTRIBUTING.md](../../CONTRIBUTING.md#an-agent) says how an agent becomes part of the project. Policies of
# Stable-Baselines3 and other libraries need no class: `strong_envs.SpatioTemporalCoupling` and the environments
# take anything with `predict`.
