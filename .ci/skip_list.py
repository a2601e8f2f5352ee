"""Which tests were skipped, over several environments: a pytest plugin and the command that judges the rest.

The plugin (``python -m pytest -p skip_list``) writes counts and skipped tests with their reasons (``--skips-out``), and
runs only the tests that another environment skipped (``--skips-in``). As a command:

    python skip_list.py files FILE                   files with skipped tests, for pytest's command line
    python skip_list.py judge ALLOWED FILE FILE...   list what no environment ran; exit 1 for a reason not in ALLOWED

``ALLOWED`` has a pattern of reasons a line, as in a shell; a ``#`` starts a comment. A test is accepted where one
environment gave such a reason: where a package was there and the browser was not, it is the browser that is missing.
"""

from __future__ import annotations

import json
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

OUTCOMES = ("passed", "failed", "error", "xfailed", "xpassed")


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("skips")
    group.addoption("--skips-out", metavar="FILE", help="write counts and skipped tests to this JSON file")
    group.addoption("--skips-in", metavar="FILE", help="run only the tests that this file lists as skipped")


def pytest_configure(config: Any) -> None:
    config.pluginmanager.register(Skips(config), "skips")


class Skips:
    """Gathers the skipped tests of one run, in the process that prints the summary."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.skipped: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.start = time.monotonic()

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        if not config.getoption("--skips-in"):
            return
        wanted = set(read(config.getoption("--skips-in"))["skipped"])
        # A file that was skipped while it was collected stands for all of its tests.
        keep = [item for item in items if {item.nodeid, item.nodeid.split("::")[0]} & wanted]
        config.hook.pytest_deselected(items=[item for item in items if item not in keep])
        items[:] = keep

    def _note(self, report: Any) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped[report.nodeid] = reason.removeprefix("Skipped: ")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._note(report)

    def pytest_collectreport(self, report: Any) -> None:
        self._note(report)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        self.counts = {name: len(terminalreporter.stats.get(name, ())) for name in OUTCOMES}

    def pytest_unconfigure(self, config: Any) -> None:
        file = config.getoption("--skips-out")
        if file and not hasattr(config, "workerinput"):
            content = {
                "counts": self.counts,
                "skipped": dict(sorted(self.skipped.items())),
                "seconds": time.monotonic() - self.start,
            }
            Path(file).write_text(json.dumps(content, indent=1), encoding="utf-8")


def read(file: str) -> dict[str, Any]:
    return json.loads(Path(file).read_text(encoding="utf-8"))


def files(file: str) -> list[str]:
    """Files of skipped tests, each once."""
    return sorted({nodeid.split("::")[0] for nodeid in read(file)["skipped"]})


def judge(allowed: str, runs: list[str]) -> int:
    """Print what no environment ran, and the counts of all environments as pytest prints them."""
    patterns = [line.split("#")[0].strip() for line in Path(allowed).read_text(encoding="utf-8").splitlines()]
    results = [read(run) for run in runs]
    # Every run but the first took the skipped tests of the one before it, so that the last one has what is left.
    left = results[-1]["skipped"]
    reasons = {nodeid: [run["skipped"][nodeid] for run in results if nodeid in run["skipped"]] for nodeid in left}
    accepted = {
        nodeid: next((r for r in given if any(fnmatchcase(r, p) for p in patterns if p)), None)
        for nodeid, given in reasons.items()
    }
    wrong = {nodeid for nodeid, reason in accepted.items() if reason is None}
    for run, result in zip(runs, results, strict=True):
        print(f"{Path(run).stem}: {result['counts']['passed']} passed, {len(result['skipped'])} skipped")
    for nodeid, reason in left.items():
        print(f"{'SKIPPED, NOT ALLOWED' if nodeid in wrong else 'skipped'}: {nodeid}: {accepted[nodeid] or reason}")
    counts = {name: sum(result["counts"][name] for result in results) for name in OUTCOMES}
    shown = [f"{counts[name]} {name}" for name in ("failed", "passed") if counts[name] or name == "passed"]
    shown += [f"{len(left)} skipped"] if left else []
    shown += [f"{counts[name]} {name}" for name in ("xfailed", "xpassed", "error") if counts[name]]
    print(", ".join(shown), f"in {sum(result['seconds'] for result in results):.2f}s")
    return int(bool(wrong or counts["failed"] or counts["error"]))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "files":
        print("\n".join(files(*rest)))
    else:
        sys.exit(judge(rest[0], rest[1:]))
