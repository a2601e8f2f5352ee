"""Any saved system again, by what its file says of itself."""

from __future__ import annotations

import os
from typing import Any

from agents.checkpoint import load_weights
from agents.systems import REGISTRY, StrongSystem, System
from features.bank import FeatureBank
from features.records import DataError


def load_system(path: str | os.PathLike, bank: FeatureBank) -> System:
    """Read what the ``save`` of a system wrote, whichever it was.

    Args:
        path: a file of weights. bank: gives the device and must have the features that the system was trained on.

    Raises:
        DataError: no such file, a kind of system that is not registered here, other features.
    """
    kind = kind_of(load_weights(path)[1])
    known = kinds()
    if kind not in known:
        raise DataError(f"{str(path)!r} holds a system of the kind {kind!r}; registered here are {sorted(known)}")
    return known[kind].load(str(path), bank)


def kind_of(about: dict[str, Any]) -> str:
    """What a file says it holds; STRONG's are known by their turns."""
    return StrongSystem.__name__ if "turn" in about else about.get("system") or "unknown"


def kinds() -> dict[str, Any]:
    """Classes of registered systems that can be loaded, by the names that stand in their files."""
    classes = {entry.factory for entry in REGISTRY.values() if hasattr(entry.factory, "load")}
    return {getattr(kind, "name", kind.__name__): kind for kind in classes}
