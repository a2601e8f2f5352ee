"""Experience replay that stores indices: a transition is some tens of bytes, whatever the size of a feature."""

from __future__ import annotations

import torch
from torch import Tensor

from strong_envs.features.devices import sent

STORED = {torch.float64: torch.float32, torch.int64: torch.int32}


class IndexReplay:
    """A ring of transitions between compact states (`IndexVectorEnv.state`).

    Observations are rebuilt from the bank when sampled, with today's boxes and weights. Positions are kept in float32
    (exact for whole steps), counters in int32.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity, self.device = capacity, device
        self.columns: dict[str, Tensor] = {}
        self.size = self.cursor = 0

    def add(self, **columns: Tensor) -> None:
        """Append a batch: every argument is (B, ...); the oldest transitions make room."""
        count = len(next(iter(columns.values())))
        if not self.columns:
            for name, value in columns.items():
                dtype = STORED.get(value.dtype, value.dtype)
                self.columns[name] = torch.zeros((self.capacity, *value.shape[1:]), dtype=dtype, device=self.device)
        at = (torch.arange(count, device=self.device) + self.cursor) % self.capacity
        for name, value in columns.items():
            self.columns[name][at] = value.to(self.columns[name].dtype)
        self.cursor = (self.cursor + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """``count`` transitions drawn uniformly with replacement, integers as int64."""
        return self.rows(sent(torch.randint(self.size, (count,), generator=generator), self.device))

    def rows(self, at: Tensor) -> dict[str, Tensor]:
        """The transitions in places ``at`` (B,) int64 of the ring, integers as int64."""
        rows = {name: column[at] for name, column in self.columns.items()}
        return {name: row.to(torch.int64) if row.dtype == torch.int32 else row for name, row in rows.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the transitions held, column by column, and where the next one goes."""
        place = torch.tensor([self.size, self.cursor])
        return {"place": place} | {f"column.{k}": v[: self.size].clone() for k, v in self.columns.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` of a replay of the same capacity gave."""
        size, cursor = state["place"].tolist()
        rows = {len(held) for name, held in state.items() if name.startswith("column.")}
        if not (0 <= size <= self.capacity and 0 <= cursor < self.capacity) or rows - {size}:
            raise ValueError(f"a replay of {self.capacity} transitions cannot hold {size} of them at {cursor}")
        self.size, self.cursor = size, cursor
        self.columns = {}
        for name, held in state.items():
            if name.startswith("column."):
                column = torch.zeros((self.capacity, *held.shape[1:]), dtype=held.dtype, device=self.device)
                column[: self.size] = held.to(self.device)
                self.columns[name.removeprefix("column.")] = column

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(column.numel() * column.element_size() for column in self.columns.values())
