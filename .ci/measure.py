"""Measure what the documents say of using this project, and write it between the markers in them.

    python .ci/measure.py newcomer       from a clone in a fresh environment to an own agent in the table
    python .ci/measure.py tutorials      the seconds of every tutorial
    python .ci/measure.py libraries      each library with the version that its tests ran with

A block that has no result keeps the old one.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs" / "tutorials" / "README.md"
LIBRARIES = ROOT / "examples" / "README.md"
TRIED = (
    ("Stable-Baselines3", "stable-baselines3", "tests/project/test_examples.py", "sb3"),
    ("sb3-contrib", "sb3-contrib", "tests/project/test_examples.py", "maskable"),
    ("RL Zoo", "rl_zoo3", "tests/project/test_examples.py", "rl_zoo"),
    ("Tianshou", "tianshou", "tests/project/test_examples.py", "tianshou"),
    ("TorchRL", "torchrl", "tests/project/test_examples.py", "torchrl"),
    ("RLlib", "ray", "tests/project/test_examples.py", "rllib"),
    ("Minari", "minari", "tests/project/test_examples.py", "offline_cql"),
    ("PettingZoo", "pettingzoo", "tests/project/test_examples.py", "pettingzoo"),
    ("TRL (GRPO)", "trl", "tests/strong_envs/adapters/test_language_rewards.py", ""),
    ("Gradio", "gradio", "tests/benchmarks/demo/test_demo.py", ""),
    ("MkDocs Material", "mkdocs-material", "tests/project/test_site.py", ""),
)
"""Library, its package, and the tests that use it: a file and what to select."""


def machine() -> str:
    """This machine, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    now, load = datetime.date.today(), os.getloadavg()[0]
    cores = f"{os.cpu_count()} cores of {platform.machine()}, {memory:.0f} GB, {platform.system()}"
    return f"Measured on {now} on {cores}, Python {platform.python_version()}; load before: {load:.1f}."


def write_block(file: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of a block."""
    begin, end = f"<!-- measured {name} -->", "<!-- measured end -->"
    old = file.read_text(encoding="utf-8")
    if begin not in old:
        raise SystemExit(f"{file} has no line {begin}")
    before, after = old.split(begin, 1)
    file.write_text(f"{before}{begin}\n{text}\n{end}{after.split(end, 1)[1]}", encoding="utf-8")
    print(text)


def timed(command: str, folder: Path, environment: dict[str, str]) -> float:
    """Seconds of a command line, which has to succeed."""
    begun = time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{command}\nended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - begun


def newcomer() -> None:
    """Every step of README and of the tutorial 'Your agent in the table', in a new folder without a cache."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    install = re.search(r'pip install -c constraints\.txt "\.\[fast\]"', readme)
    if install is None:
        raise SystemExit("README has no line that installs from a clone")
    about = machine()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        keep = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        path = f"{folder / 'clone/.venv/bin'}{os.pathsep}{os.environ['PATH']}"
        environment = keep | {"PATH": path, "STRONG_ENVS_CACHE": str(folder / "cache"), "MPLBACKEND": "Agg"}
        steps = (
            (f"git clone -q {ROOT} clone", "clone", folder),
            ("python3.11 -m venv .venv", "environment", folder / "clone"),
            (install.group(), "install", folder / "clone"),
            ("strong-envs run --quick", "first table: seven systems trained and compared", folder / "clone"),
            ("strong-envs report results/quick", "first page with figures and episodes", folder / "clone"),
            ("strong-envs episode results/quick", "one query, step by step, as picture and video", folder / "clone"),
            ("python docs/tutorials/05_your_agent.py", "agent of one's own in the table", folder / "clone"),
        )
        rows, total = [], 0.0
        for command, what, where in steps:
            seconds = timed(command, where, environment)
            total += seconds
            shown = "git clone" if command.startswith("git clone") else command
            rows.append(f"| `{shown}` | {what} | {seconds:.0f} | {total:.0f} |")
            print(rows[-1], flush=True)
        table = (folder / "clone/results/table.md").read_text(encoding="utf-8")
        if "my_agent:Ridge" not in table:
            raise SystemExit("the table has no row of the newcomer's agent")
    head = ["| step | what one has then | seconds | since the start |", "| --- | --- | ---: | ---: |"]
    write_block(TUTORIALS, "newcomer", "\n".join([*head, *rows, "", about]))


def tutorials() -> None:
    """Every tutorial in an empty folder, one after the other; the default data set is drawn already."""
    about, rows, old = machine(), [], TUTORIALS.read_text(encoding="utf-8")
    pattern = r"^\|\s*(\[[^\]]+\]\((\d\d_\w+\.py)\))\s*\|([^|]*)\|[^|]*\|([^|]*)\|$"
    found = re.findall(pattern, old, re.M)
    if len(found) != len(list(TUTORIALS.parent.glob("[0-9]*.py"))):
        raise SystemExit(f"{TUTORIALS} does not list every tutorial")
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "bin" / "strong-envs"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m strong_envs "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        more = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        for link, file, what, needs in found:
            work = Path(place) / file
            work.mkdir()
            seconds = timed(f"'{sys.executable}' -W ignore {TUTORIALS.with_name(file)}", work, os.environ | more)
            rows.append(f"| {link} | {what.strip()} | {seconds:.0f} | {needs.strip()} |")
            print(rows[-1], flush=True)
    head = ["| tutorial | what you have afterwards | seconds | needs |", "| --- | --- | ---: | --- |"]
    write_block(TUTORIALS, "tutorials", "\n".join([*head, *rows, "", about]))


def libraries(rllib: str | None) -> None:
    """Run the tests of every library that is installed, and name its version."""
    about, rows = machine(), []
    for name, package, file, select in TRIED:
        python = rllib if name == "RLlib" and rllib else sys.executable
        ask = f"import importlib.metadata as m; print(m.version({package!r}))"
        asked = subprocess.run([python, "-c", ask], capture_output=True, text=True)
        if asked.returncode:
            raise SystemExit(f"{package} is not installed for {python}")
        words = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, *(["-k", select] if select else [])]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        last = done.stdout.strip().splitlines()[-1]
        passed = re.search(r"(\d+) passed", last)
        if done.returncode or passed is None or "skipped" in last:
            raise SystemExit(f"{name}: {last}\n{done.stdout[-3000:]}")
        chosen = f"`{file}`" + (f", `-k {select}`" if select else "")
        rows.append(f"| {name} | {package} {asked.stdout.strip()} | {chosen} | {passed[1]} passed |")
        print(rows[-1], flush=True)
    head = ["| library | version | its tests | result |", "| --- | --- | --- | --- |"]
    write_block(LIBRARIES, "libraries", "\n".join([*head, *rows, "", about]))


def main(words: Sequence[str] | None = None) -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("newcomer", "tutorials", "libraries"))
    parser.add_argument("--rllib", metavar="PYTHON", help="an environment with RLlib, which pins its own Gymnasium")
    args = parser.parse_args(words)
    # A shell lets what it starts in the background ignore Ctrl-C, which the test of the demo presses.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    {"newcomer": newcomer, "tutorials": tutorials}.get(args.what, lambda: libraries(args.rllib))()


if __name__ == "__main__":
    main()
