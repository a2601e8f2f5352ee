"""How a number was measured: two numbers share a column of a table only if their protocols are equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from strong_envs.benchmarks.metrics.definitions import COMPARISONS, IOU_KINDS, THRESHOLDS
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.untrusted_json import as_type, parse_json
from strong_envs.features.search_windows import FULL_VIDEO
from strong_envs.temporal.task import INITIAL_SPAN, INVALID

Real = Annotated[float, Meta(ge=-1e9, le=1e9)]


class _Fields(Struct):
    """The fields of a `Protocol` in a file."""

    name: str
    data: str
    train: str
    test: str
    window: str
    iou: str
    comparison: str
    thresholds: list[Real]
    steps: Annotated[int, Meta(ge=0, le=10**9)] | None
    z_e: Real | None
    step_scale: Real
    multi_scale: bool
    invalid: str
    initial_span: tuple[Real, Real]
    hashes: dict[str, str]


DYNAMICS = {
    "max_steps": "steps",
    "z_e": "z_e",
    "step_scale": "step_scale",
    "multi_scale": "multi_scale",
    "invalid": "invalid",
    "initial_span": "initial_span",
}
"""Arguments of the temporal level that decide which windows an episode can reach, and their names here."""


@dataclass(frozen=True)
class Protocol:
    """A way to measure, complete enough to decide whether two results can be compared.

    Attributes:
        name: of the protocol; the only field that may differ within a column.
        data: name of the data set.
        train: split that systems were trained on.
        test: split that they were scored on.
        window: what is searched: ``"full video"``, or the rule that cut a window out of it.
        iou: ``"clamped"``, ``"signed"`` or ``"legacy"`` (`benchmarks.metrics.definitions.temporal_iou`).
        comparison: comparison operator for Acc@m and R@n.
        thresholds: the m of Acc@m and R@n.
        steps: most moves of an episode, T; None where it has none.
        z_e: half the number of steps that make a video; None where it has none.
        step_scale: steps of a plain move.
        multi_scale: whether there are finer and coarser moves as well.
        invalid: what an invalid move does.
        initial_span: where an episode begins, fractions of the video.
        hashes: content hash of each store or list of queries that was read, by name.
    """

    name: str
    data: str
    train: str = "train"
    test: str = "test"
    window: str = FULL_VIDEO
    iou: str = "clamped"
    comparison: str = ">="
    thresholds: tuple[float, ...] = THRESHOLDS
    steps: int | None = 20
    z_e: float | None = 10.0
    step_scale: float = 1.0
    multi_scale: bool = False
    invalid: str = "refuse"
    initial_span: tuple[float, float] = INITIAL_SPAN
    hashes: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for what, valid in (("iou", IOU_KINDS), ("comparison", COMPARISONS), ("invalid", INVALID)):
            value = getattr(self, what)
            if value not in valid:
                raise DataError(f"{what} must be one of {valid}, got {value!r}{nearest(value, valid)}")
        for what in ("name", "data", "train", "test", "window"):
            if not isinstance(getattr(self, what), str) or not getattr(self, what):
                raise DataError(f"a protocol's {what} is a name, got {getattr(self, what)!r}")
        levels = tuple(float(m) for m in self.thresholds)
        if any(not 0 <= m <= 1 for m in levels):
            raise DataError(f"thresholds of IoU lie in [0, 1], got {levels}")
        if not isinstance(self.multi_scale, bool):
            raise DataError(f"multi_scale is true or false, got {self.multi_scale!r}")
        object.__setattr__(self, "thresholds", levels)
        object.__setattr__(self, "step_scale", float(self.step_scale))
        object.__setattr__(self, "initial_span", tuple(float(x) for x in self.initial_span))
        object.__setattr__(self, "z_e", None if self.z_e is None else float(self.z_e))
        object.__setattr__(self, "hashes", dict(sorted(self.hashes.items())))

    def as_dict(self) -> dict:
        """A JSON-ready form; `from_dict` reads it."""
        lists = {name: list(getattr(self, name)) for name in ("thresholds", "initial_span")}
        return {f.name: getattr(self, f.name) for f in fields(self)} | lists

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """The protocol that `as_dict` wrote; fields that are unknown or missing are named."""
        if not isinstance(values, Mapping):
            raise DataError(f"a protocol is an object with named fields, got {type(values).__name__}")
        known = [f.name for f in fields(cls)]
        unknown, missing = sorted(set(values) - set(known)), sorted(set(known) - set(values))
        if unknown or missing:
            raise DataError(f"this is not a protocol of this release: unknown fields {unknown}, missing {missing}")
        return cls(
            **msgspec.structs.asdict(as_type(dict(values), _Fields, "a field of the protocol has the wrong type"))
        )

    def to_json(self) -> str:
        """The protocol as one JSON object, keys sorted."""
        return json.dumps(self.as_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Protocol:
        """The protocol that `to_json` wrote."""
        return cls.from_dict(parse_json(text, "the protocol"))

    def __str__(self) -> str:
        """One line for the foot of a table."""
        grid = "" if self.steps is None else f", at most {self.steps} moves"
        grid += "" if self.z_e is None else f" of {self.step_scale:g}/{2 * self.z_e:g} of the video"
        grid += ", finer and coarser moves too" if self.multi_scale else ""
        grid += "" if self.invalid == "refuse" else f", invalid moves: {self.invalid}"
        if self.initial_span != INITIAL_SPAN:
            grid += f", from [{self.initial_span[0]:g}, {self.initial_span[1]:g}]"
        hashes = "".join(f", {name} {digest[:12]}" for name, digest in self.hashes.items())
        rule = f"{self.iou} IoU, Acc with {self.comparison}"
        return f"{self.name}: {self.data}, {self.train} to {self.test}, {self.window}, {rule}{grid}{hashes}"


def differences(a: Protocol, b: Protocol) -> dict[str, tuple[Any, Any]]:
    """The fields, other than the name, in which two protocols differ, with both values."""
    pairs = ((f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(Protocol) if f.name != "name")
    return {name: (left, right) for name, left, right in pairs if left != right}


def same_column(a: Protocol, b: Protocol) -> None:
    """Refuse to put results of two protocols in one column: `DataError` names every field that differs."""
    found = differences(a, b)
    if found:
        listed = "; ".join(f"{name}: {left!r} against {right!r}" for name, (left, right) in found.items())
        raise DataError(f"{a.name!r} and {b.name!r} cannot share a column, they differ in {listed}")


def content_hashes(source: Any, *splits: str) -> dict[str, str]:
    """SHA-256 of the data: of a `FeatureStore` from its manifest, of `Annotations` one for each split.

    The hash of a split covers each query's id, video, sentence and windows, and the videos' durations, in file order.
    """
    if hasattr(source, "content_hash"):
        return {source.name: source.content_hash}
    hashes = {}
    for split in splits:
        rows = [
            [q.qid, q.video, source.videos[q.video].duration, q.text, [list(w) for w in q.windows]]
            for q in source.split(split)
        ]
        hashes[split] = hashlib.sha256(json.dumps(rows, ensure_ascii=True).encode()).hexdigest()
    return hashes
