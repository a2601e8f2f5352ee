"""Every example runs from beginning to end with a few steps; those of absent libraries are skipped."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples"
RUNS = [
    ("sb3.py", ["--algorithm", "ppo"], "stable_baselines3"),
    ("sb3.py", ["--algorithm", "a2c", "--env", "SpatialTrack-v0"], "stable_baselines3"),
    ("sb3.py", ["--algorithm", "dqn"], "stable_baselines3"),
    ("sb3.py", ["--algorithm", "ddpg"], "stable_baselines3"),
    ("sb3.py", ["--algorithm", "ddpg", "--env", "TemporalOneShot-v0"], "stable_baselines3"),
    ("maskable_ppo.py", [], "sb3_contrib"),
    ("cleanrl_style.py", [], "torch"),
    ("one_shot_group.py", [], "torch"),
    ("gymnasium_wrappers.py", [], "gymnasium"),
    ("torchrl_example.py", [], "torchrl"),
    ("tianshou_example.py", [], "tianshou"),
    ("offline_cql.py", [], "minari"),
    ("rllib_example.py", [], "ray.rllib"),
    ("pettingzoo_example.py", [], "pettingzoo"),
    ("windows_from_rewards.py", [], "torch"),
]


def test_every_example_is_run_and_short():
    files = {path.name for path in FOLDER.glob("*.py")}
    assert files == {name for name, _, _ in RUNS}
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in files:
        assert len((FOLDER / name).read_text(encoding="utf-8").splitlines()) < 65 and f"`{name}`" in listed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "options", "library"), RUNS, ids=[f"{n}{''.join(o[1::2])}" for n, o, _ in RUNS])
def test_example(name, options, library, monkeypatch, capsys):
    # Ray may be there without what RLlib needs, so the part itself is imported.
    pytest.importorskip(library, reason=f"{library} is not installed")
    monkeypatch.setattr(sys, "argv", [name, "--steps", "130", *options])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert out.strip() and not re.search(r"\bnan\b", out)


def test_the_settings_of_rl_zoo_are_those_that_the_search_found():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    settings = yaml.safe_load((FOLDER / "rl_zoo3.yml").read_text(encoding="utf-8"))
    found = json.loads((FOLDER.parent / "docs" / "results" / "rl_zoo3.json").read_text(encoding="utf-8"))["ids"]
    assert set(settings) == set(found)
    for name, search in found.items():
        first, best = search["trials"][0], max(search["trials"], key=lambda trial: trial["score"])
        confirmed = sum(search["again"]["chosen"]) > sum(search["again"]["before"])
        wanted = best["values"] if confirmed else first["values"]
        assert {key: settings[name].get(key, 0.95) for key in wanted} == wanted, name


def test_the_table_of_versions_names_the_pins():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| [^|]+ \| ([\w-]+) ([\d.]+)\S* \| [^|]+ \| \d+ passed \|$", text, re.M)
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (FOLDER.parent / "constraints.txt").read_text(), re.M))
    assert len(table) >= 11
    for package, version in table:
        assert pins[package] == version, package


@pytest.mark.slow
def test_the_search_of_settings_runs(tmp_path):
    for package in ("optuna", "yaml"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    words = ["--env", "TemporalOneShotFlat-v0", "--trials", "2", "--steps", "256", "--episodes", "16"]
    words += ["--features", "shapes-v0", "--out", str(tmp_path / "found.json")]
    script = FOLDER.parent / ".ci" / "tune_rl_zoo3.py"
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    subprocess.run([sys.executable, "-W", "ignore", script, *words], cwd=tmp_path, env=environment, check=True)
    (found,) = json.loads((tmp_path / "found.json").read_text())["ids"].values()
    assert len(found["trials"]) == 2 and found["chosen"] in [trial["values"] for trial in found["trials"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["TemporalMomentFlat-v0", "SpatialTrackFlat-v0", "TemporalOneShotFlat-v0", "TemporalLookFlat-v0"]
)
def test_rl_zoo_trains_with_our_settings(name, tmp_path):
    pytest.importorskip("rl_zoo3", reason="rl_zoo3 is not installed")
    words = ["--algo", "ppo", "--env", name, "--gym-packages", "strong_envs", "--n-timesteps", "600"]
    words += ["--conf-file", str(FOLDER / "rl_zoo3.yml"), "--log-folder", str(tmp_path), "--eval-freq", "-1"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "rl_zoo3.train", *words],
        cwd=FOLDER.parent,
        env=os.environ | {"PYTHONPATH": str(FOLDER.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "ppo" / f"{name}_1" / f"{name}.zip").is_file()
