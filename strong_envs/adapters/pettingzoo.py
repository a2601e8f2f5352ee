"""The two levels as two agents of one PettingZoo environment (AEC: they act one after the other)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch

from strong_envs.core import boxes as box_ops
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.spatial.env import SpatialTrackEnv
from strong_envs.temporal.env import TemporalMomentEnv

try:
    from pettingzoo import AECEnv, ParallelEnv  # type: ignore[import-not-found, import-untyped]
    from pettingzoo.utils import wrappers  # type: ignore[import-not-found, import-untyped]
    from pettingzoo.utils.conversions import (  # type: ignore[import-not-found, import-untyped]
        turn_based_aec_to_parallel,
    )
except ImportError as error:
    raise ImportError("strong_envs.adapters.pettingzoo needs PettingZoo: pip install pettingzoo") from error

SPATIAL, TEMPORAL = "spatial", "temporal"


class TwoLevelsEnv(AECEnv):
    """First ``spatial`` carries a box through the video, then ``temporal`` moves its window and sees what is inside.

    Agents act on one sample an episode. ``spatial`` has the actions, observations and rewards of `SpatialTrackEnv`,
    over the whole video unless ``spatial={"window": ...}`` says otherwise, and terminates after the last frame; its
    boxes then shape f_o of ``temporal``, which has those of `TemporalMomentEnv` (frames before the spatial window keep
    b0, frames after it the last box). Each agent is paid by its own level; `SpatialTrackEnv` says what the spatial
    rewards need.

    Args:
        features, split, device: as for both environments. flatten: flat observations instead of Dicts.
        spatial, temporal: further arguments of the two levels.
        render_mode: None or ``"rgb_array"``, the picture of the level that acts.

    ``reset(options=...)`` takes ``sample``, an index into the split, and ignores the rest, as PettingZoo's tests ask.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as PettingZoo)
        "name": "strong_two_levels_v0",
        "render_modes": ["rgb_array"],
        "is_parallelizable": False,
    }

    def __init__(
        self,
        features: str | FeatureBank = "shapes-v0",
        *,
        split: str = "train",
        device: str = "cpu",
        flatten: bool = False,
        spatial: dict[str, Any] | None = None,
        temporal: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__()
        shared = {"split": split, "device": device, "flatten": flatten, "render_mode": render_mode}
        late = temporal or {}
        self.temporal = TemporalMomentEnv(features, **{"boxes": "initial", **shared, **late})
        self.spatial = SpatialTrackEnv(self.temporal.bank, **{"window": "whole", **shared, **(spatial or {})})
        # What the critic is shown is what the temporal level sees.
        self.spatial.task.temporal = self.temporal.task
        self.render_mode = render_mode
        self.possible_agents = [SPATIAL, TEMPORAL]
        self.agents: list[str] = []
        self.observation_spaces = {name: self._level(name).observation_space for name in self.possible_agents}
        self.action_spaces = {name: self._level(name).action_space for name in self.possible_agents}
        parts = [gym.spaces.flatten_space(self.observation_spaces[name]) for name in self.possible_agents]
        low, high = (np.concatenate([getattr(part, side) for part in parts]) for side in ("low", "high"))
        self.state_space = gym.spaces.Box(low, high, dtype=np.float32)

    def observation_space(self, agent: str) -> gym.Space:
        """The space of an agent's observations."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space:
        """The space of an agent's actions."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> None:
        """Start an episode with the spatial agent."""
        chosen = {"sample": (options or {}).get("sample")}
        observation, info = self.spatial.reset(seed=seed, options=chosen)
        sample = int(info["sample"])
        self._boxes = box_ops.corners(self.spatial.track.box).to(torch.float32).repeat(self._frames(sample), 1)
        self._place(sample)
        first, temporal_info = self.temporal.reset(seed=seed, options={"sample": sample})
        self.agents = list(self.possible_agents)
        self.agent_selection = SPATIAL
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {SPATIAL: info, TEMPORAL: temporal_info}
        self._observations = {SPATIAL: observation, TEMPORAL: first}

    def observe(self, agent: str) -> Any:
        """The last observation of an agent."""
        return self._observations[agent]

    def state(self) -> np.ndarray:
        """What both agents see together: their observations, flat and one after the other, (n,) float32."""
        parts: list[Any] = [
            gym.spaces.flatten(self.observation_spaces[name], self._observations[name]) for name in self.possible_agents
        ]
        return np.concatenate(parts).astype(np.float32)

    def step(self, action: Any) -> None:
        """Act for ``agent_selection``; None once that agent has ended."""
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            if self.agents:
                self.agent_selection = self.agents[0]
            return
        self._cumulative_rewards[agent] = 0.0
        self._clear_rewards()
        observation, reward, terminated, truncated, info = self._level(agent).step(action)
        self._observations[agent], self.infos[agent] = observation, info
        self.rewards[agent] = reward
        self.terminations[agent], self.truncations[agent] = terminated, truncated
        if agent == SPATIAL:
            for frame, box in self.spatial.path[-1:]:
                self._boxes[frame:] = torch.tensor(box, dtype=torch.float32, device=self._boxes.device)
            if terminated:
                self._place(int(info["sample"]))
                # The window is where it was; only what is inside the boxes is new.
                sample = {"sample": int(info["sample"])}
                self._observations[TEMPORAL], self.infos[TEMPORAL] = self.temporal.reset(options=sample)
        self._accumulate_rewards()

    def render(self) -> np.ndarray | None:
        """The picture of the level that acts."""
        return self._level(self.agent_selection).render()

    def close(self) -> None:
        """Close both levels."""
        self.spatial.close()
        self.temporal.close()

    def _level(self, agent: str) -> Any:
        return self.spatial if agent == SPATIAL else self.temporal

    def _frames(self, sample: int) -> int:
        return int(self.temporal.task.n_frames[sample])

    def _place(self, sample: int) -> None:
        samples = torch.tensor([sample], device=self.temporal.bank.device)
        self.temporal.task.local.set_boxes(samples, self._boxes)


def env(*args: Any, **kwargs: Any) -> AECEnv:
    """`TwoLevelsEnv` behind PettingZoo's usual wrappers, which check actions and the order of calls.

    Arguments as there.
    """
    return wrappers.OrderEnforcingWrapper(wrappers.AssertOutOfBoundsWrapper(TwoLevelsEnv(*args, **kwargs)))


def parallel_env(*args: Any, **kwargs: Any) -> ParallelEnv:
    """The same as a parallel environment: of the actions of a step only that of the agent whose turn it is counts.

    ``infos[agent]["active_agent"]`` names that agent. Arguments as for `TwoLevelsEnv`.
    """
    return turn_based_aec_to_parallel(env(*args, **kwargs))


raw_env = TwoLevelsEnv
"""PettingZoo's name for the environment without wrappers."""
