"""STRONG on disk: saved systems, and what a checkpoint holds of a training (`agents.training.session.Resumable`).

`StoredLevels` is `agents.strong.agent.Strong` without its training.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import torch
from torch import Tensor

from strong_envs.agents.strong.args import StrongArgs
from strong_envs.agents.strong.coupled_levels import CoupledLevels
from strong_envs.agents.strong.frame_attention.attention import FrameAttention
from strong_envs.agents.strong.frame_attention.scores import FrameScoresTask
from strong_envs.agents.strong.levels.level import Level
from strong_envs.agents.strong.presets import stored_args
from strong_envs.agents.strong.stored import (
    FOLDS,
    KNOWN_SENTENCES,
    Header,
    Progress,
    known_of,
    layer_widths,
    lean_args,
    unused_weights,
)
from strong_envs.agents.training.checkpoint import (
    check_widths,
    header_of,
    inputs_of,
    load_module,
    load_weights,
    save_weights,
)
from strong_envs.agents.training.loop import split
from strong_envs.agents.training.sentences import KnownWords
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import shown

if TYPE_CHECKING:
    from typing_extensions import Self


class StoredLevels(CoupledLevels):
    """Both levels, and how they are saved, loaded and resumed.

    Attributes:
        history: stages of the training with their scores. lean: whether weights that predictions do not use are gone.
        seconds: of the training so far.
    """

    resumable: ClassVar[bool] = True
    lean: bool
    seconds: float
    _began: float

    @classmethod
    def of(cls, bank: FeatureBank, args: StrongArgs) -> Self:
        """The system with exactly these arguments."""
        system = cls.__new__(cls)
        system._make(bank, args)
        return system

    def _make(self, bank: FeatureBank, args: StrongArgs) -> None:
        raise NotImplementedError

    def _make_folds(self) -> None:
        args, bank = self.args, self.bank
        folds = [FrameAttention(bank, args.frame_attention, args.seed).to(bank.device) for _ in range(args.folds)]
        self.fold_attentions = torch.nn.ModuleList(folds)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Trained numbers of both levels and the frame attention; targets, which follow them, are not counted."""
        parts = (self.temporal, self.spatial, self.frame_attention, self.fold_attentions)
        return [p for part in parts if part is not None for p in part.parameters() if p.requires_grad]

    def save(self, path: str, lean: bool = False) -> None:
        """Write weights and arguments as one safetensors file; ``lean`` omits what predictions do not use.

        A system that was loaded from a lean file stays lean.
        """
        lean = lean or self.lean
        tensors = {f"{name}{k}": v for name, part in self._parts() for k, v in part.state_dict().items()}
        if lean:
            tensors = {k: v for k, v in tensors.items() if not k.startswith(unused_weights(self.args))}
        if len(self.words.known):
            tensors[KNOWN_SENTENCES] = self.words.known
        about = {"system": "Strong", "args": asdict(self.args), "history": self.history, "turn": self.turn}
        save_weights(path, tensors, about | {"lean": lean, "inputs": inputs_of(self.bank)})

    @classmethod
    def load(cls, path: str, bank: FeatureBank) -> Self:
        """Read what `save` wrote; ``bank`` gives the device and must have the features of the training."""
        tensors, about = load_weights(path, bank.device)
        if "turn" not in about:
            raise DataError(f"{shown(path)} is not a saved system of STRONG")
        header = header_of(about, Header, path)
        try:
            args = stored_args(header.args)
        except DataError as error:
            raise DataError(f"{shown(path)} is damaged or of another release: {error}") from None
        check_widths(layer_widths(args, header.lean), tensors, path)
        if header.lean:
            # Weights that were left out keep their initial values; predictions do not use them.
            args = lean_args(args)
        system = cls.of(bank, args)
        # Whether footage recurs was a matter of the training split.
        system.fold_attentions = None
        if args.average_folds and any(name.startswith(FOLDS) for name in tensors):
            system._make_folds()
        system.words = KnownWords(known_of(tensors, bank.query_dim, path))
        system.history, system.turn, system.lean = header.history, header.turn, header.lean
        for name, level in system._parts():
            part = split(tensors, name)
            if system.lean:
                rest = {k: v for k, v in level.state_dict().items() if f"{name}{k}".startswith(unused_weights(args))}
                part = rest | part
            load_module(level, part, path, bank.name)
        return system

    def _parts(self) -> list[tuple[str, torch.nn.Module]]:
        """Networks by the prefix of their weights."""
        parts = (
            ("temporal.", self.temporal),
            ("spatial.", self.spatial),
            ("frame_attention.", self.frame_attention),
            (FOLDS, self.fold_attentions),
            ("posterior.", self.posterior),
        )
        return [(name, part) for name, part in parts if part is not None]

    def identity(self) -> dict[str, Any]:
        """Arguments and data that a checkpoint must agree with, JSON-ready."""
        return {"args": asdict(self.args), "data": self.bank.store.content_hash, "split": self.bank.split}

    def training_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-ready values of everything but the training in progress."""
        values: dict[str, Any] = {"history": self.history, "turn": self.turn}
        values["seconds"] = time.perf_counter() - self._began
        tensors: dict[str, Tensor] = {}
        for prefix, part in self._parts():
            if isinstance(part, Level):
                held, values[prefix[:-1]] = part.training_state()
            else:
                held = part.state_dict()
            tensors |= {f"{prefix}{key}": value for key, value in held.items()}
        if self.task.local.source == "given" and self.task.local.boxes is not None:
            tensors["boxes"] = self.task.local.boxes.clone()
        if isinstance(self.task, FrameScoresTask):
            tensors["frame_logits"] = self.task.frame_logits.clone()
        return tensors, values

    def load_training_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Bring a system of the same arguments to where `training_state` was called."""
        progress = msgspec.convert(values, Progress)
        self.history[:], self.turn, self.seconds = progress.history, progress.turn, progress.seconds
        for prefix, part in self._parts():
            if isinstance(part, Level):
                part.load_training_state(split(tensors, prefix), values[prefix[:-1]])
            else:
                part.load_state_dict(split(tensors, prefix))
        if "boxes" in tensors:
            boxes = tensors["boxes"].to(self.bank.device)
            if self.cell_attention is not None:
                self.task = self._attended_task(self.bank, boxes)
            else:
                self.task = self._temporal_task(self.bank, boxes, frame_logits=tensors.get("frame_logits"))
        elif "frame_logits" in tensors and not self.args.takes_turns:
            boxes_of = self.untracked(self.bank)
            self.task = self._temporal_task(self.bank, boxes_of, frame_logits=tensors["frame_logits"])
