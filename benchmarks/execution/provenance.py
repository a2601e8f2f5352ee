"""The origin of a number: machine, versions, commit, command, settings. Every result file has it."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def about(args: argparse.Namespace) -> dict[str, Any]:
    """The origin of a result file: command, settings, date (UTC), machine, versions, commit. JSON-ready."""
    settings = {k: v for k, v in vars(args).items() if k != "run" and not callable(v)}
    return {
        "command": "strong-envs " + shlex.join(sys.argv[1:]),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(str(settings.get("device", "cpu"))),
        "versions": versions(),
        "commit": commit(),
    }


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores and system; for a CUDA device also its name."""
    import torch

    found = {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()}
    if device.startswith("cuda") and torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


@lru_cache(maxsize=1)
def processor() -> str:
    """The processor's name where the system has it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    import gymnasium
    import numpy
    import torch

    from strong_envs import __version__

    return {
        "strong-envs": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "numpy": numpy.__version__,
    }


def extras(*names: str) -> dict[str, str]:
    """Versions of optional packages, ``"absent"`` where one is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of this checkout, with ``+changes`` where tracked files differ from it; None outside a checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installation may lie inside another repository, whose commit would be wrong here.
    if git("ls-files", "--error-unmatch", "benchmarks/__init__.py") is None:
        return None
    head = git("rev-parse", "HEAD")
    return None if head is None else head + ("+changes" if git("status", "--porcelain", "-uno") else "")
