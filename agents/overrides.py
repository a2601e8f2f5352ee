"""Any field of an agent's or an environment's arguments, by name: what ``--set`` changes.

A plain name is enough where it says which field is meant (``phi``, ``rounds``); a field that both levels have
(``gamma``, ``tau``) is changed in both, as the paper has one of each. ``temporal.gamma`` names one of them.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from strong_envs.features.errors import DataError, nearest

Path = tuple[str, ...]
LEVELS = ("temporal", "spatial")
OWN = ("bank", "seed", "budget", "preset")
"""Arguments that are not settings: whoever makes the system gives them."""


def setting_paths(system: str) -> dict[str, list[Path]]:
    """The settings of a system: names, plain and dotted, to where each stands among the arguments of `agents.make`."""
    from strong_envs import agents
    from strong_envs.agents.strong.args import StrongArgs
    from strong_envs.agents.strong.system import StrongSystem
    from strong_envs.temporal.task import CONFIG_NAMES

    factory = agents.find(system).factory
    dotted: dict[str, Path] = {}
    if isinstance(factory, type) and issubclass(factory, StrongSystem):
        example = StrongArgs()
        for f in fields(StrongArgs):
            value = getattr(example, f.name)
            if is_dataclass(value):
                # The temporal environment goes by the name under which every system takes its options.
                top = "env" if f.name == "temporal_env" else f.name
                dotted |= {f"{f.name}.{inner.name}": (top, inner.name) for inner in fields(value)}
            else:
                dotted[f.name] = (f.name,)
        dotted["preset"] = ("preset",)
    else:
        names = _arguments(factory)
        dotted |= {name: (name,) for name in names if name not in (*OWN, "env")}
        if "env" in names:
            dotted |= {f"temporal_env.{name}": ("env", name) for name in CONFIG_NAMES}
    found: dict[str, list[Path]] = {name: [path] for name, path in dotted.items() if path[-1] != "seed"}
    for path in dotted.values():
        if len(path) == 2 and path[-1] != "seed":
            found.setdefault(path[-1], [])
            if path not in found[path[-1]]:
                found[path[-1]].append(path)
    return found


def _arguments(factory: Any) -> list[str]:
    """Names of a factory's arguments; of this project's families also those of the base and of the dataclasses of
    options that it passes on.
    """
    from strong_envs.agents.baselines.ranking import WindowSystem
    from strong_envs.agents.baselines.sequential import TemporalSystem

    bases = [base for base in (TemporalSystem, WindowSystem) if isinstance(factory, type) and issubclass(factory, base)]
    found: dict[str, None] = {}
    for made in (factory, *bases):
        try:
            parameters = inspect.signature(made).parameters
        except (TypeError, ValueError):
            continue
        found |= {n: None for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if TemporalSystem in bases:
        found |= {f.name: None for args, _ in factory.PRESETS.values() for f in fields(args)}
    if WindowSystem in bases:
        found |= {f.name: None for f in fields(factory.Args)}
    return list(found)


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
    """The arguments for those of ``settings`` that the system has; `check_settings` finds the others."""
    options: dict[str, Any] = {}
    for name, value in settings.items():
        if name in setting_paths(system):
            options = with_setting(system, options, name, value)
    return options


def check_settings(systems: Iterable[str], settings: Mapping[str, Any]) -> None:
    """Refuse a setting that none of the systems has, which would be ignored in silence, and values of a wrong kind."""
    systems = list(systems)
    known = {name for system in systems for name in setting_paths(system)}
    for name in settings:
        if name not in known:
            plain = sorted(n for n in known if "." not in n)
            raise DataError(f"no system of this job has a setting {name!r}{nearest(name, known)}; there are {plain}")
    for system in systems:
        _check_types(system, settings)


def _check_types(system: str, settings: Mapping[str, Any]) -> None:
    """Refuse values of another kind than the arguments of STRONG have, before they fail deep in a training."""
    from strong_envs import agents
    from strong_envs.agents.strong.args import StrongArgs
    from strong_envs.agents.strong.system import StrongSystem

    factory = agents.find(system).factory
    if not (isinstance(factory, type) and issubclass(factory, StrongSystem)):
        return
    example, known = StrongArgs(), setting_paths(system)
    for name, value in settings.items():
        for path in known.get(name, ()):
            held: Any = example
            for part in ("temporal_env" if p == "env" else p for p in path):
                held = getattr(held, part, None)
            kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,), tuple: (tuple, list)}
            wanted = kinds.get(type(held))
            wrong = isinstance(value, bool) and wanted != (bool,)
            if wanted is not None and (wrong or not isinstance(value, wanted)):
                raise DataError(f"{name} must be of type {type(held).__name__}, such as {held!r}; got {value!r}")


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """``["gamma=0.4", "temporal.feedback=taken"]`` to names and values."""
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise DataError(f"a setting is written name=value, got {word!r}")
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


__all__ = [
    "check_settings",
    "parse_settings",
    "parse_value",
    "parse_values",
    "setting_paths",
    "with_setting",
    "with_settings",
]


def parse_values(text: str) -> list[Any]:
    """``"0,0.2,0.4"`` to values; with semicolons the values themselves may have commas: ``"(64,64);(256,128)"``."""
    values = [parse_value(part) for part in text.split(";" if ";" in text else ",") if part.strip()]
    if not values:
        raise DataError(f"values are written 0,0.2,0.4; got {text!r}")
    if len({repr(v) for v in values}) < len(values):
        raise DataError(f"a value stands twice in {text!r}")
    return values
