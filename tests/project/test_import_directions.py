"""Data flows one way: features, then environments, then agents, then benchmarks."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "features": {"strong_envs", "agents", "benchmarks"},
    "strong_envs": {"agents", "benchmarks"},
    "agents": {"benchmarks"},
}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_package_imports_what_stands_on_it(package):
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    for file in files:
        assert not imported(file) & FORBIDDEN[package], file


def test_importing_touches_no_accelerator_and_needs_no_plotting():
    code = (
        "import sys, features, strong_envs, agents, benchmarks, torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "heavy = {'matplotlib', 'cv2', 'stable_baselines3', 'sentence_transformers', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_opens_no_data():
    """Only code is read: no store, no weights, no cache."""
    code = (
        "import sys, gymnasium, torch\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "import features, strong_envs, agents, benchmarks\n"
        "data = [x for x in opened if x.endswith(('.json', '.safetensors', '.npy', '.npz', '.h5', '.pt', '.mp4'))]\n"
        "assert not data, data\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
