"""``strong-envs tune`` and ``--tuned``: settings are chosen on validation, alike for all systems, and shown."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from strong_envs import agents
from strong_envs.agents.overrides import check_settings, settings_of
from strong_envs.agents.search_space import Between, OneOf
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.tuning.chosen import chosen_of
from strong_envs.benchmarks.tuning.search import Search, best
from strong_envs.features.errors import DataError

TUNED = [spec for spec in agents.REGISTRY.values() if spec.space]
QUICK = ["--features", "shapes-v0", "--budget", "0.01", "--jobs", "1"]


def test_every_trained_system_that_is_a_result_declares_a_space():
    missing = {
        spec.name
        for spec in agents.REGISTRY.values()
        if spec.needs_training and not spec.upper_bound and not spec.space
    }
    assert missing == {"strong (paper)"}  # the letter of the paper has the paper's settings


@pytest.mark.parametrize("spec", TUNED, ids=[spec.name for spec in TUNED])
def test_a_space_holds_settings_of_its_system_and_valid_values(spec):
    assert set(spec.space) <= set(settings_of(spec.name)), spec.name
    for name, kind in spec.space.items():
        for value in (kind.low, kind.high) if isinstance(kind, Between) else kind.values:
            check_settings([spec.name], {name: value})


def test_a_space_is_refused_where_nothing_can_be_drawn_from_it():
    for wrong in (lambda: Between(1.0, 1.0), lambda: Between(0.0, 1.0), lambda: OneOf(1), lambda: OneOf(1, (2, 3))):
        with pytest.raises(DataError):
            wrong()
    assert 0.0 in Between(0.0, 1.0, log=False) and None in OneOf(None, 0.3) and False not in OneOf(0, 1)


def searched(folder, trials, break_off=None):
    """The values and scores of a search over a made-up objective; ``break_off`` leaves proposals without a score."""
    space = {"x": Between(1e-3, 1.0), "y": OneOf("a", "b", None)}
    search = Search(folder, "made up", space, {"x": 0.5, "y": "a"}, identity="data")
    for end in range(4, trials + 4, 4):
        for trial in search.open_trials(min(end, trials)):
            if trial.number == break_off:
                return []
            score = None if trial.number == 3 else 1 - abs(trial.values["x"] - 0.02) - (trial.values["y"] != "b")
            search.tell(trial.number, score, [score or 0.0], 1.0)
    return search.finished()


def test_a_killed_search_proposes_what_an_uninterrupted_one_does(tmp_path):
    pytest.importorskip("optuna", reason="optuna is not installed")
    whole = searched(tmp_path / "whole", 13)
    assert whole[0]["values"] == {"x": 0.5, "y": "a"} and [t["number"] for t in whole] == list(range(13))
    assert searched(tmp_path / "killed", 13, break_off=10) == []
    assert searched(tmp_path / "killed", 11)[:11] == whole[:11]
    assert searched(tmp_path / "killed", 13) == whole
    assert whole[3]["mIoU"] is None  # a failed trial counts as one
    assert best(whole)["mIoU"] == max(t["mIoU"] for t in whole if t["mIoU"] is not None)
    assert best(whole[3:4]) is None
    with pytest.raises(DataError, match="another space"):
        Search(tmp_path / "whole", "made up", {"x": Between(1e-3, 1.0)}, {"x": 0.5}, identity="data")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The folder of a small search, and its file."""
    pytest.importorskip("optuna", reason="optuna is not installed")
    out = tmp_path_factory.mktemp("tune")
    assert main(["tune", *QUICK, "--systems", "blind one-shot", "--trials", "3", "--out", str(out)]) == 0
    return out, json.loads((out / "tuned.json").read_text())


@pytest.mark.slow
def test_trials_are_made_on_validation_with_the_defaults_first(tuned):
    out, file = tuned
    found = file["systems"]["blind one-shot"]
    assert file["part"] == "val" and file["protocol"]["test"] == "val" and file["seeds"] == [1000]
    assert [trial["number"] for trial in found["trials"]] == list(range(3))
    assert found["trials"][0]["values"] == found["defaults"]
    assert found["mIoU"] == max(trial["mIoU"] for trial in found["trials"]) >= found["default_mIoU"]
    assert found["chosen"] in [trial["values"] for trial in found["trials"]]
    assert set(found["space"]) == set(agents.find("blind one-shot").space)
    cells = [json.loads(file.read_text()) for file in (out / "cells").glob("*.json")]
    assert {cell["test"] for cell in cells} == {"val"} and {cell["seed"] for cell in cells} == {1000}


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_stopped(tuned, tmp_path):
    _, whole = tuned
    search = ["tune", *QUICK, "--systems", "blind one-shot", "--out", str(tmp_path)]
    assert main([*search, "--trials", "2"]) == 0
    first = json.loads((tmp_path / "tuned.json").read_text())["systems"]["blind one-shot"]["trials"]
    stamps = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob("*.json")}
    assert main([*search, "--trials", "3"]) == 0
    again = json.loads((tmp_path / "tuned.json").read_text())["systems"]["blind one-shot"]["trials"]
    assert again[:2] == first
    assert {name: (tmp_path / "cells" / name).stat().st_mtime_ns for name in stamps} == stamps
    for one, other in zip(again, whole["systems"]["blind one-shot"]["trials"], strict=True):
        assert (one["values"], one["mIoU"]) == (other["values"], other["mIoU"])


@pytest.mark.slow
def test_other_options_in_the_same_folder_are_refused(tuned, capsys):
    out, _ = tuned
    words = ["tune", *QUICK, "--systems", "blind one-shot", "--trials", "3", "--out", str(out)]
    assert main([*words, "--set", "hidden=16"]) == 2
    assert "another space" in capsys.readouterr().err


@pytest.mark.slow
def test_a_second_search_in_the_same_folder_keeps_the_first(tuned, tmp_path, capsys):
    out, file = tuned
    shutil.copytree(out, tmp_path / "both")
    words = ["tune", "--trials", "1", "--out", str(tmp_path / "both"), "--systems", "ctrl", "--jobs", "1"]
    data = ["--features", "shapes-v0"]
    assert main([*words, *data, "--budget", "0.01", "--seeds", "2"]) == 2
    said = capsys.readouterr().err
    assert "holds the choices for blind one-shot, made with different seeds ([1000], now [1000, 1001])" in said
    assert json.loads((tmp_path / "both" / "tuned.json").read_text()) == file
    # A system that needs longer to learn anything is searched with a budget of its own.
    assert main([*words, *data, "--budget", "0.02"]) == 0
    both = json.loads((tmp_path / "both" / "tuned.json").read_text())["systems"]
    assert list(both) == ["blind one-shot", "ctrl"] and both["blind one-shot"] == file["systems"]["blind one-shot"]
    assert [found["budget"] for found in both.values()] == [0.01, 0.02]
    capsys.readouterr()
    words = ["run", *QUICK, "--systems", "ctrl", "--tuned", str(tmp_path / "both"), "--out", str(tmp_path / "run")]
    assert main([*words, "--seeds", "1"]) == 0
    assert "tuned in 1 trials at a budget of 0.02 on the part val" in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.slow
def test_the_table_uses_and_prints_the_chosen_values(tuned, tmp_path, capsys):
    out, file = tuned
    words = ["run", *QUICK, "--seeds", "1", "--systems", "blind one-shot,ctrl", "--out", str(tmp_path)]
    assert main([*words, "--tuned", str(out), "--set", "dropout=0.25"]) == 0  # the folder, or its tuned.json
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["tuned"]["systems"] == file["systems"]
    notes = {row["system"]: row.get("note", "") for row in result["rows"]}
    assert "tuned in 3 trials at a budget of 0.01 on the part val" in notes["blind one-shot"]
    assert "not tuned: default values." in notes["ctrl"]
    assert "tuned in 3 trials" in (tmp_path / "table.md").read_text()
    cell = json.loads(next((tmp_path / "cells").glob("blind-one-shot-*.json")).read_text())
    chosen = file["systems"]["blind one-shot"]["chosen"]
    assert cell["options"] == chosen | {"dropout": 0.25}  # --set has the last word


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "0"], "--trials must be positive"),
        (["--test", "test"], "settings are chosen on the part 'val' alone"),
        (["--systems", "random policy"], "random policy declares no settings to search"),
        (["--systems", "GT boxes"], "GT boxes declares no settings to search"),
        (["--tuned", "file.json"], "leave out --tuned"),
        (["--systems", "trl", "--set", "temporal.algorithm=ddpg"], "trl with these --set has no setting 'temporal.lr'"),
    ],
)
def test_bad_input_of_tune_is_one_sentence(words, said, tmp_path, capsys):
    pytest.importorskip("optuna", reason="optuna is not installed")
    assert main(["tune", *QUICK, *words, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_a_file_of_another_kind_is_refused(tmp_path, capsys):
    file = tmp_path / "wrong.json"
    file.write_text('{"data": 3}')
    words = ["run", *QUICK, "--systems", "ctrl", "--tuned", str(file), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "is not the file of strong-envs tune" in capsys.readouterr().err


@pytest.mark.slow
def test_values_that_a_system_does_not_take_are_refused(tuned, tmp_path, capsys):
    _, file = tuned
    file = json.loads(json.dumps(file))
    file["systems"]["blind one-shot"]["chosen"]["lr"] = -1.0
    (tmp_path / "tuned.json").write_text(json.dumps(file))
    words = ["run", *QUICK, "--systems", "blind one-shot", "--tuned", str(tmp_path / "tuned.json")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "blind one-shot: lr" in capsys.readouterr().err


def test_a_row_on_boxes_that_was_not_searched_has_the_values_of_whole_frames():
    found = {"ctrl": object(), "ctrl+boxes": object(), "mcn": object()}
    file = type("File", (), {"systems": found})()
    assert [chosen_of(key, file)[0] for key in ("ctrl", "ctrl+boxes", "mcn+boxes")] == ["ctrl", "ctrl+boxes", "mcn"]
    assert chosen_of("read+boxes", file)[1] is None


def test_a_variant_that_was_not_searched_has_the_values_of_its_system(tmp_path, capsys):
    chosen = {"space": {}, "defaults": {}, "trials": [], "chosen": {"temporal.gamma": 0.125}}
    file = {"data": "x", "part": "val", "trials": 1, "seeds": [1000], "budget": 1.0, "systems": {"trl": chosen}}
    (tmp_path / "tuned.json").write_text(json.dumps(file))
    words = ["run", *QUICK, "--seeds", "1", "--systems", "trl+gau,blind", "--tuned", str(tmp_path / "tuned.json")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    cells = {c["system"]: c for c in map(json.loads, (f.read_text() for f in (tmp_path / "out/cells").glob("*.json")))}
    assert cells["trl+gau"]["options"] == {"temporal": {"gamma": 0.125}} and cells["blind"]["options"] == {}
    notes = {
        row["system"]: row.get("note", "") for row in json.loads((tmp_path / "out/results.json").read_text())["rows"]
    }
    assert "values of trl, tuned in" in notes["trl+gau"] and "not tuned: default values." in notes["blind"]


@pytest.mark.parametrize("name", ["foo", "temporal.gamma", "__class__"])
def test_a_chosen_setting_that_a_system_does_not_have_is_refused(name, tmp_path, capsys):
    chosen = {"space": {}, "defaults": {}, "trials": [], "chosen": {name: 1}}
    file = {"data": "x", "part": "val", "trials": 1, "seeds": [1000], "budget": 1.0, "systems": {"ctrl": chosen}}
    (tmp_path / "tuned.json").write_text(json.dumps(file))
    words = ["run", *QUICK, "--systems", "ctrl", "--tuned", str(tmp_path / "tuned.json")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "ctrl:" in (said := capsys.readouterr().err) and name in said and said.count("\n") == 1


def test_a_search_goes_on_after_a_line_that_was_cut_off(tmp_path):
    pytest.importorskip("optuna", reason="optuna is not installed")
    first = searched(tmp_path, 4)
    with (tmp_path / "trials.journal").open("ab") as journal:
        journal.write(b'{"op_code":4,"worker_id":"a')
    assert searched(tmp_path, 5)[:4] == first


@pytest.mark.parametrize("text", ["garbage\n", "garbage", '{"op_code":0}\n', '[]\n{"op_code":0}\n', "\0\0\n"])
def test_a_damaged_journal_is_refused_and_left_as_it_is(text, tmp_path):
    pytest.importorskip("optuna", reason="optuna is not installed")
    file = tmp_path / "trials.journal"
    file.write_text(text)
    with pytest.raises(DataError, match="no journal of trials, or damaged"):
        searched(tmp_path, 1)
    assert file.read_text() == text


@pytest.mark.slow
def test_a_trial_that_fails_says_why(tmp_path, capsys):
    pytest.importorskip("optuna", reason="optuna is not installed")
    words = ["tune", *QUICK, "--systems", "blind one-shot", "--trials", "1", "--set", "lr=1e30"]
    assert main([*words, "--out", str(tmp_path)]) == 1
    assert "FAILED blind one-shot, trial 0: " in capsys.readouterr().err


def test_a_folder_without_the_file_of_a_tuning_is_refused(tmp_path, capsys):
    words = ["run", *QUICK, "--systems", "ctrl", "--tuned", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "tuned.json" in capsys.readouterr().err


def test_without_optuna_one_sentence_says_how_to_install_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", *QUICK, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == "error: strong-envs tune needs Optuna: pip install 'strong-envs[tune]'\n"
