"""The interface of systems: defaults for outsiders, registration by one new file, settings by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from strong_envs import agents, features
from strong_envs.agents.overrides import check_settings, setting_paths
from strong_envs.features.errors import DataError

ROOT = Path(__file__).parents[2]
OUTSIDER = """
import torch
from strong_envs.agents import Prediction

class Middle:
    def __init__(self, bank, seed=0, budget=1.0, width=0.5):
        self.width = width
    def fit(self, report=None, evaluate=None):
        return self
    def predict(self, bank):
        half = self.width * bank.duration[bank.video] / 2
        middle = bank.duration[bank.video] / 2
        return Prediction(torch.stack((middle - half, middle + half), -1))

class Slotted:
    __slots__ = ("seed",)
    def __init__(self, bank, seed=0, budget=1.0):
        self.seed = seed
    def fit(self, report=None, evaluate=None, checkpoint=None):
        return self
    def predict(self, bank):
        return None

def made(bank, seed=0, budget=1.0):
    return Middle(bank)
"""


@pytest.fixture
def outsider(tmp_path, monkeypatch):
    (tmp_path / "outsider_of_a_test.py").write_text(OUTSIDER)
    monkeypatch.syspath_prepend(tmp_path)
    yield "outsider_of_a_test"
    sys.modules.pop("outsider_of_a_test", None)


@pytest.fixture(scope="module")
def bank(ragged_store):
    return features.load(ragged_store, "train")


@pytest.mark.parametrize("attribute", ["Middle", "made"])
def test_an_outsider_with_fit_and_predict_has_the_whole_interface(outsider, attribute, bank, tmp_path):
    system = agents.make(f"{outsider}:{attribute}", bank)
    kind = sys.modules[outsider].Middle
    assert isinstance(system, kind) and isinstance(system, agents.BaseSystem) and isinstance(system, agents.System)
    prediction = system.fit().predict(bank)
    assert prediction.spans.shape == (len(bank), 2)
    assert system.history == [] and not list(system.parameters()) and system.dynamics is None
    assert system.oracle(bank) is None and system.confidence(bank, prediction) is None
    assert not system.resumable and not system.needs_cells
    system.save(str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    system.history.append({"stage": "training"})
    assert system.history == [{"stage": "training"}] and agents.make(f"{outsider}:{attribute}", bank).history == []


def test_an_outsider_says_what_it_sees_and_learns_from(outsider):
    assert agents.find(f"{outsider}:Middle").sees == "" == agents.find(f"{outsider}:made").learns_from
    kind = sys.modules[outsider].Middle
    kind.sees, kind.learns_from = "nothing", "window labels"
    found = agents.find(f"{outsider}:Middle")
    assert (found.sees, found.learns_from) == ("nothing", "window labels")
    kind.sees = "nothin"
    with pytest.raises(DataError, match="did you mean 'nothing'"):
        agents.find(f"{outsider}:Middle")


def test_an_outsider_that_takes_a_session_is_resumable(outsider, bank):
    system = agents.make(f"{outsider}:Slotted", bank, seed=4)
    assert system.resumable and system.seed == 4 and not list(system.parameters())


def test_settings_of_an_outsider_are_the_arguments_of_its_constructor(outsider):
    name = f"{outsider}:Middle"
    assert setting_paths(name) == {"width": [("width",)]}
    with pytest.raises(DataError, match="did you mean 'width'"):
        check_settings([name], {"widht": 1})


@pytest.mark.parametrize("name", agents.names())
def test_registered_systems_have_the_whole_interface(name, bank, tmp_path):
    if agents.incompatibility(name, bank):
        pytest.skip(agents.incompatibility(name, bank))
    if name.startswith("sb3"):
        pytest.importorskip("stable_baselines3")
    spec = agents.find(name)
    system = agents.make(name, bank, budget=0.001)
    assert isinstance(system, agents.BaseSystem)
    if spec.needs_training:
        assert sum(p.numel() for p in system.parameters()) > 0
        system.save(str(tmp_path / "system.safetensors"))
        assert (tmp_path / "system.safetensors").stat().st_size > 0
    moves = not spec.ranks_candidates
    assert (system.dynamics is not None) == moves and (system.oracle(bank) is None) == moves


def test_the_dynamics_are_those_that_the_system_moves_in(bank):
    assert agents.make("trl", bank, env={"phi": 0.3}).dynamics.phi == 0.3
    assert agents.make("random policy", bank, env={"max_steps": 3}).dynamics.max_steps == 3
    assert agents.make("read", bank).dynamics.step_scale == 2.0


def test_adding_a_system_is_adding_one_file(tmp_path):
    """The package of agents with one more module: its system is registered and trained by its name."""
    (tmp_path / "features").symlink_to(ROOT / "features")
    for folder in ("strong_envs", "agents"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    (tmp_path / "agents" / "baselines" / "middle.py").write_text(
        OUTSIDER + "\nfrom strong_envs.agents import SystemSpec, register\n"
        "register(SystemSpec('middle', Middle, 'the middle half', needs_frames=False))\n"
    )
    code = (
        "import sys; from strong_envs import agents, features; "
        "assert 'middle' in agents.names() and agents.find('middle').description == 'the middle half'; "
        "bank = features.load(sys.argv[1], 'train'); "
        "print(agents.make('middle', bank).fit().predict(bank).spans.shape)"
    )
    command = [sys.executable, "-c", code, "queries:" + str(annotations(tmp_path))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([2, 2])" in done.stdout


def annotations(folder: Path) -> Path:
    """Two queries of one video, in the format of QVHighlights."""
    rows = [
        {"qid": i, "query": f"a sentence {i}", "vid": "v", "duration": 10, "relevant_windows": [[2, 4 + i]]}
        for i in range(2)
    ]
    for name in ("highlight_train_release.jsonl", "highlight_val_release.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_importing_the_agents_stays_light():
    code = (
        "import sys; from strong_envs import agents; assert len(agents.names()) > 20; "
        "print([m for m in ('stable_baselines3', 'cv2', 'matplotlib', 'ray', 'tensorboard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_taken_name_is_refused():
    with pytest.raises(DataError, match="'trl' exists"):
        agents.register(agents.SystemSpec("trl", torch.nn.Identity, "x"))
