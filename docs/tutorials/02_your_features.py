# %% [markdown]
# # Your features to a table
#
# You have one feature file per video, and annotations: sentences with a start and an end. This tutorial makes such
# files with random numbers in which a moment adds a pattern, so that there is something to find.

# %%
import json
import subprocess
from pathlib import Path

import numpy as np

rng = np.random.default_rng(0)
Path("features").mkdir(exist_ok=True)
patterns = {"a person opens the door": rng.normal(size=32), "a person drinks from a cup": rng.normal(size=32)}
for split, count in (("train", 30), ("test", 10)):
    lines = []
    for number in range(count):
        video, seconds = f"{split}{number}", 30.0
        rows = rng.normal(size=(60, 32)).astype(np.float32)  # two rows per second
        for sentence, pattern in patterns.items():
            start = float(rng.uniform(0, 20))
            end = start + float(rng.uniform(4, 10))
            rows[int(2 * start) : int(2 * end)] += pattern
            window = [[round(start, 2), round(end, 2)]]
            entry = {
                "qid": len(lines),
                "query": sentence,
                "duration": seconds,
                "vid": video,
                "relevant_windows": window,
            }
            lines.append(json.dumps(entry))
        np.save(f"features/{video}.npy", rows)
    Path("annotations").mkdir(exist_ok=True)
    Path(f"annotations/{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")

# %% [markdown]
# ## Check, import, look
#
# `check` names the format and every problem with its remedy. `import` makes a feature store: a folder of tensors
# with one manifest.

# %%
subprocess.run("strong-envs check annotations", shell=True, check=True)
subprocess.run("strong-envs import annotations --features features --out my_store", shell=True, check=True)
subprocess.run("strong-envs show my_store --video test0 --out test0.png", shell=True, check=True)

# %% [markdown]
# ## What can be known without looking
#
# A system is worth something where it is above these rows.

# %%
subprocess.run("strong-envs references my_store", shell=True, check=True)

# %% [markdown]
# ## Train and compare
#
# Take away `--budget 0.02` for a real run, and add `--seeds 3`. STRONG needs a grid of cells in each frame (`import
# --grid`); the rows of this table need one vector per frame.

# %%
systems = '--systems "blind one-shot,trl,frame classifier (whole frames)"'
subprocess.run(
    f"strong-envs run --features my_store {systems} --seeds 1 --budget 0.02 --out results", shell=True, check=True
)
print(Path("results/table.md").read_text(encoding="utf-8"))

# %% [markdown]
# [Your data](../data.md) lists formats and traps. The store is also a value of `features=` of every environment:

# %%
import gymnasium as gym
import strong_envs

env = gym.make("TemporalMoment-v0", features="my_store")
print(env.reset(seed=0)[0]["local"].shape)
