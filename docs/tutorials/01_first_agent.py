# %% [markdown]
# # First agent in one minute
#
# You need the package alone: `pip install strong-envs`. The default data set is drawn on your machine on first use.

# %%
import gymnasium as gym
import strong_envs  # registers the ids

env = gym.make("TemporalMoment-v0", info="full")
observation, info = env.reset(seed=0)
print(info["text"])  # the sentence
print({name: part.shape for name, part in observation.items()})
observation, reward, terminated, truncated, info = env.step(4)  # shift the window forward
print(info["span"], info["tiou"], reward)  # seconds, IoU with the true moment, what the move was paid

# %% [markdown]
# ## Train
#
# `vec_env` gives Stable-Baselines3 the vector environment, which steps all episodes at once. `phi=0` removes the
# penalty per step, and `reward="iou_delta"` pays the change of the IoU.

# %%
from stable_baselines3 import PPO
from strong_envs.adapters.sb3 import vec_env

arguments = {"flatten": True, "reward": "iou_delta", "phi": 0.0}
model = PPO("MlpPolicy", vec_env("TemporalMoment-v0", num_envs=16, **arguments), n_steps=32, batch_size=128, seed=0)
model.learn(8_000)

# %% [markdown]
# ## Score on held-out videos
#
# On the test part the environment withholds the truth from `info` unless you ask for it.

# %%
import numpy as np

held_out = vec_env("TemporalMoment-v0", num_envs=16, split="test", reveal_truth=True, **arguments)
held_out.seed(0)
observation, ious = held_out.reset(), []
while len(ious) < 200:
    action, _ = model.predict(observation, deterministic=True)
    observation, _, done, infos = held_out.step(action)
    ious += [float(info["tiou"]) for info, ended in zip(infos, done) if ended]
print(f"mIoU on held-out videos: {np.mean(ious):.3f}")

# %% [markdown]
# A few thousand steps are the start of a training. The package contains a trained agent for comparison:

# %%
from strong_envs import agents, features

system = agents.pretrained()
bank = features.load("shapes-v0", "test")
moment = system.predict(bank.queries[0].video, bank.texts[0])
print(bank.texts[0], f"{moment.start:.1f} to {moment.end:.1f} s, truth {bank.queries[0].windows}")

# %% [markdown]
# Next: [your features to a table](02_your_features.py), or [your agent in the table](05_your_agent.py). Other
# libraries are on [their own page](../../examples/README.md).
