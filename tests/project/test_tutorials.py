"""Every tutorial runs from beginning to end in an empty folder, with the commands that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docs" / "tutorials").glob("[0-9]*.py"))
NEEDS = {"08_offline_data.py": "minari", "09_on_a_cluster.py": "ray"}
SAYS = {
    "01_first_agent.py": r"mIoU on held-out videos: 0\.\d+",
    "02_your_features.py": r"frame classifier \(whole frames\)",
    "03_your_clips.py": r"query only \(kNN\)",
    "04_your_reward.py": r"late_bonus, phi=0\.0: mIoU 0\.\d+",
    "05_your_agent.py": r"my_agent:Ridge",
    "06_compare_results.py": r"exit code 2",
    "07_read_the_report.py": r"episode\.png",
    "08_offline_data.py": r"behaviour cloning 0\.\d+",
    "09_on_a_cluster.py": r"trl",
}


def test_the_list_of_tutorials_is_complete():
    listed = (ROOT / "docs" / "tutorials" / "README.md").read_text(encoding="utf-8")
    assert {file.name for file in FILES} == set(SAYS) == set(re.findall(r"\((\d\d_\w+\.py)\)", listed))


def test_the_tables_say_how_long_everything_takes():
    text = (ROOT / "docs" / "tutorials" / "README.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"<!-- measured (\w+) -->\n(.*?)<!-- measured end -->", text, re.S))
    assert all(re.search(rf"\({file.name}\) \|[^|]+\| \d+ \|", blocks["tutorials"]) for file in FILES)
    assert "05_your_agent.py" in blocks["newcomer"] and "strong-envs run --quick" in blocks["newcomer"]
    # The newcomer installs as README says.
    install = re.search(r"`(pip install [^`]+)`", blocks["newcomer"])[1]
    assert install in (ROOT / "README.md").read_text(encoding="utf-8")
    for block in blocks.values():
        assert re.search(r"Measured on \d{4}-\d\d-\d\d on \d+ cores", block)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_cells_begin_with_a_heading(file):
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # ") and text.count("# %%\n") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_tutorial_runs(file, tmp_path):
    if file.name in NEEDS:
        pytest.importorskip(NEEDS[file.name], reason=f"{NEEDS[file.name]} is not installed")
    # A checkout has no program strong-envs; an installation does, and this one comes first.
    program = tmp_path / "bin" / "strong-envs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m strong_envs "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    paths = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(file)],
        cwd=work,
        env=os.environ | paths,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(SAYS[file.name], done.stdout), done.stdout[-3000:]
