"""Data flows one way: features, then environments, then agents, then benchmarks; and one way inside each of them."""

from __future__ import annotations

import ast
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("features", "strong_envs", "agents", "benchmarks")
"""From the ground up: a folder imports from itself and from what stands before it."""
ENTRY = {"strong_envs/__main__.py"}
"""The command line is reached from the lowest name and lives in the highest folder."""


def module_of(file: Path) -> str:
    """The import name of a file of the project."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts if parts[0] == "strong_envs" else ["strong_envs", *parts])


FILES = {module_of(f): f for folder in FOLDERS for f in sorted((ROOT / folder).rglob("*.py"))}


def imports(file: Path, run_time: bool = False) -> set[str]:
    """Modules of the project that a file imports; with ``run_time`` those that it imports when it is imported."""
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body if run_time else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in FILES else node.module)
    return {name for name in found if name in FILES}


def folder_of(module: str) -> str:
    """Which top-level folder a module lies in."""
    return FILES[module].relative_to(ROOT).parts[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_imports_what_stands_on_it(folder):
    above = FOLDERS[FOLDERS.index(folder) + 1 :]
    here = [f for name, f in FILES.items() if folder_of(name) == folder]
    assert len(here) > 5
    for file in here:
        if str(file.relative_to(ROOT)) not in ENTRY:
            # The root package holds the ids and the version; everybody may import it.
            wrong = {name for name in imports(file) if folder_of(name) in above and name not in LIGHT}
            assert not wrong, (file, wrong)


LIGHT = {"strong_envs", "strong_envs.version"}


def test_no_import_circle():
    graph = {name: imports(file) - {name, "strong_envs"} for name, file in FILES.items()}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                walk(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        walk(name, ())


def test_every_module_is_imported_by_its_full_name():
    for file in FILES.values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module.split(".")[0] not in ("features", "agents", "benchmarks"), file


def test_every_package_is_installed():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    assert sorted(listed) == sorted(name for name, file in FILES.items() if file.name == "__init__.py")


def test_rooms_are_small():
    for folder in {file.parent for file in FILES.values()}:
        count = sum(not f.name.startswith("__") for f in folder.glob("*.py"))
        assert count <= 12, (folder, count)


def test_importing_touches_no_accelerator_and_needs_no_plotting():
    code = (
        "import sys, torch, strong_envs\n"
        "from strong_envs import agents, benchmarks, features\n"
        "assert not torch.cuda.is_initialized()\n"
        "heavy = {'matplotlib', 'cv2', 'stable_baselines3', 'sentence_transformers', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_root_package_registers_ids_and_nothing_else():
    code = (
        "import sys, gymnasium, strong_envs\n"
        "assert set(strong_envs.IDS) <= set(gymnasium.registry)\n"
        "own = {name for name in sys.modules if name.startswith('strong_envs.')}\n"
        "assert own == {'strong_envs.registration', 'strong_envs.version'}, own\n"
        "assert 'torch' not in sys.modules\n"
        "assert strong_envs.SpatioTemporalCoupling.__module__ == 'strong_envs.coupling'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_opens_no_data():
    """Only code is read: no store, no weights, no cache."""
    code = (
        "import sys, gymnasium, torch\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "import strong_envs\n"
        "from strong_envs import agents, benchmarks, features\n"
        "data = [x for x in opened if x.endswith(('.json', '.safetensors', '.npy', '.npz', '.h5', '.pt', '.mp4'))]\n"
        "assert not data, data\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
