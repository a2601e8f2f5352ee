"""PPO, A2C, DQN and DDPG of Stable-Baselines3 on the temporal level.

They train in `TemporalMomentVectorEnv` through `strong_envs.adapters.sb3.vec_env`, from random windows, and are
scored by `strong_envs.rollout.localise` with their greedy policy in batches. The algorithms are the library's; ours are

- the arguments of `LibraryArgs` and ``ALGORITHMS``, chosen for many environments side by side,
- a layer that standardises the inputs with statistics of the training split, kept with the weights, or matches them
  with the query (``network="matching"``),
- phi = 0: the penalty phi * t is not in the state, so that a critic can only learn it as noise.

DDPG has no discrete actions: it returns seven preferences and the largest is taken
(`strong_envs.adapters.sb3.BoxActions`).
Stable-Baselines3 is imported when a system is made, not before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from strong_envs.adapters.sb3 import vec_env
from strong_envs.agents.baselines.sequential import TemporalSystem, standardiser_batch
from strong_envs.agents.ranges import check_fields
from strong_envs.agents.registry import Prediction, ProgressCallback, SystemSpec, register
from strong_envs.agents.search_space import Between, OneOf, Space
from strong_envs.agents.training.matching import MatchingInputs, Scale
from strong_envs.core.observations import flat
from strong_envs.core.validation import check_choice
from strong_envs.features.errors import DataError
from strong_envs.rollout import localise
from strong_envs.temporal.env import TemporalMomentVectorEnv
from strong_envs.temporal.task import TemporalConfig, TemporalTask

REPLAY_BYTES = 512 << 20
"""Most that a replay of Stable-Baselines3 may hold: it stores both observations of every transition."""
ROLLOUT_BYTES = 2 << 30
"""Most that the observations of a rollout may take."""
MOST = 10**7
"""Largest number in ``settings``."""

ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "batch_size": 1024, "n_epochs": 4, "gae_lambda": 0.9, "ent_coef": 0.01},
    "a2c": {"n_steps": 5, "ent_coef": 0.02, "use_rms_prop": False},
    "dqn": {
        "learning_starts": 4_000,
        "train_freq": 1,
        "gradient_steps": 4,
        "target_update_interval": 100,
        "exploration_fraction": 0.5,
    },
    "ddpg": {"learning_starts": 4_000, "train_freq": 1, "gradient_steps": 2, "tau": 0.01},
}
"""Arguments of each algorithm that differ from Stable-Baselines3's own."""


@dataclass(frozen=True)
class LibraryArgs:
    """Arguments of `LibraryAgent`; ``PRESETS`` has what differs for an algorithm."""

    steps: int = 200_000
    """Environment steps to train for, the same for all algorithms; updates in a step differ."""
    num_envs: int = 256
    """Episodes that run side by side."""
    batch: int = 512
    """Transitions in an update of DQN and DDPG."""
    buffer: int = 100_000
    """Transitions in their replay, fewer where these would need more than `REPLAY_BYTES`."""
    noise: float = 0.5
    """Standard deviation of the noise on DDPG's preferences, which lie in [-1, 1]."""
    lr: float = 1e-3
    gamma: float = 0.4
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of every network."""
    network: str = "plain"
    """``"plain"``: the hidden layers see all parts of the observation joined; ``"matching"``: they see the query
    multiplied with every window, as the project's own agents do (`agents.training.matching`)."""
    exploring_starts: bool = True
    """Train from random windows. Predictions begin with the initial window in any case."""

    def __post_init__(self) -> None:
        check_choice(self.network, "network", ("plain", "matching"))
        check_fields(self)


SPACE: Space = {
    "lr": Between(1e-4, 1e-2),
    "gamma": Between(0.0, 0.9, log=False),
    "num_envs": OneOf(32, 64, 128, 256),
    "exploring_starts": OneOf(True, False),
}


class LibraryAgent(TemporalSystem):
    """An algorithm of Stable-Baselines3 under the interface of systems; options are `LibraryArgs`.

    ``settings`` are arguments for the algorithm itself, over those in ``ALGORITHMS``. ``model`` is the library's object
    and ``network`` its policy, whose state dict is what `save` writes: loading never unpickles.
    """

    algorithm: ClassVar[str] = ""
    args: LibraryArgs

    def __init__(self, *args: Any, settings: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.settings = dict(settings or {})
        super().__init__(*args, **kwargs)

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raise `DataError` for arguments that do not exist or lie outside their range."""
        settings = arguments.pop("settings", None)
        super().check_arguments(**arguments)
        if settings is not None and not isinstance(settings, Mapping):
            raise DataError(f"settings must be a mapping of names to values, got {settings!r}")
        for name, value in (settings or {}).items():
            if not isinstance(name, str) or not isinstance(value, (bool, int, float, str, type(None))):
                raise DataError(f"settings must be numbers, flags or names, got {name!r}: {value!r}")
            if isinstance(value, (int, float)) and abs(value) > MOST:
                raise DataError(f"settings must be numbers up to {MOST:,}, got {name!r}: {value!r}")

    def build(self, task: TemporalTask) -> nn.Module:
        """The policy of a new model over the environments that it will learn in."""
        try:
            import stable_baselines3
        except ImportError:
            raise DataError(
                f"sb3-{self.algorithm} needs Stable-Baselines3; install it with pip install stable-baselines3"
            ) from None
        args, off_policy = self.args, self.algorithm in ("dqn", "ddpg")
        env = self._vec_env(args.num_envs)
        chosen: dict[str, Any] = {**ALGORITHMS[self.algorithm], **self.settings}
        size = int(np.prod(env.observation_space.shape))
        if off_policy:
            fits = max(REPLAY_BYTES // (2 * 4 * size), args.num_envs)
            chosen = {"buffer_size": args.buffer, "batch_size": args.batch, **chosen}
            chosen["buffer_size"] = min(chosen["buffer_size"], fits)
        elif 4 * size * args.num_envs * int(chosen.get("n_steps", 1)) > ROLLOUT_BYTES:
            raise DataError(
                f"a rollout of {args.num_envs} environments and {chosen['n_steps']} steps needs too much memory"
            )
        if self.algorithm == "ddpg":
            from stable_baselines3.common.noise import NormalActionNoise

            count = task.n_actions
            chosen = {"action_noise": NormalActionNoise(np.zeros(count), np.full(count, args.noise)), **chosen}
        policy = {
            "net_arch": list(args.hidden),
            "features_extractor_class": _extractor(),
            "features_extractor_kwargs": {"shapes": task.dims() if args.network == "matching" else None},
        }
        with _library_seed(self.seed):
            try:
                self.model = getattr(stable_baselines3, self.algorithm.upper())(
                    "MlpPolicy",
                    env,
                    learning_rate=args.lr,
                    gamma=args.gamma,
                    seed=self.seed,
                    device=task.bank.device,
                    policy_kwargs=policy,
                    **chosen,
                )
            except (TypeError, ValueError, AssertionError) as error:
                raise DataError(f"settings of sb3-{self.algorithm}: {error}") from None
        return self.model.policy

    def train(self, report: ProgressCallback | None) -> None:
        """Fit the inputs, then let the library learn."""
        from stable_baselines3.common.callbacks import BaseCallback

        total = self.args.steps

        class Progress(BaseCallback):
            def _on_step(self) -> bool:
                if report is not None and self.n_calls % 50 == 0:
                    infos = self.model.ep_info_buffer
                    mean = float(np.mean([info["r"] for info in infos])) if infos else float("nan")
                    report("training", min(self.num_timesteps, total), total, {"return": mean})
                return True

        self.fit_inputs()
        with _library_seed(self.seed):
            self.model.learn(total, callback=Progress())

    def fit_inputs(self) -> None:
        """Take the statistics of the inputs in every network of the policy, the targets too."""
        seen = standardiser_batch(self.training_task(), torch.Generator().manual_seed(self.seed))
        for module in self.network.modules():
            if hasattr(module, "inputs"):
                module.inputs.fit(seen)

    @torch.no_grad()
    def act(self, observation: dict[str, Tensor]) -> Tensor:
        """Greedy actions (B,) of named (B, ...) parts, by the policy's network."""
        x, policy = flat(observation), self.network
        if self.algorithm == "dqn":
            return policy.q_net(x).argmax(-1)
        if self.algorithm == "ddpg":
            return policy.actor(x).argmax(-1)
        return policy.get_distribution(x).mode()

    def locate(self, task: TemporalTask, samples: Tensor) -> Prediction:
        """Greedy episodes; the global mean reads every frame."""
        self.network.set_training_mode(False)
        episodes = localise(task, self.act, samples, batch=len(samples))
        return Prediction(**vars(episodes), frames_seen=torch.ones(len(samples), device=task.bank.device))

    def make_env(self, task: TemporalTask, num_envs: int) -> TemporalMomentVectorEnv:
        """Environments with flat observations and NumPy output, as the library needs them."""
        return TemporalMomentVectorEnv.of(task, num_envs, True, "numpy", "features", "light")

    def parameters(self) -> list[nn.Parameter]:
        """Trained numbers: target networks are copies."""
        return [p for name, p in self.network.named_parameters() if "target" not in name]

    def remember(self) -> dict[str, Any]:
        """The settings of the algorithm."""
        return {"settings": self.settings}

    @classmethod
    def recall(cls, about: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the algorithm."""
        return {"settings": about.get("settings")}

    def _vec_env(self, num_envs: int) -> Any:
        env = self.make_env(self.training_task(), num_envs)
        return vec_env(env, box_actions=self.algorithm == "ddpg")


@contextmanager
def _library_seed(seed: int) -> Iterator[None]:
    """Seed the process's generators, which the library draws from, and restore them afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _extractor() -> type:
    """The class of the layer that standardises flat inputs, made here because its base is an optional library's."""
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Inputs(BaseFeaturesExtractor):
        """Flat observations (B, n) with mean 0 and spread 1, or matched with the query where ``shapes`` are given."""

        def __init__(self, observation_space: Any, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
            size = observation_space.shape[0]
            inputs = Scaled(size) if shapes is None else Matched(shapes)
            super().__init__(observation_space, inputs.size)
            self.inputs = inputs

        def forward(self, observations: Tensor) -> Tensor:
            return self.inputs(observations)

    return Inputs


class Scaled(Scale):
    """`Scale` of flat observations."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def fit(self, observation: Any) -> None:
        """Take the statistics from a batch of observations by name."""
        super().fit(flat(observation))


class Matched(nn.Module):
    """`MatchingInputs` of flat observations; ``shapes`` are those of the parts, in their order."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.parts = MatchingInputs(shapes)
        self.names, self.widths = list(shapes), [torch.Size(shape).numel() for shape in shapes.values()]
        self.size = self.parts.size

    def fit(self, observation: dict[str, Tensor]) -> None:
        """Take the statistics from a batch of observations by name."""
        self.parts.fit(observation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n) to (B, size)."""
        return self.parts(dict(zip(self.names, x.split(self.widths, 1), strict=True)))


ENV = TemporalConfig(phi=0.0)
Presets = dict[str, tuple[LibraryArgs, TemporalConfig]]


class LibraryPPO(LibraryAgent):
    """Proximal policy optimisation."""

    algorithm = "ppo"
    PRESETS: ClassVar[Presets] = {"default": (LibraryArgs(), ENV)}


class LibraryA2C(LibraryAgent):
    """Advantage actor-critic."""

    algorithm = "a2c"
    PRESETS: ClassVar[Presets] = {"default": (LibraryArgs(num_envs=128), ENV)}


class LibraryDQN(LibraryAgent):
    """Deep Q-learning."""

    algorithm = "dqn"
    PRESETS: ClassVar[Presets] = {"default": (LibraryArgs(num_envs=64), ENV)}


class LibraryDDPG(LibraryAgent):
    """Deep deterministic policy gradient over preferences."""

    algorithm = "ddpg"
    PRESETS: ClassVar[Presets] = {"default": (LibraryArgs(num_envs=64), ENV)}


for _kind, _words in (
    (LibraryPPO, "PPO"),
    (LibraryA2C, "A2C"),
    (LibraryDQN, "DQN"),
    (LibraryDDPG, "DDPG over preferences"),
):
    register(
        SystemSpec(
            f"sb3-{_kind.algorithm}",
            _kind,
            f"{_words} of Stable-Baselines3 on the temporal level",
            sees="whole frames",
            learns_from="own rewards",
            space=SPACE,
        )
    )
