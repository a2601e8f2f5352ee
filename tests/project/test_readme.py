"""README's code runs, and its commands are the ones that are checked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from strong_envs.benchmarks.cli import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def test_the_python_blocks_run_in_order():
    namespace: dict = {}
    assert len(blocks("python")) >= 2
    for block in blocks("python"):
        exec(block, namespace)
    assert 0 <= namespace["info"]["tiou"] <= 1


def test_ci_installs_and_tests_with_readmes_commands():
    script = (ROOT / ".ci" / "run").read_text()
    install = re.search(r"pip install .*?(?= &&)", TEXT).group()
    assert install in script and "python -m pytest" in script and "strong-envs run" in script


@pytest.mark.parametrize("line", [x for b in blocks("bash") for x in b.splitlines() if x.startswith("strong-envs ")])
def test_every_command_and_option_exists(line, capsys):
    words = shlex.split(line.split("#")[0])
    with pytest.raises(SystemExit) as stop:
        main([words[1], "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for word in words[2:]:
        if word.startswith("--"):
            assert word in shown, word
