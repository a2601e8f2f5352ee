"""Every system under one interface: made by name, fitted on a bank, asked for windows.

::

    system = agents.make("trl", train_bank, seed=0).fit()
    prediction = system.predict(test_bank)          # spans in seconds, one a query

Outsiders register their own with `register`, or name it as ``my_module:MySystem`` wherever a name is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from features.bank import FeatureBank
from features.records import DataError, nearest
from strong_envs import spans

if TYPE_CHECKING:
    from agents.session import Session

Report = Callable[[str, int, int, dict[str, float]], None]
"""Called with the stage, steps done and in all, and scalars to show."""


@dataclass
class Prediction:
    """What a system says about every query of a bank.

    ``spans`` (S, 2) float64 seconds; ``length`` (S,) moves made; ``path`` (S, T + 1, 2) seconds, windows passed;
    ``boxes`` corners of every frame of each sample, packed (R, 4), where the system tracks. A system that ranks
    candidates gives them best first in ``ranked`` (S, K, 2) seconds, NaN where a query has fewer than K, with their
    ``scores`` (S, K), higher is better; ``spans`` is then ``ranked[:, 0]``. ``looked`` (S,) is the share of the video's
    frames that were looked at.
    """

    spans: Tensor
    length: Tensor | None = None
    path: Tensor | None = None
    boxes: Tensor | None = None
    ranked: Tensor | None = None
    scores: Tensor | None = None
    looked: Tensor | None = None


@runtime_checkable
class System(Protocol):
    """What `make` returns. ``history`` lists the stages of the training with their held-out scores."""

    history: list[dict[str, Any]]

    def fit(self, report: Report | None = None, evaluate: Callable[[Any, str], dict] | None = None) -> System:
        """Train on the bank it was made with."""

    def predict(self, bank: FeatureBank) -> Prediction:
        """One window per query of a bank."""

    def save(self, path: str) -> None:
        """Write the system to one file.

        What a class method ``load(path, bank)`` needs to make it again; with `agents.checkpoint.save_weights`,
        ``"system": <name of the class>`` and ``"inputs": inputs_of(bank)`` `agents.load` reads it too. A method
        ``confidence(bank, prediction)``, (S,) in [0, 1], tells how sure its answers are.
        """


@dataclass(frozen=True)
class Entry:
    """A registered system: how to make it and what it needs."""

    name: str
    factory: Callable[..., System]
    description: str
    needs_grid: bool = False
    needs_boxes: bool = False
    needs_objects: bool = False
    """Needs detector features, the store's tensor ``objects``."""
    needs_training: bool = True
    ranks_candidates: bool = False
    tracks_boxes: bool = False
    upper_bound: bool = False
    """Uses the true boxes: a bound, never a result."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs_frames: bool = True
    """Looks at the videos; a system that does not runs on annotations alone (``queries:PATH``)."""
    needs_videos: int = 1
    """How many videos it has to have for training: two where one is compared with another."""


REGISTRY: dict[str, Entry] = {}


def register(entry: Entry) -> Entry:
    """Add a system; a taken name is refused."""
    if entry.name in REGISTRY:
        raise DataError(f"a system named {entry.name!r} exists; registered are {sorted(REGISTRY)}")
    REGISTRY[entry.name] = entry
    return entry


def names() -> list[str]:
    """Names of all registered systems."""
    return list(REGISTRY)


def find(name: str) -> Entry:
    """The entry of a name; ``module:attribute`` imports an outsider's class or function ``(bank, **kwargs)``."""
    if name in REGISTRY:
        return REGISTRY[name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            factory = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise DataError(f"cannot import the system {name!r}: {error}") from None
        # Nobody knows what an outsider's system looks at, so it is not refused for that.
        return Entry(name, factory, (factory.__doc__ or name).strip().splitlines()[0], needs_frames=False)
    raise DataError(f"no system is called {name!r} (registered: {sorted(REGISTRY)}){nearest(name, REGISTRY)}")


def why_not(name: str, bank: FeatureBank, training: bool = True) -> str | None:
    """Why a bank cannot serve a system, or None: asked before any training starts.

    Args:
        training: whether the bank is to train it, or only to be predicted.
    """
    entry = find(name)
    if entry.needs_frames and not bank.has_frames:
        able = [other for other, found in REGISTRY.items() if not found.needs_frames]
        return f"{name} looks at videos, and {bank.name!r} has annotations alone; what needs no video is {able}"
    if entry.needs_grid and not bank.has_grid:
        return f"{name} needs a spatial grid, which {bank.name!r} does not have; extract it with --grid"
    if entry.needs_boxes and not bank.has_boxes:
        return f"{name} needs a true box track for every query, which {bank.name!r} does not have"
    if training and (count := len(bank.video.unique())) < entry.needs_videos:
        return f"{name} compares videos and needs {entry.needs_videos} of them for training; {bank.name!r} has {count}"
    if entry.needs_objects and not bank.store.has("objects"):
        return f"{name} needs detector features (the tensor 'objects'), which {bank.name!r} does not have"
    return None


def make(name: str, bank: FeatureBank, **kwargs: Any) -> System:
    """Make a system for a training bank. ``kwargs`` go to its factory; all take ``seed`` and ``budget`` (a factor)."""
    reason = why_not(name, bank)
    if reason:
        raise DataError(reason)
    entry = find(name)
    return entry.factory(bank, **_merged(entry.defaults, kwargs))


def _merged(defaults: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with changes; part of a level's arguments leaves the entry's other parts of that level as they are."""
    merged = dict(defaults)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = {**merged[name], **value} if both else value
    return merged


# The systems of this project ----------------------------------------------------------------------------------------


class StrongSystem:
    """`agents.strong.Strong` behind the interface of systems."""

    def __init__(
        self,
        bank: FeatureBank,
        seed: int = 0,
        budget: float = 1.0,
        preset: str = "default",
        env: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        from agents.strong import LEARNT, Strong
        from agents.strong_args import strong_args

        # Part of a level's or an environment's arguments may be given by name: {"temporal": {"gamma": 0.4}}.
        parts = {name: changes.pop(name) for name, value in list(changes.items()) if isinstance(value, Mapping)}
        args = strong_args(preset, parts.get("spatial_env", {}).get("reward"), seed=seed, **changes)
        parts["temporal_env"] = {**parts.get("temporal_env", {}), **(env or {})}
        args = replace(args, **{name: replace(getattr(args, name), **part) for name, part in parts.items()})
        if args.boxes not in LEARNT:
            # The same number of steps as a tracked system spends on its temporal level.
            changes = {"pretrain_steps": args.pretrain_steps + args.rounds * args.temporal_steps}
            args = replace(args, **changes)
        gaze = replace(args.gaze, steps=max(int(args.gaze.steps * budget), 10))
        args = replace(args, gaze=gaze)
        scaled = ("pretrain_steps", "spatial_steps", "temporal_steps")
        args = replace(args, **{name: max(int(getattr(args, name) * budget), 1000) for name in scaled})
        self.strong = Strong(bank, args)

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.strong.history

    def fit(
        self,
        report: Report | None = None,
        evaluate: Callable[[Any, str], dict] | None = None,
        checkpoint: Session | None = None,
    ) -> StrongSystem:
        """Train; ``evaluate`` sees this system after each stage, ``checkpoint`` stores the training as it goes."""
        wrapped = None if evaluate is None else lambda _, stage: evaluate(self, stage)
        self.strong.fit(report, wrapped, checkpoint)
        return self

    def predict(self, bank: FeatureBank) -> Prediction:
        """Greedy episodes; before the first turn a tracked system looks at whole frames.

        The mean over the whole video (f_g) looks at every frame; hidden visual inputs look at none.
        """
        found = self.strong.predict(bank, None if self.strong.turn else False)
        share = 0.0 if self.strong.args.blind else 1.0
        found.setdefault("looked", torch.full((len(bank),), share, dtype=torch.float64, device=bank.device))
        return Prediction(**found)

    @property
    def boxes(self) -> str:
        """What the temporal level looks at, see `agents.strong`."""
        return self.strong.args.boxes

    @torch.no_grad()
    def confidence(self, bank: FeatureBank, prediction: Prediction) -> Tensor:
        """The policy's probability of stopping in the predicted windows: (S,) float32."""
        strong = self.strong
        task = strong._temporal_task(bank, strong.untracked(bank) if prediction.boxes is None else prediction.boxes)
        samples = torch.arange(len(bank), device=bank.device)
        start, end = (prediction.spans / task.seconds[:, None]).unbind(-1)
        seen = strong.temporal.inputs(task.observe(samples, start, end, prediction.length))
        return strong.temporal.actor(seen)[:, spans.STOP]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Trained numbers of both levels and the gaze; targets, which follow them, are not counted."""
        parts = (self.strong.temporal, self.strong.spatial, self.strong.gaze)
        return [p for part in parts if part is not None for p in part.parameters() if p.requires_grad]

    def save(self, path: str) -> None:
        """One safetensors file."""
        self.strong.save(path)

    @classmethod
    def load(cls, path: str, bank: FeatureBank) -> StrongSystem:
        """Read what `save` wrote; ``bank`` gives the device and must have the features it was trained on."""
        from agents.strong import Strong

        system = cls.__new__(cls)
        system.strong = Strong.load(path, bank)
        return system


for _entry in (
    Entry(
        "blind",
        StrongSystem,
        "the same agent with every visual input hidden",
        needs_frames=False,
        defaults={"boxes": "frame", "blind": True},
    ),
    Entry("trl", StrongSystem, "temporal level alone, whole frames", defaults={"boxes": "frame"}),
    Entry(
        "trl+gau",
        StrongSystem,
        "temporal level, a fixed centred Gaussian over the frame",
        needs_grid=True,
        defaults={"boxes": "gaussian"},
    ),
    Entry(
        "strong",
        StrongSystem,
        "both levels, trained in turns, windows averaged",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "tracked"},
    ),
    Entry(
        "strong+attention",
        StrongSystem,
        "the same with both attentions over frames",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "tracked", "attention": True},
    ),
    Entry(
        "strong+evidence",
        StrongSystem,
        "STRONG that is also shown what its gaze says of the frames and of how they change",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "tracked", "evidence": True, "gaze": {"change": 0.05}},
    ),
    Entry(
        "gaze boxes",
        StrongSystem,
        "STRONG without the tracker: in every frame the box at which the temporal level looks",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "gaze"},
    ),
    Entry(
        "still gaze box",
        StrongSystem,
        "the same with one box for the whole video, in the middle of these",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "still"},
    ),
    Entry(
        "static boxes",
        StrongSystem,
        "temporal level on one box around the true ones of the moment (upper bound)",
        needs_grid=True,
        needs_boxes=True,
        upper_bound=True,
        defaults={"boxes": "static"},
    ),
    Entry(
        "true boxes",
        StrongSystem,
        "temporal level on the true boxes (upper bound)",
        needs_grid=True,
        needs_boxes=True,
        upper_bound=True,
        defaults={"boxes": "truth", "box_margin": 0.05},
    ),
    Entry(
        "critic on true boxes",
        StrongSystem,
        "the same, choosing by the critic's values instead of the actor (upper bound)",
        needs_grid=True,
        needs_boxes=True,
        upper_bound=True,
        defaults={"boxes": "truth", "box_margin": 0.05, "temporal": {"greedy": "critic"}},
    ),
):
    register(_entry)


class RandomPolicy:
    """Uniformly random moves until stop: what the environment gives to an agent that learnt nothing."""

    def __init__(
        self, bank: FeatureBank, seed: int = 0, budget: float = 1.0, env: Mapping[str, Any] | None = None
    ) -> None:
        self.seed, self.env, self.history = seed, dict(env or {}), []

    def fit(self, report: Report | None = None, evaluate: Callable[[Any, str], dict] | None = None) -> RandomPolicy:
        """Nothing to learn."""
        return self

    def predict(self, bank: FeatureBank) -> Prediction:
        """Where the walks end."""
        from strong_envs.policies import as_policy
        from strong_envs.rollout import localise
        from strong_envs.temporal_moment import make_task

        task = make_task(bank, **self.env)
        policy = as_policy("random", task.n_actions, torch.Generator().manual_seed(self.seed))
        return Prediction(**vars(localise(task, policy)))


register(
    Entry(
        "random policy", RandomPolicy, "uniformly random moves until stop", needs_training=False, needs_frames=False
    )
)
