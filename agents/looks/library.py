"""MaskablePPO of sb3-contrib on `TemporalLook-v0`: 16 positions and zooms, the shared sensor in the slots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strong_envs.agents.looks.posterior import LookPosterior, seen_of
from strong_envs.agents.ranges import check_fields
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.looks.vector_env import TemporalLookVectorEnv


@dataclass(frozen=True)
class LibraryLookArgs:
    """Arguments of `LibraryLooker`."""

    steps: int = 60_000
    """Environment steps."""
    num_envs: int = 64
    most_looks: int = 16
    """Slots; the agent is paid after every look, so it can be stopped after fewer."""
    lr: float = 1e-3
    gamma: float = 0.95
    hidden: tuple[int, int] = (64, 64)
    settings: dict[str, Any] = field(
        default_factory=lambda: {"n_steps": 32, "batch_size": 512, "n_epochs": 4, "ent_coef": 0.01}
    )
    """Arguments of MaskablePPO that differ from the library's own."""

    def __post_init__(self) -> None:
        check_fields(self)


class LibraryLooker:
    """A masked policy of the library.

    Args:
        posterior: what answers, in training too.
        args: see `LibraryLookArgs`.
        seed: of weights and training.

    Raises:
        DataError: sb3-contrib is not installed.
    """

    def __init__(self, posterior: LookPosterior, args: LibraryLookArgs | None = None, seed: int = 0) -> None:
        try:
            import sb3_contrib  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            raise DataError("MaskablePPO needs sb3-contrib; install it with pip install sb3-contrib") from None
        self.library: Any = sb3_contrib
        self.posterior, self.args, self.seed = posterior, args or LibraryLookArgs(), seed

    def env(self, bank: FeatureBank, table: Tensor, num_envs: int, answers: bool = True) -> TemporalLookVectorEnv:
        """The environment that it trains and is tested in; without ``answers`` every answer is empty."""
        n_frames = bank.n_frames[bank.video]

        def answer(state: dict[str, Tensor]) -> Tensor:
            if not answers:
                return torch.zeros((len(state["sample"]), 2), dtype=torch.float64)
            seen = seen_of(table, state["sample"], state["rows"])
            return self.posterior.answer(seen, n_frames[state["sample"]])

        return TemporalLookVectorEnv(
            num_envs,
            bank,
            sensor=lambda samples, rows: table[samples, rows][:, None] / 4,
            answerer=answer,
            feedback="gain",
            max_looks=self.args.most_looks,
            max_steps=4 * self.args.most_looks,
            flatten=True,
            autoreset_mode="SameStep",  # type: ignore[arg-type]
            info="light",
            reveal_truth=False,
        )

    def fit(self, bank: FeatureBank, table: Tensor) -> LibraryLooker:
        """Train on episodes of the training part; ``table`` (S, N) has the log-odds of its rows."""
        from strong_envs.adapters.sb3 import vec_env

        env = vec_env(self.env(bank, table, self.args.num_envs))
        self.model = self.library.MaskablePPO(
            "MlpPolicy",
            env,
            learning_rate=self.args.lr,
            gamma=self.args.gamma,
            seed=self.seed,
            policy_kwargs={"net_arch": list(self.args.hidden)},
            device="cpu",
            **self.args.settings,
        )
        self.model.learn(self.args.steps)
        return self

    @torch.no_grad()
    def rows(self, bank: FeatureBank, table: Tensor, samples: Tensor | None = None) -> Tensor:
        """Greedy searches of a bank without an answer: (B, most looks) int64 in order, -1 where it looked less."""
        samples = torch.arange(len(bank)) if samples is None else samples
        out = []
        for part in samples.split(256):
            task = self.env(bank, table, 1, answers=False).task
            state = task.initial(part)
            for _ in range(task.config.limit):
                mask = task.action_mask(state)
                # Answering is put off: the number of looks is set from outside.
                mask[:, -1] = ~mask[:, :-1].any(1)
                seen = torch.cat([x.flatten(1) for x in task.observe(state).values()], 1).numpy()
                action, _ = self.model.predict(seen, action_masks=mask.numpy(), deterministic=True)
                if not bool((state["looks"] < self.args.most_looks).any()):
                    break
                state = task.act(state, torch.as_tensor(np.asarray(action))).state
            out.append(state["rows"])
        return torch.cat(out)
