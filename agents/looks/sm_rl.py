"""SM-RL on `TemporalLook-v0`: the published agent that reads single frames, with the shared sensor among its inputs.

`strong_envs.agents.baselines.sm_rl` has the agent and what was not published. Here its frames come with the log-odds of
the sensor that all searches share, and where it looks is separated from what it answers: the rows of its looks can be
answered by the posterior of `agents.looks.posterior`, as for every other row, or by its own detection. ``tables=None``
leaves the log-odds out: the agent as it is published, which learns what a frame shows by itself.

It is trained for one number of looks, because its policy begins as an even sweep of that many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from strong_envs.agents.baselines.sequential import PREDICT_BATCH
from strong_envs.agents.baselines.sm_rl import SmRl
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError
from strong_envs.looks import dynamics
from strong_envs.temporal.task import TemporalTask

SCALE = 4.0
"""Log-odds are divided by it, as for the library's agent."""


class SmRlLooker(SmRl):
    """SM-RL whose looks are rows of a video.

    Args:
        bank: the training part.
        tables: by part, (S, N) log-odds of its rows: that of ``bank``, of the validation part where its store has one,
            and of every part that is searched. None: the agent sees frames alone.
        arguments: of `strong_envs.agents.baselines.sm_rl.SmRl`; ``looks`` is the number that it is trained for.
    """

    def __init__(self, bank: FeatureBank, tables: Mapping[str, Tensor] | None = None, **arguments: Any) -> None:
        self.tables = tables
        super().__init__(bank, **arguments)

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Raise `DataError` for arguments that do not exist or lie outside their range."""
        super().check_arguments(**{name: value for name, value in arguments.items() if name != "tables"})

    def input_shapes(self, task: TemporalTask) -> dict[str, tuple[int, ...]]:
        """Those of SM-RL; where there is a sensor, a frame has one more number."""
        shapes = task.dims()
        if self.tables is None:
            return shapes
        return shapes | {"local": (torch.Size(shapes["local"]).numel() + 1,)}

    def _frame(self, task: TemporalTask, samples: Tensor, position: Tensor) -> Tensor:
        """The row at positions (B,) in [0, 1]: its frame vector (D,), and its log-odds; no other row is read."""
        bank = task.bank
        row = rows_at(position, bank.n_frames[bank.video[samples]])
        frame = bank.frames[bank.offsets[bank.video[samples]] + row].to(torch.float32)
        if self.tables is None:
            return frame
        table = self.tables.get(str(bank.split))
        if table is None:
            raise DataError(f"tables has no log-odds of the part {bank.split!r}; it has {sorted(self.tables)}")
        return torch.cat((frame, table[samples, row][:, None] / SCALE), 1)

    @torch.no_grad()
    def looks(self, bank: FeatureBank, samples: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Searches of a bank: rows (B, looks) int64 in order, -1 where a look repeats one, and its own answers.

        The answers are detections (B, 2) float64, fractions of the videos.
        """
        task = self.make_task(bank)
        samples = torch.arange(len(bank)) if samples is None else samples
        rows, windows = [], []
        for part in samples.split(PREDICT_BATCH):
            episode = self.episode(task, part, bank.query[part])
            row = rows_at(episode.position.T, bank.n_frames[bank.video[part]][:, None])
            again = (row[:, :, None] == row[:, None, :]).tril(-1).any(2)
            rows.append(torch.where(again, dynamics.NO_ROW, row))
            windows.append(self.locate(task, part).spans / bank.duration[bank.video[part]][:, None])
        return torch.cat(rows), torch.cat(windows)


def rows_at(position: Tensor, n_frames: Tensor) -> Tensor:
    """Rows at positions in [0, 1], elementwise: int64."""
    return dynamics.row_at(position.to(torch.float64), n_frames)
