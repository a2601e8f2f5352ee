"""What the vector environments share: automatic resets, masks, seeds, episode statistics, NumPy or torch output.

The states of all episodes are tensors on one device; a step is a fixed sequence of tensor operations with no transfer
to the host. Subclasses say how an episode starts, advances, and is observed.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from strong_envs.core.env_base import EnvBase
from strong_envs.core.observations import flat, split_options
from strong_envs.core.sampling import draw, keys_from_seeds, seeds_of
from strong_envs.core.validation import check_actions, check_choice, check_samples, check_whole, shown
from strong_envs.features.bank.bank import FeatureBank
from strong_envs.features.errors import DataError

OUTPUTS = ("numpy", "torch")
OBSERVATIONS = ("features", "index")
MOST_ENVS = 1_000_000
"""More episodes at once are refused; their observations would fill any memory."""


def check_observation(observation: str, flatten: bool) -> str:
    """``"features"`` or ``"index"``; an index has no flat form."""
    check_choice(observation, "observation", OBSERVATIONS)
    if not isinstance(flatten, (bool, np.bool_)):
        raise DataError(f"flatten must be True or False, got {shown(flatten)}")
    if observation == "index" and flatten:
        raise DataError("observation='index' has no flat form; drop flatten=True")
    return observation


class IndexVectorEnv(EnvBase, gym.vector.VectorEnv):
    """Base of the vector environments; see `TemporalMomentVectorEnv` and `SpatialTrackVectorEnv`."""

    metadata: dict[str, Any] = {  # noqa: RUF012 (as Gymnasium)
        "render_modes": ["rgb_array", "human"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    has_multi_scale: bool = False
    """Whether there are longer and shorter moves in the same direction."""

    def __init__(
        self,
        num_envs: int,
        bank: FeatureBank,
        observation_space: gym.Space,
        action_space: gym.Space,
        flatten: bool,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        output: str = "numpy",
        observation: str = "features",
        info: str = "numeric",
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        reveal_truth: bool | None = None,
    ) -> None:
        num_envs = check_whole(num_envs, "num_envs", most=MOST_ENVS)
        self.num_envs, self.bank, self.device = num_envs, bank, bank.device
        self.output = check_choice(output, "output", OUTPUTS)
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            modes = [mode.value for mode in AutoresetMode]
            raise DataError(f"autoreset_mode must be one of {modes}, got {autoreset_mode!r}") from None
        # A copy for this instance: writing into the class would change every other environment.
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self._set_common(render_mode, info, reveal_truth)
        self.limit = None if max_episode_steps is None else check_whole(max_episode_steps, "max_episode_steps")
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.flatten, self.observation = flatten, check_observation(observation, flatten)
        self.n_actions = int(action_space.n) if isinstance(action_space, gym.spaces.Discrete) else 0
        self._keys: Tensor | None = None
        everything = torch.ones(num_envs, dtype=torch.bool, device=self.device)
        self._all, self._none = everything, ~everything
        self._episode = torch.full((num_envs,), -1, dtype=torch.int64, device=self.device)
        self._return = torch.zeros(num_envs, dtype=torch.float64, device=self.device)
        self._length = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._began = time.perf_counter()
        self._done = everything.clone()
        self.sample = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._paid: Any = torch.zeros(num_envs)

    @property
    def light(self) -> bool:
        """Whether ``info`` is left to the episodes that end."""
        return self.info_mode == "light"

    @property
    def keys(self) -> Tensor:
        """(B,) int64, from which the random draws of each environment follow."""
        if self._keys is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self._keys

    # What a subclass provides -----------------------------------------------------------------------------------

    OPTIONS: tuple[str, ...] = ("sample", "reset_mask")

    def _read(self, options: dict, sample: Tensor, mask: Tensor) -> dict:
        """The options of a reset as tensors, for samples (B,); unfit ones are refused."""
        return options

    def _start(self, mask: Tensor, options: dict) -> None:
        """Begin new episodes where ``mask`` (B,) is set, for the samples in ``self.sample``."""
        raise NotImplementedError

    def _advance(self, action: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Act where ``active``; returns reward (B,), terminated (B,), truncated (B,)."""
        raise NotImplementedError

    def _info(self) -> dict[str, Tensor]:
        """Named (B, ...) tensors, ``sample`` among them."""
        raise NotImplementedError

    def _more_info(self, sample: np.ndarray) -> dict[str, Any]:
        """What ``info="full"`` adds for samples (B,), of any type."""
        texts = {"qid": self.bank.qids, "text": self.bank.texts}
        more = {name: np.array([known[i] for i in sample], object) for name, known in texts.items()}
        if not self.reveal_truth:
            return more
        truth = self.bank.truth.cpu().numpy() * self.bank.duration[self.bank.video].cpu().numpy()[:, None, None]
        spans = truth[sample]
        return {"true_spans": torch.as_tensor(spans) if self.output == "torch" else spans, **more}

    def _action_mask(self) -> Tensor:
        """(B, A) bool: which actions change something now."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """The compact state of all episodes, named (B, ...) tensors: what a replay stores."""
        raise NotImplementedError

    def observe_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Observations, named (B, ...) tensors, of stored states, computed from the bank as it is now."""
        raise NotImplementedError

    def observe_moves(
        self, state: dict[str, Tensor], reached: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Observations of stored states and of those that a move led to: two calls of `observe_state`, to rounding.

        Both of a transition are computed one after the other: most of what the second reads is in the caches then.
        """
        pairs = {name: torch.stack((part, reached[name]), 1).flatten(0, 1) for name, part in state.items()}
        seen = self.observe_state(pairs)
        before, after = ({name: part[side::2] for name, part in seen.items()} for side in range(2))
        return before, after

    # Going on where another process stopped -----------------------------------------------------------------------

    COUNTERS: tuple[str, ...] = ("sample", "_keys", "_episode", "_return", "_length", "_done")
    """Tensors (B, ...) that say, with what a subclass adds, how all episodes go on."""

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of all that decides how the episodes go on, random draws included: named tensors (B, ...)."""
        if self._keys is None:
            raise gym.error.ResetNeeded("call reset() before snapshot()")
        return {name.lstrip("_"): getattr(self, name).clone() for name in self.COUNTERS}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Go on as the environment, of the same arguments, from which `snapshot` was taken. No reset is needed."""
        for name in self.COUNTERS:
            given = snapshot.get(name.lstrip("_"))
            held = getattr(self, name)
            # Before the first reset some are not there yet; these are (B,).
            wanted = (self.num_envs,) if held is None else held.shape
            if given is None or given.shape != wanted:
                got = "is missing" if given is None else f"has the shape {tuple(given.shape)}, not {tuple(wanted)}"
                raise DataError(
                    f"a snapshot of {self.num_envs} episodes of this environment is needed; {name.lstrip('_')!r} {got}"
                )
        for name in self.COUNTERS:
            # A tensor of its own: some of those here are views of arrays that a compiled step writes into.
            setattr(self, name, snapshot[name.lstrip("_")].to(self.device, copy=True))

    # The interface of Gymnasium ---------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes everywhere, or where ``options["reset_mask"]`` (B,) is set.

        ``options["sample"]`` (an int or (B,) ints) picks the samples. Unknown options are refused, and a refused reset
        changes nothing. Rows outside the mask may hold anything.
        """
        options = split_options(options, self.OPTIONS)
        mask = self._mask(options.pop("reset_mask", None))
        if "sample" in options:
            rows = mask.cpu().numpy()
            options["sample"] = check_samples(options["sample"], self.num_envs, len(self.bank), rows)
        keys, episode = self._keys, self._episode
        if seed is not None or keys is None:
            seeds = seeds_of(seed, self.num_envs)
            fresh = keys_from_seeds(seeds, self.device)
            if keys is not None:
                # A None in a list of seeds lets that environment go on as it was.
                seeded = mask & torch.tensor([one is not None for one in seeds], device=self.device)
                fresh = torch.where(seeded, fresh, keys)
                episode = torch.where(seeded, -1, episode)
            keys = fresh
        self._begin(mask, options, keys, episode)
        self._paid = torch.zeros(self.num_envs)
        info = self._described(self._out(self._info()), self._out(self._all))
        if self.render_mode == "human":
            self.render()
        return self._out(self._view(self.state())), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every environment; see the class for what happens to finished episodes."""
        result = self._step(self._actions(actions))
        self._paid = result[1]
        if self.render_mode == "human":
            self.render()
        return result

    def _step(self, action: Tensor) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        next_step = self.autoreset_mode == AutoresetMode.NEXT_STEP
        if self._keys is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        if self.autoreset_mode == AutoresetMode.DISABLED and self.device.type == "cpu" and bool(self._done.any()):
            stopped = self._done.nonzero().flatten().tolist()
            raise gym.error.ResetNeeded(f"environments {stopped[:8]} have ended; reset them with options['reset_mask']")
        resetting = self._done if next_step else self._none
        active = ~resetting
        reward, terminated, truncated = self._advance(action, active)
        self.reached = self.state()
        reward = torch.where(active, reward, 0.0)
        if self.limit is not None:
            truncated = truncated | ((self._length + 1 >= self.limit) & ~terminated)
        terminated, truncated = terminated & active, truncated & active
        done = terminated | truncated
        self._return = self._return + reward
        self._length = self._length + active
        info: dict[str, Any] = {}
        # On a CPU a look at the flags is free; on a device it would stop the pipeline, so all rows are computed.
        look = self.device.type != "cpu"
        if look or bool(done.any()):
            info["episode"] = self._out(
                {
                    "r": torch.where(done, self._return, 0.0),
                    "l": torch.where(done, self._length, 0),
                    "t": torch.where(done, time.perf_counter() - self._began, 0.0),
                }
            )
            info["_episode"] = self._out(done)
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                info["final_obs"], info["_final_obs"] = self._out(self._final(done)), self._out(done)
                final = self._info()
                if final:
                    info["final_info"] = self._described(self._out(final), self._out(done))
                    info["_final_info"] = self._out(done)
                self._begin(done, {}, self._keys, self._episode)
        if next_step and (look or bool(resetting.any())):
            self._begin(resetting, {}, self._keys, self._episode)
        self._done = done
        info.update(self._described(self._out(self._info()), self._out(self._all)))
        flags = (self._out(x) for x in (reward.to(torch.float32), terminated, truncated))
        return (self._out(self._view(self.state())), *flags, info)

    def action_masks(self) -> Any:
        """(B, A) bool, in NumPy or torch as ``output`` says: which actions change something now.

        MaskablePPO reads it; a stop always may be taken.
        """
        return self._out(self._action_mask())

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture per episode, (360, 480, 3) uint8 RGB; ``render_mode="human"`` shows them side by side instead."""
        if self.render_mode is None:
            gym.logger.warn("render() without a render_mode; pass render_mode='rgb_array' to gym.make_vec")
            return None
        if self._keys is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        pictures = self._pictures()
        if self.render_mode == "human":
            from strong_envs.rendering.viewer import tiled

            self._show(tiled(pictures))
            return None
        return tuple(pictures)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the window, if one is open."""
        self._close_viewer()

    # Details ----------------------------------------------------------------------------------------------------

    def _begin(self, mask: Tensor, options: dict, keys: Tensor, episode: Tensor) -> None:
        episode = torch.where(mask, episode + 1, episode)
        if "sample" in options:
            sample = torch.as_tensor(options["sample"], device=self.device)
        else:
            sample = draw(keys, episode, len(self.bank))
        sample = torch.where(mask, sample, self.sample)
        # Options are read before anything changes, so that a refused reset leaves the episodes as they were.
        options = self._read(options, sample, mask)
        self._keys, self._episode, self.sample = keys, episode, sample
        self._return = torch.where(mask, 0.0, self._return)
        self._length = torch.where(mask, 0, self._length)
        self._done = self._done & ~mask
        self._start(mask, options)

    def _described(self, info: dict[str, Any], mask: Any) -> dict[str, Any]:
        """``info`` with what ``info="full"`` adds, and with Gymnasium's masks ``_key`` of the rows it describes."""
        if self.info_mode == "full":
            sample = info["sample"]
            info.update(self._more_info(sample.cpu().numpy() if isinstance(sample, Tensor) else sample))
        return {**info, **{f"_{name}": mask for name in info}}

    def _mask(self, mask: Any) -> Tensor:
        if mask is None:
            return self._all
        given = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
        if given.dtype != np.bool_ or given.shape != (self.num_envs,):
            raise DataError(f"reset_mask must be {self.num_envs} bools, got {given.dtype} {given.shape}")
        if not given.any():
            raise DataError("reset_mask is all False: no environment would be reset; do not call reset() then")
        if self._keys is None and not given.all():
            raise DataError("the first reset must start every environment; drop options['reset_mask']")
        return torch.as_tensor(given, device=self.device)

    def _actions(self, actions: Any) -> Tensor:
        return check_actions(actions, self.num_envs, self.n_actions, self.device)

    def _final(self, done: Tensor) -> Any:
        """The last observation of each finished episode as one dense batch; rows outside ``done`` hold zeros."""
        if self.device.type != "cpu":
            return self._view(self.state())
        index = done.nonzero().flatten()
        if self.observation == "index":
            return {name: part.clone() for name, part in self.state().items()}
        dense = {}
        for name, part in self.observe_state({name: part[index] for name, part in self.state().items()}).items():
            dense[name] = part.new_zeros((self.num_envs, *part.shape[1:]))
            dense[name][index] = part
        return self._arrange(dense)

    def _view(self, state: dict[str, Tensor]) -> Any:
        """What the agent is shown in a state."""
        if self.observation == "index":
            return {name: part.clone() for name, part in state.items()}
        return self._arrange(self.observe_state(state))

    def _arrange(self, observation: dict[str, Tensor]) -> Any:
        return flat(observation) if self.flatten else observation

    def _out(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._out(part) for name, part in value.items()}
        if isinstance(value, Tensor) and self.output == "numpy":
            return value.detach().cpu().numpy()
        return value
