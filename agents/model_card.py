"""Model cards: what a saved system was trained on, under which protocol, how good it is, and its licence.

A card lies beside the weights, as ``system.card.json`` for ``system.safetensors``, and as ``README.md`` in words, so
that a folder can be handed on. `strong_envs.agents.load` takes the folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec

from strong_envs.agents.registry import BaseSystem, find, information
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.extraction.single_video import SHAPES_CELLS
from strong_envs.features.files.atomic import write_text
from strong_envs.features.files.errors import os_errors, shown
from strong_envs.features.files.untrusted_json import as_type, read_json
from strong_envs.version import __version__

WEIGHTS, README = "system.safetensors", "README.md"
"""Names in the folder of a saved system."""
LICENCE = "MIT (the weights); the data that they were trained on has its own terms"
THRESHOLDS = (0.3, 0.5, 0.7)


class Card(msgspec.Struct, kw_only=True):
    """What is known of a saved system; JSON-ready.

    ``scores`` are means over the queries of ``test`` in [0, 1]; ``world`` is ``drawn``, ``composed`` or ``other``.
    """

    system: str
    description: str
    sees: str = ""
    learns_from: str = ""
    data: str
    data_hash: str
    world: str
    train: str
    test: str
    queries: Annotated[int, msgspec.Meta(ge=0)]
    protocol: str
    scores: dict[str, Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]]
    seed: int
    budget: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]
    settings: dict[str, Any] = {}
    backbone: str = ""
    text_encoder: str = ""
    version: str = __version__
    licence: str = LICENCE

    @property
    def drawn(self) -> bool:
        """Whether the system knows nothing but the drawn world."""
        return self.world == "drawn"

    def score_line(self) -> str:
        """The scores in one line, in per cent."""
        shown_scores = ", ".join(f"{name} {100 * value:.1f}" for name, value in self.scores.items())
        return f"{shown_scores} on {self.queries:,} held-out queries ({self.test}) of {self.data}"


def world_of(manifest: dict[str, Any]) -> str:
    """``drawn``, ``composed`` or ``other``, from the manifest of a store."""
    if "composed" in (manifest.get("extra") or {}):
        return "composed"
    return "drawn" if (manifest.get("backbone") or {}).get("name") == SHAPES_CELLS else "other"


def scores_of(system: BaseSystem, bank: FeatureBank, upper_bound: bool = False) -> dict[str, float]:
    """MIoU and Acc@m of a system's windows on a bank, each in [0, 1]; upper bounds alone see the truth."""
    from strong_envs.core.spans import span_iou

    spans = system.predict(bank if upper_bound else bank.masked()).spans.to(bank.truth)
    truth = bank.truth * bank.duration[bank.video][:, None, None]
    iou = span_iou(spans[:, 0], spans[:, 1], truth, "clamped")
    reached = {f"Acc@{m:g}".replace("0.", "."): float((iou >= m - 1e-9).double().mean()) for m in THRESHOLDS}
    return {"mIoU": float(iou.mean()), **reached}


def card_of(
    name: str,
    system: BaseSystem,
    train: FeatureBank,
    test: FeatureBank,
    *,
    seed: int,
    budget: float,
    settings: dict[str, Any] | None = None,
    upper_bound: bool = False,
) -> Card:
    """The card of a trained system, with its scores on the test part.

    Args:
        name: under which the system was made.
        system: trained.
        train: the bank of its training.
        test: the bank of its scores.
        seed: of the training.
        budget: factor on the training steps.
        settings: beyond the defaults.
        upper_bound: whether the system may see the truth of ``test``.
    """
    manifest, settings = test.store.manifest, settings or {}
    facts = information(name, settings)
    steps = "no moves" if system.dynamics is None else f"at most {system.dynamics.max_steps} moves"
    return Card(
        system=name,
        description=find(name).description,
        sees=facts.get("sees", ""),
        learns_from=facts.get("learns_from", ""),
        data=test.store.name,
        data_hash=test.store.content_hash,
        world=world_of(manifest),
        train=str(train.split),
        test=str(test.split),
        queries=len(test),
        protocol=f"full videos, clamped IoU with the nearest true window, {steps}",
        scores=scores_of(system, test, upper_bound),
        seed=seed,
        budget=budget,
        settings={key: value for key, value in settings.items() if isinstance(value, (str, int, float, bool))},
        backbone=str((manifest.get("backbone") or {}).get("name", "")),
        text_encoder=str((manifest.get("text") or {}).get("name", "")),
    )


def weights_file(path: str | os.PathLike) -> Path:
    """The file of weights that a path names: itself, or ``system.safetensors`` of a folder."""
    return Path(path) / WEIGHTS if Path(path).is_dir() else Path(path)


def card_file(path: str | os.PathLike) -> Path:
    """Where the card of a file of weights, or of a folder, lies."""
    return weights_file(path).with_suffix(".card.json")


def write_card(path: str | os.PathLike, card: Card, readme: bool = True) -> Path:
    """Write a card beside a file of weights, and with ``readme`` a README.md in its folder; returns the card's path."""
    file = write_text(card_file(path), json.dumps(msgspec.to_builtins(card), indent=1) + "\n")
    if readme:
        write_text(file.parent / README, as_markdown(card, weights_file(path).name))
    return file


def read_card(path: str | os.PathLike) -> Card | None:
    """The card of a file of weights or of a folder; None where there is none. Raises `DataError` for a damaged one."""
    file = card_file(path)
    with os_errors(f"read {shown(file)}"):
        if not file.is_file():
            return None
    try:
        return as_type(read_json(file), Card, shown(file))
    except DataError as error:
        raise DataError(f"{shown(file)} is no model card: {error}") from None


def as_markdown(card: Card, weights: str = WEIGHTS) -> str:
    """A card in words, with the front matter that model hubs read."""
    rows = "".join(f"| {name} | {100 * value:.2f} |\n" for name, value in card.scores.items())
    only = (
        "The system knows nothing but videos of drawn shapes. Its answers about other footage mean nothing.\n\n"
        if card.drawn
        else ""
    )
    settings = ", ".join(f"`{key}={value}`" for key, value in card.settings.items()) or "the defaults"
    return (
        "---\nlicense: mit\nlibrary_name: strong-envs\ntags: [video-moment-localisation, temporal-grounding]\n---\n\n"
        f"# {card.system}\n\n{card.description}\n\n{only}"
        "## Use\n\n```python\nfrom strong_envs import agents\n\n"
        'system = agents.load("this_folder")\nmoment = system.predict("video.mp4", "a person opens the door")\n'
        "print(moment.start, moment.end)  # seconds\n```\n\n"
        "## Training\n\n| | |\n| --- | --- |\n"
        f"| data | {card.data}, split `{card.train}`, content {card.data_hash[:12]} |\n"
        f"| sees, learns from | {card.sees or 'unknown'}, {card.learns_from or 'unknown'} |\n"
        f"| features | {card.backbone or 'unknown'}; sentences: {card.text_encoder or 'unknown'} |\n"
        f"| seed, budget, settings | {card.seed}, {card.budget:g}, {settings} |\n"
        f"| version | strong-envs {card.version} |\n\n"
        f"## Scores\n\nSplit `{card.test}` of {card.data}: {card.queries:,} queries, per cent. "
        f"Protocol: {card.protocol}. One training run; another one may differ.\n\n"
        f"| metric | score |\n| --- | ---: |\n{rows}\n"
        f"## Licence\n\n{card.licence}.\n\nThe weights are in `{weights}`, and this card as data in "
        f"`{Path(weights).with_suffix('.card.json').name}`.\n"
    )
