# %% [markdown]
# # Offline data with Minari
#
# A command records episodes of a policy that looks at the truth (`oracle`), of random actions (`random`) or of both
# mixed (`medium`), as a data set of [Minari](https://minari.farama.org): `pip install "strong-envs[minari]"`.

# %%
import os
import subprocess

os.environ["MINARI_DATASETS_PATH"] = os.path.abspath("minari")  # by default in your home folder
subprocess.run("strong-envs offline-data --kind oracle --episodes 300", shell=True, check=True)
subprocess.run("strong-envs offline-data --kind random --episodes 100", shell=True, check=True)

# %% [markdown]
# ## Load
#
# Any library that reads Minari takes the data set from here.

# %%
import minari
import numpy as np
import torch

dataset = minari.load_dataset("strong-envs/temporal-moment-flat/oracle-v0")
episodes = list(dataset.iterate_episodes())
observations = torch.tensor(np.concatenate([e.observations[:-1] for e in episodes]))
actions = torch.tensor(np.concatenate([e.actions for e in episodes]))
print(observations.shape, "mean return", np.mean([e.rewards.sum() for e in episodes]).round(3))

# %% [markdown]
# ## Clone the behaviour
#
# The observations do not tell the truth, so the clone has to find out from sentence and features what the oracle
# knew.

# %%
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Linear(observations.shape[1], 128), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(128, 7)
)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
for _ in range(600):
    rows = torch.randint(len(actions), (256,))
    loss = torch.nn.functional.cross_entropy(net(observations[rows]), actions[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"cross-entropy {loss.item():.2f}, of guessing {np.log(7):.2f}")

# %% [markdown]
# ## Score on held-out videos
#
# The data set knows its own environment; the one for evaluation has the test part.


# %%
def score(act) -> float:
    """Mean IoU at the end of 100 held-out episodes."""
    env, ious = dataset.recover_environment(eval_env=True), []
    env.action_space.seed(0)
    for number in range(100):
        observation, info = env.reset(seed=0 if number == 0 else None)
        ended = False
        while not ended:
            observation, _, terminated, truncated, info = env.step(act(env, observation))
            ended = terminated or truncated
        ious.append(float(info["tiou"]))
    return float(np.mean(ious))


net.eval()
with torch.no_grad():
    cloned = score(lambda env, observation: int(net(torch.tensor(observation)).argmax()))
print(f"mIoU: behaviour cloning {cloned:.3f}, random {score(lambda env, observation: env.action_space.sample()):.3f}")

# %% [markdown]
# `examples/offline_cql.py` trains discrete CQL on `medium` data, from which cloning alone cannot get better than
# its teacher.
