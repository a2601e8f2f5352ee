# %% [markdown]
# # On a cluster
#
# Training runs of a table do not depend on one another. `--engine ray` gives each to a worker of a Ray cluster;
# `pip install "strong-envs[ray]"`. Without `--address` Ray starts a cluster on this machine, as here.

# %%
import subprocess

options = '--features shapes-v0 --systems "trl" --seeds 2 --budget 0.01 --jobs 2'
subprocess.run(f"strong-envs run {options} --engine ray --out on_ray", shell=True, check=True)

# %% [markdown]
# On a real cluster, start Ray once (`ray start --head` on one machine, `ray start --address HEAD:6379` on the
# others), keep the store at the same path on every machine, and give the address:
#
# `strong-envs run --features my_store --seeds 5 --engine ray --address HEAD:6379 --out results`
#
# The result is that of one machine, bit for bit, on equal hardware:

# %%
import json
from pathlib import Path

subprocess.run(f"strong-envs run {options} --out on_one", shell=True, check=True)
rows = [json.loads(Path(f"{name}/results.json").read_text(encoding="utf-8"))["rows"] for name in ("on_ray", "on_one")]
scores = [[row["metrics"]["mIoU"] for row in part if row["system"] == "trl"] for part in rows]
print(scores)
assert scores[0] == scores[1]

# %% [markdown]
# A worker that dies costs its training runs alone: the same command continues, and finished runs are never computed
# again. A scheduler such as Slurm needs no Ray: one job per seed with its own `--out`, or one job with `--jobs` for
# a whole machine.
