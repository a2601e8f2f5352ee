"""Sentences in words that the training never used, read as a mix of those that it did.

A training split whose sentences have few wordings (a class, a template) fixes what a network does with these and
with nothing else: on composed clips with two sentences a class, a network that names the right clip of eight in 61 % of
cases on a known wording does so in 56 % on another one. Reading an unknown sentence as the mean of the training
sentences, weighted by a softmax over their cosine similarity, gives 60 to 63 % (one seed, validation, docs/footage.md).
A known sentence stays nearly as it is.
"""

from __future__ import annotations

from copy import copy
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from strong_envs.agents.training.matching import Scale
from strong_envs.features.bank.bank import FeatureBank

MOST = 256
"""Most different training sentences that are mixed. A split with more of them has seen enough ways to say things."""
SHARPNESS = 50.0
"""Factor on cosine similarities: what is .1 less similar has e^-5 of the weight."""


def known_sentences(query: Tensor) -> Tensor:
    """The different vectors of a training split, (K, Dq) of its (S, Dq): what unknown ones are read as a mix of.

    None, (0, Dq), where there are more than `MOST`.
    """
    different = torch.unique(query, dim=0)
    return different if len(different) <= MOST else query[:0]


def mixed(vectors: Tensor, known: Tensor) -> Tensor:
    """Vectors (B, Dq) as mixes of the rows of ``known`` (K, Dq) that are not zero; nan where all are zero."""
    kept = known.norm(dim=1) > 0
    cosine = nn.functional.normalize(vectors, dim=1) @ nn.functional.normalize(known, dim=1).T
    return (SHARPNESS * cosine).masked_fill(~kept, float("-inf")).softmax(1) @ known


class KnownWords:
    """Banks with the sentences of a training split in the place of unknown ones.

    Args:
        query: vectors of the training split, (S, Dq), or what `known_sentences` gave of them.

    Attributes:
        known: (K, Dq), the sentences that are mixed; (0, Dq) leaves all as they are.
    """

    def __init__(self, query: Tensor) -> None:
        self.known = known_sentences(query)
        self._banks: WeakKeyDictionary[FeatureBank, FeatureBank] = WeakKeyDictionary()

    def bank(self, bank: FeatureBank) -> FeatureBank:
        """The bank with its sentences as mixes of known ones; it shares everything else."""
        if not len(self.known):
            return bank
        if bank not in self._banks:
            made = copy(bank)
            made.query = mixed(bank.query, self.known.to(bank.device))
            self._banks[bank] = made
        return self._banks[bank]


class Sentences(nn.Module):
    """Sentence vectors brought into the words of the training split, and standardised by it.

    Args:
        query: vectors of the training split, (S, Dq). Those of another bank do where weights are loaded afterwards.
        read_as_known: whether unknown sentences are read as a mix of known ones; it needs at most `MOST` of these.
    """

    known: Tensor

    def __init__(self, query: Tensor, read_as_known: bool = True) -> None:
        super().__init__()
        self.scale = Scale(query.shape[1])
        self.scale.fit(query)
        known = query.new_zeros(MOST, query.shape[1])
        if read_as_known:
            different = known_sentences(query)
            known[: len(different)] = different
        # Rows of zeros are no sentence; the size is fixed so that saved weights fit any bank.
        self.register_buffer("known", known)

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, Dq) to (B, Dq) float32."""
        return self.scale(self.read(vectors))

    def read(self, vectors: Tensor) -> Tensor:
        """Vectors (B, Dq) as mixes of the known ones, not standardised; as they are where none are kept."""
        # Decided without a look at the numbers, for which the host would wait.
        return torch.where((self.known.norm(dim=1) > 0).any(), mixed(vectors, self.known), vectors)
