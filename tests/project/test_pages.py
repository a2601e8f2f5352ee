"""The class docstring of an environment is its page: what it says is held against what the environment does."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import MISSING, fields

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import strong_envs
from strong_envs.core.rewards import SPATIAL_REWARDS
from strong_envs.looks.task import LookConfig, make_look_task
from strong_envs.spatial.task import SpatialConfig
from strong_envs.temporal.task import TemporalConfig, make_task

SECTIONS = (
    "Description",
    "Action space",
    "Observation space",
    "Rewards",
    "Start",
    "End",
    "Information",
    "Arguments",
    "Version history",
)
EVERYTHING = {
    "TemporalMoment-v0": {"time_in_observation": True},
    "SpatialTrack-v0": {
        "reward": "box_iou",
        "attention_box": lambda samples, frames: torch.tensor([0.1, 0.2, 0.4, 0.5]).expand(len(samples), 4),
    },
    "TemporalOneShot-v0": {"parts": 5},
    "TemporalLook-v0": {"max_looks": 7},
}
CONFIGS = {
    "TemporalMoment-v0": (TemporalConfig,),
    "SpatialTrack-v0": (SpatialConfig,),
    "TemporalOneShot-v0": (),
    "TemporalLook-v0": (LookConfig,),
}
TASKS = dict.fromkeys(CONFIGS, make_task) | {"TemporalLook-v0": make_look_task}


def page(name):
    """The sections of a page, by title."""
    text = inspect.cleandoc(type(gym.make(name).unwrapped).__doc__)
    parts = re.split(r"^## (.+)$", text, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def rows(section, columns):
    """The cells of a table, its head and rule left out."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == columns and not set(row[0]) <= {"-"}][1:]


@pytest.mark.parametrize("name", strong_envs.IDS)
def test_a_page_has_all_its_sections(name):
    sections = page(name)
    assert tuple(sections) == SECTIONS
    assert all(text.strip() for text in sections.values())
    assert f"- {name.rsplit('-')[-1]}:" in sections["Version history"]


@pytest.mark.parametrize("name", strong_envs.IDS)
def test_the_table_of_observations_is_the_space(name, ragged_store):
    env = gym.make(name, features=ragged_store, **EVERYTHING[name]).unwrapped
    bank = env.bank
    height, width, cell = bank.grid_shape
    sizes = {"Dq": bank.query_dim, "D": bank.frame_dim, "C": cell, "h": height, "w": width, "parts": 5, "slots": 7}
    table = rows(page(name)["Observation space"], 3)
    space = env.observation_space
    # The order of the table is that of the flat form.
    assert [key for key, _, _ in table] == list(space.spaces)
    for key, shape, _ in table:
        product = re.sub(r"(\w) (?=\w)", r"\1 * ", shape)
        expected = eval(product, {"__builtins__": {}}, sizes)
        assert space[key].shape == expected, key
        assert isinstance(space[key], spaces.Box) and space[key].dtype == np.float32
    assert "float32" in page(name)["Observation space"]
    flat = gym.make(name, features=ragged_store, flatten=True, **EVERYTHING[name]).unwrapped
    assert flat.observation_space.shape == (sum(int(np.prod(part.shape)) for part in space.values()),)


@pytest.mark.parametrize("name", strong_envs.IDS)
def test_the_index_form_is_described(name, ragged_store):
    env = gym.make(name, features=ragged_store, observation="index", **EVERYTHING[name]).unwrapped
    for key in env.observation_space.spaces:
        assert f"`{key}`" in page(name)["Observation space"] + page(name)["Arguments"], key


@pytest.mark.parametrize("name", strong_envs.IDS)
def test_the_table_of_actions_is_the_space(name, ragged_store):
    env = gym.make(name, features=ragged_store, **EVERYTHING[name]).unwrapped
    section = page(name)["Action space"]
    ends = [[int(end) for end in number.split(" to ")] for number, _ in rows(section, 2)]
    numbers = [number for first, *last in ends for number in range(first, (last or [first])[0] + 1)]
    if isinstance(env.action_space, spaces.Discrete):
        assert numbers == list(range(env.action_space.n)) and f"Discrete({env.action_space.n})" in section
    else:
        assert numbers == list(range(env.action_space.shape[0]))
        assert "Box(0, 1, (2,), float32)" in section and env.action_space == spaces.Box(0, 1, (2,), np.float32)


def test_the_table_of_spatial_rewards_is_what_can_be_had():
    assert tuple(reward for reward, _, _ in rows(page("SpatialTrack-v0")["Rewards"], 3)) == tuple(SPATIAL_REWARDS)


@pytest.mark.parametrize("name", strong_envs.IDS)
def test_options_and_information_are_named(name, ragged_store):
    env = gym.make(name, features=ragged_store, **EVERYTHING[name]).unwrapped
    for option in env.OPTIONS:
        assert f"`{option}`" in page(name)["Start"], option
    env.reset(seed=0)
    env.action_space.seed(0)
    for info in ("numeric", "full"):
        env = gym.make(name, features=ragged_store, info=info, **EVERYTHING[name]).unwrapped
        env.reset(seed=0)
        for key in env.step(env.action_space.sample())[-1]:
            assert f"`{key}`" in page(name)["Information"], key


def arguments_of(name):
    """Every argument of an environment with its default."""
    found = {}
    for function in (type(gym.make(name).unwrapped).__init__, TASKS[name]):
        for key, parameter in inspect.signature(function).parameters.items():
            if key != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                found[key] = parameter.default
    for config in CONFIGS[name]:
        found |= {field.name: field.default for field in fields(config) if field.default is not MISSING}
    if name == "SpatialTrack-v0":
        found |= {"critic": None, "attention_box": None, "observation": "features"}
    if name == "TemporalOneShot-v0":
        found |= {"parts": 16, "iou": "clamped", "observation": "features"}
    return found


@pytest.mark.parametrize("name", strong_envs.IDS)
def test_every_argument_is_named_with_its_default(name):
    section = page(name)["Arguments"]
    named = dict(re.findall(r"`(\w+)=(\([^)]*\)|[^`]+)`", section))
    for argument, default in arguments_of(name).items():
        if name == "SpatialTrack-v0" and argument in ("boxes", "spp_levels", "spp_reduce", "box_margin"):
            continue  # of the temporal level, to whose page this one points
        assert argument in named, argument
        assert ast.literal_eval(named[argument]) == default, argument


DECISIONS = [
    ("TemporalMoment-v0", "global_scope", "video", ["moment"]),
    ("TemporalMoment-v0", "iou", "signed", ["clamped", "legacy"]),
    ("TemporalMoment-v0", "phi", 0.1, [0.0, 0.05]),
    ("TemporalMoment-v0", "max_steps", 20, [5]),
    ("TemporalMoment-v0", "time_in_observation", False, [True]),
    ("TemporalMoment-v0", "invalid", "refuse", ["terminate", "penalty"]),
    ("TemporalMoment-v0", "z_e", 10.0, [5]),
    ("TemporalMoment-v0", "step_scale", 1.0, [0.5, 2]),
    ("TemporalMoment-v0", "multi_scale", False, [True]),
    ("TemporalMoment-v0", "initial_span", (0.25, 0.75), [(0.0, 1.0)]),
    ("SpatialTrack-v0", "z_s", 10.0, [5]),
    ("SpatialTrack-v0", "initial_box", (0.5, 0.5, 0.5, 0.5), [(0.3, 0.3, 0.2, 0.2)]),
    ("SpatialTrack-v0", "box_moves", "paper", ["symmetric"]),
    ("SpatialTrack-v0", "tie_tolerance", 1e-5, [0.0, 0.1]),
    ("SpatialTrack-v0", "same_action", False, [True]),
    ("SpatialTrack-v0", "actions_per_frame", 1, [2]),
]


@pytest.mark.parametrize(("name", "argument", "default", "others"), DECISIONS, ids=lambda x: str(x)[:24])
def test_where_the_paper_is_silent_there_is_an_argument(name, argument, default, others, ragged_store):
    """Each reading of the paper can be had by name, scalar and vector, and the default is the documented one."""
    assert arguments_of(name)[argument] == default

    def critic(observation):
        return observation["local"][:, :1] * torch.arange(1.0, 8.0)

    options = {"features": ragged_store, **({"critic": critic} if name == "SpatialTrack-v0" else {})}
    assert getattr(gym.make(name, **options).unwrapped.task.config, argument) == default
    for value in others:
        one = gym.make(name, **options, **{argument: value}).unwrapped
        many = gym.make_vec(name, num_envs=2, **options, **{argument: value}).unwrapped
        assert getattr(one.task.config, argument) == getattr(many.task.config, argument) == value
        many.reset(seed=0)
        many.step(np.zeros(2, int))


def test_flat_ids_are_named_on_the_pages_and_flat():
    assert set(strong_envs.FLAT_IDS.values()) == set(strong_envs.IDS)
    for flat, name in strong_envs.FLAT_IDS.items():
        assert f"`{flat}` is the same with `flatten=True`" in page(name)["Observation space"]
        one, many = gym.make(flat), gym.make_vec(flat, num_envs=2)
        assert one.observation_space == many.single_observation_space == gym.make(name, flatten=True).observation_space
        assert len(one.observation_space.shape) == 1 and one.reset(seed=0)[0] in one.observation_space
        assert not isinstance(gym.make(flat, flatten=False).observation_space, spaces.Box)
