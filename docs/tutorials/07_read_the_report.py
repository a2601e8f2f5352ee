# %% [markdown]
# # Read the report
#
# `strong-envs report FOLDER` writes one page that needs no server and no network.

# %%
import json
import subprocess
from pathlib import Path

command = 'strong-envs run --features shapes-v0 --systems "blind one-shot,trl" --seeds 1 --budget 0.02 --out results'
subprocess.run(command, shell=True, check=True)
subprocess.run("strong-envs report results", shell=True, check=True)
print(Path("results/report.html").stat().st_size, "bytes; open results/report.html in a browser")

# %% [markdown]
# ## What to look at first
#
# 1. **The reference rows.** `constant` and `query only (kNN)` ignore the video. A row within their intervals has
# learned nothing from it.
# 2. **`sees` and `learns from`.** Compare rows of one kind. A row that sees GT boxes is an upper bound.
# 3. **Paired differences** below the table: they are sharper than the intervals of two rows.
# 4. **The breakdowns** by length of the moment, by place and by event: a mean hides that short moments fail.
# 5. **The episodes.** Use the arrow keys. The filter shows the queries on which a system is worst.
#
# ## The same numbers in Python

# %%
result = json.loads(Path("results/results.json").read_text(encoding="utf-8"))
print(result["protocol"])
for row in result["rows"]:
    print(row["system"], row["metrics"].get("mIoU"))

# %% [markdown]
# One query, step by step, as a picture and a video:

# %%
subprocess.run("strong-envs episode results --system trl", shell=True, check=True)
