"""From scores of frames to the window that answers: a posterior over windows, and the one of highest expected IoU.

A window w = [a, b) of n equal stretches with scores z (logarithms of shares, 0 where all stretches are alike) has

    log P(w) = k1 * sum of z in w + k2 * (z_a - z_(a-1) + z_(b-1) - z_b) + k3 * length + log prior(length) + const

The sum would be all if stretches were independent. They are not: a mistaken scene raises all its frames at once (so k1
is below 1), and it has edges as sharp as the right one's (hence k2). The k are fitted by the likelihood of the true
windows of the validation part, the prior is the histogram of lengths of the training split. The answer is the window
whose IoU, averaged over the posterior, is highest; this mean is its confidence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from strong_envs.agents.baselines.candidates import best_iou
from strong_envs.agents.references.heuristics import windows_on_grid
from strong_envs.core import spans

OUTSIDE = -2.0
"""Score of what lies before and after the video."""
SUREST = 8.0
"""Bound of the scores."""


def grid_windows(cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The windows of `windows_on_grid` and the IoU of each with each.

    Returns:
        (W, 2) float64 fractions of the duration, and (W, W) float32.
    """
    windows = torch.as_tensor(windows_on_grid(cells), device=device)
    return windows, spans.iou_with_each(windows[None], windows[None])[0].to(torch.float32)


class WindowPosterior(nn.Module):
    """Posterior over the windows of `windows_on_grid`, in its order.

    Args:
        cells: stretches of a video.
    """

    start: Tensor
    end: Tensor
    prior: Tensor
    factors: Tensor

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells
        start, end = torch.triu_indices(cells + 1, cells + 1, 1)
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("end", end, persistent=False)
        self.register_buffer("prior", torch.zeros(cells))
        self.register_buffer("factors", torch.tensor([0.5, 0.0, 0.0]))
        self._shared: Tensor | None = None

    def fit_lengths(self, truth: Tensor) -> None:
        """Take the prior from true windows (S, K, 2), fractions of the duration: a smoothed histogram of lengths."""
        cells = self.cells
        length = ((truth[..., 1] - truth[..., 0]) * cells).flatten().clamp(1, cells).to(torch.float32)
        counts = torch.histc(length.cpu(), cells, 0.5, cells + 0.5)
        counts = nn.functional.avg_pool1d(counts[None, None], 3, 1, 1, count_include_pad=False)[0, 0]
        # A window of any length is possible; those of one length are as likely as each other, wherever they begin.
        share = (counts + 0.02 * len(length) / cells) / (counts.sum() + 0.02 * len(length))
        self.prior.copy_((share / torch.arange(cells, 0, -1)).log())

    def parts(self, scores: Tensor) -> Tensor:
        """Sum, edges and length of every window: scores (B, cells) to (B, windows, 3)."""
        start, end = self.start, self.end
        z = (scores - scores.logsumexp(1, keepdim=True) + torch.tensor(float(self.cells)).log()).clamp(-SUREST, SUREST)
        before = nn.functional.pad(z.cumsum(1), (1, 0))
        padded = nn.functional.pad(z, (1, 1), value=OUTSIDE)
        edges = padded[:, start + 1] - padded[:, start] + padded[:, end] - padded[:, end + 1]
        length = (end - start).to(z.dtype).expand_as(edges)
        return torch.stack((before[:, end] - before[:, start], edges, length), -1)

    def forward(self, scores: Tensor) -> Tensor:
        """Logarithms of the probabilities of all windows: scores (B, cells) to (B, windows)."""
        return (self.parts(scores) @ self.factors + self.prior[self.end - self.start - 1]).log_softmax(-1)

    @torch.enable_grad()
    def fit(self, scores: Tensor, truth: Tensor) -> None:
        """Fit k1 to k3 by the likelihood of true windows (S, K, 2), fractions of the duration, given scores (S, cells).

        Every true window counts as the window of the grid with the highest IoU.
        """
        windows = self.windows(scores)
        parts = self.parts(scores)
        prior = self.prior[self.end - self.start - 1]
        spread = parts.flatten(0, 1).std(0).clamp(min=1e-6)
        parts = parts / spread
        target = torch.stack([best_iou(windows, truth[:, k : k + 1]).argmax(1) for k in range(truth.shape[1])], 1)
        factors = torch.zeros(3, device=scores.device, requires_grad=True)
        optimiser = torch.optim.LBFGS([factors], lr=0.5, max_iter=100)

        def step() -> Tensor:
            optimiser.zero_grad()
            likely = (parts @ factors + prior).log_softmax(-1).gather(1, target).logsumexp(1)
            # A little decay keeps the factors finite where the scores are always right.
            loss = 1e-4 * factors.square().sum() - likely.mean()
            loss.backward()
            return loss

        optimiser.step(step)  # type: ignore[arg-type]
        if bool(factors.isfinite().all()):
            self.factors.copy_(factors.detach() / spread)

    def windows(self, like: Tensor) -> Tensor:
        """The windows as fractions of the duration: (windows, 2) float64 on the device of a tensor."""
        return torch.as_tensor(windows_on_grid(self.cells), device=like.device)

    def expected_iou(self, scores: Tensor) -> Tensor:
        """Mean IoU of every window over the posterior: scores (B, cells) to (B, windows) in [0, 1]."""
        shared = self._shared
        if shared is None or shared.device != scores.device:
            shared = self._shared = grid_windows(self.cells, scores.device)[1]
        return self(scores).exp() @ shared
