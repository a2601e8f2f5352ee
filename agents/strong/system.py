"""STRONG and its simpler relatives behind the interface of systems, and the random policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from strong_envs.agents.registry import Prediction, ProgressCallback, SystemSpec, register
from strong_envs.agents.strong.agent import LEARNT, Strong
from strong_envs.agents.strong.args import strong_args
from strong_envs.agents.training.session import Session
from strong_envs.core import spans
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.policies import as_policy
from strong_envs.rollout import localise
from strong_envs.temporal.task import make_task


class StrongSystem:
    """`agents.strong.agent.Strong` behind the interface of systems."""

    def __init__(
        self,
        bank: FeatureBank,
        seed: int = 0,
        budget: float = 1.0,
        preset: str = "default",
        env: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        # Part of a level's or an environment's arguments may be given by name: {"temporal": {"gamma": 0.4}}.
        parts = {name: changes.pop(name) for name, value in list(changes.items()) if isinstance(value, Mapping)}
        args = strong_args(preset, parts.get("spatial_env", {}).get("reward"), seed=seed, **changes)
        parts["temporal_env"] = {**parts.get("temporal_env", {}), **(env or {})}
        args = replace(args, **{name: replace(getattr(args, name), **part) for name, part in parts.items()})
        if args.boxes not in LEARNT:
            # The same number of steps as a tracked system spends on its temporal level.
            changes = {"pretrain_steps": args.pretrain_steps + args.rounds * args.temporal_steps}
            args = replace(args, **changes)
        frame_attention = replace(args.frame_attention, steps=max(int(args.frame_attention.steps * budget), 10))
        args = replace(args, frame_attention=frame_attention)
        scaled = ("pretrain_steps", "spatial_steps", "temporal_steps")
        args = replace(args, **{name: max(int(getattr(args, name) * budget), 1000) for name in scaled})
        self.strong = Strong(bank, args)

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.strong.history

    def fit(
        self,
        report: ProgressCallback | None = None,
        evaluate: Callable[[Any, str], dict] | None = None,
        checkpoint: Session | None = None,
    ) -> StrongSystem:
        """Train; ``evaluate`` sees this system after each stage, ``checkpoint`` stores the training as it goes."""
        wrapped = None if evaluate is None else lambda _, stage: evaluate(self, stage)
        self.strong.fit(report, wrapped, checkpoint)
        return self

    def predict(self, bank: FeatureBank) -> Prediction:
        """Greedy episodes; before the first turn a tracked system looks at whole frames.

        The mean over the whole video (f_g) looks at every frame; hidden visual inputs look at none.
        """
        found = self.strong.predict(bank, None if self.strong.turn else False)
        share = 0.0 if self.strong.args.blind else 1.0
        found.setdefault("frames_seen", torch.full((len(bank),), share, dtype=torch.float64, device=bank.device))
        return Prediction(**found)

    @property
    def boxes(self) -> str:
        """What the temporal level looks at, see `agents.strong.agent`."""
        return self.strong.args.boxes

    @torch.no_grad()
    def confidence(self, bank: FeatureBank, prediction: Prediction) -> Tensor:
        """The policy's probability of stopping in the predicted windows: (S,) float32."""
        strong = self.strong
        task = strong._temporal_task(bank, strong.untracked(bank) if prediction.boxes is None else prediction.boxes)
        samples = torch.arange(len(bank), device=bank.device)
        start, end = (prediction.spans / task.seconds[:, None]).unbind(-1)
        seen = strong.temporal.inputs(task.observe(samples, start, end, prediction.length))
        return strong.temporal.actor(seen)[:, spans.STOP]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Trained numbers of both levels and the frame attention; targets, which follow them, are not counted."""
        parts = (self.strong.temporal, self.strong.spatial, self.strong.frame_attention)
        return [p for part in parts if part is not None for p in part.parameters() if p.requires_grad]

    def save(self, path: str) -> None:
        """One safetensors file."""
        self.strong.save(path)

    @classmethod
    def load(cls, path: str, bank: FeatureBank) -> StrongSystem:
        """Read what `save` wrote; ``bank`` gives the device and must have the features it was trained on."""
        system = cls.__new__(cls)
        system.strong = Strong.load(path, bank)
        return system


for _spec in (
    SystemSpec(
        "blind",
        StrongSystem,
        "the same agent with every visual input hidden",
        needs_frames=False,
        defaults={"boxes": "frame", "blind": True},
    ),
    SystemSpec("trl", StrongSystem, "temporal level alone, whole frames", defaults={"boxes": "frame"}),
    SystemSpec(
        "trl+gau",
        StrongSystem,
        "temporal level, a fixed centred Gaussian over the frame",
        needs_grid=True,
        defaults={"boxes": "gaussian"},
    ),
    SystemSpec(
        "strong",
        StrongSystem,
        "both levels, trained in turns, windows averaged",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "tracked"},
    ),
    SystemSpec(
        "strong+attention",
        StrongSystem,
        "the same with both attentions over frames",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "tracked", "attention": True},
    ),
    SystemSpec(
        "strong+frame scores",
        StrongSystem,
        "STRONG that is also shown what its frame attention says of the frames and of how they change",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "tracked", "frame_scores": True, "frame_attention": {"change": 0.05}},
    ),
    SystemSpec(
        "attention boxes",
        StrongSystem,
        "STRONG without the tracker: in every frame the box at which the temporal level looks",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "attention"},
    ),
    SystemSpec(
        "static attention box",
        StrongSystem,
        "the same with one box for the whole video, in the middle of these",
        needs_grid=True,
        tracks_boxes=True,
        defaults={"boxes": "static_attention"},
    ),
    SystemSpec(
        "GT static box",
        StrongSystem,
        "temporal level on one box around the true ones of the moment (upper bound)",
        needs_grid=True,
        needs_boxes=True,
        upper_bound=True,
        defaults={"boxes": "static"},
    ),
    SystemSpec(
        "GT boxes",
        StrongSystem,
        "temporal level on the true boxes (upper bound)",
        needs_grid=True,
        needs_boxes=True,
        upper_bound=True,
        defaults={"boxes": "truth", "box_margin": 0.05},
    ),
    SystemSpec(
        "critic on GT boxes",
        StrongSystem,
        "the same, choosing by the critic's values instead of the actor (upper bound)",
        needs_grid=True,
        needs_boxes=True,
        upper_bound=True,
        defaults={"boxes": "truth", "box_margin": 0.05, "temporal": {"greedy": "critic"}},
    ),
):
    register(_spec)


class RandomPolicy:
    """Uniformly random moves until stop: what the environment gives to an agent that learnt nothing."""

    def __init__(
        self, bank: FeatureBank, seed: int = 0, budget: float = 1.0, env: Mapping[str, Any] | None = None
    ) -> None:
        self.seed, self.env, self.history = seed, dict(env or {}), []

    def fit(
        self, report: ProgressCallback | None = None, evaluate: Callable[[Any, str], dict] | None = None
    ) -> RandomPolicy:
        """Nothing to learn."""
        return self

    def predict(self, bank: FeatureBank) -> Prediction:
        """Where the walks end."""
        task = make_task(bank, **self.env)
        policy = as_policy("random", task.n_actions, torch.Generator().manual_seed(self.seed))
        return Prediction(**vars(localise(task, policy)))


register(
    SystemSpec(
        "random policy", RandomPolicy, "uniformly random moves until stop", needs_training=False, needs_frames=False
    )
)
