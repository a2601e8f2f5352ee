"""Records episodes of a scalar environment as mp4 files, with OpenCV alone (Gymnasium's RecordVideo needs moviepy)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from strong_envs.core.validation import check_number, check_whole
from strong_envs.features.errors import DataError


class Recorder(gym.Wrapper, RecordConstructorArgs):
    """Writes ``<name>-000000.mp4`` and so on, one file an episode, when the episode ends or the wrapper is closed.

    Args:
        env: made with ``render_mode="rgb_array"``.
        folder: where the files go; made if it is absent.
        episodes: record one of so many, the first included; or a function from the number of an episode (from
            0) to whether it is recorded.
        name: with which file names begin. fps: pictures a second; that of the environment by default.

    Attributes: ``files``, the paths written so far.
    """

    def __init__(
        self,
        env: gym.Env,
        folder: str | os.PathLike,
        episodes: int | Callable[[int], bool] = 1,
        name: str = "episode",
        fps: float | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, folder=os.fspath(folder), episodes=episodes, name=name, fps=fps)
        gym.Wrapper.__init__(self, env)
        if env.render_mode != "rgb_array":
            raise DataError(f"Recorder needs render_mode='rgb_array', the environment has {env.render_mode!r}")
        step = 1 if callable(episodes) else check_whole(episodes, "episodes")
        self._wanted = episodes if callable(episodes) else lambda number: number % step == 0
        self.folder, self.name = Path(folder), name
        self.fps = check_number(env.metadata["render_fps"] if fps is None else fps, "fps", above=True)
        self.episode = -1
        self.files: list[Path] = []
        self._pictures: list[np.ndarray] = []
        self._recording = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; what was recorded of one that had not ended is written."""
        self._write()
        result = self.env.reset(seed=seed, options=options)
        self.episode += 1
        self._recording = bool(self._wanted(self.episode))
        self._shoot()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step, and its picture."""
        result = self.env.step(action)
        self._shoot()
        if result[2] or result[3]:
            self._write()
        return result

    def close(self) -> None:
        """Write what is left and close the environment."""
        self._write()
        super().close()

    def _shoot(self) -> None:
        if self._recording:
            self._pictures.append(np.asarray(self.env.render()))

    def _write(self) -> None:
        from strong_envs.rendering.viewer import write_video

        if self._pictures:
            self.folder.mkdir(parents=True, exist_ok=True)
            target = self.folder / f"{self.name}-{self.episode:06d}.mp4"
            self.files.append(write_video(target, self._pictures, self.fps))
        self._pictures, self._recording = [], False
