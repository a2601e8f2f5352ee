"""Base of the reinforcement learners beside STRONG: arguments, boxes, training, prediction, weights on disk.

A subclass gives the arguments and the environment of its presets, its network, and its training. All of them observe
and move through the functions of one `strong_envs.temporal.task.TemporalTask`; their step sizes, lengths and rewards
are options of its configuration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec
import torch
from torch import Tensor, nn

from strong_envs.agents.box_source import check_common, local_features
from strong_envs.agents.ranges import check_fields, check_value, hints_of, widths_of
from strong_envs.agents.registry import BaseSystem, Evaluate, Prediction, ProgressCallback
from strong_envs.agents.training.checkpoint import (
    check_widths,
    header_of,
    inputs_of,
    load_module,
    load_weights,
    save_weights,
)
from strong_envs.core import spans
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.devices import sent
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import shown
from strong_envs.temporal.env import TemporalMomentVectorEnv
from strong_envs.temporal.task import CONFIG_NAMES, TemporalConfig, TemporalTask

Rollout = Callable[
    [TemporalMomentVectorEnv, TemporalTask, int, int, torch.Generator], tuple[str, dict[str, Tensor], Tensor]
]
"""Maps environments, task, steps of an episode, number of the update and generator to the name of the stage, losses by
name, and the mean reward."""
if TYPE_CHECKING:
    from typing_extensions import Self

PREDICT_BATCH = 4096
REPORT_EVERY = 10


class TemporalSystem(BaseSystem):
    """Base of the systems that move a window, or read single frames, through one temporal task.

    Args:
        bank: the training split.
        seed: everything random follows it.
        budget: factor on the arguments in ``SCALED``.
        preset: a key of ``PRESETS``.
        env: changes of the preset's `TemporalConfig`.
        boxes: where f_o comes from, see `LocalFeatures`: ``"frame"``, ``"initial"``, ``"gaussian"``, ``"truth"`` (an
            upper bound) or a tensor of corners; or a trained STRONG, see `agents.box_source`.
        box_margin: added around every box, in fractions of the frame.
        options: changes of the preset's arguments.
    """

    PRESETS: ClassVar[dict[str, tuple[Any, TemporalConfig]]] = {}
    """Arguments and environment of every preset."""
    TASK: ClassVar[type[TemporalTask]] = TemporalTask
    """The task that it moves in; a subclass may have other moves."""
    SCALED: ClassVar[tuple[str, ...]] = ("steps",)
    """Arguments that ``budget`` multiplies."""
    args: Any
    network: Any

    def __init__(
        self,
        bank: FeatureBank,
        seed: int = 0,
        budget: float = 1.0,
        preset: str = "default",
        env: Mapping[str, Any] | None = None,
        boxes: str | Tensor = "frame",
        box_margin: float = 0.0,
        **options: Any,
    ) -> None:
        self.args, self.config = self._resolve(seed, budget, preset, env, boxes, box_margin, **options)
        self.bank, self.boxes, self.box_margin, self.seed = bank, boxes, box_margin, seed
        self.history = []
        self.task = self.make_task(bank)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = self.build(self.task).to(bank.device)

    # Members of a subclass ------------------------------------------------------------------------------------------

    def build(self, task: TemporalTask) -> nn.Module:
        """The network; PyTorch's generator is seeded while this runs."""
        raise NotImplementedError

    def train(self, report: ProgressCallback | None) -> None:
        """Train ``self.network`` in place."""
        raise NotImplementedError

    def locate(self, task: TemporalTask, samples: Tensor) -> Prediction:
        """Windows for some samples (B,) of a task."""
        raise NotImplementedError

    # The interface of systems ---------------------------------------------------------------------------------------

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raise `DataError` for arguments that do not exist or lie outside their range."""
        cls._resolve(**arguments)

    @classmethod
    def _resolve(
        cls,
        seed: int = 0,
        budget: float = 1.0,
        preset: str = "default",
        env: Mapping[str, Any] | None = None,
        boxes: str | Tensor = "frame",
        box_margin: float = 0.0,
        **options: Any,
    ) -> tuple[Any, TemporalConfig]:
        """Arguments and environment of a preset with changes."""
        if not isinstance(preset, str) or preset not in cls.PRESETS:
            valid = sorted(cls.PRESETS)
            raise DataError(f"preset must be one of {valid}, got {preset!r}{nearest(str(preset), valid)}")
        check_common(seed, budget, boxes, box_margin)
        args, config = cls.PRESETS[preset]
        args = changed(args, options, "option")
        scaled = {name: max(int(getattr(args, name) * budget), 1) for name in cls.SCALED}
        for name, value in (env or {}).items():
            if name in CONFIG_NAMES:
                check_value(name, value, hints_of(TemporalConfig)[name])
        config = changed(config, env or {}, "option of env", CONFIG_NAMES)
        check_fields(config)
        return replace(args, **scaled), config

    @classmethod
    def arguments(cls) -> dict[str, type]:
        """Fields of the presets' arguments."""
        args, _ = next(iter(cls.PRESETS.values()))
        return {"": type(args)}

    @property
    def dynamics(self) -> TemporalConfig:
        """The temporal environment, whose published moves may differ from the default ones."""
        return self.config

    @property
    def needs_cells(self) -> bool:
        """Whether f_o is pooled from the grid."""
        return not (isinstance(self.boxes, str) and self.boxes == "frame")

    def fit(self, report: ProgressCallback | None = None, evaluate: Evaluate | None = None) -> Self:
        """Train; ``evaluate`` is called once afterwards, and its scores enter the history."""
        began = time.perf_counter()
        self.train(report)
        seconds = time.perf_counter() - began
        scores = evaluate(self, "training") if evaluate is not None else {}
        self.history.append({"stage": "training", "seconds": seconds, **scores})
        return self

    @torch.no_grad()
    def predict(self, bank: FeatureBank, boxes: str | Tensor | None = None) -> Prediction:
        """One window per query. ``boxes`` replaces those it was made with: a tensor of them fits one bank only."""
        task = self.make_task(bank, boxes)
        everything = torch.arange(len(bank), device=bank.device)
        parts = [self.locate(task, samples) for samples in everything.split(PREDICT_BATCH)]
        names = [f.name for f in fields(Prediction) if getattr(parts[0], f.name) is not None]
        return Prediction(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def parameters(self) -> list[nn.Parameter]:
        """The trained tensors."""
        return list(self.network.parameters())

    def save(self, path: str) -> None:
        """Write weights, arguments and history as one safetensors file."""
        about = {
            "system": type(self).__name__,
            "args": asdict(self.args),
            "env": asdict(self.config),
            "boxes": self.boxes if isinstance(self.boxes, str) else None,
            "box_margin": self.box_margin,
            "seed": self.seed,
            "history": self.history,
            "inputs": inputs_of(self.bank),
            **self.remember(),
        }
        # Copies, because a network may hold one tensor under several names, which a file cannot.
        save_weights(path, {name: value.clone() for name, value in self.network.state_dict().items()}, about)

    @classmethod
    def load(cls, path: str, bank: FeatureBank, boxes: str | Tensor | None = None) -> Self:
        """Read what `save` wrote; ``bank`` gives the device and must have the features of the training.

        A system trained on a tensor of boxes needs ``boxes`` for ``bank``, because the file does not hold them.
        """
        tensors, about = load_weights(path, bank.device)
        if about.get("system") != cls.__name__:
            raise DataError(f"{shown(path)} holds a {about.get('system', 'STRONG')!r}, not a {cls.__name__!r}")
        header = header_of(about, Header, path)
        boxes = header.boxes if boxes is None else boxes
        if boxes is None:
            raise DataError(f"{shown(path)} was trained on given boxes; pass boxes= for {bank.name!r}")
        made: dict[str, Any] = {"seed": header.seed, "boxes": boxes, "box_margin": header.box_margin}
        try:
            arguments = {**made, "env": tuples(header.env), **tuples(header.args), **cls.recall(about)}
            cls.check_arguments(**arguments)
            base, _ = next(iter(cls.PRESETS.values()))
            check_widths(widths_of(changed(base, tuples(header.args), "option")), tensors, path)
        except (DataError, TypeError) as error:
            raise DataError(f"{shown(path)} is damaged or of another release: {error}") from None
        system = cls(bank, **arguments)
        load_module(system.network, tensors, path, bank.name)
        system.history = header.history
        return system

    def remember(self) -> dict[str, Any]:
        """More that `load` needs to make the system again, JSON-ready."""
        return {}

    @classmethod
    def recall(cls, about: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the constructor from what `remember` gave."""
        return {}

    # Actor-critics --------------------------------------------------------------------------------------------------

    def train_on_episodes(self, rollout: Rollout, report: ProgressCallback | None) -> None:
        """One update of the whole network after every whole episode of all environments, until ``args.steps``.

        For arguments with ``steps``, ``num_envs``, ``standardise``, ``lr``, ``decay`` and ``clip``, and a network whose
        ``inputs`` are standardised. Parameters that the losses do not reach stay as they are.
        """
        args, task, network = self.args, self.training_task(), self.network
        env = self.make_env(task, args.num_envs)
        generator = torch.Generator().manual_seed(self.seed)
        if args.standardise:
            network.inputs.fit(standardiser_batch(task, generator))
        optimiser = torch.optim.Adam(network.parameters(), args.lr, fused=True)
        length = task.config.max_steps
        updates = max(args.steps // (args.num_envs * length), 1)
        env.reset(seed=self.seed)
        for update in range(updates):
            if args.decay:
                for group in optimiser.param_groups:
                    group["lr"] = args.lr * max(1 - update / updates, 0.02)
            stage, losses, reward = rollout(env, task, length, update, generator)
            optimiser.zero_grad(set_to_none=True)
            cast(Tensor, sum(losses.values())).backward()
            if args.clip:
                nn.utils.clip_grad_norm_(network.parameters(), args.clip)
            optimiser.step()
            if report is not None and update % REPORT_EVERY == 0:
                scalars = {name: float(value.detach()) for name, value in losses.items()}
                done = (update + 1) * args.num_envs * length
                report(stage, done, args.steps, {**scalars, "reward": float(reward)})

    # Tools ----------------------------------------------------------------------------------------------------------

    def make_task(self, bank: FeatureBank, boxes: str | Tensor | None = None, **changes: Any) -> TemporalTask:
        """The task over a bank with the system's boxes and configuration."""
        boxes = self.boxes if boxes is None else boxes
        local = local_features(bank, boxes, self.box_margin)
        return self.TASK(bank, local, replace(self.config, **changes))

    def training_task(self) -> TemporalTask:
        """The task trained on: with ``exploring_starts`` its episodes begin with random windows."""
        start = "random" if self.args.exploring_starts else self.config.start
        return self.TASK(self.bank, self.task.local, replace(self.config, start=start))

    def make_env(self, task: TemporalTask, num_envs: int) -> TemporalMomentVectorEnv:
        """The environments trained in."""
        return TemporalMomentVectorEnv.of(task, num_envs)


class Header(msgspec.Struct):
    """The header of a saved system."""

    args: dict[str, Any]
    env: dict[str, Any]
    boxes: str | None
    box_margin: float
    seed: int
    history: list[dict[str, Any]]


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a header with tuples where JSON has lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def changed(base: Any, changes: Mapping[str, Any], what: str, names: tuple[str, ...] | None = None) -> Any:
    """A dataclass with some fields changed; names that it does not have are refused."""
    valid = sorted(names or [f.name for f in fields(base)])
    for name in changes:
        if name not in valid:
            raise DataError(f"unknown {what} {name!r}{nearest(name, valid)} (valid: {valid})")
    return replace(base, **changes)


def nearest_truth(task: TemporalTask, samples: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The true window that each span (B,), in steps, overlaps most, as fractions of the video: (B, 2) float32."""
    truth = task.truth[samples]
    best = spans.nearest_window(start, end, truth)
    picked = truth.gather(1, best[:, None, None].expand(-1, 1, 2))[:, 0]
    return (picked / task.config.total).to(torch.float32)


def n_step_returns(rewards: Tensor, terminated: Tensor, last: Tensor, gamma: float) -> Tensor:
    """Discounted returns of a piece of experience, (T, B) float32, bootstrapped where it is cut off.

    Args:
        rewards: (T, B) float32.
        terminated: (T, B) bool, nothing follows these steps.
        last: (B,) float32, the value of the state that the last step led to.
        gamma: discount.
    """
    returns, following = torch.empty_like(rewards), last
    for t in range(len(rewards) - 1, -1, -1):
        following = rewards[t] + gamma * following * (~terminated[t]).to(rewards.dtype)
        returns[t] = following
    return returns


def gumbel_sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Actions (B,) drawn from logits (B, A) with numbers of a generator on the host, alike on every device."""
    noise = torch.rand(logits.shape, generator=generator).clamp(min=1e-20).to(logits.device)
    return (logits - torch.log(-torch.log(noise))).argmax(-1)


def standardiser_batch(task: TemporalTask, generator: torch.Generator, count: int = 4096) -> dict[str, Tensor]:
    """Observations of random samples and random windows of whole steps: what inputs are standardised by."""
    device = task.bank.device
    samples = sent(torch.randint(len(task.bank), (count,), generator=generator), device)
    ends = torch.rand(2, count, generator=generator, dtype=torch.float64).to(device).sort(0).values * task.config.total
    start, end = ends[0].floor(), ends[1].floor() + 1
    return task.observe(samples, start, end.clamp(max=task.config.total), torch.zeros_like(samples))
