"""The source distribution, the wheel, an editable installation and a bare checkout, as users meet them.

Everything is built from a copy of the tree, so that the tree stays as it is. Installations take their dependencies from
this environment and are used in a folder whose own ``features``, ``agents`` and ``benchmarks`` raise on import.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import first_use
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="installations share dependencies by symbolic links"),
]

ROOT = Path(__file__).parents[2]
PACKAGES = {"strong_envs": "strong_envs", **{x: f"strong_envs/{x}" for x in ("features", "agents", "benchmarks")}}
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "venv", "build", "dist", "runs", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)


def call(*words: str | os.PathLike, cwd: Path, **env: str) -> str:
    """Standard output of a command that has to succeed; the environment's own module paths do not reach it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(os.fspath, words)),
        cwd=cwd,
        env=inherited | quiet | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the tree without what version control leaves out."""
    copy = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, copy, ignore=NOT_SOURCE)
    shutil.rmtree(copy / "results", ignore_errors=True)
    return copy


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> Path:
    """The folder of the source distribution and of the wheel that was built from it."""
    pytest.importorskip("build", reason="build is not installed")
    out = tmp_path_factory.mktemp("dist")
    # A copy, because building leaves files behind.
    copy = tmp_path_factory.mktemp("build") / "checkout"
    shutil.copytree(source, copy)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy, cwd=out)
    return out


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory) -> Path:
    """The unpacked source distribution."""
    (archive,) = built.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(folder)
    (root,) = folder.iterdir()
    return root


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory) -> Path:
    """Links to all that is installed here but this project."""
    folder = tmp_path_factory.mktemp("dependencies")
    for entry in (Path(p) for p in sys.path if Path(p).name in ("site-packages", "dist-packages")):
        for item in entry.iterdir():
            if "strong_envs" not in item.name and item.suffix not in (".pth", ".egg-link"):
                link = folder / item.name
                if not link.exists():
                    link.symlink_to(item)
    return folder


def environment(folder: Path, dependencies: Path) -> Path:
    """The interpreter of a fresh virtual environment that sees the dependencies."""
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    return folder / "bin" / "python"


def install(python: Path, *words: str | os.PathLike) -> None:
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet")
    call(*pip, "--no-build-isolation", *words, cwd=python.parent)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A working folder with top-level packages of the same names as the project's folders."""
    folder = tmp_path / "work"
    for name in ("features", "agents", "benchmarks"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f'raise ImportError("{name} of the working folder was imported")\n')
    shutil.copy(first_use.__file__, folder)
    return folder


@pytest.fixture(scope="module")
def wheel_python(built, dependencies, tmp_path_factory) -> Path:
    (wheel,) = built.glob("*.whl")
    python = environment(tmp_path_factory.mktemp("wheel") / "venv", dependencies)
    install(python, wheel)
    return python


def test_the_source_distribution_holds_the_whole_tree(source, unpacked):
    def names(root: Path) -> set[str]:
        return {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}

    generated = {"PKG-INFO", *(name for name in names(unpacked) if ".egg-info/" in name)}
    assert names(unpacked) - generated == names(source)
    for name in ("docs", "examples", "tests/helpers", ".ci/run", ".github/workflows/ci.yml", "CHANGELOG.md"):
        assert (unpacked / name).exists(), name
    for name in names(source):
        if not name.startswith("setup.cfg"):  # building adds a section to it
            assert (source / name).read_bytes() == (unpacked / name).read_bytes(), name


def test_git_tracks_what_the_source_distribution_holds(source):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    missing = [x for x in tracked.split("\0") if x and (ROOT / x).is_file() and not (source / x).is_file()]
    assert not missing


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(source, built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
    assert {name.split("/")[0] for name in there if ".dist-info/" not in name} == {"strong_envs"}
    files = {
        f"{package}/{file.relative_to(source / folder).as_posix()}"
        for folder, package in PACKAGES.items()
        for file in (source / folder).rglob("*")
        if file.is_file()
    }
    assert {name for name in there if ".dist-info/" not in name} == files
    assert {"strong_envs/py.typed", "strong_envs/agents/data/strong_shapes.safetensors"} <= files
    assert any(name.endswith("/LICENSE") for name in there)


def test_the_wheel_says_what_it_is(built, wheel_python, elsewhere):
    code = (
        "from importlib.metadata import metadata; m = metadata('strong-envs');"
        "print(m['Name'], m['Version'], m['Requires-Python'], m['Description-Content-Type']);"
        "print(*m.get_all('Project-URL'), *m.get_all('Classifier'), sep='\\n');"
        "print(len(m.get_payload() or m['Description']) > 2000)"
    )
    out = call(wheel_python, "-c", code, cwd=elsewhere)
    assert out.startswith("strong-envs ") and "text/markdown" in out and out.rstrip().endswith("True")
    assert "Typing :: Typed" in out and "Source, https://" in out


def test_an_installed_wheel_is_used_from_any_folder(wheel_python, elsewhere, cache):
    env = {"STRONG_ENVS_CACHE": cache}
    out = call(wheel_python, "first_use.py", wheel_python.parents[1], cwd=elsewhere, **env)
    assert out.rstrip().splitlines()[-1].startswith("used ")
    where = call(wheel_python, "-c", "import strong_envs; print(*strong_envs.__path__)", cwd=elsewhere).split()
    assert len(where) == 1 and wheel_python.parents[1] in Path(where[0]).parents
    command = wheel_python.parent / "strong-envs"
    assert "strong-envs COMMAND" in call(command, "--help", cwd=elsewhere)
    tiny = ("--features", "shapes-v0", "--budget", "0.02")
    call(command, "train", *tiny, "--system", "ctrl", "--out", "first", cwd=elsewhere, **env)
    assert (elsewhere / "first" / "system.safetensors").is_file()
    systems = ("--systems", "random policy,ctrl", "--seeds", "1")
    assert "ctrl" in call(command, "run", *tiny, *systems, "--out", "results", cwd=elsewhere, **env)
    call(command, "report", "results", "--episodes", "1", cwd=elsewhere, **env)
    assert "<html" in (elsewhere / "results" / "report.html").read_text(encoding="utf-8")[:200]


def test_an_editable_installation_is_used_from_any_folder(source, dependencies, tmp_path, elsewhere, cache):
    copy = tmp_path / "checkout"
    shutil.copytree(source, copy)
    python = environment(tmp_path / "venv", dependencies)
    install(python, "--editable", copy)
    out = call(python, "first_use.py", copy, cwd=elsewhere, STRONG_ENVS_CACHE=cache)
    assert out.rstrip().splitlines()[-1].startswith("used ")
    assert "strong-envs COMMAND" in call(python.parent / "strong-envs", "--help", cwd=elsewhere)
    # What is added to a subpackage is there at once.
    (copy / "features" / "added_later.py").write_text("VALUE = 7\n")
    assert (
        call(python, "-c", "from strong_envs.features import added_later as m; print(m.VALUE)", cwd=elsewhere) == "7\n"
    )


def test_a_bare_checkout_is_used_from_its_root_and_by_pythonpath(source, dependencies, tmp_path, elsewhere, cache):
    python = environment(tmp_path / "venv", dependencies)
    assert "strong-envs COMMAND" in call(python, "-m", "strong_envs", "--help", cwd=source)
    assert "strong-envs COMMAND" in call(python, "-m", "strong_envs.benchmarks", "--help", cwd=source)
    env = {"PYTHONPATH": str(source), "STRONG_ENVS_CACHE": cache}
    out = call(python, "first_use.py", source, cwd=elsewhere, **env)
    assert out.rstrip().splitlines()[-1].startswith("used ")
    assert "strong-envs COMMAND" in call(python, "-m", "strong_envs", "--help", cwd=elsewhere, **env)


def test_the_tests_run_from_the_source_distribution(unpacked, dependencies, tmp_path, cache):
    python = environment(tmp_path / "venv", dependencies)
    pytest_ = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "error" not in call(*pytest_, "--collect-only", cwd=unpacked).splitlines()[-1]
    some = ("tests/features/test_search_windows.py", "tests/project/test_metadata.py")
    assert " passed" in call(*pytest_, *some, cwd=unpacked, STRONG_ENVS_CACHE=cache)
