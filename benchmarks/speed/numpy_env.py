"""Plain NumPy versions of the temporal level, as a user would write them, to be measured against.

They do the same arithmetic on the same prefix sums, so that results can be checked for equality before times are taken.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from strong_envs.core.sampling import draw, key_from, keys_from_seeds, seeds_of
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.bank.pooling import WindowMeans

SHIFTS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (0, 0)], np.float64)
TOTAL, STEPS, STOP, PHI = 20.0, 20, 6, 0.1


def _draw(key: Any, counter: Any, size: int) -> np.ndarray:
    """`core.sampling.draw` is arithmetic, so that arrays will do."""
    return np.asarray(draw(key, counter, size))


class PlainMoment(gym.Env):
    """One episode at a time: the paper's flat state (query, location, local, global) with Eq. 5, and an empty info."""

    def __init__(self, bank: FeatureBank) -> None:
        means = bank.frame_means
        assert isinstance(means, WindowMeans), "the plain version reads prefix sums from memory"
        self.prefix, self.mean = means.prefix.numpy(), means.mean.numpy()
        self.base, self.group = means.base.tolist(), means.group.tolist()
        self.query = bank.query.numpy()
        self.truth = (bank.truth[:, 0].numpy() * TOTAL).tolist()
        self.frames = bank.n_frames[bank.video].tolist()
        self.words, self.dim = self.query.shape[1], self.mean.shape[1]
        self.flat_size = self.words + 2 + 2 * self.dim
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.flat_size,), np.float32)
        self.action_space = spaces.Discrete(7)
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """As of `gymnasium.Env`; every option is ignored."""
        super().reset(seed=seed)
        if seed is not None:
            self.key, self.episode = key_from(self.np_random), -1
        self.episode += 1
        self.sample = int(_draw(np.array([self.key]), np.array([self.episode]), len(self.query))[0])
        self.start, self.end, self.t = 5.0, 15.0, 0
        self.iou = self._iou(self.start, self.end)
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One of the seven moves."""
        shift = SHIFTS[action]
        start, end = self.start + float(shift[0]), self.end + float(shift[1])
        if start >= 0 and end <= TOTAL and start < end:
            self.start, self.end = start, end
        iou = self._iou(self.start, self.end)
        reward = float((iou > self.iou) - (iou < self.iou)) - PHI * self.t
        self.iou, self.t = iou, self.t + 1
        terminated = action == STOP
        return self._observe(), reward, bool(terminated), bool(self.t >= STEPS and not terminated), {}

    def _iou(self, start: float, end: float) -> float:
        low, high = self.truth[self.sample]
        return (min(end, high) - max(start, low)) / (max(end, high) - min(start, low))

    def _observe(self) -> np.ndarray:
        count, base = self.frames[self.sample], self.base[self.sample]
        first = min(int(np.floor(self.start * count / TOTAL)), count - 1)
        last = min(max(int(np.ceil(self.end * count / TOTAL)), first + 1), count)
        scene, words = self.mean[self.group[self.sample]], self.words
        out = np.empty(self.flat_size, np.float32)
        out[:words] = self.query[self.sample]
        out[words], out[words + 1] = self.start / TOTAL, self.end / TOTAL
        local = out[words + 2 : words + 2 + self.dim]
        np.subtract(self.prefix[base + last], self.prefix[base + first], out=local)
        local /= np.float32(last - first)
        local += scene
        out[words + 2 + self.dim :] = scene
        return out


class PlainStates:
    """All episodes at once in vectorised NumPy, states only, finished episodes reset in the same step."""

    def __init__(self, bank: FeatureBank, count: int) -> None:
        self.truth, self.count, self.size = bank.truth[:, 0].numpy() * TOTAL, count, len(bank)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin an episode in every row; returns the states."""
        self.key = keys_from_seeds(seeds_of(seed, self.count), torch.device("cpu")).numpy()
        self.episode = np.zeros(self.count, np.int64)
        self.sample = _draw(self.key, self.episode, self.size)
        self.start, self.end = np.full(self.count, 5.0), np.full(self.count, 15.0)
        self.t = np.zeros(self.count, np.int64)
        self.iou = self._iou()
        return self._state()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        """States, rewards, terminated and truncated of all rows after one move each."""
        start, end = self.start + SHIFTS[action, 0], self.end + SHIFTS[action, 1]
        valid = (start >= 0) & (end <= TOTAL) & (start < end)
        self.start, self.end = np.where(valid, start, self.start), np.where(valid, end, self.end)
        before, self.iou = self.iou, self._iou()
        reward = (np.sign(self.iou - before) - PHI * self.t).astype(np.float32)
        self.t = self.t + 1
        terminated = action == STOP
        truncated = (self.t >= STEPS) & ~terminated
        done = np.flatnonzero(terminated | truncated)
        if len(done):
            self.episode[done] += 1
            self.sample = self.sample.copy()
            self.sample[done] = _draw(self.key[done], self.episode[done], self.size)
            self.start[done], self.end[done], self.t[done] = 5.0, 15.0, 0
            self.iou[done] = self._iou(done)
        return self._state(), reward, terminated, truncated

    def _iou(self, rows: Any = slice(None)) -> np.ndarray:
        truth, start, end = self.truth[self.sample[rows]], self.start[rows], self.end[rows]
        inter = np.minimum(end, truth[:, 1]) - np.maximum(start, truth[:, 0])
        return inter / (np.maximum(end, truth[:, 1]) - np.minimum(start, truth[:, 0]))

    def _state(self) -> dict[str, np.ndarray]:
        # The next step makes new arrays of these (its resets write into the new ones), so no copy is needed.
        return {"sample": self.sample, "start": self.start, "end": self.end, "t": self.t}


def crop_pyramid(maps: torch.Tensor, cells: torch.Tensor, levels: tuple[int, ...] = (1, 2, 4)) -> torch.Tensor:
    """Crop each box, given in whole cells (B, 4) x1 y1 x2 y2, then pool it adaptively: (B, bins, C)."""
    from torch.nn.functional import adaptive_avg_pool2d

    rows = []
    for one, (x1, y1, x2, y2) in zip(maps.movedim(-1, 1), cells.tolist(), strict=True):
        crop = one[:, y1:y2, x1:x2]
        rows.append(torch.cat([adaptive_avg_pool2d(crop, level).flatten(1) for level in levels], 1).T)
    return torch.stack(rows)
