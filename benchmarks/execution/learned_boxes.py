"""Rows ``NAME+boxes``: a system that is made for whole frames, on the boxes that a trained STRONG tracks.

With them every system of a table sees what STRONG sees, and rows are compared within a kind. ``--boxes`` names the
source: the folder of a finished run (the boxes of its seed 0 serve seed 0, and so on), a saved system, or
``pretrained``.
"""

from __future__ import annotations

from pathlib import Path

from strong_envs.agents.box_source import PRETRAINED
from strong_envs.agents.overrides import check_settings, setting_paths
from strong_envs.benchmarks.results.files import read_result
from strong_envs.features.errors import DataError
from strong_envs.features.files.errors import shown

SUFFIX = "+boxes"
TRACKER = "strong"
"""The system of a finished run whose boxes are taken where none is named."""


def plain_name(name: str) -> str:
    """The name of a system without `SUFFIX`."""
    return name.removesuffix(SUFFIX)


def takes_boxes(system: str) -> bool:
    """Whether a system that is made for whole frames can look through boxes."""
    from strong_envs import agents

    if agents.find(system).sees != "whole frames" or "boxes" not in setting_paths(system):
        return False
    try:
        check_settings([system], {"boxes": PRETRAINED})
    except DataError:
        return False
    return True


def boxes_for(name: str, source: str | None) -> tuple[str, ...]:
    """The boxes of a row, one source a seed; () for a name without `SUFFIX`.

    Raises:
        DataError: no ``--boxes``, or a system that cannot look through boxes.
    """
    if not name.endswith(SUFFIX):
        return ()
    from strong_envs import agents

    system = plain_name(name)
    if not takes_boxes(system):
        able = [other for other in agents.names() if takes_boxes(other)]
        raise DataError(f"{name}: {system} does not look through given boxes; these do: {able}")
    if not source:
        raise DataError(
            f"{name} needs boxes: --boxes FOLDER of a finished run with the system {TRACKER!r}, --boxes "
            f"FILE.safetensors, or --boxes {PRETRAINED}"
        )
    return tracker_files(source)


def tracker_files(source: str) -> tuple[str, ...]:
    """What ``--boxes`` names: ``"pretrained"``, a file, or the agents of a finished run, one a seed.

    Args:
        source: see above, or a folder of ``strong-envs train``; ``FOLDER:SYSTEM`` takes the boxes of another system
            than `TRACKER`.

    Raises:
        DataError: no such file or folder, or a run without that system.
    """
    from strong_envs.agents.inference import kind_of
    from strong_envs.agents.model_card import weights_file
    from strong_envs.agents.training.checkpoint import load_weights

    if source == PRETRAINED:
        return (source,)
    trained = weights_file(source)
    if source.endswith(".safetensors") or (trained.is_file() and trained != Path(source)):
        kind = kind_of(load_weights(trained)[1])
        if kind != "Strong":
            raise DataError(f"--boxes {source}: {shown(trained)} is a system of the kind {kind!r}, not a STRONG")
        return (str(trained),)
    folder, _, system = source.partition(":")
    root = Path(folder) if Path(folder).is_dir() else Path(folder).parent
    cells = read_result(root / "results.json" if root == Path(folder) else folder, need=("cells",))["cells"]
    system = system or TRACKER
    if system not in cells:
        raise DataError(f"--boxes {source}: that run has no system {system!r}; it has {sorted(cells)}")
    files = [root / "cells" / f"{key}.safetensors" for key in cells[system]]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"--boxes {source}: {shown(missing[0])} is missing; run that job to its end")
    return tuple(map(str, files))


def margin_of(file: str) -> float:
    """The margin that the system of a file looks around its boxes with, in fractions of the frame."""
    from strong_envs.agents.inference import WEIGHTS
    from strong_envs.agents.training.checkpoint import load_weights

    about = load_weights(WEIGHTS if file == PRETRAINED else file)[1]
    args = about.get("args")
    return float(args.get("box_margin", 0.0)) if isinstance(args, dict) else 0.0
