"""Links the two levels: tracked boxes into f_o of the temporal one, Q-values into the reward of the spatial."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from strong_envs.core import boxes as box_ops
from strong_envs.features.errors import DataError, nearest
from strong_envs.policies import as_policy
from strong_envs.rollout import localise, track
from strong_envs.spatial.task import Critic, SpatialTask
from strong_envs.temporal.task import TemporalTask

GIVEN = ("frozen", "random", "truth")


class _Levels:
    """What both couplings share.

    Boxes and windows are found when a sample's episode begins and kept until the policy that made them is replaced, so
    a fixed policy looks at each sample once.
    """

    temporal_task: TemporalTask
    spatial_task: SpatialTask

    def _link(self, temporal: Any, spatial: Any, critic: Critic | None, tracker: Any, localiser: Any) -> None:
        self.temporal_task, self.spatial_task = temporal.task, spatial.task
        if self.temporal_task.bank is not self.spatial_task.bank:
            raise DataError(
                "both levels must share one bank; make them with the same features, split and device "
                f"(got {self.temporal_task.bank!r} and {self.spatial_task.bank!r})"
            )
        pooling = [(task.local.levels, task.local.reduce) for task in (self.temporal_task, self.spatial_task.temporal)]
        if pooling[0] != pooling[1]:
            raise DataError(
                f"both levels must pool boxes alike; the temporal level has spp_levels={pooling[0][0]} and "
                f"spp_reduce={pooling[0][1]!r}, the spatial one {pooling[1][0]} and {pooling[1][1]!r}"
            )
        # One temporal task for both: what the critic is shown is what the temporal level sees.
        self.spatial_task.temporal = self.temporal_task
        if critic is not None:
            self.set_critic(critic)
        self.set_tracker(tracker)
        self.set_localiser(localiser)
        temporal.before_episode = self._place_boxes
        spatial.choose_window = self._choose_window

    def set_critic(self, critic: Critic) -> None:
        """The Q function that pays the spatial level: observations of the temporal level to (B, A) values."""
        self.spatial_task.critic = critic

    def set_tracker(self, tracker: Any) -> None:
        """Set what moves the boxes when the temporal level acts.

        ``"frozen"`` keeps b0, ``"random"`` walks at random, ``"truth"`` takes the true boxes; or a policy: an object
        with ``predict``, or a callable from observations to actions. Boxes made so far are forgotten.
        """
        self._tracker = self._check(tracker, "tracker")
        self._tracked = torch.zeros(len(self.temporal_task.bank), dtype=torch.bool)

    def set_localiser(self, localiser: Any) -> None:
        """Set what chooses the windows when the spatial level acts, as `set_tracker` does.

        ``"frozen"`` keeps the initial window.
        """
        self._localiser = self._check(localiser, "localiser")
        count = len(self.temporal_task.bank)
        self._windows: Tensor = torch.full((count, 2), float("nan"), dtype=torch.float64)

    @staticmethod
    def _check(policy: Any, name: str) -> Any:
        if isinstance(policy, str) and policy not in GIVEN:
            raise DataError(f"{name} must be one of {GIVEN} or a policy, got {policy!r}{nearest(policy, GIVEN)}")
        return policy

    def _place_boxes(self, samples: Tensor) -> None:
        """Give the samples whose episodes begin their boxes."""
        samples = samples.unique().cpu()
        fresh = samples[~self._tracked[samples]]
        if len(fresh):
            on_device = fresh.to(self.temporal_task.bank.device)
            self.temporal_task.local.set_boxes(on_device, self.boxes_for(on_device))
            self._tracked[fresh] = True

    def boxes_for(self, samples: Tensor) -> Tensor:
        """Corners of the boxes that the tracker gives to all frames of ``samples``, packed (R, 4) float32."""
        task, bank = self.spatial_task, self.temporal_task.bank
        lengths = bank.n_frames[bank.video[samples]]
        if self._tracker == "truth":
            frames = torch.cat([torch.arange(int(n), device=bank.device) for n in lengths])
            return bank.true_box(torch.repeat_interleave(samples, lengths), frames)
        if self._tracker == "frozen":
            box = torch.tensor([task.config.initial_box], dtype=torch.float32, device=bank.device)
            return box_ops.corners(box).expand(int(lengths.sum()), 4)
        return track(task, as_policy(self._tracker, task.n_actions), samples)

    def _choose_window(self, samples: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Windows in steps for the samples whose spatial episodes begin; ``uniform`` (B, 2) picks one of several."""
        task, device = self.temporal_task, self.temporal_task.bank.device
        if self._localiser == "truth":
            return self.spatial_task.true_window(samples, uniform)
        if self._localiser == "frozen":
            return task.initial(samples)
        wanted = samples.unique().cpu()
        fresh = wanted[self._windows[wanted, 0].isnan()]
        if len(fresh):
            on_device = fresh.to(device)
            self._place_boxes(on_device)
            spans = localise(task, as_policy(self._localiser, task.n_actions), on_device).spans
            self._windows[fresh] = (spans / task.seconds[on_device][:, None]).cpu()
        chosen = self._windows[samples.cpu()].to(device)
        return chosen[:, 0], chosen[:, 1]


class SpatioTemporalCoupling(_Levels, gym.Wrapper):
    """The temporal environment, seen through tracked boxes; ``spatial`` is the other level, paid by the live critic.

    Both attributes, the wrapper itself and ``spatial``, are environments to train on::

        temporal = gym.make("TemporalMoment-v0")
        spatial = gym.make("SpatialTrack-v0", critic=agent.q_values)
        levels = SpatioTemporalCoupling(temporal, spatial, critic=agent.q_values, tracker=tracker, localiser=agent)
        levels.reset()          # a temporal episode whose f_o comes from the tracker's boxes
        levels.spatial.reset()  # a spatial episode in the window that the temporal agent chose

    Args:
        temporal_env, spatial_env: made from the same features, split and device; both scalar or both vector (a vector
            pair makes a `SpatioTemporalVectorCoupling`).
        critic: pays the spatial level. tracker, localiser: see `set_tracker` and `set_localiser`. Either level can be
            frozen, random, or given by the truth.
    """

    def __new__(cls, temporal_env: Any, *args: Any, **kwargs: Any) -> Any:
        """A `SpatioTemporalVectorCoupling` where the environments are vector environments."""
        if cls is SpatioTemporalCoupling and isinstance(temporal_env, gym.vector.VectorEnv):
            return SpatioTemporalVectorCoupling(temporal_env, *args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        temporal_env: gym.Env,
        spatial_env: gym.Env,
        critic: Critic | None = None,
        tracker: Any = "frozen",
        localiser: Any = "frozen",
    ) -> None:
        gym.Wrapper.__init__(self, temporal_env)
        self.spatial = spatial_env
        self._link(temporal_env.unwrapped, spatial_env.unwrapped, critic, tracker, localiser)


class SpatioTemporalVectorCoupling(_Levels, gym.vector.VectorWrapper):
    """`SpatioTemporalCoupling` for vector environments."""

    def __init__(
        self,
        temporal_env: gym.vector.VectorEnv,
        spatial_env: gym.vector.VectorEnv,
        critic: Critic | None = None,
        tracker: Any = "frozen",
        localiser: Any = "frozen",
    ) -> None:
        gym.vector.VectorWrapper.__init__(self, temporal_env)
        self.spatial = spatial_env
        self._link(temporal_env.unwrapped, spatial_env.unwrapped, critic, tracker, localiser)
