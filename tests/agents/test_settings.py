"""Settings: every numeric one has a range, wrong values are refused before any work, outsiders that misbehave too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from strong_envs import agents, features
from strong_envs.agents.overrides import check_settings, parse_settings, setting_paths, settings_of, with_settings
from strong_envs.agents.ranges import RANGES, check_value, numeric
from strong_envs.benchmarks.cli import main
from strong_envs.features.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", agents.names())
def test_every_numeric_setting_has_a_range(name):
    found = {place: setting for place, setting in settings_of(name).items() if numeric(setting.annotation)}
    assert {setting.path[-1] for setting in found.values()} <= set(RANGES)
    check_settings([name], {})
    for place, setting in found.items():
        span = RANGES[setting.path[-1]]
        several = "tuple" in str(setting.annotation)
        for value in (span.low - 1, span.high * 10 + 1, float("nan"), float("inf"), -float("inf")):
            wrong = (value,) if several else value
            with pytest.raises(DataError, match=setting.path[-1]):
                check_settings([name], {place: wrong})


@pytest.mark.parametrize("name", agents.names())
@pytest.mark.parametrize("value", ["many", True, None, [], {}, (1, "x"), b"1", 1 + 2j])
def test_values_of_another_type_are_refused(name, value):
    for place, setting in settings_of(name).items():
        kinds = str(setting.annotation)
        if not numeric(setting.annotation) or (value is None and "None" in kinds):
            continue
        if value is True and "bool" in kinds:
            continue
        with pytest.raises(DataError, match="must (be of type|have 1 to)"):
            check_settings([name], {place: value})


@pytest.mark.parametrize("word", ["batch=0", "lr=-1", "rounds=-1", "rounds=1000000000000", "phi=1e999", "tau=2"])
def test_the_commands_refuse_wrong_settings_before_any_work(word, ragged_store, tmp_path, capsys):
    for command in ("train", "run"):
        out = tmp_path / command
        system = ["--system" if command == "train" else "--systems", "strong"]
        arguments = [command, "--features", ragged_store, *system, "--set", word, "--out", str(out)]
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert f"{word.partition('=')[0]} must be a" in said and "Traceback" not in said
        assert not out.exists()


@pytest.mark.parametrize("budget", ["inf", "nan", "-1", "0", "1e300"])
def test_budgets_that_are_no_factor_are_refused(budget, ragged_store, tmp_path, capsys):
    assert main(["train", "--features", ragged_store, "--budget", budget, "--out", str(tmp_path / "run")]) == 2
    assert "budget must be a number in (0, 1,000,000]" in capsys.readouterr().err
    bank = features.load(ragged_store, "train")
    for name in ("trl", "ctrl", "read"):
        with pytest.raises(DataError, match="budget must be a number"):
            agents.make(name, bank, budget=float(budget))
        with pytest.raises(DataError, match="seed must be"):
            agents.make(name, bank, seed=-1)
        with pytest.raises(DataError, match="seed must be of type int"):
            agents.make(name, bank, seed=1.5)


def test_contradictions_are_refused_without_a_bank():
    for name, settings, says in (
        ("strong", {"algorithm": "full feedback"}, "'full feedback' learns from 'all rewards'"),
        ("strong (all rewards)", {"attention": "cells"}, "must be 'dqn' or 'ddpg', got 'full feedback'"),
        ("strong", {"lr_actor": 0.1}, "lr_actor is an argument of algorithm='ddpg' and 'full feedback'"),
        ("strong (all rewards)", {"algorithm": "dqn"}, "does not agree with algorithm='dqn'"),
        ("strong (all rewards)", {"critic": "joined", "critic_hidden": (8,)}, "2 or more entries of critic_hidden"),
        ("strong (all rewards)", {"entropy": 0.0}, "divides by entropy"),
        ("strong", {"frame_scores": True}, "requires frame attention"),
        ("strong+frame scores", {"attention": "frames"}, "requires frame attention"),
        ("acrn", {"pool": 3}, "pool must divide the embedding"),
        ("read", {"sizes": (8, 8)}, "tuple of 4 int"),
        ("trl", {"boxes": "fram"}, "boxes must be one of"),
        ("mcn", {"boxes": "fram"}, "did you mean 'frame'"),
        ("strong", {"temporal.reward": "iou"}, "no system of this job has a setting"),
        ("trl", {"temporal_env.reward": "iou_sing"}, "did you mean 'iou_sign'"),
    ):
        with pytest.raises(DataError, match=says):
            check_settings([name], settings)


def test_an_argument_of_its_own_hides_those_of_its_parts():
    assert setting_paths("ctrl")["context"] == [("context",)]
    assert with_settings("ctrl", {"context": 0.1}) == {"context": 0.1}
    assert with_settings("ctrl", {"temporal_env.context": False}) == {"env": {"context": False}}


@pytest.mark.parametrize("text", ["=1", "batch", "", "=", "batch:3"])
def test_words_that_are_no_settings_are_refused(text):
    with pytest.raises(DataError, match="must be written name=value"):
        parse_settings([text])


def test_a_range_says_what_it_accepts():
    for value, says in ((0, "batch must be a whole number in \\[1, 1,000,000\\], got 0"), (1.5, "type int, got 1.5")):
        with pytest.raises(DataError, match=says):
            check_value("batch", value, int)
    check_value("batch", 1, int)
    check_value("nms", None, float | None)
    check_value("anything", object())


# Systems of other packages ------------------------------------------------------------------------------------------

MODULES = {
    "exits_on_import_of_a_test": "import sys\nsys.exit(3)\n",
    "fails_on_import_of_a_test": "1 / 0\n",
    "is_no_python_of_a_test": "def (:\n",
    "exits_later_of_a_test": (
        "import sys\n"
        "class Made:\n    def __init__(self, bank, **kwargs): sys.exit(0)\n    def fit(self): pass\n    predict = fit\n"
        "class Fits:\n    ''\n    def __init__(self, bank, **kwargs): pass\n"
        "    def fit(self, report=None, evaluate=None): sys.exit(0)\n    def predict(self, bank): pass\n"
        "class Fails:\n    def __init__(self, bank, **kwargs): raise RuntimeError('no weights\\nline 2')\n"
        "def takes_no_bank(): pass\n"
        "class Neither:\n    def __init__(self, bank, **kwargs): pass\n"
        "number = 3\n"
        "def nothing(bank, **kwargs): return None\n"
    ),
}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (":", "must be named module:attribute"),
        ("::", "must be named module:attribute"),
        ("a:", "must be named module:attribute"),
        (":a", "must be named module:attribute"),
        (".a:b", "must be named module:attribute"),
        ("a b:c", "must be named module:attribute"),
        ("no_such_module_of_a_test:X", "cannot import"),
        ("exits_on_import_of_a_test:X", "cannot import .*SystemExit: 3"),
        ("fails_on_import_of_a_test:X", "cannot import .*ZeroDivisionError"),
        ("is_no_python_of_a_test:X", "cannot import .*SyntaxError"),
        ("exits_later_of_a_test:Absent", "cannot import .*has no attribute 'Absent'"),
        ("exits_later_of_a_test:number", "must be a class or a function, got int"),
        ("exits_later_of_a_test:Made", "ended the program when it was made"),
        ("exits_later_of_a_test:Fails", "'exits_later_of_a_test:Fails' cannot be made: RuntimeError: no weights$"),
        ("exits_later_of_a_test:takes_no_bank", "'exits_later_of_a_test:takes_no_bank' cannot be made: TypeError"),
        ("exits_later_of_a_test:Neither", "must have methods fit and predict; Neither lacks fit and predict"),
        ("exits_later_of_a_test:nothing", "must have methods fit and predict; NoneType"),
        ("exits_later_of_a_test:Fits", "ended the program while it was trained"),
    ],
)
def test_systems_of_other_packages_that_cannot_be_used_are_refused(
    name, says, ragged_store, tmp_path, monkeypatch, capsys
):
    import re

    for module, text in MODULES.items():
        (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    out = str(tmp_path / "run")
    assert main(["train", "--features", ragged_store, "--system", name, "--out", out]) == 2
    said = capsys.readouterr().err
    assert re.search(says, said) and "Traceback" not in said, said
    for module in MODULES:
        sys.modules.pop(module, None)


@pytest.mark.parametrize("where", ["file", "below a file"])
def test_an_output_that_cannot_be_written_is_refused_before_the_training(where, ragged_store, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    out = tmp_path / "file" if where == "file" else tmp_path / "file" / "run"
    assert main(["train", "--features", ragged_store, "--system", "trl", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "file" in said and "Traceback" not in said and (tmp_path / "file").read_text() == "precious"


def test_a_closed_pipe_ends_the_command_quietly(ragged_store, tmp_path):
    command = [sys.executable, "-m", "strong_envs", "train", "--help"]
    done = subprocess.run(
        f"{' '.join(command)} | head -c 1", shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr
