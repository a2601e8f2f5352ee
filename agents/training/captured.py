"""A step of a training that a CUDA device records once and replays: the host launches one graph instead of its kernels.

Networks of this project are small, so that launching a kernel takes longer than running it. A recorded step computes
the same numbers from the same kernels. It has to be free of waits: no number may travel to the host, none may be made
there, and every tensor has the same shape each time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""From named tensors of fixed shapes to named tensors."""
WARM = 3
"""Calls that run as they are before one is recorded: libraries allocate and choose kernels in the first ones."""


class CapturedStep:
    """Calls a step, on a CUDA device by replaying its graph from the fourth call on.

    Args:
        step: the function. It reads and writes tensors that stay where they are, as weights do.
        device: where its tensors are.

    The tensors returned are overwritten by the next call.
    """

    def __init__(self, step: Step, device: torch.device) -> None:
        self.step, self.device = step, device
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.given: dict[str, Tensor] = {}
        self.made: dict[str, Tensor] = {}

    def __call__(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step from tensors on the device, of the names and shapes of the first call."""
        if self.device.type != "cuda":
            return self.step(given)
        self.calls += 1
        if self.calls <= WARM:
            return self._aside(given)
        if self.graph is None:
            self._record(given)
        assert self.graph is not None
        for name, value in given.items():
            self.given[name].copy_(value, non_blocking=True)
        self.graph.replay()
        return self.made

    def _aside(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run on a stream of its own, as what is recorded later will."""
        stream, now = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            made = self.step(given)
        now.wait_stream(stream)
        return made

    def _record(self, given: dict[str, Tensor]) -> None:
        """Record the step; nothing is computed yet."""
        self.given = {name: value.clone() for name, value in given.items()}
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.made = self.step(self.given)
