"""What setup.cfg, pyproject.toml, constraints.txt and CITATION.cff say is what the tree holds."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from strong_envs.version import __version__

ROOT = Path(__file__).parents[2]
FOLDERS = {"strong_envs": "strong_envs", **{f"strong_envs.{x}": x for x in ("features", "agents", "benchmarks")}}
UNTESTED_TOGETHER = {"torchvision", "clip", "rllib", "test", "all"}


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text: str) -> list[str]:
    return [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]


def requirements(config: configparser.ConfigParser) -> dict[str, list[Requirement]]:
    extras = {name: [Requirement(x) for x in lines(text)] for name, text in config["options.extras_require"].items()}
    return {"": [Requirement(x) for x in lines(config["options"]["install_requires"])], **extras}


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    found = {}
    for line in lines((ROOT / "constraints.txt").read_text(encoding="utf-8")):
        name, version = line.split("==")
        assert canonicalize_name(name) not in found, name
        found[canonicalize_name(name)] = Version(version)
    return found


def test_every_folder_of_modules_is_installed(config):
    listed = lines(config["options"]["packages"])
    there = [
        ".".join((package, *file.parent.relative_to(ROOT / folder).parts))
        for package, folder in FOLDERS.items()
        for file in (ROOT / folder).rglob("__init__.py")
    ]
    assert len(there) > 20 and sorted(listed) == sorted(there)
    assert dict(tuple(map(str.strip, x.split("="))) for x in lines(config["options"]["package_dir"])) == FOLDERS


def test_no_module_lies_outside_a_package():
    for folder in FOLDERS.values():
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), file


def test_tests_mirror_the_tree():
    """Every folder of tests is named after the folder that it tests."""
    for top in FOLDERS.values():
        rooms = [folder.name for folder in (ROOT / "tests" / top).iterdir() if any(folder.glob("test_*.py"))]
        assert rooms and all((ROOT / top / room / "__init__.py").is_file() for room in rooms), (top, rooms)
    expected = {*FOLDERS.values(), "helpers", "project"}
    assert {x.name for x in (ROOT / "tests").iterdir() if any(x.glob("**/*.py"))} == expected


def test_pins_lie_within_the_ranges(config, pins):
    for extra, wanted in requirements(config).items():
        for requirement in wanted:
            name = canonicalize_name(requirement.name)
            if name == "strong-envs":
                continue
            assert requirement.specifier, f"{requirement} of extra {extra!r} has no lower bound"
            if extra not in ("torchvision", "clip"):
                assert name in pins, f"{name} of extra {extra!r} is not in constraints.txt"
                assert pins[name] in requirement.specifier, (extra, name)


def test_all_is_every_extra_that_fits_in_one_environment(config):
    extras = requirements(config)
    (everything,) = extras["all"]
    assert everything.name == "strong-envs"
    assert everything.extras == set(extras) - UNTESTED_TOGETHER - {""}


def test_the_oldest_python_is_the_same_everywhere(config):
    oldest = config["options"]["python_requires"].removeprefix(">=")
    listed = re.findall(r"Python :: (3\.\d+)$", config["metadata"]["classifiers"], re.M)
    assert listed[0] == oldest
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'target-version = "py{oldest.replace(".", "")}"' in project
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert all(f'"{version}"' in workflow for version in listed)


def test_pre_commit_formats_with_the_pinned_ruff(pins):
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {str(pins["ruff"])}


def test_the_citation_names_this_version():
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, strong_envs, gymnasium\n"
        "print(sorted(set(sys.modules) & {'torch', 'cv2', 'matplotlib', 'numba', 'stable_baselines3', 'rich'}))\n"
        "print([m for m in sorted(sys.modules) if m.startswith('strong_envs.')])\n"
        "print(sorted(set(strong_envs.IDS) - set(gymnasium.registry)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["[]", "['strong_envs.registration', 'strong_envs.version']", "[]"]
