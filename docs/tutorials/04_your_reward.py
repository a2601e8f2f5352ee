# %% [markdown]
# # Your reward
#
# A reward of the temporal level is a function of the IoU before and after a move, the index `t` of the move and the
# penalty `phi`. It is registered under a name, and scalar, vector and compiled environments and all commands know
# it from then on.

# %%
import gymnasium as gym
import strong_envs
from strong_envs.core.rewards import temporal_reward


@temporal_reward("late_bonus")
def late_bonus(before, after, t, phi):
    """The change of the IoU, doubled where the window is already good."""
    return (after - before) * (1.0 + (before > 0.5)) - phi * t


env = gym.make("TemporalMoment-v0", reward="late_bonus", phi=0.0)
env.reset(seed=0)
print("one move is paid", env.step(4)[1])

# %% [markdown]
# ## Compare it with the rewards that exist
#
# The same agent, the same seed, the same number of steps; the score is the IoU in every case.

# %%
import numpy as np
from stable_baselines3 import PPO
from strong_envs.adapters.sb3 import vec_env


def score(reward: str, phi: float) -> float:
    """Mean IoU on validation videos of an agent that was paid with a reward."""
    envs = vec_env("TemporalMoment-v0", num_envs=16, flatten=True, reward=reward, phi=phi)
    model = PPO("MlpPolicy", envs, n_steps=32, batch_size=128, seed=0).learn(4_000)
    held_out = vec_env("TemporalMoment-v0", num_envs=16, flatten=True, reward=reward, phi=phi, split="val")
    held_out.seed(0)
    observation, ious = held_out.reset(), []
    while len(ious) < 100:
        observation, _, done, infos = held_out.step(model.predict(observation, deterministic=True)[0])
        ious += [float(info["tiou"]) for info, ended in zip(infos, done) if ended]
    return float(np.mean(ious))


for reward, phi in (("iou_sign", 0.1), ("iou_delta", 0.0), ("late_bonus", 0.0)):
    print(f"{reward}, phi={phi}: mIoU {score(reward, phi):.3f}")

# %% [markdown]
# Choose rewards on validation videos and look at the test part once, at the end. A reward in a module of your own
# is known to `strong-envs run --agent my_module:MyAgent` when that module registers it.
