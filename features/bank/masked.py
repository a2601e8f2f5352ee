"""A bank without the truth: what an agent is given to predict a test part.

It keeps an agent from looking by mistake, and from looking unnoticed; it is no wall against code that digs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.mapped import MappedMeans, MappedRows
from strong_envs.features.bank.pooling import WindowMeans
from strong_envs.features.datasets.types import Query
from strong_envs.features.errors import DataError
from strong_envs.features.store.store import FeatureStore

KEPT = ("source_qid", "source_video", "window")
"""Entries of a query's ``extra`` that do not tell its moment; the others may."""
TELLING = ("composed", "seed", "level")
"""Entries of a video's ``extra`` from which the moments of its queries follow: its recipe, or its seed."""
ADVICE = (
    "an agent predicts without the truth. Read it in fit, of the training bank; an upper bound registers with "
    "upper_bound=True"
)


class TruthRefused(DataError):
    """The truth of a masked bank was asked for."""


def refuse(what: str, name: str) -> NoReturn:
    """Raise the sentence that teaches."""
    raise TruthRefused(f"{what} of {name!r} is hidden: {ADVICE}")


class HiddenWindows(Sequence):
    """Stands for the true windows of a query and refuses to be read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, index: Any) -> Any:
        refuse("a true window", self._name)

    def __len__(self) -> int:
        refuse("the number of true windows", self._name)

    def __repr__(self) -> str:
        return "<hidden>"


def masked_query(query: Query, name: str) -> Query:
    """The query without its windows and with what of its ``extra`` does not tell them."""
    extra = {key: query.extra[key] for key in KEPT if key in query.extra}
    hidden: Any = HiddenWindows(name)
    return replace(query, windows=hidden, extra=extra)


class MaskedStore(FeatureStore):
    """The features of a store, its sentences and its facts, without windows and boxes."""

    def __init__(self, store: FeatureStore) -> None:
        self.__store, self.path = store, store.path
        kept = {key: value for key, value in store.manifest.items() if key not in ("queries", "videos", "tracks")}
        self.manifest = {**kept, "tensors": {k: v for k, v in store.manifest["tensors"].items() if k != "boxes"}}
        self.videos = [
            replace(v, extra={key: value for key, value in v.extra.items() if key not in TELLING}) for v in store.videos
        ]
        self.queries = [masked_query(q, store.name) for q in store.queries]

    @property
    def tracks(self) -> Any:  # type: ignore[override]
        """Refused: rows of the true boxes."""
        refuse("the true boxes", self.name)

    def tensor(self, tensor: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """As of the store; the boxes are refused."""
        return self.__open(tensor).tensor(tensor, start, stop)

    def maps(self, tensor: str) -> list[np.ndarray]:
        """As of the store; the boxes are refused."""
        return self.__open(tensor).maps(tensor)

    def flat_rows(self, start: int, stop: int) -> np.ndarray:
        """As of the store."""
        return self.__store.flat_rows(start, stop)

    def verify(self) -> None:
        """`FeatureStore.verify` of the store."""
        self.__store.verify()

    def __open(self, tensor: str) -> FeatureStore:
        if tensor == "boxes":
            refuse("the tensor 'boxes'", self.name)
        return self.__store


class MaskedBank(FeatureBank):
    """The features and sentences of a bank, sharing its memory; everything that tells the truth is refused.

    ``truth``, ``true_boxes``, ``track_base``, ``true_box``, the windows of ``queries`` and the boxes of ``store`` raise
    `TruthRefused`. Everything else is that of the bank.

    Args:
        bank: features of one split.
    """

    hides_truth = True

    def __init__(self, bank: FeatureBank) -> None:
        self.__bank = bank
        shared = ("memory", "dtype", "split", "device", "name", "qids", "texts", "n_frames", "duration", "offsets")
        for name in (*shared, "video", "query", "frames", "max_frames"):
            setattr(self, name, getattr(bank, name))
        self._rows = bank._rows
        self.store = MaskedStore(bank.store)
        used = {video.id for video in bank.videos}
        self.videos = [video for video in self.store.videos if video.id in used]
        self.queries = [masked_query(query, bank.name) for query in bank.queries]

    def masked(self) -> FeatureBank:
        """The bank itself."""
        return self

    @property
    def has_boxes(self) -> bool:  # type: ignore[override]
        """Whether the bank behind it has true boxes; here they cannot be read."""
        return self.__bank.has_boxes

    @property
    def truth(self) -> Tensor:  # type: ignore[override]
        """Refused."""
        refuse("the truth", self.name)

    @property
    def true_boxes(self) -> Tensor:  # type: ignore[override]
        """Refused."""
        refuse("the true boxes", self.name)

    @property
    def track_base(self) -> Tensor:  # type: ignore[override]
        """Refused."""
        refuse("the true boxes", self.name)

    def true_box(self, samples: Tensor, frames: Tensor) -> Tensor:
        """Refused."""
        refuse("the true boxes", self.name)

    # Large and computed when first used: once for both banks.

    @property
    def frame_means(self) -> WindowMeans | MappedMeans:  # type: ignore[override]
        """As of the bank."""
        return self.__bank.frame_means

    @property
    def grid(self) -> Tensor | MappedRows:  # type: ignore[override]
        """As of the bank."""
        return self.__bank.grid

    @property
    def objects(self) -> Tensor | MappedRows:  # type: ignore[override]
        """As of the bank."""
        return self.__bank.objects

    @property
    def grid_prefix(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """As of the bank."""
        return self.__bank.grid_prefix


FeatureBank.mask = staticmethod(MaskedBank)
