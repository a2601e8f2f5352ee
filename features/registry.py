"""From a string to features: a registered key such as ``"shapes-v0"``, or the path of a store on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.store.concat import join as join_stores
from strong_envs.features.store.in_memory import PREFIX, QueryStore
from strong_envs.features.store.store import FeatureStore
from strong_envs.features.validation import SHARE, VALIDATION, with_validation

LONG = "long:"
"""Begins the name of a store whose videos are joined from the clips of another, ``"long:STORE?clips=50"``."""
Opener = Callable[[], FeatureStore]
Source = str | os.PathLike | FeatureStore
"""A registered key, the path of a store, or an open store."""
_OPENERS: dict[str, Opener] = {}
_STORES: WeakValueDictionary[str, FeatureStore] = WeakValueDictionary()
_BANKS: WeakValueDictionary[tuple, FeatureBank] = WeakValueDictionary()
"""Opened stores and banks; those that nothing uses any more are freed."""


def _shapes(level: str, build: str) -> Opener:
    def opener() -> FeatureStore:
        from strong_envs.features import shapes

        return shapes.open_store(level, build)

    return opener


def _long(world: str, clips: int, suffix: str) -> Opener:
    """Long videos of the medium build, see `strong_envs.features.composing.longer`."""

    def opener() -> FeatureStore:
        from strong_envs.features.composing.longer import lengthen

        videos = LONG_VIDEOS[suffix]
        return lengthen(open_store(f"{world}-medium"), clips, videos, name=f"{world}{suffix}")

    return opener


LONG_VIDEOS = {
    "-long": {"train": 200, "val": 30, "test": 100},
    "-long-6000": {"train": 40, "val": 10, "test": 40},
}
"""Numbers of videos of the long builds, of 600 and of 6,000 frames; each has four queries."""
for _level, _infix in (("easy", "-easy"), ("standard", ""), ("travel", "-travel")):
    for _build, _suffix in (("small", ""), ("medium", "-medium"), ("full", "-full")):
        _OPENERS[f"shapes{_infix}-v0{_suffix}"] = _shapes(_level, _build)
    for _clips, _suffix in ((10, "-long"), (100, "-long-6000")):
        _OPENERS[f"shapes{_infix}-v0{_suffix}"] = _long(f"shapes{_infix}-v0", _clips, _suffix)


def register(key: str, opener: Opener) -> None:
    """Give a key to a function that opens a store, so that ``gym.make(..., features=key)`` finds it."""
    if key in _OPENERS:
        raise DataError(f"the key {key!r} is taken; registered keys are {keys()}")
    _OPENERS[key] = opener


def keys() -> list[str]:
    """Registered keys, sorted.

    ``shapes-v0`` is a small default world, ``-medium`` and ``-full`` are larger; ``-long`` has videos of 600 frames
    and ``-long-6000`` of 6,000, joined from clips of the medium build.
    """
    return sorted(_OPENERS)


def open_store(features: Source | Sequence[Source]) -> FeatureStore:
    """Open a store by key or path. A key is tried first; a store is opened once while it is used.

    ``"long:STORE?clips=50"`` joins clips of a store into long videos, see `strong_envs.features.composing.longer`.
    ``"queries:PATH"`` makes one of annotations alone, see `strong_envs.features.store.in_memory`. A list of several
    is joined, see `join`; an open store is returned as it is.
    """
    if isinstance(features, FeatureStore):
        return features
    if isinstance(features, Sequence) and not isinstance(features, str):
        return join(*features)
    if not isinstance(features, (str, os.PathLike)):
        valid = f"a path of a store, several in a list, a FeatureBank, or a key of {keys()}"
        raise DataError(f"features must be {valid}; got {features!r}")
    name = os.fspath(features)
    if name.startswith(PREFIX):
        queries = _STORES.get(name)
        if queries is None:
            queries = _STORES[name] = QueryStore.open(name)
        return queries
    if name.startswith(LONG):
        from strong_envs.features.composing.longer import base_name, open_long

        long = _STORES.get(name)
        if long is None:
            long = _STORES[name] = open_long(name, open_store(base_name(name)))
        return long
    with os_errors(f"open the store {shown(name)}"):
        path = str(Path(name).resolve())
    cached = _STORES.get(name) if name in _OPENERS else _STORES.get(path)
    if (
        cached is not None
        and (cached.path / "manifest.json").is_file()
        and (name in _OPENERS or FeatureStore.open(path).content_hash == cached.content_hash)
    ):
        return cached
    if name in _OPENERS:
        store = _STORES[name] = _OPENERS[name]()
        return store
    if not os.path.exists(name) and os.sep not in name:
        raise DataError(
            f"{name!r} is neither a registered key nor the path of a store{nearest(name, keys())} (keys: {keys()})"
        )
    store = _STORES[path] = FeatureStore.open(path)
    return store


def named_by_file(features: str, file: str, option: str) -> str:
    """The name of a store that a file gives, where opening it runs no code that the name chooses.

    Args:
        features: the name, ``"queries:PATH?text=ENCODER"`` above all.
        file: what gave it, for the message.
        option: what names the store instead, for the message.

    Raises:
        DataError: the name's text encoder would be imported.
    """
    from strong_envs.features.encoders.backbones import may_run_code

    encoder = features.partition("?")[2].partition("=")[2]
    if features.startswith(PREFIX) and may_run_code(encoder):
        raise DataError(f"{file} names code to run, {features!r}; pass {option} {features!r} to run it")
    return features


def join(*features: Source) -> FeatureStore:
    """Several stores as one, no tensor copied: keys, paths or open stores of the same kind of features.

    Ids that occur in several become ``"store name/id"``, and ``report`` of the result counts them.

    Raises:
        DataError: no store, or stores whose dimensions, units, backbone, text encoder or channel reduction differ; the
            message names the difference.
    """
    return join_stores([open_store(one) for one in features])


def split_validation(
    features: Source | Sequence[Source], train: str = "train", share: float = SHARE, seed: int = 0
) -> FeatureStore:
    """A store with train and validation parts that share no video: its own, or the latter carved out of the former.

    A job that chooses anything loads all its parts from the result; a job that chooses nothing keeps the whole
    training part. See `strong_envs.features.validation`.

    Args:
        features: a key, a path, an open store or several.
        train: name of the training part.
        share: of its videos that validate where the store has no part ``"val"``; whole groups at a time.
        seed: of the choice of these videos.
    """
    store = open_store(features)
    name = f"{store.content_hash} {train!r} {share} {seed}"
    carved = _STORES.get(name)
    if carved is None:
        carved = _STORES[name] = with_validation(store, train, share, seed)
    return carved


def job_store(features: Source | Sequence[Source], train: str = "train", share: float = SHARE) -> FeatureStore:
    """The store whose parts a job trains and scores on: that of `split_validation`, or with a share of 0 the plain one.

    Args:
        features: a key, a path, an open store or several.
        train: name of the training part.
        share: of its videos that validate where the store has no part ``"val"``; 0 leaves all of them to training.

    Raises:
        DataError: a share outside [0, 1), or no video to validate on.
    """
    return split_validation(features, train, share) if share else open_store(features)


def load_part(store: FeatureStore, split: str, device: str | torch.device = "cpu") -> FeatureBank:
    """A part of the store of a job; one that it does not have is refused, also where `load` would carve it.

    Raises:
        DataError: no such part; the message names those that are there.
    """
    if split not in store.splits:
        raise DataError(f"store {store.name!r} has no split {split!r}; it has {store.splits}")
    return load(store, split, device)


def load(
    features: Source | Sequence[Source] | FeatureBank,
    split: str | None = "train",
    device: str | torch.device = "cpu",
    *,
    memory: str = "device",
    dtype: str | None = None,
) -> FeatureBank:
    """The bank of one split; the same arguments give the same object.

    Args:
        features: a registered key, the path of a store, an open store, several of these in a list (joined), or a bank
            (returned as it is).
        split: name of a split; None takes every query. ``"val"`` is there for every store with a part ``"train"``:
            where the store names none, it is the one of `split_validation`, which also gives the rest to train on.
        device: where the tensors live.
        memory: ``"map"`` opens stores larger than the memory, see `FeatureBank`.
        dtype: of frames, grid and objects, see `FeatureBank`.
    """
    if isinstance(features, FeatureBank):
        return features
    store = open_store(features)
    if split == VALIDATION and VALIDATION not in store.splits and "train" in store.splits:
        store = split_validation(store)
    key = (store.content_hash, split, str(device), memory, dtype)
    bank = _BANKS.get(key)
    if bank is None:
        bank = _BANKS[key] = FeatureBank(store, split, device, memory=memory, dtype=dtype)
    return bank
