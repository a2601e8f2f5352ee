"""What the algorithms of a level share: arguments, what their networks see, the learning rate, and stored state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from strong_envs.agents.ranges import check_fields
from strong_envs.agents.strong.attention import AttentiveInputs
from strong_envs.agents.training.checkpoint import load_module
from strong_envs.agents.training.health import TrainingMonitor
from strong_envs.agents.training.loop import load_optimiser, optimiser_state, split
from strong_envs.agents.training.matching import MatchingInputs, Scale, dropout_for
from strong_envs.agents.training.networks import Standardise
from strong_envs.core import spans
from strong_envs.core.validation import check_choice
from strong_envs.features.errors import DataError

if TYPE_CHECKING:
    from strong_envs.agents.strong.cell_attention.attention import CellAttention
    from strong_envs.spatial.env import SpatialTrackVectorEnv
    from strong_envs.temporal.vector_env import TemporalMomentVectorEnv

    LevelEnv = TemporalMomentVectorEnv | SpatialTrackVectorEnv
    """Made with ``output="torch", observation="index"``."""

Inputs = AttentiveInputs | MatchingInputs | Standardise


@dataclass(frozen=True)
class LevelArgs:
    """Arguments that all algorithms of a level have.

    Raises:
        DataError: a choice that does not exist, or a value out of its range.
    """

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {"network": ("matching", "plain")}
    """Valid values of the fields that name one of several."""

    algorithm: str = ""
    """``"dqn"``, ``"ddpg"`` or ``"full feedback"``; see `agents.strong.levels`."""
    steps: int = 200_000
    """Environment steps to train for."""
    num_envs: int = 256
    """Episodes that run side by side."""
    batch: int = 256
    """Transitions in one update."""
    updates: int = 4
    """Updates per step of all environments."""
    capacity: int = 100_000
    """Transitions in the replay."""
    warmup: int = 4_000
    """Environment steps before the first update."""
    weight_decay: float = 1e-3
    decay: bool = True
    """Whether the learning rates rise over the first part of the training and fall to zero along a cosine."""
    rise: float = 0.3
    """Share of the training over which they rise."""
    gamma: float = 0.2
    tau: float = 0.02
    """Share of the source that enters the targets in each update (Eq. 9)."""
    stop: int = spans.STOP
    """The action that ends an episode; the exploration of `agents.strong.levels.training` does not draw it."""
    epsilon_start: float = 1.0
    epsilon_end: float = 0.1
    epsilon_share: float = 0.5
    """Share of the steps over which epsilon falls."""
    network: str = "plain"
    """``"matching"``: the query is multiplied with every window (`agents.training.matching`); ``"plain"``: all parts of
    the observation are joined, as in the paper."""
    width: int = 64
    """Width of a match, with ``network="matching"``."""
    dropout: float | None = None
    """Share of the features and of the query that is dropped in training, with ``network="matching"``; None: by the
    number of features (`dropout_for`)."""
    attention_heads: int = 2
    """Attentions of each kind over the frames of the window, where the observation has frames
    (`agents.strong.attention`)."""
    attention_timed: bool = True
    """Whether they know where a frame lies relative to the window; read from the temporal level."""
    standardise: bool = True
    """Whether every number of the observation is brought to mean 0 and spread 1; False takes them as they are."""
    weights_std: float = 0.0
    """Standard deviation of the initial weights and biases, those of attention over frames included; 0 takes PyTorch's
    own, which attention over cells always has."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid in self.CHOICES.items():
            check_choice(getattr(self, name), name, valid)
        check_fields(self)


class Level(nn.Module):
    """Base of the agents of a level; a subclass has the networks, `act`, `q_values`, `update` and a buffer ``unit``.

    Args:
        shapes: named parts of the observation, as from `TemporalTask.dims` or `SpatialTask.dims`.
        n_actions: number of actions.
        args: see `LevelArgs`.
    """

    args: Any
    inputs: Inputs
    unit: Tensor
    attention: CellAttention | None
    target_attention: CellAttention | None
    OPTIMISERS: ClassVar[dict[str, str]] = {}
    """Attributes that hold optimisers, and the arguments with their learning rates."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], n_actions: int, args: LevelArgs) -> None:
        super().__init__()
        if args.stop >= n_actions:
            raise DataError(f"stop must be one of {n_actions} actions, got {args.stop}")
        self.args, self.n_actions = args, n_actions
        self.generator = torch.Generator().manual_seed(args.seed)

    def make_inputs(self, shapes: dict[str, tuple[int, ...]], hidden: tuple[str, ...], scaled: bool = True) -> Inputs:
        """The module that turns a named observation into one vector; ``hidden`` parts are replaced by zeros."""
        args = self.args

        def matching(shapes: dict[str, tuple[int, ...]]) -> MatchingInputs:
            channels = shapes.get("local", shapes.get("inside", (0,)))[0]
            return MatchingInputs(shapes, hidden, args.width, dropout_for(channels, args.dropout), scaled)

        inputs: Inputs
        if "frames" in shapes:
            match = matching if args.network == "matching" else None
            inputs = AttentiveInputs(shapes, hidden, args.attention_heads, matching=match)
        elif args.network == "matching":
            inputs = matching(shapes)
        else:
            inputs = Standardise(shapes, hidden)
        if not args.standardise:
            for part in inputs.modules():
                if isinstance(part, (AttentiveInputs, Standardise, Scale)):
                    part.limit = math.inf
        return inputs

    def fit_inputs(self, observation: dict[str, Tensor]) -> None:
        """Take the scale of the inputs from a batch of observations, where they are standardised."""
        if self.args.standardise:
            self.inputs.fit(observation)

    def fit_rewards(self, reward: Tensor) -> None:
        """Take the unit of the values from the first rewards (N,) of the first training, where there is none yet.

        Values are in units of the spread of the rewards: some rewards are signs, others hundredths.
        """
        fresh = 1 / reward.to(torch.float32).std().clamp(min=1e-3)
        self.unit.copy_(torch.where(self.unit == 0, fresh, self.unit))

    def act(self, observation: dict[str, Tensor]) -> Tensor:
        """Greedy actions (B,) int64."""
        raise NotImplementedError

    def q_values(self, observation: dict[str, Tensor]) -> Tensor:
        """Values of all actions (B, A), from which Eq. 11 rewards the spatial level."""
        raise NotImplementedError

    def update(self, batch: dict[str, Tensor], env: LevelEnv) -> dict[str, Tensor]:
        """One update; returns detached scalars for the log.

        Args:
            batch: transitions of `IndexReplay`, with ``state.*``, ``next.*``, ``action``, ``reward``, ``terminated``.
            env: rebuilds their observations.
        """
        with torch.no_grad():
            before, after = env.observe_moves(split(batch, "state."), split(batch, "next."))
        return self.learn(before, after, after, batch["action"], batch["reward"], batch["terminated"])

    def learn(
        self,
        before: dict[str, Tensor],
        after: dict[str, Tensor],
        after_by_target: dict[str, Tensor],
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
    ) -> dict[str, Tensor]:
        """One update from observed transitions; returns detached scalars for the log.

        Args:
            before: observations before the moves; gradients flow through them into an attention.
            after: those after the moves, in which the online network chooses.
            after_by_target: the same as the target's attention sees them.
            action: (B,) int64, the moves.
            reward: (B,) what they paid.
            terminated: (B,) whether they ended the episode.
        """
        raise NotImplementedError

    def monitor(self, stage: str, steps: int) -> TrainingMonitor:
        """What watches a training of this level; a value-based agent has no actor that could collapse."""
        objective = getattr(self.args, "objective", None)
        return TrainingMonitor(stage, steps, self.n_actions if objective else 0, objective == "distil")

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """Training mode, in which dropout is drawn from the generator of the agent, so that a checkpoint has it."""
        parts = self._dropouts
        if not parts:
            yield
            return
        for part in parts:
            part.training = True
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
            yield
        for part in parts:
            part.training = False

    @cached_property
    def _dropouts(self) -> list[nn.Dropout]:
        """The parts that behave otherwise in training; walking through all modules takes longer than they do."""
        return [part for part in self.modules() if isinstance(part, nn.Dropout) and part.p > 0]

    @property
    def drops(self) -> bool:
        """Whether anything is dropped in training."""
        return bool(self._dropouts)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def training_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next update depends on: weights, targets, optimisers, generator; and JSON-ready settings."""
        tensors = {f"weights.{name}": value for name, value in self.state_dict().items()}
        tensors["generator"] = self.generator.get_state()
        groups = {}
        for name in self.OPTIMISERS:
            held, groups[name] = optimiser_state(getattr(self, name))
            tensors |= {f"optimiser.{name}.{key}": value for key, value in held.items()}
        return tensors, groups

    def load_training_state(self, tensors: dict[str, Tensor], groups: dict[str, Any]) -> None:
        """Resume from the `training_state` of an agent of the same arguments."""
        load_module(self, split(tensors, "weights."), "checkpoint", "the training split")
        self.generator.set_state(tensors["generator"].cpu())
        for name in self.OPTIMISERS:
            load_optimiser(getattr(self, name), split(tensors, f"optimiser.{name}."), groups[name])

    def set_progress(self, share: float) -> None:
        """Learning rates for a share in [0, 1] of the training done."""
        if self.args.decay:
            rise = self.args.rise
            slope = share / rise if share < rise else 0.5 * (1 + math.cos(math.pi * (share - rise) / (1 - rise)))
            for name, rate in self.OPTIMISERS.items():
                for group in getattr(self, name).param_groups:
                    now = getattr(self.args, rate) * max(slope, 0.02)
                    if isinstance(group["lr"], Tensor):
                        group["lr"].fill_(now)
                    else:
                        group["lr"] = now

    def make_capturable(self) -> None:
        """Keep what an optimiser step reads on the device, so that the step can be recorded as a graph."""
        for name in self.OPTIMISERS:
            for group in getattr(self, name).param_groups:
                group["capturable"] = True
                if not isinstance(group["lr"], Tensor):
                    group["lr"] = torch.tensor(group["lr"], device=self.device)
