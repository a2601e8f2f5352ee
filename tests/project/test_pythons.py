"""Other versions of Python that are installed here: the source compiles, the package imports, some tests run.

The selection needs torch. On Linux a registry has nothing but CUDA builds of several gigabytes, so that the selection
is left out there unless ``STRONG_ENVS_CUDA_TORCH=1`` asks for it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="interpreters are found by POSIX names")]

ROOT = Path(__file__).parents[2]
FOLDERS = ("strong_envs", "features", "agents", "benchmarks")
OTHERS = [x for x in ("3.10", "3.11", "3.12", "3.13") if x != "{}.{}".format(*sys.version_info)]
CUDA_ONLY = sys.platform == "linux" and platform.machine() == "x86_64"
SELECTION = ("tests/strong_envs/temporal", "tests/strong_envs/spatial", "tests/features/store", "tests/agents/strong")


def call(*words: str | os.PathLike, cwd: Path) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        list(map(os.fspath, words)),
        cwd=cwd,
        env=inherited | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def interpreter(version: str) -> Path | None:
    """An interpreter of this version on PATH or in pyenv; a shim of pyenv without one behind it does not count."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = shutil.which(f"python{version}")
    for path in ([Path(named)] if named else []) + sorted(pyenv.glob(f"{version}.*/bin/python")):
        done = subprocess.run([path, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True)
        if done.returncode == 0 and done.stdout.decode().strip() == version:
            return path
    return None


@pytest.fixture(scope="module", params=OTHERS)
def other(request) -> tuple[str, Path]:
    path = interpreter(request.param)
    if path is None:
        pytest.skip(f"Python {request.param} is not installed")
    return request.param, path


@pytest.fixture(scope="module")
def python(other, tmp_path_factory) -> Path:
    """The interpreter of a fresh virtual environment."""
    folder = tmp_path_factory.mktemp("other") / "venv"
    done = call(other[1], "-m", "venv", folder, cwd=folder.parent)
    assert done.returncode == 0, done.stdout
    return folder / "bin" / "python"


def test_the_source_compiles_without_warnings(other, tmp_path):
    code = (
        "import pathlib, sys\n"
        "for file in pathlib.Path(sys.argv[1]).rglob('*.py'): compile(file.read_bytes(), str(file), 'exec')"
    )
    for folder in (*FOLDERS, "tests", "examples"):
        done = call(other[1], "-W", "error", "-c", code, ROOT / folder, cwd=tmp_path)
        assert done.returncode == 0, done.stdout


def test_the_package_imports_and_registers_its_ids(python):
    done = call(python, "-m", "pip", "install", "-q", "gymnasium>=1.1,<2", cwd=ROOT)
    assert done.returncode == 0, done.stdout
    code = (
        "import gymnasium, strong_envs;"
        "assert set(strong_envs.IDS) <= set(gymnasium.registry);"
        "[gymnasium.spec(name).to_json() for name in strong_envs.IDS]"
    )
    done = call(python, "-W", "error::DeprecationWarning:strong_envs", "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_a_selection_of_tests_passes(other, python, tmp_path):
    if CUDA_ONLY and os.environ.get("STRONG_ENVS_CUDA_TORCH") != "1":
        pytest.skip(f"Python {other[0]} has no torch here but a CUDA build; STRONG_ENVS_CUDA_TORCH=1 takes it")
    pip = (python, "-m", "pip", "install", "-q")
    copy = tmp_path / "checkout"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "*.egg-info", "build", "results")
    )
    done = call(*pip, ".[test,h5,fast]", cwd=copy)
    assert done.returncode == 0, done.stdout
    done = call(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *SELECTION, cwd=copy)
    assert done.returncode == 0, done.stdout
