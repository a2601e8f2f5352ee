"""Base of the systems that learn to score windows (CTRL, MCN, ACRN, one-shot): arguments, loop, prediction, files.

A system of this kind has a network, a loss on a batch of sentences, and a score for every window; its file describes
its paper. The windows are `agents.baselines.candidates.sliding_windows`; the one-shot policy and the frame classifier
take those of a grid. A window is represented by the mean of whole frames, as published, or of what lies inside boxes:
the same f_o as that of the agents that move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.candidates import best_iou, candidate_oracle, fit_scales, rank, sliding_windows
from strong_envs.agents.box_source import check_common, local_features
from strong_envs.agents.ranges import check_fields, widths_of
from strong_envs.agents.registry import BaseSystem, Evaluate, Prediction, ProgressCallback
from strong_envs.agents.training.checkpoint import (
    check_widths,
    header_of,
    inputs_of,
    load_module,
    load_weights,
    save_weights,
)
from strong_envs.agents.training.matching import dropout_for
from strong_envs.agents.training.networks import Standardise
from strong_envs.agents.training.sentences import Sentences
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError, nearest
from strong_envs.features.files.errors import shown
from strong_envs.local_features import LocalFeatures

if TYPE_CHECKING:
    from typing_extensions import Self

FITTED = 100_000
"""Least number of frames that inputs are standardised by, where there are as many."""
PREDICT = 1 << 22
"""Numbers in each intermediate result of a prediction at a time (16 MiB)."""


@dataclass(frozen=True)
class RankArgs:
    """Arguments of every system that ranks windows."""

    steps: int = 2000
    """Updates of the network at budget 1."""
    batch: int = 56
    """Sentences in an update."""
    lr: float = 1e-3
    top: int = 10
    """Windows in a prediction, best first."""
    nms: float | None = 0.45
    """IoU above which the lower of two windows is dropped (public code of TALL: the m of R@n, IoU=m, minus 0.05)."""
    input_dropout: float | None = None
    """Share of the standardised features and sentences that is dropped in training; None: by the number of features
    (`dropout_for`)."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class WindowArgs(RankArgs):
    """Arguments of every system over sliding windows."""

    scales: tuple[float, ...] | None = None
    """Lengths of the windows as fractions of the duration; None fits ``scale_count`` of them to the training split."""
    scale_count: int = 5
    overlap: float = 0.8
    """Share of its length that a window has in common with its neighbour; the papers slide by a fifth."""


class Inputs(nn.Module):
    """Features and sentences brought to mean 0 and spread 1 by the statistics of the training split, bounded by 10.

    Args:
        bank: the training split.
        local: what lies inside boxes, where that is seen instead of whole frames.
        dropout: share of both that is dropped in training; None: by the number of features.
    """

    def __init__(self, bank: FeatureBank, local: LocalFeatures | None = None, dropout: float | None = None) -> None:
        super().__init__()
        frames = bank.frames[:: max(len(bank.frames) // FITTED, 1)] if local is None else spread_frames(local, FITTED)
        self.frame_dim, self.query_dim = frames.shape[1], bank.query_dim
        self.frame = Standardise({"x": (self.frame_dim,)})
        self.query = Sentences(bank.query)
        self.drop = nn.Dropout(dropout_for(self.frame_dim, dropout))
        self.frame.fit({"x": frames})

    def visual(self, means: Tensor) -> Tensor:
        """(..., D) means of frames, standardised."""
        return self.drop(self.frame({"x": means.flatten(0, -2)}).view(means.shape))

    def sentence(self, vectors: Tensor) -> Tensor:
        """(B, Dq) sentence vectors, in the words of the training split and standardised."""
        return self.drop(self.query(vectors))


def spread_frames(local: LocalFeatures, count: int) -> Tensor:
    """What is seen in some ``count`` single frames, spread evenly over all samples: (about ``count``, D) float32."""
    total = int(local.rows[-1])
    rows = torch.arange(0, total, max(total // count, 1), device=local.rows.device)
    samples = torch.searchsorted(local.rows, rows, right=True) - 1
    frames = rows - local.rows[samples]
    return local.means(samples, frames, frames + 1)


class WindowNet(nn.Module):
    """Base of the networks, with the standardised inputs of the training split."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs


class WindowSystem(BaseSystem):
    """A system that scores windows; the members of a subclass stand first below.

    Args:
        bank: the training split.
        seed: of weights and samples.
        budget: factor on ``steps``.
        env: arguments of the environments, which this kind of system does not use.
        boxes: source of a frame's features, see `LocalFeatures`: ``"frame"`` all of it, as published, ``"truth"`` what
            lies in the GT box (an upper bound), a tensor of corners; or a trained STRONG, see `agents.box_source`.
        box_margin: added around every box, in fractions of the frame.
        options: fields of ``Args``.

    Raises:
        DataError: an unknown option, or a value outside its range.
    """

    name: ClassVar[str]
    Args: ClassVar[type[RankArgs]]
    clip: ClassVar[float] = float("inf")
    """Largest norm of a gradient."""
    frames_seen: float = 1.0
    """Share of a video's frames that a prediction reads."""
    args: Any
    net: Any

    def __init__(
        self,
        bank: FeatureBank,
        seed: int = 0,
        budget: float = 1.0,
        env: Mapping[str, Any] | None = None,
        boxes: str | Tensor = "frame",
        box_margin: float = 0.0,
        **options: Any,
    ) -> None:
        args = self._resolve(seed, budget, env, boxes, box_margin, **options)
        if isinstance(args, WindowArgs) and args.scales is None:
            args = replace(args, scales=fit_scales(bank.truth, args.scale_count))
        self.bank, self.args, self.seed, self.budget = bank, args, seed, budget
        self.boxes, self.box_margin = boxes, box_margin
        self._seen: LocalFeatures | None = None
        self.history = []
        self.windows = self.candidates()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            whole = isinstance(boxes, str) and boxes == "frame"
            self.net = self.build(Inputs(bank, None if whole else self.seen(bank), args.input_dropout))
        self.net.to(bank.device).eval()

    # Members of a subclass ------------------------------------------------------------------------------------------

    @property
    def reach(self) -> float:
        """Share of its length by which the system may move each end of a window."""
        return 0.0

    def candidates(self) -> Tensor:
        """The windows that are scored, the same for every video: (N, 2) float64, fractions of the duration."""
        raise NotImplementedError

    def build(self, inputs: Inputs) -> WindowNet:
        """The network."""
        raise NotImplementedError

    def optimiser(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Optimiser and schedule for a training of ``steps`` updates."""
        raise NotImplementedError

    def examples(self) -> Tensor:
        """Mask of the samples of the training bank that can be learnt from: (S,) bool. Called once, before training."""
        raise NotImplementedError

    def loss(self, samples: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of a batch of different samples (B,) of the training bank."""
        raise NotImplementedError

    def score(self, bank: FeatureBank, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, N) of all windows of samples (B,), higher is better, and these windows (B, N, 2)."""
        raise NotImplementedError

    def probability(self, scores: Tensor) -> Tensor:
        """Scores as numbers in [0, 1], in the same order."""
        raise NotImplementedError

    def updated(self, step: int, steps: int) -> None:
        """Called after every update of the network, the last one included."""

    # The interface of systems ---------------------------------------------------------------------------------------

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raise `DataError` for arguments that do not exist or lie outside their range."""
        cls._resolve(**arguments)

    @classmethod
    def _resolve(
        cls,
        seed: int = 0,
        budget: float = 1.0,
        env: Mapping[str, Any] | None = None,
        boxes: str | Tensor = "frame",
        box_margin: float = 0.0,
        **options: Any,
    ) -> RankArgs:
        valid = [f.name for f in fields(cls.Args)]
        for option in options:
            if option not in valid:
                raise DataError(f"{cls.name} has no option {option!r}{nearest(option, valid)}; it has {valid}")
        check_common(seed, budget, boxes, box_margin)
        return cls.Args(**options)

    @classmethod
    def arguments(cls) -> dict[str, type]:
        """Fields of ``Args``."""
        return {"": cls.Args}

    @property
    def needs_cells(self) -> bool:
        """Whether features are pooled from the grid."""
        return not (isinstance(self.boxes, str) and self.boxes == "frame")

    def seen(self, bank: FeatureBank) -> LocalFeatures:
        """Features of the frames of a bank; those of the last bank are cached."""
        if self._seen is None or self._seen.bank is not bank:
            self._seen = local_features(bank, self.boxes, self.box_margin)
        return self._seen

    def parameters(self) -> list[nn.Parameter]:
        """The trained tensors."""
        return list(self.net.parameters())

    def oracle(self, bank: FeatureBank) -> Tensor:
        """The best IoU that this system can reach for each query of a bank: (S,) float64, see `candidate_oracle`."""
        return candidate_oracle(bank, self.windows, self.reach)

    def fit(self, report: ProgressCallback | None = None, evaluate: Evaluate | None = None) -> Self:
        """Train on epochs of shuffled sentences; ``evaluate`` is called once afterwards, for the history."""
        began = time.perf_counter()
        device = self.bank.device
        usable = self.examples().nonzero()[:, 0]
        if not len(usable):
            lengths = ", ".join(f"{scale:.3f}" for scale in sorted({float(b - a) for a, b in self.windows.tolist()}))
            raise DataError(
                f"no window of {self.name} matches a moment of {self.bank.name!r}; its lengths are {lengths} of a "
                "video: set other scales, or a higher overlap"
            )
        batch = min(self.args.batch, len(usable))
        steps = max(int(self.args.steps * self.budget), 10)
        optimiser, schedule = self.optimiser(steps)
        generator = torch.Generator(device=device).manual_seed(self.seed + 1)
        position, order = len(usable), usable
        self.net.train()
        # Dropout draws from torch's own generator: it is seeded here and given back as it was.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed + 2)
            for step in range(1, steps + 1):
                if position + batch > len(usable):
                    position = 0
                    order = usable[torch.randperm(len(usable), device=device, generator=generator)]
                loss = self.loss(order[position : position + batch], generator)
                position += batch
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                if self.clip < float("inf"):
                    nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
                optimiser.step()
                schedule.step()
                self.updated(step, steps)
                if report is not None and (step % 50 == 0 or step == steps):
                    report("training", step, steps, {"loss": float(loss.detach())})
        self.net.eval()
        if not all(bool(parameter.isfinite().all()) for parameter in self.net.parameters()):
            raise DataError(f"the training of {self.name} diverged with lr={self.args.lr:g}; a lower one is needed")
        seconds = time.perf_counter() - began
        scores = evaluate(self, "training") if evaluate is not None else {}
        self.history.append({"stage": "training", "seconds": seconds, **scores})
        return self

    @torch.no_grad()
    def predict(self, bank: FeatureBank, boxes: str | Tensor | None = None) -> Prediction:
        """The best windows of every query, after suppression, in seconds.

        ``boxes`` replaces those it was made with: a tensor of them fits one bank only.
        """
        if boxes is not None:
            self._seen = local_features(bank, boxes, self.box_margin)
        try:
            return self._predict(bank)
        finally:
            if boxes is not None:
                self._seen = None

    def _predict(self, bank: FeatureBank) -> Prediction:
        self.check_sizes(bank)
        self.net.eval()
        ranked, scores = [], []
        # Three means a window, or three embeddings of some hundred numbers.
        size = max(PREDICT // (3 * len(self.windows) * max(self.net.inputs.frame_dim, 128)), 1)
        for samples in torch.arange(len(bank), device=bank.device).split(size):
            value, windows = self.score(bank, samples)
            best, best_value = rank(windows, value, self.args.top, self.args.nms)
            ranked.append(best)
            scores.append(best_value)
        seconds = torch.cat(ranked) * bank.duration[bank.video][:, None, None]
        frames_seen = torch.full((len(bank),), self.frames_seen, dtype=torch.float64, device=bank.device)
        return Prediction(seconds[:, 0], ranked=seconds, scores=torch.cat(scores), frames_seen=frames_seen)

    def confidence(self, bank: FeatureBank, prediction: Prediction) -> Tensor:
        """Probability of the best window of each query: (S,) in [0, 1]."""
        if prediction.scores is None:
            raise DataError(f"a prediction of {self.name} has scores; this one has none")
        return self.probability(prediction.scores[:, 0])

    def check_sizes(self, bank: FeatureBank) -> None:
        """Refuse a bank whose features are not as large as those of the training."""
        inputs, frame_dim = self.net.inputs, self.seen(bank).dim
        if (frame_dim, bank.query_dim) != (inputs.frame_dim, inputs.query_dim):
            raise DataError(
                f"{self.name} was made for frames of {inputs.frame_dim} and sentences of {inputs.query_dim} numbers; "
                f"{bank.name!r} has {frame_dim} and {bank.query_dim}"
            )

    def save(self, path: str) -> None:
        """Write weights, statistics and arguments as one safetensors file."""
        about = {
            "system": self.name,
            "args": asdict(self.args),
            "boxes": self.boxes if isinstance(self.boxes, str) else None,
            "box_margin": self.box_margin,
            "seed": self.seed,
            "budget": self.budget,
            "history": self.history,
            "inputs": inputs_of(self.bank),
        }
        save_weights(path, self.net.state_dict(), about)

    @classmethod
    def load(cls, path: str, bank: FeatureBank, boxes: str | Tensor | None = None) -> Self:
        """Read what `save` wrote; ``bank`` gives the device and must have the features of the training.

        A system trained on a tensor of boxes needs ``boxes`` for ``bank``, because the file does not hold them.
        """
        tensors, about = load_weights(path, bank.device)
        if about.get("system") != cls.name:
            raise DataError(f"{shown(path)} holds {about.get('system', 'another kind of agent')!r}, not {cls.name!r}")
        header = header_of(about, Header, path)
        boxes = header.boxes if boxes is None else boxes
        if boxes is None:
            raise DataError(f"{shown(path)} was trained on given boxes; pass boxes= for {bank.name!r}")
        options: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in header.args.items()}
        made: dict[str, Any] = {"seed": header.seed, "budget": header.budget, "box_margin": header.box_margin}
        try:
            cls.check_arguments(boxes=boxes, **made, **options)
            check_widths(cls.widths(cls.Args(**options)), tensors, path)
        except (DataError, TypeError) as error:
            raise DataError(f"{shown(path)} is damaged or of another release: {error}") from None
        system = cls(bank, boxes=boxes, **made, **options)
        load_module(system.net, tensors, path, bank.name)
        system.history = header.history
        return system

    @classmethod
    def widths(cls, args: RankArgs) -> dict[str, int]:
        """Sizes that a tensor of a saved system has, by name."""
        return widths_of(args)


class Header(msgspec.Struct):
    """The header of a saved system."""

    args: dict[str, Any]
    seed: int
    budget: float
    history: list[dict[str, Any]]
    boxes: str | None = "frame"
    box_margin: float = 0.0


class SlidingWindowSystem(WindowSystem):
    """A system over sliding windows."""

    Args = WindowArgs

    def candidates(self) -> Tensor:
        """Sliding windows of every scale."""
        return sliding_windows(self.args.scales, self.args.overlap, self.bank.device)


def masks_by_sample(windows: Tensor, truth: Tensor, rule: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Apply a rule of windows (N, 2) and truths (s, K, 2) to (s, N) to all samples, in bounded memory: (S, N)."""
    size = max(4_000_000 // (len(windows) * truth.shape[1]), 1)
    return torch.cat([rule(windows, part) for part in truth.split(size)])


def closest_window(windows: Tensor, truth: Tensor) -> Tensor:
    """Mask of each sample's window with the highest IoU: (S, N) bool, one True a row."""
    best = best_iou(windows, truth).argmax(-1)
    return torch.nn.functional.one_hot(best, len(windows)).to(torch.bool)
