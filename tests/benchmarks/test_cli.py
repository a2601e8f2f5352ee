"""The command line: a light start, help for newcomers, and endings without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from strong_envs import features
from strong_envs.benchmarks import cli
from strong_envs.benchmarks.cli import GROUPS, MODULES, main

ROOT = Path(__file__).parents[2]
LIGHT = """
import sys
from strong_envs.benchmarks.cli import main
codes = [main(words) for words in (["--help"], ["--version"], ["help"], ["no-such-command"])]
names = {"torch", "numba", "pandas", "matplotlib", "cv2", "strong_envs.features", "strong_envs.agents"}
heavy = names & set(sys.modules)
print(codes, sorted(heavy))
"""


def call(*words: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "strong_envs", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, **options)


def test_help_and_version_import_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 2] []", done.stdout[-300:] + done.stderr[-300:]


def test_the_page_of_help_names_every_command_once_and_a_first_step(capsys):
    assert main([]) == 2 and main(["--help"]) == 0
    text = capsys.readouterr().out
    lines = text[: len(text) // 2].splitlines()
    for commands in GROUPS.values():
        for name, (_, summary) in commands.items():
            assert sum(line.split()[:1] == [name] for line in lines) == 1
            assert any(line.endswith(summary) for line in lines)
    assert "strong-envs run --quick" in text and max(map(len, lines)) <= 110


@pytest.mark.parametrize("name", MODULES)
def test_every_command_has_help_with_its_defaults(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: strong-envs {name} ")
    assert "==SUPPRESS==" not in text and "%(" not in text and "(None)" not in text


def test_help_of_a_command_is_also_found_behind_the_word_help(capsys):
    with pytest.raises(SystemExit):
        main(["help", "compare"])
    assert "usage: strong-envs compare" in capsys.readouterr().out


def test_defaults_are_shown_where_a_text_does_not_name_them(capsys):
    with pytest.raises(SystemExit):
        main(["sizes", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "feature rows per second (1.0 2.0 3.0)" in text


@pytest.mark.parametrize(("word", "meant"), [("rnu", "run"), ("tabel1", "table1"), ("extrct", "extract")])
def test_an_unknown_command_names_the_nearest(word, meant, capsys):
    assert main([word]) == 2
    assert f"no command {word!r}; did you mean {meant!r}? See strong-envs --help" in capsys.readouterr().err


def test_a_word_like_no_command_has_no_guess(capsys):
    assert main(["qqqq"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'qqqq'. See strong-envs --help\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a shell's pipe")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], cli.PIPE_CLOSED),
        (["run", "--help"], 0),  # argparse itself ignores a closed pipe
        (["references", "shapes-v0", "--draws", "1", "--json"], cli.PIPE_CLOSED),
    ],
)
def test_a_closed_pipe_ends_in_silence(words, code):
    features.load("shapes-v0", "test")  # drawing the data set shows how far it is
    command = [sys.executable, "-u", "-m", "strong_envs", *words]
    reader, writer = os.pipe()
    os.close(reader)  # nobody reads: the first write fails
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert done.returncode == code and done.stderr == b""


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell closes the streams")
def test_closed_streams_are_written_to_in_vain():
    words = [sys.executable, "-m", "strong_envs", "references", "shapes-v0", "--draws", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for closed in ("2>&-", ">&-", "<&-"):
        command = ["sh", "-c", f'"$@" {closed}', "sh", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "Traceback" not in done.stderr, (closed, done.stderr)


def test_text_that_the_terminal_cannot_show_is_escaped(tmp_path):
    done = call("references", "shapes-v0", "--draws", "1", env={"PYTHONIOENCODING": "ascii", "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "\\xb1" in done.stdout
