"""Settings of systems and environments by name: what ``--set`` changes.

A plain name suffices where it is unambiguous (``phi``, ``rounds``); a field that both levels have (``gamma``, ``tau``)
is changed in both, as the paper has one of each. ``temporal.gamma`` names one of them.
"""

from __future__ import annotations

import ast
import copy
import inspect
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from strong_envs.agents.ranges import check_value
from strong_envs.agents.registry import BaseSystem, find, merged
from strong_envs.features.errors import DataError, nearest
from strong_envs.temporal.task import TemporalConfig

Path = tuple[str, ...]
LEVELS = ("temporal", "spatial")
OWN = ("self", "bank", "seed", "budget", "preset", "words")
"""Arguments of a constructor that are not settings."""
SHOWN = {"env": "temporal_env"}
"""Names of groups of settings where they differ from the argument of the constructor."""


@dataclass(frozen=True)
class Setting:
    """One setting: its place among the arguments of `agents.make`, and its annotation (`Any` where it has none)."""

    path: Path
    annotation: Any = Any


def settings_of(system: str) -> dict[str, Setting]:
    """The settings of a system by dotted name."""
    factory: Any = find(system).factory
    found: dict[str, Setting] = {}
    arguments = _arguments(factory)
    if isinstance(factory, type) and issubclass(factory, BaseSystem):
        arguments |= factory.arguments()
    for name, kind in arguments.items():
        if name == "env" and not is_dataclass(kind):
            kind = TemporalConfig
        if not is_dataclass(kind):
            found[name] = Setting((name,), kind)
            continue
        hints = typing.get_type_hints(kind)
        for part in fields(kind):
            if part.name == "seed" or is_dataclass(hints[part.name]):
                continue
            shown = f"{SHOWN.get(name, name)}.{part.name}" if name else part.name
            found[shown] = Setting((name, part.name) if name else (part.name,), hints[part.name])
    return found


def setting_paths(system: str) -> dict[str, list[Path]]:
    """The settings of a system: names, plain and dotted, to their places among the arguments of `agents.make`."""
    return {name: [setting.path for setting in settings] for name, settings in _by_name(system).items()}


def _by_name(system: str) -> dict[str, list[Setting]]:
    """The settings of a system by dotted and by plain name; an argument of its own hides those of its parts."""
    settings = settings_of(system)
    found = {name: [setting] for name, setting in settings.items()}
    for setting in settings.values():
        plain = setting.path[-1]
        if len(setting.path) == 2 and plain not in settings:
            found.setdefault(plain, []).append(setting)
    return found


def _arguments(factory: Any) -> dict[str, Any]:
    """Plain arguments of a factory with their annotations, those of its base classes included."""
    found: dict[str, Any] = {}
    for made in factory.__mro__ if isinstance(factory, type) else (factory,):
        call = made.__dict__.get("__init__") if isinstance(made, type) else made
        if call is None or made is object:
            continue
        try:
            parameters = inspect.signature(call).parameters
        except (TypeError, ValueError):
            continue
        for name, parameter in parameters.items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in OWN:
                found.setdefault(name, Any)
    return found


def with_setting(system: str, options: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The arguments of `agents.make` for a system with one setting changed.

    Raises:
        DataError: a name that the system does not have, or one that could mean several fields.
    """
    known = setting_paths(system)
    if name not in known:
        plain = sorted(n for n in known if "." not in n)
        raise DataError(f"{system} has no setting {name!r}{nearest(name, known)}; it has {plain}")
    paths = known[name]
    if len(paths) > 1 and {path[0] for path in paths} != set(LEVELS):
        dotted = sorted(n for n, p in known.items() if "." in n and p[0] in paths)
        raise DataError(f"{name!r} could be any of {dotted}; name one of them")
    changed = copy.deepcopy(dict(options))
    for path in paths:
        place = changed
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return changed


def with_settings(system: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for those of ``settings`` that the system has; `check_settings` refuses the others."""
    options: dict[str, Any] = {}
    for name, value in settings.items():
        if name in setting_paths(system):
            options = with_setting(system, options, name, value)
    return options


def check_settings(systems: Iterable[str], settings: Mapping[str, Any]) -> None:
    """Check settings before any work, each with every system that has it.

    Raises:
        DataError: a setting that none of the systems has, a value of a wrong type or outside its range, or values that
            contradict each other.
    """
    systems = list(systems)
    known = {system: _by_name(system) for system in systems}
    names = {name for settings_of_one in known.values() for name in settings_of_one}
    for name in settings:
        if name not in names:
            plain = sorted(n for n in names if "." not in n)
            raise DataError(f"no system of this job has a setting {name!r}{nearest(name, names)}; there are {plain}")
    for system in systems:
        for name, value in settings.items():
            for setting in known[system].get(name, ()):
                check_value(setting.path[-1], value, setting.annotation)
        spec = find(system)
        factory: Any = spec.factory
        if isinstance(factory, type) and issubclass(factory, BaseSystem):
            factory.check_arguments(**merged(spec.defaults, with_settings(system, settings)))


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """``["gamma=0.4", "temporal.algorithm=ddpg"]`` to names and values."""
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise DataError(f"a setting must be written name=value, got {word!r}")
        settings[name.strip()] = parse_value(value)
    return settings


def parse_value(text: str) -> Any:
    """A Python literal, or else the text itself; ``true`` and ``false`` too."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_values(text: str) -> list[Any]:
    """``"0,0.2,0.4"`` to values; with semicolons the values themselves may have commas: ``"(64,64);(256,128)"``."""
    values = [parse_value(part) for part in text.split(";" if ";" in text else ",") if part.strip()]
    if not values:
        raise DataError(f"values must be written as in 0,0.2,0.4; got {text!r}")
    if len({repr(v) for v in values}) < len(values):
        raise DataError(f"a value occurs twice in {text!r}")
    return values
