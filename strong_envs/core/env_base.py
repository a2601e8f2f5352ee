"""What scalar and vector environments share: the arguments ``render_mode`` and ``info``, pictures, the time limit."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from strong_envs.core.validation import check_choice
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError

if TYPE_CHECKING:
    from strong_envs.rendering.viewer import Shot, Viewer

INFOS = ("numeric", "full", "light")
"""What ``info`` holds: arrays of fixed shape and dtype; also texts and lists; nothing but the ends of episodes."""


TRUTH = ("tiou", "true_span", "true_spans", "box_iou", "coverage")
"""Entries of ``info`` from which the truth can be read; withheld where ``reveal_truth`` is False."""


class EnvBase:
    """Arguments ``render_mode``, ``info``, ``reveal_truth``, the viewer, a specification with the longest episode."""

    metadata: dict[str, Any]
    bank: FeatureBank
    _spec: EnvSpec | None = None
    _viewer: Viewer | None = None

    def _set_common(self, render_mode: str | None, info: str, reveal_truth: bool | None = None) -> None:
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise DataError(f"render_mode must be one of {modes} or None, got {render_mode!r}")
        self.render_mode = render_mode
        self.info_mode = check_choice(info, "info", INFOS)
        if reveal_truth is not None and not isinstance(reveal_truth, bool):
            raise DataError(f"reveal_truth must be True, False or None, got {reveal_truth!r}")
        self._reveal = reveal_truth

    @cached_property
    def reveal_truth(self) -> bool:
        """Whether ``info`` has the entries `TRUTH`. Unless said, they are withheld on a test part alone.

        A test part is a split whose name begins with ``test``. Rewards are paid in any case.
        """
        if self._reveal is not None:
            return self._reveal
        return not (self.bank.hides_truth or (self.bank.split or "").startswith("test"))

    @property
    def max_steps(self) -> int:
        """The most steps of an episode."""
        raise NotImplementedError

    @property
    def spec(self) -> EnvSpec | None:
        """The specification from which Gymnasium made the environment, with ``max_episode_steps``."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        # Gymnasium would wrap the environment, which truncates by itself, in a TimeLimit if its own copy said so.
        if spec is not None and spec.max_episode_steps is None:
            spec = copy.copy(spec)
            spec.max_episode_steps = self.max_steps
        self._spec = spec

    def _shots(self) -> list[Shot]:
        """The pictures to draw, one per episode."""
        raise NotImplementedError

    def _pictures(self) -> list[np.ndarray]:
        from strong_envs.rendering.viewer import Viewer

        if self._viewer is None:
            self._viewer = Viewer(self.bank)
        shots = self._shots()
        if not self.reveal_truth:
            for shot in shots:
                shot.true_windows = shot.true_boxes = False
        return [self._viewer.draw(shot) for shot in shots]

    def _show(self, picture: np.ndarray) -> None:
        assert self._viewer is not None
        self._viewer.show(picture, self.metadata["render_fps"])

    def _close_viewer(self) -> None:
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None


class ScalarEnv(EnvBase, gym.Env):
    """Base of the scalar environments: pictures, and ``info`` of fixed shape."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 4}  # noqa: RUF012 (as Gymnasium)
    _opened = False

    def render(self) -> np.ndarray | None:
        """The picture, (360, 480, 3) uint8 RGB; with ``render_mode="human"`` it is shown in a window instead."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode; pass render_mode='rgb_array' or 'human' to gym.make")
            return None
        if not self._opened:
            raise gym.error.ResetNeeded("call reset() before render()")
        picture = self._pictures()[0]
        if self.render_mode == "human":
            self._show(picture)
            return None
        return picture

    def close(self) -> None:
        """Close the window, if one is open."""
        self._close_viewer()

    def action_masks(self) -> np.ndarray:
        """(A,) bool: which actions change something now; stop always may be taken. MaskablePPO reads it."""
        raise NotImplementedError


def refuse_vector_arguments(arguments: dict[str, Any]) -> None:
    """A scalar environment takes none of the arguments of a vector environment."""
    for name in ("num_envs", "autoreset_mode", "output", "copy", "max_episode_steps"):
        if name in arguments:
            raise DataError(f"{name} belongs to the vector environment, made with gym.make_vec")


def row_of(info: dict[str, Any], i: int) -> dict[str, Any]:
    """What the ``info`` of a vector environment says of one row: arrays of fixed shape and dtype, and texts."""
    parts = {name: part for name, part in info.items() if not name.startswith("_") and not isinstance(part, dict)}
    row = {name: part[i] for name, part in parts.items()}
    return {name: part if isinstance(part, (str, list)) else np.asarray(part) for name, part in row.items()}
