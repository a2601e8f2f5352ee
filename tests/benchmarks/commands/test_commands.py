"""Commands of the benchmark on a finished run made by hand, and on cells that train for a moment."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
from finished_run import finished_run

from strong_envs.agents.overrides import check_settings, parse_settings, parse_values, setting_paths, with_setting
from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.commands import paper_tables
from strong_envs.benchmarks.commands.compare import compare, read_scored
from strong_envs.benchmarks.results import paper_numbers
from strong_envs.benchmarks.results.files import write_json
from strong_envs.features.errors import DataError

pytestmark = pytest.mark.usefixtures("cells_here")
TINY = ["--seeds", "1", "--budget", "0.001", "--jobs", "1"]


@pytest.fixture(scope="module")
def finished(ragged_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    finished_run(ragged_store, folder)
    return folder


@pytest.fixture
def cells_here(monkeypatch):
    """Cells run in this process: workers of their own are tested in test_benchmark_run and by the kill below."""
    from strong_envs.benchmarks.execution.cell import read_cell, run_cell
    from strong_envs.benchmarks.execution.local_engine import Outcome

    def run_matrix(cells, folder, jobs, show=True):
        return Outcome({cell.key: read_cell(folder, cell) or run_cell(cell, folder) for cell in cells})

    monkeypatch.setattr("strong_envs.benchmarks.execution.job.run_matrix", run_matrix)


# Settings -----------------------------------------------------------------------------------------------------------


def test_a_setting_reaches_its_field():
    assert with_setting("trl", {}, "phi", 0.3) == {"env": {"phi": 0.3}}
    assert with_setting("trl", {}, "gamma", 0.4) == {"temporal": {"gamma": 0.4}, "spatial": {"gamma": 0.4}}
    assert with_setting("trl", {"env": {"phi": 1}}, "temporal.gamma", 0.4)["temporal"] == {"gamma": 0.4}
    assert with_setting("strong", {}, "rounds", 2) == {"rounds": 2}
    assert with_setting("random policy", {}, "z_e", 5) == {"env": {"z_e": 5}}
    for system in ("ctrl", "mcn", "acrn", "one-shot"):
        assert with_setting(system, {}, "boxes", "truth") == {"boxes": "truth"}
        assert with_setting(system, {}, "lr", 0.1) == {"lr": 0.1}
    assert with_setting("ctrl", {}, "reach", 0.2) == {"reach": 0.2}
    with pytest.raises(DataError, match="no setting 'reach'"):
        with_setting("mcn", {}, "reach", 0.2)


def test_all_stands_for_every_registered_system_once():
    from strong_envs import agents
    from strong_envs.benchmarks.execution.job import systems_of

    args = argparse.Namespace(systems="strong, all,my:Agent", agent=["my:Agent", "my:Other"])
    found = systems_of(args)
    assert found[0] == "strong" and found[-2:] == ["my:Agent", "my:Other"]
    assert sorted(found[:-2]) == sorted(agents.names())


def test_a_setting_changes_the_agent(ragged_store):
    from strong_envs import agents, features

    bank = features.load(ragged_store, "train")
    options = with_setting("trl", with_setting("trl", {}, "gamma", 0.4), "max_steps", 7)
    args = agents.make("trl", bank, **options).args
    assert (args.temporal.gamma, args.spatial.gamma, args.temporal_env.max_steps) == (0.4, 0.4, 7)


@pytest.mark.parametrize(
    ("system", "name", "words"),
    [("trl", "gama", "did you mean"), ("trl", "steps", "name one of them"), ("random policy", "gamma", "no setting")],
)
def test_a_setting_that_is_none_is_refused(system, name, words):
    with pytest.raises(DataError, match=words):
        with_setting(system, {}, name, 1)


def test_every_plain_setting_of_strong_is_unambiguous_or_says_so():
    for name, paths in setting_paths("strong").items():
        if len({p[0] for p in paths}) == 1 or {p[0] for p in paths} == {"temporal", "spatial"}:
            with_setting("strong", {}, name, 1)
        else:
            with pytest.raises(DataError, match="could be any of"):
                with_setting("strong", {}, name, 1)


def test_settings_are_read_from_the_command_line():
    assert parse_settings(["phi=0.1", "target=max", "multi_scale=true"]) == {
        "phi": 0.1,
        "target": "max",
        "multi_scale": True,
    }
    assert parse_values("0,0.2") == [0, 0.2]
    assert parse_values("(64,64);(256,128)") == [(64, 64), (256, 128)]
    for wrong in (lambda: parse_settings(["phi"]), lambda: parse_values("1,1"), lambda: parse_values("")):
        with pytest.raises(DataError):
            wrong()
    with pytest.raises(DataError, match="no system of this job"):
        check_settings(["random policy"], {"gamma": 1})


# Comparisons --------------------------------------------------------------------------------------------------------


def test_a_comparison_is_paired_and_signed(finished):
    systems = read_scored(finished / "results.json")
    found = compare(systems["good"], systems["random"])[0]
    assert found["metric"] == "mIoU"
    assert found["difference"] == pytest.approx(found["mean_a"] - found["mean_b"])
    assert found["low"] <= found["difference"] <= found["high"]
    assert compare(systems["good"], systems["good"])[0]["difference"] == 0


def test_queries_are_matched_by_id(finished, tmp_path):
    values = json.loads((finished / "results.json").read_text())
    scores, order = values["per_query"], [3, 1, 0, 2]
    for key in ("queries", "videos", "truth"):
        scores[key] = [scores[key][i] for i in order]
    scores["IoU"] = {label: np.array(runs)[:, order].tolist() for label, runs in scores["IoU"].items()}
    write_json(tmp_path / "shuffled.json", values)
    first, second = read_scored(finished / "results.json"), read_scored(tmp_path / "shuffled.json")
    rows = compare(first["random"], second["random"])
    assert all(row["difference"] == pytest.approx(0) and row["low"] <= 0 <= row["high"] for row in rows)


def test_two_protocols_are_refused(finished, tmp_path, capsys):
    values = json.loads((finished / "results.json").read_text())
    for row in values["rows"]:
        row["protocol"]["iou"] = "legacy"
    write_json(tmp_path / "other.json", values)
    assert main(["compare", str(finished / "results.json"), str(tmp_path / "other.json")]) == 2
    assert "cannot share a column" in capsys.readouterr().err


def test_compare_prints_and_refuses(finished, capsys):
    file = str(finished / "results.json")
    assert main(["compare", file, file, "--a", "good", "--b", "random", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["a"] == "good"
    assert main(["compare", file, file, "--a", "good", "--b", "random"]) == 0
    assert "good" in capsys.readouterr().out
    cell = str(next((finished / "cells").glob("*.json")))
    assert main(["compare", cell, cell, "--json"]) == 0
    capsys.readouterr()
    for arguments, words in (
        (["compare", file, file], "needs two systems"),
        (["compare", file, file, "--a", "goood"], "did you mean"),
        (["compare", file, "/no/such.json"], "no such file"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err


def test_a_file_without_scores_is_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text("[1]")
    (tmp_path / "y.json").write_text("{}")
    (tmp_path / "z.json").write_text("nope")
    for name, words in (("x", "holds a list"), ("y", "no scores per query"), ("z", "not valid JSON")):
        assert main(["compare", str(tmp_path / f"{name}.json"), str(tmp_path / f"{name}.json")]) == 2
        assert words in capsys.readouterr().err


# Episodes -----------------------------------------------------------------------------------------------------------


def test_an_episode_is_drawn_from_what_was_stored(finished, tmp_path, capsys):
    arguments = ["episode", str(finished), "--system", "good", "--seed", "1", "--query", "q3-0"]
    assert main([*arguments, "--out", str(tmp_path / "here"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["query"] == "q3-0" and len(told["path"]) == 4 and list(told["stages"]) == ["one", "two"]
    for name in ("episode.png", "episode.mp4", "stages.png"):
        assert (tmp_path / "here" / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--query", "nope"], "has no query"), (["--system", "god"], "has no system"), (["--seed", "9"], "seeds 0 to 1")],
)
def test_an_episode_that_is_not_there(finished, more, words, capsys):
    assert main(["episode", str(finished), *more]) == 2
    assert words in capsys.readouterr().err


# The paper's tables -------------------------------------------------------------------------------------------------


def test_the_papers_numbers_are_complete_and_in_the_order_it_prints():
    for number, table in paper_numbers.TABLES.items():
        for data, systems in table.items():
            assert list(systems)[-1] == "STRONG"
            assert systems["STRONG"] == paper_numbers.TABLES[1][data]["STRONG"]
            for label, values in systems.items():
                assert len(values) == len(paper_numbers.METRICS)
                assert list(values[:5]) == sorted(values[:5], reverse=True), (number, data, label)
                assert values[5] < systems["STRONG"][5] or label == "STRONG"


def test_absent_systems_keep_their_row_and_say_why(ragged_store, tmp_path, capsys):
    systems = "TRL+local,TRL+nothing"
    arguments = ["table2", "--features", ragged_store, "--systems", systems, *TINY, "--out", str(tmp_path)]
    assert main(arguments) == 0
    result = json.loads((tmp_path / "results.json").read_text())
    by_system = {row["system"]: row for row in result["rows"]}
    assert by_system["TRL+local"]["metrics"] and not by_system["TRL+nothing"]["metrics"]
    assert by_system["TRL+local"]["note"].startswith("trl+local needs detector features")
    assert "no system of this name" in by_system["TRL+nothing"]["caveat"]
    text = (tmp_path / "table.md").read_text()
    assert "TRL+local: trl+local needs detector features" in text and "trl+cells stands in" in text
    assert "mIoU (paper, TACoS)" in text and "TRL+nothing: absent" in text and "44.81" in text
    assert {c["verdict"] for c in result["claims"]} == {"not tested"}
    capsys.readouterr()


def test_a_system_that_the_store_cannot_serve_says_what_it_needs(tmp_path, capsys):
    from random_stores import random_store

    store = str(random_store(tmp_path / "flat", [9, 8, 7, 12], grid=False).path)
    arguments = ["table2", "--features", store, "--systems", "STRONG,TRL+gau", *TINY, "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    for row in result["rows"][:2]:
        assert not row["metrics"] and "needs a spatial grid" in row["caveat"]
    assert set(result["refused"]) == {"STRONG", "TRL+gau"}
    capsys.readouterr()


def test_cells_of_two_commits_are_not_mixed_in_silence(ragged_store, tmp_path, capsys):
    arguments = ["run", "--features", ragged_store, "--systems", "random policy", "--seeds", "2", "--jobs", "1"]
    arguments += ["--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    file = next(tmp_path.glob("cells/*.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"commit": "0123456789abcdef"}))
    capsys.readouterr()
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert "2 commits" in told.err and "0123456789ab" in json.loads(told.out)["notes"][0]


def test_claims_are_corrected_for_their_number_and_drawn_by_unit():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.6, 60)
    near = base + 0.05 * rng.normal(size=60)
    near += 0.0145 - (near - base).mean()  # p of this claim alone is below 5 %
    scores = {name: [base.tolist()] for name in ("TRL", "TRL+local", "TRL+dis", "TRL+fix", "TRL+gau")}
    scores["STRONG"] = [near.tolist()]
    videos = [f"v{i}" for i in range(60)]
    one = {"per_query": {"IoU": {k: scores[k] for k in ("STRONG", "TRL")}, "videos": videos}}
    all_of_them = {"per_query": {"IoU": scores, "videos": videos}}

    def claim(result):
        found = {(c["better"], c["worse"]): c for c in paper_tables.judge(result, 2)}
        return found["STRONG", "TRL"]

    alone, among = claim(one), claim(all_of_them)
    assert alone["verdict"] == "holds" and alone["p_adjusted"] == alone["p_value"] < 0.05
    assert among["verdict"] == "undecided" and among["p_value"] == alone["p_value"] < 0.05 <= among["p_adjusted"]
    shared = {"per_query": {**one["per_query"], "units": [f"clip {i // 20}" for i in range(60)]}}
    assert claim(shared)["units"] == 3 and alone["units"] == 60
    assert "| adjusted p |" in paper_tables.claims_markdown([among, {**among, "verdict": "not tested"}])


def test_claims_are_judged_by_the_interval():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.6, 60)
    scores = {"TRL": [base.tolist()], "STRONG": [(base + 0.1).tolist()], "TRL+fix": [(base + 0.2).tolist()]}
    result = {"per_query": {"IoU": scores, "videos": [f"v{i}" for i in range(60)]}}
    verdicts = {(c["better"], c["worse"]): c["verdict"] for c in paper_tables.judge(result, 2)}
    assert verdicts["STRONG", "TRL"] == "holds"
    assert verdicts["STRONG", "TRL+fix"] == "contradicted"
    assert verdicts["STRONG", "TRL+dis"] == "not tested"


# Commands that train ------------------------------------------------------------------------------------------------


def test_a_sweep_has_a_point_per_value_and_says_what_is_inert(ragged_store, tmp_path, capsys):
    arguments = ["sweep", "gamma", "--values", "0,0.4", "--features", ragged_store, "--systems", "trl", *TINY]
    assert main([*arguments, "--set", "learns_from=all rewards", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "gamma" / "sweep.json").read_text())
    assert [p["value"] for p in result["points"]] == [0, 0.4]
    assert any("changed nothing" in note for note in result["notes"])
    assert (tmp_path / "gamma" / "sweep.png").stat().st_size > 0
    capsys.readouterr()


def test_a_sweep_of_the_grid_keeps_its_protocols_apart(ragged_store, tmp_path, capsys):
    arguments = ["sweep", "z_e", "--values", "5,10", "--features", ragged_store, "--systems", "random policy", *TINY]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "z_e" / "sweep.json").read_text())
    assert [p["protocol"]["z_e"] for p in result["points"]] == [5, 10]
    bounds = {row["value"]: row["metrics"]["mIoU"] for row in result["references"] if row["reference"] == "oracle"}
    assert bounds[5] < bounds[10]
    assert any("part of the protocol" in note for note in result["notes"])
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "nothing", "--features", "shapes-v0"], "no built-in values"),
        (["sweep", "gamma", "--features", "shapes-v0", "--systems", "random policy"], "no setting 'gamma'"),
        (["run", "--features", "shapes-v0", "--set", "gamam=1"], "did you mean"),
        (["run", "--features", "shapes-v0", "--agent", "no_such_module:X"], "cannot import"),
        (["episode", "/no/such"], "holds no results.json"),
        (["report", "/no/such"], "holds no results.json"),
    ],
)
def test_bad_commands_are_one_sentence(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_converge_draws_over_iterations(ragged_store, tmp_path, capsys):
    arguments = ["converge", "--features", ragged_store, "--systems", "trl", *TINY, "--rounds", "1"]
    assert main([*arguments, "--out", str(tmp_path), "--resume"]) == 0
    assert (tmp_path / "converge.png").stat().st_size > 0
    assert "mIoU" in capsys.readouterr().out


PAGE = (Path(__file__).parents[3] / "docs" / "benchmark.md").read_text(encoding="utf-8")
AGENT = re.search(r"```python\n(class MyAgent.*?)```", PAGE, re.S)[1]


def test_an_outsiders_ten_line_agent_gets_its_row_and_its_code_counts(ragged_store, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_module_of_a_test.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len([line for line in AGENT.splitlines() if line.strip()]) <= 10
    name = "my_module_of_a_test:MyAgent"
    arguments = ["run", "--features", ragged_store, "--systems", "random policy", "--agent", name, *TINY]
    assert main([*arguments, "--out", "out", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rows = {row["system"]: row for row in result["rows"]}
    assert rows[name]["metrics"]["mIoU"] == pytest.approx(rows["initial window"]["metrics"]["mIoU"])
    assert rows[name]["description"] == "one sentence for the table"
    assert {"commit", "machine", "versions", "command", "seeds"} <= set(result["about"])
    (tmp_path / "my_module_of_a_test.py").write_text(AGENT + "# changed\n")
    assert main([*arguments, "--out", "out", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["cells"][name] != result["cells"][name]
    assert again["cells"]["random policy"] == result["cells"]["random policy"]


def test_every_training_command_has_the_same_options(capsys):
    common = ("--seeds", "--budget", "--jobs", "--device", "--json", "--resume", "--agent", "--engine", "--set")
    for command in ("run", "table1", "table2", "sweep", "converge"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        for option in common:
            assert option in shown, (command, option)


ENVIRONMENT = """
import gymnasium as gym

class Coin(gym.Env):
    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}
    def step(self, action):
        return 0, float(action), True, False, {"iou": 0.25}

gym.register("CoinOfATest-v0", Coin)
"""


def test_an_outsiders_environment_is_measured_beside_ours(tmp_path, monkeypatch, capsys):
    (tmp_path / "coin_of_a_test.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["throughput", "--env", "coin_of_a_test:CoinOfATest-v0", "--quick", "--json"]) == 0
    theirs, ours = json.loads(capsys.readouterr().out)["rows"]
    assert theirs["length"] == 1 and theirs["mIoU"] == 0.25 and theirs["steps a second"] > 0
    assert ours["env"] == "TemporalMoment-v0" and 0 < ours["mIoU"] < 1 and ours["steps a second, 4 envs"] > 0
    assert main(["throughput", "--env", "NoSuchEnv-v0"]) == 2
    assert "NoSuchEnv" in capsys.readouterr().err


def test_a_kill_in_the_middle_loses_only_the_cell_in_work(ragged_store, tmp_path, capsys):
    import os
    import signal
    import subprocess
    import sys
    import time

    root = str(Path(__file__).parents[3])
    arguments = ["run", "--features", ragged_store, "--systems", "random policy", "--seeds", "8", "--jobs", "1"]
    arguments += ["--out", str(tmp_path), "--json"]
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-m", "strong_envs", *arguments]
    quiet = subprocess.DEVNULL
    started = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("cells/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("cells/*.json")}
    assert 1 <= len(kept) < 8
    assert main(arguments) == 0
    assert len(list(tmp_path.glob("cells/*.json"))) == 8
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in kept.items())
    assert len(json.loads(capsys.readouterr().out)["per_query"]["IoU"]["random policy"]) == 8


# Files that were there --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "folder"), [("results.json", False), ("table.md", False), ("table.md", True)])
def test_a_run_replaces_nothing_that_no_run_wrote(name, folder, ragged_store, tmp_path, capsys):
    (tmp_path / name).mkdir() if folder else (tmp_path / name).write_text("mine")
    words = ["--features", ragged_store, "--systems", "random policy", "--out", str(tmp_path), *TINY]
    assert main(["run", *words]) == 2
    assert repr(name) in (said := capsys.readouterr().err) or f"has {name} and no training runs" in said
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert folder or (tmp_path / name).read_text() == "mine"


def test_a_page_replaces_nothing_but_a_page(finished, tmp_path, capsys):
    before = (finished / "results.json").read_bytes()
    other = tmp_path / "other.html"
    other.write_text("<p>mine</p>")
    (tmp_path / "link.html").symlink_to(other)
    for out in (finished / "results.json", other, tmp_path / "link.html"):
        assert main(["report", str(finished), "--out", str(out)]) == 2
        assert "is no page of this command" in capsys.readouterr().err
    assert (finished / "results.json").read_bytes() == before and other.read_text() == "<p>mine</p>"


@pytest.mark.parametrize(
    "words", [["throughput", "--quick"], ["pooling"], ["replay"], ["scale"], ["throughput", "--env", "CartPole-v1"]]
)
def test_a_measurement_checks_out_before_it_begins(words, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*words, "--out", str(tmp_path / "file" / "x")]) == 2
    assert "which is a file" in capsys.readouterr().err


def test_the_measurement_of_another_environment_is_written_too(tmp_path, capsys):
    assert main(["throughput", "--quick", "--env", "CartPole-v1", "--json", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "throughput.json").read_text()) == json.loads(capsys.readouterr().out)
