"""Arguments that nothing can be made of: one sentence and exit code 2, in every command, before any folder is made."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from finished_run import finished_run

from strong_envs.benchmarks.cli import main
from strong_envs.benchmarks.execution.job import importable_here

ROOT = Path(__file__).parents[3]
SMALL = ["--features", "shapes-v0"]


@pytest.fixture(scope="module")
def finished(ragged_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    finished_run(ragged_store, folder)
    return str(folder)


@pytest.mark.parametrize("command", ["run", "converge", "table1", "table2", "sweep z_e"])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--budget", "inf"], "--budget must be positive, a factor of up to 10,000; got inf"),
        (["--budget", "nan"], "got nan"),
        (["--budget", "-1"], "--budget must be positive"),
        (["--budget", "1e300"], "up to 10,000"),
        (["--seeds", "0"], "--seeds must be positive"),
        (["--seeds", "-3"], "--seeds must be positive"),
        (["--seeds", "1000000000000"], "1 to 10,000"),
        (["--jobs", "0"], "--jobs must be positive"),
        (["--device", "banana"], "device 'banana' cannot be used"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--device", ""], "device '' cannot be used"),
        (["--thresholds", "nan"], "lie in [0, 1]"),
        (["--thresholds", "inf,.5"], "lie in [0, 1]"),
        (["--thresholds", ","], "such as .3,.5,.7"),
        (["--metrics", "mIou"], "did you mean 'mIoU'"),
        (["--metrics", "Acc@.55"], "no row has the metric 'Acc@.55'"),
    ],
)
def test_training_commands_refuse(command, words, says, tmp_path, capsys):
    assert main([*command.split(), *SMALL, "--systems", "trl", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


MODULES = {
    "fails_of_a_test": "raise RuntimeError('not today')\nclass Agent: pass\n",
    "ends_of_a_test": "import sys\nsys.exit(7)\nclass Agent: pass\n",
    "divides_of_a_test": "1 / 0\n",
    "broken_of_a_test": "class Agent(:\n",
    "number_of_a_test": "Agent = 3\n",
    "needs_of_a_test": "import no_such_module_of_a_test\n",
    "lacks_of_a_test": "x = 1\n",
    "stops_of_a_test": "raise KeyError\n",
}


def test_a_file_of_the_current_folder_replaces_no_installed_module(tmp_path, monkeypatch):
    """A run in a folder with a file numpy.py, or safetensors.py, must not import that in its place."""
    for name in ("numpy", "safetensors", "own_agent_of_a_test"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    importable_here()
    importable_here()
    found = {name: importlib.util.find_spec(name) for name in ("safetensors", "own_agent_of_a_test")}
    assert all(spec is not None and spec.origin is not None for spec in found.values())
    own = {name: Path(spec.origin).is_relative_to(tmp_path) for name, spec in found.items()}
    assert own == {"safetensors": False, "own_agent_of_a_test": True}
    assert sys.path.count(str(tmp_path)) == 1 and sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("command", ["run", "converge", "table1", "sweep z_e"])
@pytest.mark.parametrize("module", MODULES)
def test_an_agent_that_cannot_be_imported_is_one_sentence(command, module, tmp_path, monkeypatch, capsys):
    (tmp_path / f"{module}.py").write_text(MODULES[module])
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop(module, None)
    words = ["--systems", "random policy", "--agent", f"{module}:Agent", "--out", str(tmp_path / "out")]
    assert main([*command.split(), *SMALL, *words]) == 2
    error = capsys.readouterr().err
    assert f"{module}:Agent" in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "converge", "table1", "sweep z_e"])
@pytest.mark.parametrize("name", [":", "::", ":x", "x:", ".:x", "..a:b", "a b:c", "math:pi", "os:", "\udcff:x"])
def test_a_name_that_is_no_module_and_class_is_one_sentence(command, name, tmp_path, capsys):
    assert main([*command.split(), *SMALL, "--systems", name, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_system_that_ends_its_process_fails_alone(ragged_store, tmp_path, monkeypatch, capsys):
    code = "import sys\nclass Agent:\n    def __init__(self, bank, **options):\n        sys.exit(0)\n"
    (tmp_path / "quits_of_a_test.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["run", "--features", ragged_store, "--systems", "quits_of_a_test:Agent,random policy", "--seeds", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "FAILED quits-of-a-test-agent" in error and "SystemExit" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["references", "shapes-v0", "--draws", "0"], "draws must be 1 to"),
        (["references", "shapes-v0", "--draws", str(10**15)], "draws must be 1 to"),
        (["references", "shapes-v0", "--seed", "-1"], "the seed 0 or more"),
        (["converge", *SMALL, "--rounds", "-1"], "--rounds must be 1 or more"),
        (["converge", *SMALL, "--evaluations", "-1"], "--evaluations must be 0 or more"),
        (["videos", "pretrained", "--draw", "-1"], "--draw 0 or more"),
        (["videos", "pretrained", "--count", "-1"], "--count must be 1 or more"),
        (["throughput", "--env", ":"], "cannot make the environment"),
        (["throughput", "--env", "no_such_module_of_a_test:X-v0"], "cannot make the environment"),
        (["scale", "--dim", "-1"], "--dim must be at least 1"),
        (["scale", "--shares", "nan"], "shares are positive"),
        (["scale", "--shares", "inf"], "shares are positive"),
        (["scale", "--seconds", "nan"], "--seconds"),
        (["scale", "--seconds", "-1"], "--seconds"),
        (["document", "/no/such/file.md"], "no document at"),
        (["document", "--root", "/no/such/folder"], "no folder"),
    ],
)
def test_other_commands_refuse(words, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["caf\udce9", "nul\0l", "x" * 5000, "a/" * 3000])
@pytest.mark.parametrize(
    "words",
    [
        ["run", "--systems", "random policy", "--features"],
        ["references"],
        ["report"],
        ["episode"],
        ["videos"],
        ["compare", "x.json"],
        ["aggregate", "x.json"],
        ["document"],
        ["run", *SMALL, "--systems", "random policy", "--seeds", "1", "--test"],
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_names_that_no_file_has_are_one_sentence(words, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words, name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and len(error) < 13_000


@pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="needs a file system that takes any bytes")
def test_a_folder_whose_name_cannot_be_decoded_is_refused_before_the_work(ragged_store, tmp_path):
    command = [sys.executable, "-m", "strong_envs", "run", "--features", ragged_store, "--systems", "random policy"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    out = os.fsencode(tmp_path) + b"/caf\xe9"
    done = subprocess.run([*command, "--seeds", "1", "--out", out], env=environment, capture_output=True)
    assert done.returncode == 2 and b"xe9' is not Unicode" in done.stderr and done.stderr.count(b"\n") == 1
    assert not Path(os.fsdecode(out)).exists()


@pytest.mark.skipif(os.name != "posix", reason="needs HOME")
@pytest.mark.parametrize("home", [None, "/no/such/home", ""])
@pytest.mark.slow
def test_a_run_needs_no_home(home, ragged_store, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    environment |= {"PYTHONPATH": str(ROOT), **({} if home is None else {"HOME": home})}
    command = [sys.executable, "-m", "strong_envs", "run", "--features", ragged_store, "--systems", "random policy"]
    command += ["--seeds", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-800:]
    assert (tmp_path / "out" / "curve.png").stat().st_size > 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_sentence(ragged_store):
    command = [sys.executable, "-m", "strong_envs", "references", ragged_store, "--draws", "1", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2 and done.stderr == "error: cannot write the output: No space left on device\n"
