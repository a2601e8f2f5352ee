"""One interface for every system: made by name, trained on a bank, asked for windows.

::

    system = agents.make("trl", train_bank, seed=0).fit()
    prediction = system.predict(test_bank)          # spans in seconds, one a query

A module anywhere in `strong_envs.agents` registers its systems with `register`; `strong_envs.agents` imports all
of them. A system of another package is named as ``my_module:MySystem`` wherever a name is expected.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
import pkgutil
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from strong_envs.agents.search_space import Space
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError, nearest

if TYPE_CHECKING:
    from typing_extensions import Self

    from strong_envs.temporal.task import TemporalConfig

ProgressCallback = Callable[[str, int, int, dict[str, float]], None]
"""Called with the stage, steps done, steps in all, and scalars to show."""
Evaluate = Callable[[Any, str], dict[str, float]]
"""Called with a system and the name of the stage that has ended; returns scores for the history."""


@dataclass
class Prediction:
    """Predicted windows for every query of a bank.

    ``spans`` (S, 2) float64 seconds; ``length`` (S,) number of moves; ``path`` (S, T + 1, 2) seconds, the windows of
    the episode in order; ``boxes`` (R, 4) float32 corners of every frame of each sample, packed, where the system
    tracks. A system that ranks candidates gives them best first in ``ranked`` (S, K, 2) seconds, NaN where a query has
    fewer than K, with their ``scores`` (S, K), higher is better; ``spans`` is then ``ranked[:, 0]``. ``frames_seen``
    (S,) is the share of the video's frames that the prediction reads; a system that reads single frames also says
    which: ``rows_seen`` (S, K) int64 rows of the video in their order.
    """

    spans: Tensor
    length: Tensor | None = None
    path: Tensor | None = None
    boxes: Tensor | None = None
    ranked: Tensor | None = None
    scores: Tensor | None = None
    frames_seen: Tensor | None = None
    rows_seen: Tensor | None = None


@runtime_checkable
class System(Protocol):
    """The least that a system has; `BaseSystem` lists all members and their defaults."""

    def fit(self, report: ProgressCallback | None = None, evaluate: Evaluate | None = None) -> Any:
        """Train on the bank that the system was made with."""

    def predict(self, bank: FeatureBank) -> Prediction:
        """One window per query of a bank."""


def _finite(predict: Callable[..., Prediction]) -> Callable[..., Prediction]:
    """A method ``predict`` that refuses windows that are not finite, which weights out of range lead to."""

    @functools.wraps(predict)
    def checked(self: Any, bank: FeatureBank, *args: Any, **kwargs: Any) -> Prediction:
        prediction = predict(self, bank, *args, **kwargs)
        wrong = ~prediction.spans.isfinite().all(-1)
        if bool(wrong.any()):
            i = int(wrong.nonzero()[0, 0])
            start, end = prediction.spans[i].tolist()
            name = getattr(self, "name", type(self).__name__)
            raise DataError(
                f"{name} predicts {start} to {end} s for query {bank.qids[i]!r}: its weights are out of range"
            )
        return prediction

    return checked


class BaseSystem:
    """The whole interface of systems, with a default for every optional member.

    Subclasses override what they support. `make` extends the objects of other classes by these defaults, so that
    callers never probe for a member. A file of a system is read by a class method ``load(path, bank)``.
    """

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "predict" in vars(cls):
            cls.predict = _finite(vars(cls)["predict"])  # type: ignore[method-assign]

    resumable: ClassVar[bool] = False
    """Whether `fit` takes ``checkpoint``, a `Session` that stores the training and resumes it."""

    @classmethod
    def arguments(cls) -> dict[str, type]:
        """Settings beyond the plain arguments of the constructor, by argument of the constructor.

        A dataclass stands for a mapping of its fields, or under the name ``""`` for its fields as arguments of their
        own; any other type for one argument of that type. See `agents.overrides`.
        """
        return {}

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raise `DataError` for arguments that the constructor would refuse whatever the bank; by default none."""

    @property
    def needs_cells(self) -> bool:
        """Whether a prediction reads the grid of a frame, so that whole-frame features do not suffice."""
        return False

    @property
    def values_boxes(self) -> bool:
        """Whether ``values(bank, boxes, samples, start, end)`` gives Q-values of windows for given boxes."""
        return False

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The stages of the training in order: ``stage``, ``seconds``, and the scores of ``evaluate``."""
        return []

    def fit(self, report: ProgressCallback | None = None, evaluate: Evaluate | None = None) -> Self:
        """Train on the bank that the system was made with; by default there is nothing to train."""
        return self

    def predict(self, bank: FeatureBank) -> Prediction:
        """One window per query of a bank.

        The bank is a masked one (`FeatureBank.masked`), which refuses its truth, unless the system declares that it is
        an upper bound (``SystemSpec.upper_bound``; a class attribute ``upper_bound`` of a system of another package).
        """
        raise NotImplementedError

    def confidence(self, bank: FeatureBank, prediction: Prediction) -> Tensor | None:
        """Confidence (S,) in [0, 1] of a prediction for a bank; None where the system has none."""
        return None

    def oracle(self, bank: FeatureBank) -> Tensor | None:
        """The best IoU (S,) float64 that the system's candidates reach in a bank; None without candidates."""
        return None

    def parameters(self) -> Iterable[Tensor]:
        """The trained tensors; none by default."""
        return ()

    @property
    def dynamics(self) -> TemporalConfig | None:
        """The temporal environment whose moves the system makes; None for a system that makes none."""
        return None

    def save(self, path: str) -> None:
        """Write the system to one file; by default nothing is written."""


SEES = ("nothing", "sentences", "whole frames", "grid", "learned boxes", "GT boxes", "objects")
"""What a system is given to predict, beside the sentence where it is more than that: one vector a frame, the cells of
every frame, the boxes of a tracker or of attention, the true boxes (an upper bound), detected objects."""
OWN_REWARDS_AND_WINDOWS = "own rewards, true windows"
LEARNS_FROM = (
    *("nothing", "sentences", "frame labels", "window labels", "all rewards", "own rewards"),
    OWN_REWARDS_AND_WINDOWS,
)
"""What a system is trained with: whether a frame lies in the moment, the true windows or the IoU of any window with
them, the rewards of all moves in any state, the rewards of its own episodes alone, or these and a loss on true windows.
"""
SEES_BOXES = {
    "frame": "whole frames",
    "initial": "grid",
    "gaussian": "grid",
    "cells": "grid",
    "objects": "objects",
    "truth": "GT boxes",
    "static": "GT boxes",
    "tracked": "learned boxes",
    "attention": "learned boxes",
    "static_attention": "learned boxes",
}
"""What a system sees by the setting ``boxes``; a saved tracker gives learned boxes."""


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
    needs_channels: tuple[str, ...] = ()
    """Names of channels of the grid that it reads, as the store's backbone lists them."""
    needs_training: bool = True
    ranks_candidates: bool = False
    tracks_boxes: bool = False
    upper_bound: bool = False
    """Sees the truth of what it predicts: an upper bound, not a result. Others are given `FeatureBank.masked`."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    needs_frames: bool = True
    """Reads the videos; a system that does not runs on annotations alone (``queries:PATH``)."""
    needs_videos: int = 1
    """Least number of videos in a training split: two where one is compared with another."""
    sees: str = ""
    """What it is given of a video and a query to predict: one of `SEES`; empty where it is not known."""
    learns_from: str = ""
    """What of the training part it is trained with: one of `LEARNS_FROM`; empty where it is not known."""
    space: Space = field(default_factory=dict)
    """The settings that ``strong-envs tune`` chooses; empty for a system that is not tuned."""
    tuned_as: str | None = None
    """The system whose chosen settings it has where it was not searched itself: that which it is a variant of."""

    def __post_init__(self) -> None:
        for what, value, valid in (("sees", self.sees, SEES), ("learns_from", self.learns_from, LEARNS_FROM)):
            if value and value not in valid:
                hint = nearest(value, valid)
                raise DataError(f"{what} of the system {self.name!r} must be one of {valid}, got {value!r}{hint}")


REGISTRY: dict[str, SystemSpec] = {}


def register(spec: SystemSpec) -> SystemSpec:
    """Add a system. Raises `DataError` for a name that is taken."""
    if spec.name in REGISTRY:
        raise DataError(f"a system named {spec.name!r} exists; registered are {sorted(REGISTRY)}")
    REGISTRY[spec.name] = spec
    return spec


def import_modules(paths: Iterable[str], prefix: str) -> None:
    """Import every module in some folders and their subpackages, in alphabetical order, so that it can register.

    Args:
        paths: folders, as the ``__path__`` of a package.
        prefix: name of that package, with a dot.
    """
    for module in sorted(pkgutil.iter_modules(paths), key=lambda found: found.name):
        if module.name != "__main__":
            imported = importlib.import_module(prefix + module.name)
            if module.ispkg:
                import_modules(imported.__path__, f"{prefix}{module.name}.")


def names() -> list[str]:
    """Names of all registered systems."""
    return list(REGISTRY)


def find(name: str) -> SystemSpec:
    """The specification of a name; ``module:attribute`` imports a class or function ``(bank, **kwargs)``.

    Attributes ``sees`` and ``learns_from`` of such a class, of `SEES` and `LEARNS_FROM`, fill its columns in tables.

    Raises:
        DataError: an unknown name, or a module that cannot be imported.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    if ":" in name:
        factory = _imported(name)
        lines = (factory.__doc__ or "").strip().splitlines() or [name]
        # What such a system reads is unknown, so no bank is refused for it.
        bound = bool(getattr(factory, "upper_bound", False))
        given = [getattr(factory, key, "") for key in ("sees", "learns_from")]
        sees, learns = (value if isinstance(value, str) else "" for value in given)
        return SystemSpec(name, factory, lines[0], needs_frames=False, upper_bound=bound, sees=sees, learns_from=learns)
    raise DataError(f"no system is called {name!r} (registered: {sorted(REGISTRY)}){nearest(name, REGISTRY)}")


def _imported(name: str) -> Callable[..., Any]:
    """The class or function of ``module:attribute``."""
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for text in (module, attribute) for part in text.split(".")):
        raise DataError(f"a system of another package must be named module:attribute, got {name!r}")
    try:
        factory = operator.attrgetter(attribute)(importlib.import_module(module))
    except (Exception, SystemExit) as error:
        raise DataError(f"cannot import the system {name!r}: {_words(error)}") from error
    if not callable(factory):
        raise DataError(f"{name!r} must be a class or a function, got {type(factory).__name__}")
    return factory


def _words(error: BaseException) -> str:
    """The kind and the first line of an exception."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".rstrip(": ")


def incompatibility(name: str, bank: FeatureBank, training: bool = True) -> str | None:
    """The reason why a bank cannot serve a system, or None.

    Args:
        name: of a system.
        bank: features of one split.
        training: whether the bank is for training; False for a bank that is only predicted.
    """
    spec = find(name)
    if spec.needs_frames and not bank.has_frames:
        able = [other for other, found in REGISTRY.items() if not found.needs_frames]
        return f"{name} needs videos, and {bank.name!r} has annotations alone; systems without videos are {able}"
    if spec.needs_grid and not bank.has_grid:
        return f"{name} needs a spatial grid, which {bank.name!r} does not have; extract it with --grid"
    backbone = bank.store.manifest.get("backbone")
    channels = backbone.get("channels", ()) if isinstance(backbone, Mapping) else ()
    if missing := [channel for channel in spec.needs_channels if channel not in channels]:
        return f"{name} reads channels of the default world by name, and {bank.name!r} lacks {missing[0]!r} and others"
    if spec.needs_boxes and not bank.has_boxes:
        return f"{name} needs a true box track for every query, which {bank.name!r} does not have"
    if training and (count := len(bank.video.unique())) < spec.needs_videos:
        return f"{name} compares videos and needs {spec.needs_videos} of them for training; {bank.name!r} has {count}"
    if spec.needs_objects and not bank.store.has("objects"):
        return f"{name} needs detector features (the tensor 'objects'), which {bank.name!r} does not have"
    return None


def make(name: str, bank: FeatureBank, **kwargs: Any) -> BaseSystem:
    """Make a system for a training bank.

    Args:
        name: a registered name, or ``module:attribute``.
        bank: the training split.
        kwargs: arguments of its factory; all registered systems take ``seed`` and ``budget``, a factor on the steps.

    Raises:
        DataError: an unknown name, a bank that cannot serve the system, or an argument that it refuses.
    """
    reason = incompatibility(name, bank)
    if reason:
        raise DataError(reason)
    spec = find(name)
    try:
        system = spec.factory(bank, **merged(spec.defaults, kwargs))
    except SystemExit as error:
        raise DataError(f"the system {name!r} ended the program when it was made: {_words(error)}") from error
    except DataError:
        raise
    except Exception as error:
        if ":" not in name:
            raise
        raise DataError(f"the system {name!r} cannot be made: {_words(error)}") from error
    return with_defaults(system)


def sees_truth(name: str, options: Mapping[str, Any] | None = None) -> bool:
    """Whether a system is an upper bound, which may look at the truth of what it predicts: by its name or its boxes.

    Args:
        name: of a system.
        options: it is made with.
    """
    boxes = (options or {}).get("boxes")
    return find(name).upper_bound or (isinstance(boxes, str) and boxes in ("truth", "static"))


def information(name: str, options: Mapping[str, Any] | None = None) -> dict[str, str]:
    """``sees`` and ``learns_from`` of a system as it is made: its own, changed by the settings of the same meaning.

    Args:
        name: of a system.
        options: it is made with.
    """
    spec, options = find(name), options or {}
    sees, boxes, learns = spec.sees, options.get("boxes"), options.get("learns_from")
    if isinstance(boxes, str) and sees not in ("nothing", "sentences"):
        sees = SEES_BOXES.get(boxes, "learned boxes")
    return {"sees": sees, "learns_from": learns if learns in LEARNS_FROM else spec.learns_from}


def shown_to(name: str, options: Mapping[str, Any] | None, bank: FeatureBank) -> FeatureBank:
    """What a system is given to predict: the bank without its truth, or all of it for an upper bound."""
    return bank if sees_truth(name, options) else bank.masked()


def with_defaults(system: Any) -> BaseSystem:
    """The same object, extended by the members of `BaseSystem` that its class lacks.

    Raises:
        DataError: an object without the methods ``fit`` and ``predict``.
    """
    if isinstance(system, BaseSystem):
        return system
    kind = type(system)
    missing = [method for method in ("fit", "predict") if not callable(getattr(kind, method, None))]
    if missing:
        raise DataError(f"a system must have methods fit and predict; {kind.__name__} lacks {' and '.join(missing)}")
    members: dict[str, Any] = {"__slots__": (), "__module__": kind.__module__, "__doc__": kind.__doc__}
    if not hasattr(kind, "resumable"):
        members["resumable"] = "checkpoint" in inspect.signature(kind.fit).parameters
    system.__class__ = types.new_class(kind.__name__, (kind, BaseSystem), {}, lambda body: body.update(members))
    return system


def merged(defaults: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with changes; a mapping changes the entries that it names and leaves the others of its argument."""
    result = dict(defaults)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = {**result[name], **value} if both else value
    return result
