"""Every system under one interface: made by name, fitted on a bank, asked for windows.

::

    system = agents.make("trl", train_bank, seed=0).fit()
    prediction = system.predict(test_bank)          # spans in seconds, one a query

Outsiders register their own with `register`, or name it as ``my_module:MySystem`` wherever a name is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError, nearest

if TYPE_CHECKING:
    pass

ProgressCallback = Callable[[str, int, int, dict[str, float]], None]
"""Called with the stage, steps done and in all, and scalars to show."""


@dataclass
class Prediction:
    """What a system says about every query of a bank.

    ``spans`` (S, 2) float64 seconds; ``length`` (S,) moves made; ``path`` (S, T + 1, 2) seconds, windows passed;
    ``boxes`` corners of every frame of each sample, packed (R, 4), where the system tracks. A system that ranks
    candidates gives them best first in ``ranked`` (S, K, 2) seconds, NaN where a query has fewer than K, with their
    ``scores`` (S, K), higher is better; ``spans`` is then ``ranked[:, 0]``. ``frames_seen`` (S,) is the share of the
    video's
    frames that were looked at.
    """

    spans: Tensor
    length: Tensor | None = None
    path: Tensor | None = None
    boxes: Tensor | None = None
    ranked: Tensor | None = None
    scores: Tensor | None = None
    frames_seen: Tensor | None = None


@runtime_checkable
class System(Protocol):
    """What `make` returns. ``history`` lists the stages of the training with their held-out scores."""

    history: list[dict[str, Any]]

    def fit(self, report: ProgressCallback | None = None, evaluate: Callable[[Any, str], dict] | None = None) -> System:
        """Train on the bank it was made with."""

    def predict(self, bank: FeatureBank) -> Prediction:
        """One window per query of a bank."""

    def save(self, path: str) -> None:
        """Write the system to one file.

        What a class method ``load(path, bank)`` needs to make it again; with `agents.training.checkpoint.save_weights`,
        ``"system": <name of the class>`` and ``"inputs": inputs_of(bank)`` `agents.load` reads it too. A method
        ``confidence(bank, prediction)``, (S,) in [0, 1], tells how sure its answers are.
        """


@dataclass(frozen=True)
class SystemSpec:
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


REGISTRY: dict[str, SystemSpec] = {}


def register(entry: SystemSpec) -> SystemSpec:
    """Add a system; a taken name is refused."""
    if entry.name in REGISTRY:
        raise DataError(f"a system named {entry.name!r} exists; registered are {sorted(REGISTRY)}")
    REGISTRY[entry.name] = entry
    return entry


def names() -> list[str]:
    """Names of all registered systems."""
    return list(REGISTRY)


def find(name: str) -> SystemSpec:
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
        return SystemSpec(name, factory, (factory.__doc__ or name).strip().splitlines()[0], needs_frames=False)
    raise DataError(f"no system is called {name!r} (registered: {sorted(REGISTRY)}){nearest(name, REGISTRY)}")


def incompatibility(name: str, bank: FeatureBank, training: bool = True) -> str | None:
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
    reason = incompatibility(name, bank)
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
