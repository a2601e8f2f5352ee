"""The two levels as two agents: random moves for one half, then a hand-written tracker that keeps its box."""

from __future__ import annotations

import argparse

from strong_envs.adapters.pettingzoo import SPATIAL, TwoLevelsEnv
from strong_envs.core.boxes import STOP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600, help="moves of both agents together")
    args = parser.parse_args()

    env = TwoLevelsEnv("shapes-v0", flatten=True, spatial={"reward": "box_iou"})
    for agent in env.possible_agents:
        env.action_space(agent).seed(0)
    for name in ("random", "keep the box"):
        moves, episodes, paid = 0, 0, dict.fromkeys(env.possible_agents, 0.0)
        while moves < args.steps // 2:
            env.reset(seed=episodes)
            for agent in env.agent_iter():
                _observation, reward, terminated, truncated, _info = env.last()
                paid[agent] += reward
                if terminated or truncated:
                    action = None
                elif agent == SPATIAL and name != "random":
                    action = STOP
                else:
                    action = env.action_space(agent).sample()
                env.step(action)
                moves += 1
            episodes += 1
        means = ", ".join(f"{agent} {total / episodes:.2f}" for agent, total in paid.items())
        print(f"{name}: return an episode over {episodes} episodes: {means}")
    env.close()


if __name__ == "__main__":
    main()
